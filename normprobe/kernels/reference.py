"""The reference kernel: plain torch in float64, on any device, in blocks of samples.

Two passes over each block (mean, then centred squares, with the correction of Chan, Golub and LeVeque
1983 for the rounding of the mean), blocks merged exactly. Slow and plain: it is what others are held to.
"""

from __future__ import annotations

import torch
from torch import Tensor

from normprobe.kernels import Measured
from normprobe.moments import Moments, merge

_BLOCK = 1 << 18
"""Numbers in a block, so that the float64 copies stay near 2 MB each whatever the tensor."""


def measure(values: Tensor, keep: Tensor, real: Tensor | None = None, *, seen: bool = False) -> Measured:
    """Measure ``values`` (samples, rows, features); see `normprobe.kernels.measure`."""
    samples, rows, features = values.shape
    step = max(1, _BLOCK // max(1, rows * features))
    total, everything = None, None
    parts: list[_Samples] = []
    hidden = torch.zeros((), dtype=torch.float64, device=values.device)
    for start in range(0, max(samples, 1), step):
        block = values[start : start + step].to(torch.float64)
        finite = block.isfinite()
        counted = finite if real is None else finite & real[start : start + step, :, None]
        of_features = _moments(block, counted, finite, (0, 1))
        if real is not None:
            outside = ~finite & ~real[start : start + step, :, None]
            hidden = hidden + outside.sum()
            of_features = _without(of_features, outside.sum((0, 1)))
        total = of_features if total is None else merge(total, of_features)
        if seen:
            of_all = _moments(block, finite, finite, (0, 1))
            everything = of_all if everything is None else merge(everything, of_all)
        parts.append(_samples(block, counted))
    assert total is not None
    return _assemble(total, everything, parts, keep, hidden, features)


def _moments(block: Tensor, counted: Tensor, finite: Tensor, axes: tuple[int, int]) -> Moments:
    """Moments of the counted numbers over two axes; ``finite`` tells non-finite numbers from padding."""
    zero = torch.zeros((), dtype=torch.float64, device=block.device)
    inside = torch.where(counted, block, zero)
    count = counted.sum(axes).to(torch.float64)
    mean = inside.sum(axes) / count.clip(1)
    shape = [1 if axis in axes else size for axis, size in enumerate(block.shape)]
    centred = torch.where(counted, block - mean.reshape(shape), zero)
    m2 = (centred * centred).sum(axes) - centred.sum(axes) ** 2 / count.clip(1)
    return Moments(
        count=count,
        mean=mean,
        m2=m2.clip(0),
        minimum=_extreme(block, counted, axes, torch.inf),
        maximum=_extreme(block, counted, axes, -torch.inf),
        abs_sum=inside.abs().sum(axes),
        zeros=(counted & (block == 0)).sum(axes).to(torch.float64),
        nonfinite=(~finite).sum(axes).to(torch.float64),
    )


def _extreme(block: Tensor, counted: Tensor, axes: tuple[int, int], neutral: float) -> Tensor:
    """Smallest (neutral +inf) or largest (neutral -inf) counted number over two axes, also of none."""
    held = torch.where(counted, block, torch.full((), neutral, dtype=block.dtype, device=block.device))
    if 0 in block.shape:
        return held.new_full([size for axis, size in enumerate(block.shape) if axis not in axes], neutral)
    return held.amin(axes) if neutral > 0 else held.amax(axes)


def _without(moments: Moments, outside: Tensor) -> Moments:
    """The same moments with the non-finite numbers in padding left out of their count."""
    return Moments(**{**vars(moments), "nonfinite": moments.nonfinite - outside})


class _Samples:
    """Moments of the samples of one block and where its extremes lie."""

    def __init__(self, moments: Moments, minimum: Tensor, maximum: Tensor) -> None:
        self.moments = moments
        self.minimum = minimum
        self.maximum = maximum


def _samples(block: Tensor, counted: Tensor) -> _Samples:
    """Per-sample moments; per sample the feature that holds its minimum and its maximum."""
    moments = _moments(block, counted, counted, (1, 2))
    if 0 in block.shape:
        nowhere = torch.zeros(block.shape[0], dtype=torch.int64, device=block.device)
        return _Samples(moments, nowhere, nowhere)
    low = torch.where(counted, block, torch.inf).amin(1).argmin(1)
    high = torch.where(counted, block, -torch.inf).amax(1).argmax(1)
    return _Samples(moments, low, high)


def _assemble(
    total: Moments,
    everything: Moments | None,
    parts: list[_Samples],
    keep: Tensor,
    hidden: Tensor,
    width: int,
) -> Measured:
    """Put the blocks' sample moments together and pick the kept ones and the holders of the extremes."""
    moments = Moments(
        *(torch.cat([getattr(part.moments, field) for part in parts]) for field in Moments.__match_args__)
    )
    filled = moments.count > 0
    variance = torch.where(filled, moments.m2 / moments.count.clip(1), torch.zeros_like(moments.m2))
    return Measured(
        features=total,
        kept=moments.map(lambda field: field[keep]),
        within_sum=variance.sum(),
        within_count=filled.sum().to(torch.float64),
        minimum_at=_holder(moments.minimum.neg(), torch.cat([part.minimum for part in parts]), width),
        maximum_at=_holder(moments.maximum, torch.cat([part.maximum for part in parts]), width),
        seen=everything,
        nonfinite_masked=hidden,
    )


def _holder(extremes: Tensor, features: Tensor, width: int) -> Tensor:
    """Index (sample * width + feature) of the largest of the samples' extremes, 0 where there is none."""
    if len(extremes) == 0:
        return torch.zeros((), dtype=torch.int64, device=extremes.device)
    sample = extremes.argmax()
    return sample * width + features[sample]
