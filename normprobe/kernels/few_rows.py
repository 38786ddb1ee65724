"""Few rows on the CPU (decoding token by token): two passes of float64 in numpy, whose calls cost least."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from normprobe.kernels.moments import Moments
from normprobe.kernels.types import Measured, SampleMoments

_FEW = 16
"""Of more rows the numbers cost more than the calls."""

_MOST = 1e150
"""The squares of numbers beyond this may overflow."""

_NONE_KEPT = SampleMoments(*np.zeros((5, 0)))


@dataclass(frozen=True, eq=False)
class FewRows:
    """What is measured of few rows at once; the moments of features can wait until there are more.

    Attributes:
        numbers: the rows, shape (samples, features), float64; nobody writes to them.
        kept: moments of each kept sample, numpy arrays of shape (kept,).
        within_sum: sum over samples of the variance of their values.
        minimum_at: index (sample * features + feature) of the first that is the smallest.
        maximum_at: likewise of the largest.
    """

    numbers: NDArray[np.float64]
    kept: SampleMoments
    within_sum: float
    minimum_at: int
    maximum_at: int

    def measured(self) -> Measured:
        """The same as other kernels give it, of numpy arrays."""
        return Measured(
            features=moments_of(self.numbers),
            kept=self.kept,
            within_sum=self.within_sum,
            within_count=len(self.numbers),
            minimum_at=self.minimum_at,
            maximum_at=self.maximum_at,
            nonfinite_masked=0,
        )


def measure(values: Tensor, keep: NDArray[np.int64]) -> FewRows | None:
    """Measure a tensor of which every row counts; None where this cannot.

    Args:
        values: shape (samples, rows, features), any strides.
        keep: indices of the samples whose own moments are wanted, shape (kept,).
    """
    samples, rows, features = values.shape
    if rows != 1 or not 0 < samples <= _FEW or features == 0:
        return None
    # A copy even of float64: the rows may wait, and the tensor is the user's.
    numbers = values[:, 0].to(torch.float64, copy=True).numpy(force=True)
    lowest, highest = int(numbers.argmin()), int(numbers.argmax())
    # Of numbers with a NaN among them both are NaN, which is not within any bounds.
    if not -_MOST < numbers.item(lowest) <= numbers.item(highest) < _MOST:
        return None
    mean, m2 = _two_pass(numbers, 1)
    kept = _NONE_KEPT
    if len(keep):
        own = np.full(samples, float(features)), mean, m2, numbers.min(1), numbers.max(1)
        kept = SampleMoments(*(field[keep] for field in own))
    return FewRows(numbers, kept, float(m2.sum()) / features, lowest, highest)


def moments_of(numbers: NDArray[np.float64]) -> Moments:
    """Moments of each feature of rows (rows, features) without a number that is not finite."""
    mean, m2 = _two_pass(numbers, 0)
    return Moments(
        count=np.full_like(mean, len(numbers)),
        mean=mean,
        m2=m2,
        minimum=numbers.min(0),
        maximum=numbers.max(0),
        abs_sum=np.abs(numbers).sum(0),
        zeros=(numbers == 0).sum(0).astype(np.float64),
        nonfinite=np.zeros_like(mean),
    )


def _two_pass(numbers: NDArray[np.float64], axis: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and centred sum of squares along an axis; the rounding of the mean corrects both."""
    count = numbers.shape[axis]
    mean = numbers.sum(axis, keepdims=True) / count
    rest = numbers - mean
    # What the rounded mean leaves over: without it a constant row would get a variance.
    left = rest.sum(axis)
    m2 = np.square(rest).sum(axis) - left * (left / count)
    return mean.squeeze(axis) + left / count, m2.clip(0)
