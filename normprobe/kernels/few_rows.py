"""Few rows on the CPU (decoding token by token): two passes of float64 in numpy, whose calls cost least."""

from __future__ import annotations

from collections.abc import Iterable

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


def measure(values: Tensor, keep: NDArray[np.int64]) -> Measured | None:
    """Measure a tensor of which every row counts, in numpy; None where this cannot.

    Args:
        values: shape (samples, rows, features), any strides.
        keep: indices of the samples whose own moments are wanted, shape (kept,).
    """
    samples, rows, features = values.shape
    if rows != 1 or not 0 < samples <= _FEW or features == 0:
        return None
    # A copy even of float64: of one row the numbers are the mean, and the tensor is the user's.
    numbers = values[:, 0].to(torch.float64, copy=True).numpy(force=True)
    lowest, highest = int(numbers.argmin()), int(numbers.argmax())
    # Of numbers with a NaN among them both are NaN, which is not within any bounds.
    if not -_MOST < numbers.flat[lowest] <= numbers.flat[highest] < _MOST:
        return None
    own_mean, own_m2 = _two_pass(numbers, 1)
    kept: Iterable[NDArray[np.float64]] = np.zeros((5, 0))
    if len(keep):
        own = np.full(samples, float(features)), own_mean, own_m2, numbers.min(1), numbers.max(1)
        kept = [field[keep] for field in own]
    return Measured(
        features=_one_row(numbers[0]) if samples == 1 else _several_rows(numbers),
        kept=SampleMoments(*kept),
        within_sum=float(own_m2.sum()) / features,
        within_count=samples,
        minimum_at=lowest,
        maximum_at=highest,
        nonfinite_masked=0,
    )


def _one_row(numbers: NDArray[np.float64]) -> Moments:
    """Moments of one number each: there is nothing to add up."""
    nothing = np.zeros_like(numbers)
    return Moments(
        count=np.ones_like(numbers),
        mean=numbers,
        m2=nothing,
        minimum=numbers,
        maximum=numbers,
        abs_sum=np.abs(numbers),
        zeros=(numbers == 0).astype(np.float64),
        nonfinite=nothing,
    )


def _several_rows(numbers: NDArray[np.float64]) -> Moments:
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
