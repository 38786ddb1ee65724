"""Count, mean, centred sums and extremes of sets of numbers, merged exactly.

One formula, in one place: the pairwise update of Chan, Golub and LeVeque, "Updating Formulae and a
Pairwise Algorithm for Computing Sample Variances" (1979), in float64. It is written with operators
that numpy arrays and torch tensors share, so the same lines serve a table and an accelerator.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

Array = Any
"""A float64 or int64 numpy array or torch tensor."""


@dataclass(frozen=True)
class Moments:
    """Moments of many sets of numbers, one entry per set; all fields have the same shape.

    Non-finite numbers are counted in ``nonfinite`` and enter nothing else. A set without a finite
    number has count 0, mean 0, m2 0, minimum +inf and maximum -inf, the neutral values of `merge`.

    Counts are int64 or float64 arrays of whole numbers (exact to 2**53; torch divides int64 in float32).

    Attributes:
        count: how many finite numbers.
        mean: their mean.
        m2: their sum of squared deviations from the mean.
        minimum: the smallest.
        maximum: the largest.
        abs_sum: sum of absolute values.
        zeros: how many are exactly zero.
        nonfinite: how many NaN or infinite numbers were met beside them.
    """

    count: Array
    mean: Array
    m2: Array
    minimum: Array
    maximum: Array
    abs_sum: Array
    zeros: Array
    nonfinite: Array

    @staticmethod
    def empty(size: int) -> Moments:
        """Moments of ``size`` empty sets, as numpy arrays of shape (size,)."""
        none, zero = np.zeros(size, np.int64), np.zeros(size)
        return Moments(none, zero, zero, np.full(size, np.inf), np.full(size, -np.inf), zero, none, none)

    @property
    def variance(self) -> Array:
        """Population variance (divisor: the count), NaN for an empty set."""
        return over(self.m2, self.count)

    @property
    def abs_mean(self) -> Array:
        """Mean absolute value, NaN for an empty set."""
        return over(self.abs_sum, self.count)

    @property
    def zero_fraction(self) -> Array:
        """Share of exact zeros among the finite numbers, NaN for an empty set."""
        return over(self.zeros, self.count)

    def map(self, change: Any) -> Moments:
        """The same record with ``change`` applied to each array."""
        return Moments(*(change(getattr(self, field.name)) for field in fields(self)))


def over(total: Array, count: Array) -> Array:
    """``total / count`` in float64, NaN where the count is 0; numpy arrays only."""
    count = np.asarray(count)
    return np.where(count > 0, np.asarray(total, np.float64) / np.maximum(count, 1), np.nan)


def merge(a: Moments, b: Moments) -> Moments:
    """Moments of the union of the sets in ``a`` with those in ``b``, entry by entry.

    With d = mean_b - mean_a and n = n_a + n_b: mean = mean_a + d n_b / n and
    m2 = m2_a + m2_b + d^2 n_a n_b / n (Chan, Golub, LeVeque 1979, eq. 2.1).
    """
    count = a.count + b.count
    share = b.count / count.clip(1)
    delta = b.mean - a.mean
    maths = _namespace(count)
    return Moments(
        count=count,
        # Stepping from the larger set makes the order of the two matter to the last bit only.
        mean=maths.where(share > 0.5, b.mean - delta * (1 - share), a.mean + delta * share),
        # In this order a huge mean beside an empty set stays finite.
        m2=a.m2 + b.m2 + delta * (a.count * share) * delta,
        minimum=maths.minimum(a.minimum, b.minimum),
        maximum=maths.maximum(a.maximum, b.maximum),
        abs_sum=a.abs_sum + b.abs_sum,
        zeros=a.zeros + b.zeros,
        nonfinite=a.nonfinite + b.nonfinite,
    )


def _namespace(array: Array) -> Any:
    """The module whose ``where``, ``minimum`` and ``maximum`` fit the array: numpy or torch."""
    return np if isinstance(array, (np.ndarray, np.generic)) else sys.modules["torch"]


def pool(moments: Moments) -> Moments:
    """Moments of the union of all sets along the first axis, each field of shape (1, ...); numpy arrays.

    Halves are merged pairwise, so rounding grows with the logarithm of the number of sets.
    """
    size = len(moments.count)
    if size == 0:
        return Moments.empty(1)
    while size > 1:
        half = size // 2
        front, back = moments.map(lambda x, h=half: x[:h]), moments.map(lambda x, h=half: x[h : 2 * h])
        rest = moments.map(lambda x, h=half: x[2 * h :])
        merged = merge(front, back)
        moments = Moments(
            *(np.concatenate([getattr(m, field.name) for m in (merged, rest)]) for field in fields(moments))
        )
        size = len(moments.count)
    return moments
