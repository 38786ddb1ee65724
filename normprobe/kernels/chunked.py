"""Plain torch on the CPU in float32: block by block about each feature's mean, added up in float64.

Most tensors can be measured so, in a fraction of the time that float64 takes. Whether this one could is seen
from what comes out; where not (numbers that are not finite, squares that leave the range, little left beside
the differences between samples), the reference does it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from normprobe.kernels.moments import Moments
from normprobe.kernels.reference import two_pass
from normprobe.kernels.types import Measured, SampleMoments

_BLOCK = (1 << 15) - 1
"""Numbers in a block: they and a copy stay in the cache, and are fewer than torch shares among threads.

Of operators this short, waiting for the other threads at the end of each costs more than they save.
"""

_TYPES = (torch.float32, torch.bfloat16, torch.float16)
_MOST, _LEAST = 1e32, 1e-26
"""Sums of squares beyond these may have over- or underflowed on the way."""


_MOST_ONES = 1 << 24
"""So many ones float32 adds up exactly."""


@dataclass
class _Sums:
    """What has been added up about the pivots, float64, by feature.

    Attributes:
        first: of what differs from the pivot.
        second: of its squares.
        absolute: of absolute values.
        zeros: how many zeros there are.
        low: the smallest value, float32.
        high: the largest, float32.
        samples: of what differs from the pivots, by sample.
        lowest: the smallest value so far, and the first sample of the block that holds it.
        highest: likewise the largest.
    """

    first: Tensor
    second: Tensor
    absolute: Tensor
    zeros: Tensor
    low: Tensor
    high: Tensor
    samples: Tensor
    lowest: tuple[float, int] = (float("inf"), 0)
    highest: tuple[float, int] = (float("-inf"), 0)

    @staticmethod
    def of(samples: int, features: int) -> _Sums:
        """Sums of no numbers."""
        first, second, absolute, zeros = torch.zeros(4, features, dtype=torch.float64)
        low, high = torch.full((features,), torch.inf), torch.full((features,), -torch.inf)
        return _Sums(first, second, absolute, zeros, low, high, torch.empty(samples, dtype=torch.float64))


def measure(
    values: Tensor, keep: Tensor, real: Tensor | None = None, prior_mean: Tensor | None = None
) -> Measured | None:
    """Measure a tensor as `normprobe.kernels.reference.measure` does; None where that takes float64.

    Args:
        values: shape (samples, rows, features), any strides, on the CPU.
        keep: indices of the samples whose own moments are wanted, int64, shape (kept,).
        real: shape (samples, rows), True where a row is not padding; None if all are.
        prior_mean: mean of each feature in the tensors before, shape (features,): near it sums lose few
            digits.
    """
    if real is None:
        found = _measure(values, keep, prior_mean)
        # The data may have moved away from what came before: once more, about their own mean.
        return found if found or prior_mean is None else _measure(values, keep, None)
    if values.shape[1] != 1:
        return None
    inside, outside = (rows.nonzero()[:, 0] for rows in (real[:, 0], ~real[:, 0]))
    found = measure(values.index_select(0, inside), torch.searchsorted(inside, keep), prior_mean=prior_mean)
    if found is None:
        return None
    features = values.shape[2]
    low, high = (
        inside[at // features] * features + at % features for at in (found.minimum_at, found.maximum_at)
    )
    hidden = (~values.index_select(0, outside).isfinite()).sum().to(torch.float64)
    return replace(found, minimum_at=low, maximum_at=high, nonfinite_masked=hidden)


def _measure(values: Tensor, keep: Tensor, pivots: Tensor | None) -> Measured | None:
    """The same of a tensor in which every row counts, about these pivots or else its own means."""
    samples, rows, features = values.shape
    if values.dtype not in _TYPES or values.numel() == 0:
        return None
    count, sums = samples * rows, _Sums.of(samples, features)
    if pivots is None:
        pivots = torch.stack([block.sum(0).to(torch.float64) for _, block in _blocks(values)]).sum(0) / count
    # In float32, as the values are: what is subtracted is then this very number, which `centre` has exactly.
    pivot = pivots.to(torch.float32)
    for start, block in _blocks(values):
        _add(block, start, rows, pivot, sums)
    centre = pivot.to(torch.float64)
    shift, constant = sums.first / count, (sums.low == sums.high) & sums.low.isfinite()
    m2 = sums.second - sums.first * shift
    # Squares within range, the pivot near the mean: else the difference of two sums has too few digits.
    sound = (sums.second < _MOST) & (sums.second > _LEAST) & (m2 > 0.5 * sums.second)
    within = _within(sums, centre, rows * features, count)
    if within is None or not bool((sound | constant).all()):
        return None
    whole = torch.full((features,), float(count), dtype=torch.float64)
    low, high = sums.low.to(torch.float64), sums.high.to(torch.float64)
    return Measured(
        features=Moments(
            count=whole,
            mean=torch.where(constant, low, centre + shift),
            m2=torch.where(constant, 0.0, m2),
            minimum=low,
            maximum=high,
            abs_sum=sums.absolute,
            zeros=sums.zeros,
            nonfinite=torch.zeros_like(whole),
        ),
        kept=_kept(values, keep),
        within_sum=within / (rows * features),
        within_count=torch.tensor(float(samples), dtype=torch.float64),
        minimum_at=_holder(values, *sums.lowest, sums.low),
        maximum_at=_holder(values, *sums.highest, sums.high),
        nonfinite_masked=torch.zeros((), dtype=torch.float64),
    )


def _step(values: Tensor) -> int:
    return max(1, _BLOCK // (values.shape[1] * values.shape[2]))


def _blocks(values: Tensor) -> Iterator[tuple[int, Tensor]]:
    """The rows of some samples at a time, float32 and side by side, and the first sample of each."""
    for start in range(0, len(values), _step(values)):
        yield start, values[start : start + _step(values)].flatten(0, 1).to(torch.float32).contiguous()


def _add(block: Tensor, start: int, rows: int, pivot: Tensor, sums: _Sums) -> None:
    """Add up a block of rows, of which the first belongs to the sample ``start``."""
    # A block and this one copy of it are all the cache holds; later steps write over the copy.
    rest = block - pivot
    sums.first += rest.sum(0)
    held = rest.sum(1).reshape(-1, rows)
    sums.samples[start : start + len(held)] = held.sum(1)
    sums.second += rest.square_().sum(0)
    low, high = block.amin(0), block.amax(0)  # both at once take ten times as long
    torch.minimum(sums.low, low, out=sums.low)
    torch.maximum(sums.high, high, out=sums.high)
    least, most = float(low.min()), float(high.max())
    # Only the block is noted: who holds an extreme is looked for once, at the end, in that block alone.
    if least < sums.lowest[0]:
        sums.lowest = least, start
    if most > sums.highest[0]:
        sums.highest = most, start
    magnitude = torch.abs(block, out=rest)
    sums.absolute += magnitude.sum(0)
    if least <= 0 <= most and float(magnitude.amin()) == 0:
        # Ones in place of the numbers: adding up float32 takes a fourth of the time that bool takes.
        exact = torch.float32 if len(block) <= _MOST_ONES else torch.float64
        sums.zeros += magnitude.eq_(0).sum(0, dtype=exact)


def _within(sums: _Sums, centre: Tensor, numbers: int, count: int) -> Tensor | None:
    """Sum over samples of squared deviations from their means; None where too few digits are left."""
    if numbers == 1:
        return torch.zeros((), dtype=torch.float64)
    off = centre - centre.mean()
    first = (sums.first + count * off).sum()
    everything = (sums.second + off * (2 * sums.first + count * off)).sum()
    everything = everything - first * (first / (count * len(centre)))
    means = sums.samples / numbers  # less the mean of the pivots, which all have in common
    within = everything - numbers * (means - means.mean()).square().sum()
    # Both are differences of sums of like size: below these shares too few of float32's digits are left.
    trusted = (within >= 0.1 * everything) & (sums.second.sum() <= 4 * everything)
    return within.clip(0) if bool(trusted) else None


def _kept(values: Tensor, keep: Tensor) -> SampleMoments:
    """The moments of whole samples, in two passes of float64."""
    if len(keep) == 0:
        return SampleMoments(*torch.zeros(5, 0, dtype=torch.float64))
    # Kept samples are shown one by one, so they get float64 whatever the sums over all rows are in.
    parts = [_samples(values.index_select(0, few)) for few in torch.split(keep, _step(values))]
    return SampleMoments(*(torch.cat(columns) for columns in zip(*parts, strict=True)))


def _samples(values: Tensor) -> tuple[Tensor, ...]:
    numbers = values.to(torch.float64)
    count = torch.tensor(float(values.shape[1] * values.shape[2]), dtype=torch.float64)
    mean, m2 = two_pass(numbers, (1, 2), count)
    return count.expand(len(numbers)), mean, m2, numbers.amin((1, 2)), numbers.amax((1, 2))


def _holder(values: Tensor, value: float, start: int, extremes: Tensor) -> Tensor:
    """Index (sample * features + feature) of the first number in the block from ``start`` that is an extreme.

    Only features whose own extreme it is can have it.
    """
    holding = (extremes == value).nonzero()[:, 0]
    held = values[start : start + _step(values)].index_select(2, holding) == value
    # The first True: argmax of equal values is their first index in numpy, in torch it is any of them.
    first = int(held.any(1).numpy().argmax())
    sample, which = divmod(first, len(holding))
    return (start + sample) * values.shape[2] + holding[which]
