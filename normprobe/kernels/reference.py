"""The reference kernel: plain torch in float64, on any device, in blocks of samples.

Two passes over each block (mean, then centred squares), with the correction of Chan, Golub and LeVeque,
"Algorithms for Computing the Sample Variance" (1983), for the rounding of the mean; blocks are merged
exactly. It is what other kernels are held to.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from normprobe.kernels.moments import Moments, merge
from normprobe.kernels.types import Measured, SampleMoments

_BLOCK = 1 << 18
"""Numbers in a block, so that the float64 copies stay near 2 MB each whatever the tensor."""

_FEATURES, _SAMPLES = (0, 1), (1, 2)
"""The axes of (samples, rows, features) over which a feature's, or a sample's, numbers lie."""


@dataclass(frozen=True)
class _Block:
    """Moments of one block; ``masked`` counts the non-finite numbers in its padding."""

    features: Moments
    samples: SampleMoments
    masked: Tensor


def measure(values: Tensor, keep: Tensor, real: Tensor | None = None) -> Measured:
    """Measure a tensor on its own.

    Args:
        values: shape (samples, rows, features), any strides, device and real dtype.
        keep: indices of the samples whose own moments are wanted, each with a real row, int64, shape (kept,),
            on the CPU.
        real: shape (samples, rows), True where a row is not padding, on the CPU; None if all are.
    """
    chosen, mask, masked = None, real, _zeros(values, 1)[0]
    if real is not None and values.shape[1] == 1:
        # A sample of one row is real or padding as a whole: without the padding, the rest needs no mask.
        host, mask = real[:, 0].nonzero()[:, 0], None
        padding, chosen = _on_device_of((~real[:, 0]).nonzero()[:, 0], values), _on_device_of(host, values)
        for block, _ in _blocks(values, padding, None):
            masked = masked + (~block.isfinite()).sum()
        # Padding is gone, so a kept sample is counted among the real ones only.
        keep = torch.searchsorted(host, keep)
    keep, mask = _on_device_of(keep, values), None if mask is None else _on_device_of(mask, values)
    parts = [_measure_block(block, part) for block, part in _blocks(values, chosen, mask)]
    fields = SampleMoments.__match_args__
    samples = SampleMoments(*(torch.cat([getattr(part.samples, name) for part in parts]) for name in fields))
    filled = samples.count > 0
    return Measured(
        features=reduce(merge, [part.features for part in parts]),
        kept=SampleMoments(*(getattr(samples, name)[keep] for name in fields)),
        within_sum=torch.where(filled, samples.m2 / samples.count.clip(1), 0.0).sum(),
        within_count=filled.sum().to(torch.float64),
        minimum_at=_holder(values, mask, chosen, samples.minimum, -1),
        maximum_at=_holder(values, mask, chosen, samples.maximum, 1),
        nonfinite_masked=reduce(torch.add, [part.masked for part in parts], masked),
    )


def _on_device_of(tensor: Tensor, values: Tensor) -> Tensor:
    """A tensor of the host on the device of the values, sent without waiting."""
    return tensor.to(values.device, non_blocking=True)


def _blocks(
    values: Tensor, chosen: Tensor | None, real: Tensor | None
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """The samples, or those chosen, block by block with their part of the mask; at least one block."""
    step = max(1, _BLOCK // max(1, values.shape[1] * values.shape[2]))
    for start in range(0, max(1, len(values) if chosen is None else len(chosen)), step):
        part = slice(start, start + step)
        block = values[part] if chosen is None else values.index_select(0, chosen[part])
        yield block, None if real is None else real[part]


def _measure_block(values: Tensor, real: Tensor | None) -> _Block:
    """Measure one block, looking for numbers to leave out only if there are some."""
    if real is None and values.numel() and values.device.type == "cpu":
        # Only the CPU may be asked what came out: an accelerator would have to be waited for.
        found = _measure_all(values)
        # One number that is not finite makes its feature's mean not finite.
        if bool(found.features.mean.isfinite().all()):
            return found
    return _measure_counted(values, real)


def _measure_all(values: Tensor) -> _Block:
    """Measure a block in which every number counts."""
    samples, rows, width = values.shape
    # A copy even of float64: the last two steps below write into it, and the tensor is the user's.
    block = values.to(torch.float64, copy=True)
    held = values if values.dtype == torch.float32 else block  # extremes need no float64
    mean, m2 = two_pass(block, _FEATURES, torch.tensor(float(samples * rows), device=block.device))
    sample_mean, sample_m2 = two_pass(block, _SAMPLES, torch.tensor(float(rows * width), device=block.device))
    of_samples = SampleMoments(
        count=torch.full_like(sample_mean, rows * width),
        mean=sample_mean,
        m2=sample_m2,
        minimum=held.amin(_SAMPLES).to(torch.float64),
        maximum=held.amax(_SAMPLES).to(torch.float64),
    )
    of_features = Moments(
        count=torch.full_like(mean, samples * rows),
        mean=mean,
        m2=m2,
        minimum=held.amin(_FEATURES).to(torch.float64),
        maximum=held.amax(_FEATURES).to(torch.float64),
        abs_sum=block.abs_().sum(_FEATURES),
        zeros=block.eq_(0).sum(_FEATURES),
        nonfinite=torch.zeros_like(mean),
    )
    return _Block(of_features, of_samples, _zeros(values, 1)[0])


def two_pass(
    inside: Tensor, axes: tuple[int, int], count: Tensor, counted: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Mean and centred sum of squares over two axes; what does not count is 0 in ``inside``."""
    if counted is None:
        mean = inside.sum(axes, keepdim=True) / count
        rest = inside - mean
    else:
        count = count.clip(1).reshape([1 if axis in axes else n for axis, n in enumerate(inside.shape)])
        # Dividing first keeps the sum of finite numbers finite.
        mean = (inside / count).sum(axes, keepdim=True)
        rest = torch.where(counted, inside - mean, 0.0)
    left = rest.sum(axes, keepdim=True)
    squares = rest.square_().sum(axes, keepdim=True)
    # The rounding of the mean corrects both: a constant has exactly its value as mean and variance 0.
    m2 = torch.where(squares < torch.inf, (squares - left * (left / count)).clip(0), squares)
    return (mean + left / count).squeeze(axes), m2.squeeze(axes)


def _measure_counted(values: Tensor, real: Tensor | None) -> _Block:
    """Measure the finite real numbers of a block, and count what is left out."""
    block = values.to(torch.float64)
    finite = block.isfinite()
    counted = finite if real is None else finite & real[:, :, None]
    inside = torch.where(counted, block, 0.0)
    shared = [_common(block, inside, counted, axes) for axes in (_FEATURES, _SAMPLES)]
    outside = ~finite if real is None else ~finite & real[:, :, None]
    features = Moments(
        **vars(shared[0]),
        abs_sum=inside.abs().sum(_FEATURES),
        zeros=(counted & (block == 0)).sum(_FEATURES).to(torch.float64),
        nonfinite=outside.sum(_FEATURES).to(torch.float64),
    )
    return _Block(features, shared[1], ((~finite).sum() - outside.sum()).to(torch.float64))


def _common(block: Tensor, inside: Tensor, counted: Tensor, axes: tuple[int, int]) -> SampleMoments:
    """The moments that features and samples both have, over two axes."""
    count = counted.sum(axes).to(torch.float64)
    mean, m2 = two_pass(inside, axes, count, counted)
    if 0 in block.shape:
        return SampleMoments(
            count, mean, m2, torch.full_like(count, torch.inf), torch.full_like(count, -torch.inf)
        )
    # What does not count takes the neutral value of each extreme, so one reduction serves all.
    low, high = (torch.where(counted, block, neutral) for neutral in (torch.inf, -torch.inf))
    return SampleMoments(count, mean, m2, low.amin(axes), high.amax(axes))


def _holder(
    values: Tensor, real: Tensor | None, chosen: Tensor | None, extremes: Tensor, sign: int
) -> Tensor:
    """Index (sample * features + feature) of the first that holds the smallest (-1) or largest (1) value."""
    if 0 in values.shape or len(extremes) == 0:
        return torch.zeros((), dtype=torch.int64, device=values.device)
    sample = (extremes * sign).argmax().reshape(1)
    sample = sample if chosen is None else chosen.index_select(0, sample)
    rows = values.index_select(0, sample)[0].to(torch.float64)
    counted = rows.isfinite() if real is None else rows.isfinite() & real.index_select(0, sample)[0, :, None]
    feature = torch.where(counted, rows * sign, -torch.inf).amax(0).argmax()
    return sample[0] * values.shape[2] + feature


def _zeros(values: Tensor, size: int) -> Tensor:
    return torch.zeros(size, dtype=torch.float64, device=values.device)
