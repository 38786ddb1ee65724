"""The distribution of a site in plain torch, on any device; twin of ``csrc/distributions/distribution.h``.

Two passes of float64 over blocks of samples. Nothing here waits for the device: its numbers stay there until
the recording is taken.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from normprobe.kernels.accumulator import mask_of, put_in_slots, sent
from normprobe.kernels.choice import Choice
from normprobe.kernels.distributions.bins import TABLE, table_index
from normprobe.kernels.distributions.central_moments import CENTRAL_FIELDS, CentralMoments, merge_central
from normprobe.kernels.distributions.options import Distribution, DistributionOptions

_BLOCK = 1 << 18
"""Numbers in a block, so that the float64 copies stay near 2 MB each whatever the tensor."""

_FEATURES, _SAMPLES = (0, 1), (1, 2)


@dataclass(frozen=True)
class MeasuredDistribution:
    """The distribution of one tensor.

    Attributes:
        features: central sums of each feature, fields of shape (features,).
        kept: those of each kept sample, shape (kept, 5).
        counts: how many numbers lie in each bin, int64, shape (TABLE,).
    """

    features: CentralMoments | None
    kept: Tensor | None
    counts: Tensor | None


class TorchDistribution:
    """A distribution as tensors on a device; see `options.DistributionAccumulator`."""

    def __init__(self, features: int, options: DistributionOptions, device: torch.device) -> None:
        self._options, self._device = options, device
        empty = CentralMoments.empty(features).map(lambda field: torch.from_numpy(field).to(device))
        self._features = empty if options.kurtosis else None
        self._kept = torch.zeros(0, len(CENTRAL_FIELDS), dtype=torch.float64, device=device)
        self._counts = _no_counts(device) if options.quantiles else None

    def measure(self, values: Tensor, choice: Choice) -> MeasuredDistribution:
        """The distribution of a tensor of shape (samples, rows, features)."""
        values, real = values.to(self._device), mask_of(choice)
        if real is not None and values.shape[1] == 1:
            # A sample of one row is real or padding as a whole: without the padding, the rest needs no mask.
            inside = real[:, 0].nonzero()[:, 0]
            keep = torch.searchsorted(inside, torch.from_numpy(choice.keep))
            values, real = values.index_select(0, inside.to(self._device, non_blocking=True)), None
        else:
            keep = torch.from_numpy(choice.keep)
        mask = None if real is None else real.to(self._device, non_blocking=True)
        features, counts = self._sums(values, mask)
        # Kept samples are few, so they are read a second time and not summed along.
        kept = values.index_select(0, keep.to(self._device, non_blocking=True))
        of_kept = mask if mask is None else mask.index_select(0, sent(choice, "keep", self._device))
        return MeasuredDistribution(features, self._of_samples(kept, of_kept), counts)

    def _sums(self, values: Tensor, real: Tensor | None) -> tuple[CentralMoments | None, Tensor | None]:
        """The central sums of features, and the counts."""
        sums = []
        counts = _no_counts(self._device) if self._options.quantiles else None
        for block, part in _blocks(values, real):
            if self._options.kurtosis:
                sums.append(_central(block, part, _FEATURES))
            if counts is not None:
                index = table_index(block).flatten()
                ones = torch.ones_like(index) if part is None else part[:, :, None].expand(block.shape)
                # Added up in whole numbers: the order does not matter, on any device.
                counts.scatter_add_(0, index, ones.flatten().to(torch.int64))
        return (reduce(merge_central, sums) if sums else None), counts

    def _of_samples(self, kept: Tensor, real: Tensor | None) -> Tensor | None:
        """The central sums of samples, shape (samples, 5)."""
        if not self._options.kurtosis:
            return None
        parts = [_central(block, part, _SAMPLES) for block, part in _blocks(kept, real)]
        return torch.cat([torch.stack([getattr(part, name) for name in CENTRAL_FIELDS], 1) for part in parts])

    def merge(self, found: MeasuredDistribution, choice: Choice) -> None:
        """Add the distribution of a tensor, and keep those of the samples chosen in their slots."""
        if found.features is not None and self._features is not None:
            self._features = merge_central(self._features, found.features)
        if found.kept is not None:
            self._kept = put_in_slots(self._kept, found.kept, choice.slots)
        if found.counts is not None and self._counts is not None:
            self._counts = self._counts + found.counts

    def distribution(self, slots: int) -> Distribution:
        """Everything so far, read from the device."""
        features = self._features
        return Distribution(
            features=None if features is None else features.map(lambda field: field.cpu().numpy().copy()),
            kept=self._kept[:slots].cpu().numpy().copy() if self._options.kurtosis else None,
            counts=None if self._counts is None else self._counts.cpu().numpy().copy(),
        )

    def nbytes(self) -> int:
        """How many bytes it takes."""
        features = [] if self._features is None else list(vars(self._features).values())
        held = [*features, self._kept, *([] if self._counts is None else [self._counts])]
        return sum(tensor.nbytes for tensor in held)


def _no_counts(device: torch.device) -> Tensor:
    return torch.zeros(TABLE, dtype=torch.int64, device=device)


def _blocks(values: Tensor, real: Tensor | None) -> Iterator[tuple[Tensor, Tensor | None]]:
    """The samples block by block with their part of the mask; at least one block."""
    step = max(1, _BLOCK // max(1, values.shape[1] * values.shape[2]))
    # At least one block, so that a tensor without samples has sums as well: empty ones.
    for start in range(0, max(1, len(values)), step):
        yield values[start : start + step], None if real is None else real[start : start + step]


def _central(values: Tensor, real: Tensor | None, axes: tuple[int, int]) -> CentralMoments:
    """Central sums over two axes of (samples, rows, features), of the finite numbers of real rows."""
    block = values.to(torch.float64)
    counted = block.isfinite() if real is None else block.isfinite() & real[:, :, None]
    count = counted.sum(axes, keepdim=True).to(torch.float64)
    # Replaced, not multiplied by 0, for NaN times 0 is NaN.
    inside = torch.where(counted, block, 0.0)
    # Dividing first keeps the sum of finite numbers finite.
    mean = (inside / count.clip(1)).sum(axes, keepdim=True)
    # Once more about what the rounded mean leaves over: fourth powers about anything else lose digits.
    off = torch.where(counted, block - mean, 0.0)
    shift = off.sum(axes, keepdim=True) / count.clip(1)
    off = torch.where(counted, off - shift, 0.0)
    square = off * off
    sums = square.sum(axes), (square * off).sum(axes), (square * square).sum(axes)
    return CentralMoments(count.squeeze(axes), (mean + shift).squeeze(axes), *sums)
