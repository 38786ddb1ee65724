"""Count, mean and central sums up to the fourth power of sets of numbers, merged exactly.

The pairwise formulas of Pébay, "Formulas for Robust, One-Pass Parallel Computation of Covariances and
Arbitrary-Order Statistical Moments" (Sandia report SAND2008-6212, 2008), in float64. Twin of
``csrc/distributions/central_moments.h``; as in `normprobe.kernels.moments` the same lines serve numpy and
torch.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = Any
"""A float64 numpy array or torch tensor."""


@dataclass(frozen=True)
class CentralMoments:
    """Central sums of many sets of finite numbers, one entry per set; all fields have the same shape.

    All are 0 of an empty set.

    Attributes:
        count: how many numbers.
        mean: their mean.
        m2: sum of squared deviations from the mean.
        m3: sum of their third powers.
        m4: sum of their fourth powers.
    """

    count: Array
    mean: Array
    m2: Array
    m3: Array
    m4: Array

    @staticmethod
    def empty(size: int) -> CentralMoments:
        """Those of ``size`` empty sets, as numpy arrays of shape (size,)."""
        return CentralMoments(*np.zeros((len(CENTRAL_FIELDS), size)))

    @property
    def kurtosis(self) -> NDArray[np.float64]:
        """Population kurtosis, m4 / count ÷ (m2 / count)², 3 of a normal distribution; numpy arrays only.

        NaN where the powers leave the range of float64. Of numbers that are all equal it is one of rounding,
        or NaN: whoever knows the smallest and the largest leaves it out.
        """
        return kurtosis(self.count, self.m2, self.m4)

    def map(self, change: Callable[[Array], Array]) -> CentralMoments:
        """The same record with ``change`` applied to each array."""
        return CentralMoments(*(change(getattr(self, name)) for name in CENTRAL_FIELDS))


CENTRAL_FIELDS = tuple(field.name for field in fields(CentralMoments))
"""Every field, in order; a test holds it against the list in C."""


def kurtosis(count: Array, m2: Array, m4: Array) -> NDArray[np.float64]:
    """Population kurtosis of sets; NaN where it is not defined."""
    count, m2, m4 = (np.asarray(field, np.float64) for field in (count, m2, m4))
    # m4 is at least m2² / count: where it is 0 all the same, the powers left the range.
    known = (m2 > 0) & (m4 > 0) & np.isfinite(m4)
    # Divided first: the square of a small sum of squares may underflow.
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        return np.where(known, (m4 / m2) / (m2 / count), np.nan)


def merge_central(a: CentralMoments, b: CentralMoments) -> CentralMoments:
    """Central sums of the union of the sets in ``a`` with those in ``b``, entry by entry (Pébay 2008).

    With d = mean_b - mean_a, n = n_a + n_b and s = d / n:
    m3 = m3_a + m3_b + d s² n_a n_b (n_a - n_b) + 3 s (n_a m2_b - n_b m2_a) and
    m4 = m4_a + m4_b + d s³ n_a n_b (n_a² - n_a n_b + n_b²) + 6 s² (n_a² m2_b + n_b² m2_a)
    + 4 s (n_a m3_b - n_b m3_a).
    """
    of_a, of_b = a.count, b.count
    # Whoever has a tensor has imported torch, so tables are read without it.
    module: Any = np if isinstance(of_a, (np.ndarray, np.generic)) else sys.modules["torch"]
    total = of_a + of_b
    delta, share = b.mean - a.mean, of_b / total.clip(1)
    # Beside an empty set a huge difference says nothing, and its powers may overflow.
    off = module.where((of_a > 0) & (of_b > 0), delta, 0.0)
    step = off / total.clip(1)
    both = of_a * of_b
    return CentralMoments(
        count=total,
        # From the nearer mean, so that rounding is least where one set outweighs the other.
        mean=module.where(share > 0.5, b.mean - delta * (1 - share), a.mean + delta * share),
        m2=a.m2 + b.m2 + off * step * both,
        m3=a.m3 + b.m3 + 3 * step * (of_a * b.m2 - of_b * a.m2) + off * step**2 * both * (of_a - of_b),
        m4=a.m4
        + b.m4
        + 4 * step * (of_a * b.m3 - of_b * a.m3)
        + 6 * step**2 * (of_a**2 * b.m2 + of_b**2 * a.m2)
        + off * step**3 * both * (of_a**2 - both + of_b**2),
    )


def pool_central(moments: CentralMoments) -> CentralMoments:
    """Those of the union of all sets along the first axis, each field of shape (1, ...); numpy arrays.

    About the common mean, in two passes.
    """
    count = moments.count.sum(0, keepdims=True)
    # Weighted by shares: count * mean of large numbers may overflow.
    mean = (moments.mean * (moments.count / count.clip(1))).sum(0, keepdims=True)
    # An empty set has mean 0, which is no number of it.
    off = np.where(moments.count > 0, moments.mean - mean, 0.0)
    n, m2, m3 = moments.count, moments.m2, moments.m3
    return CentralMoments(
        count=count,
        mean=mean,
        m2=(m2 + n * off**2).sum(0, keepdims=True),
        m3=(m3 + off * (3 * m2 + n * off**2)).sum(0, keepdims=True),
        m4=(moments.m4 + off * (4 * m3 + off * (6 * m2 + n * off**2))).sum(0, keepdims=True),
    )
