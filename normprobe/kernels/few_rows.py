"""Few rows on the CPU (decoding token by token): two passes of float64 in numpy, whose calls cost least."""

from __future__ import annotations

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


def measure(values: Tensor, keep: Tensor, real: Tensor | None = None) -> Measured | None:
    """Measure a tensor as `normprobe.kernels.reference.measure` does; None where this cannot.

    Args:
        values: shape (samples, rows, features), any strides, on the CPU.
        keep: indices of the samples whose own moments are wanted, int64, shape (kept,).
        real: shape (samples, rows), True where a row is not padding; None if all are.
    """
    samples, rows, features = values.shape
    if real is not None or rows != 1 or not 0 < samples <= _FEW or features == 0:
        return None
    # In numpy: on so few numbers the calls are the cost, and its calls cost a third of torch's.
    numbers = values[:, 0].to(torch.float64).numpy(force=True)
    absolute = np.abs(numbers)
    if not absolute.max() < _MOST:  # NaN is not
        return None
    mean, m2 = _two_pass(numbers, 0)
    own_mean, own_m2 = _two_pass(numbers, 1)
    nothing = np.zeros(features)
    of_samples = np.full(samples, float(features)), own_mean, own_m2, numbers.min(1), numbers.max(1)
    chosen = keep.numpy()
    return Measured(
        features=Moments(
            count=np.full(features, float(samples)),
            mean=mean,
            m2=m2,
            minimum=numbers.min(0),
            maximum=numbers.max(0),
            abs_sum=absolute.sum(0),
            zeros=(numbers == 0).sum(0).astype(np.float64),
            nonfinite=nothing,
        ).map(torch.from_numpy),
        kept=SampleMoments(*(torch.from_numpy(field[chosen]) for field in of_samples)),
        within_sum=torch.tensor(own_m2.sum() / features, dtype=torch.float64),
        within_count=torch.tensor(float(samples), dtype=torch.float64),
        minimum_at=torch.tensor(int(numbers.argmin())),
        maximum_at=torch.tensor(int(numbers.argmax())),
        nonfinite_masked=torch.zeros((), dtype=torch.float64),
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
