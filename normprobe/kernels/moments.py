"""Count, mean, centred sums and extremes of sets of numbers, merged exactly; the one list of these fields.

One formula, in one place: the pairwise update of Chan, Golub and LeVeque, "Updating Formulae and a
Pairwise Algorithm for Computing Sample Variances" (1979), in float64. It is written with operators
that numpy arrays and torch tensors share, so the same lines serve a table and an accelerator.

A new moment is a field of `Moments` here, a field and its merging in ``csrc/numerics/moments.h``, its sum in
``row_loops.h`` and ``column_loops.h``, and the same sum in `reference`, `chunked` and `few_rows`. Stored and
public columns follow from the field's `MomentField`; a test holds the list in C against the one here.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

import numpy as np

Array = Any
"""A float64 or int64 numpy array or torch tensor."""


class PublicColumn(NamedTuple):
    """What a field becomes in the public table of features.

    Attributes:
        name: the column.
        derive: its values, from the moments of each feature; numpy arrays only.
        unit: value, value², share or count; see `normprobe.tables.columns.UNITS`.
        meaning: one line for people.
        whole: whether it holds int64.
    """

    name: str
    derive: Callable[[Moments], Array]
    unit: str
    meaning: str
    whole: bool = False


class MergeContext(NamedTuple):
    """What merging two sets entry by entry rests on, beside the field itself.

    Attributes:
        a: moments of the first.
        b: moments of the second.
        share: of all their numbers, how large a part the second has, 0 to 1.
        delta: mean of the second less mean of the first.
        array_module: numpy or torch, whichever the arrays are of.
    """

    a: Moments
    b: Moments
    share: Array
    delta: Array
    array_module: Any


class MomentField(NamedTuple):
    """How one field of `Moments` is merged, stored and shown.

    Attributes:
        column: its column in the frame of moments that is saved; files depend on it.
        merge: its value for the union of two sets, from its value for each.
        public: its column in the public table of features, if it has one.
        neutral: its value for a set without a number.
        whole: whether it is stored as int64.
        of_samples: whether `normprobe.kernels.types.SampleMoments` has it, too.
        optional: whether files written before there was the field lack its column; it reads as NaN then, so
            such a field is stored as float64.
    """

    column: str
    merge: Callable[[Array, Array, MergeContext], Array]
    public: PublicColumn | None = None
    neutral: float = 0.0
    whole: bool = False
    of_samples: bool = False
    optional: bool = False


def _sum(of_a: Array, of_b: Array, context: MergeContext) -> Array:
    return of_a + of_b


def _smaller(of_a: Array, of_b: Array, context: MergeContext) -> Array:
    return context.array_module.minimum(of_a, of_b)


def _larger(of_a: Array, of_b: Array, context: MergeContext) -> Array:
    return context.array_module.maximum(of_a, of_b)


def _mean(of_a: Array, of_b: Array, context: MergeContext) -> Array:
    # Stepping from the larger set makes the order of the two matter to the last bit only.
    share, delta = context.share, context.delta
    return context.array_module.where(share > 0.5, of_b - delta * (1 - share), of_a + delta * share)


def _m2(of_a: Array, of_b: Array, context: MergeContext) -> Array:
    # In this order a huge mean beside an empty set stays finite.
    return of_a + of_b + context.delta * (context.a.count * context.share) * context.delta


def _finite(name: str) -> Callable[[Moments], Array]:
    """The field, NaN for an empty set."""
    return lambda moments: np.where(moments.count > 0, getattr(moments, name), np.nan)


def _moment(
    column: str,
    merge: Callable[[Array, Array, MergeContext], Array],
    public: PublicColumn | None = None,
    **options: Any,
) -> dict[str, MomentField]:
    """Metadata of a field of `Moments`; what else may be given is in `MomentField`."""
    return {"moment": MomentField(column, merge, public, **options)}


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
        nonfinite: how many NaN or infinite numbers there were beside them.
    """

    count: Array = field(
        metadata=_moment(
            "count",
            _sum,
            PublicColumn(
                "count", lambda m: m.count, "count", "finite values; the moments are over these", whole=True
            ),
            whole=True,
            of_samples=True,
        )
    )
    mean: Array = field(
        metadata=_moment(
            "mean",
            _mean,
            PublicColumn("mean", _finite("mean"), "value", "their mean, in the layer's own units"),
            of_samples=True,
        )
    )
    m2: Array = field(
        metadata=_moment(
            "m2",
            _m2,
            PublicColumn(
                "variance", lambda m: m.variance, "value²", "their population variance (divisor: count)"
            ),
            of_samples=True,
        )
    )
    minimum: Array = field(
        metadata=_moment(
            "min",
            _smaller,
            PublicColumn("min", _finite("minimum"), "value", "the smallest"),
            neutral=np.inf,
            of_samples=True,
        )
    )
    maximum: Array = field(
        metadata=_moment(
            "max",
            _larger,
            PublicColumn("max", _finite("maximum"), "value", "the largest"),
            neutral=-np.inf,
            of_samples=True,
        )
    )
    abs_sum: Array = field(
        metadata=_moment(
            "abs_sum", _sum, PublicColumn("abs_mean", lambda m: m.abs_mean, "value", "mean of |value|")
        )
    )
    zeros: Array = field(
        metadata=_moment(
            "zeros",
            _sum,
            PublicColumn("zero_fraction", lambda m: m.zero_fraction, "share", "share of exact zeros, 0 to 1"),
            whole=True,
        )
    )
    nonfinite: Array = field(
        metadata=_moment(
            "nonfinite",
            _sum,
            PublicColumn(
                "nonfinite", lambda m: m.nonfinite, "count", "NaN or infinite values beside them", whole=True
            ),
            whole=True,
        )
    )

    @staticmethod
    def empty(size: int) -> Moments:
        """Moments of ``size`` empty sets, as numpy arrays of shape (size,)."""
        return Moments(
            *(
                np.full(size, field.neutral, np.int64 if field.whole else np.float64)
                for field in MOMENT_FIELDS.values()
            )
        )

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
        return Moments(*(change(getattr(self, name)) for name in MOMENT_FIELDS))


MOMENT_FIELDS: dict[str, MomentField] = {found.name: found.metadata["moment"] for found in fields(Moments)}
"""Every field of `Moments` by name, in order."""


def over(total: Array, count: Array) -> Array:
    """``total / count`` in float64, NaN where the count is 0; numpy arrays only."""
    count = np.asarray(count)
    return np.where(count > 0, np.asarray(total, np.float64) / np.maximum(count, 1), np.nan)


def merge(a: Moments, b: Moments) -> Moments:
    """Moments of the union of the sets in ``a`` with those in ``b``, entry by entry.

    With d = mean_b - mean_a and n = n_a + n_b: mean = mean_a + d n_b / n and
    m2 = m2_a + m2_b + d^2 n_a n_b / n (Chan, Golub, LeVeque 1979, eq. 2.1).
    """
    # Of two empty sets the share is 0 of 1, so both stay at their neutral values instead of becoming NaN.
    share = b.count / (a.count + b.count).clip(1)
    context = MergeContext(a, b, share, b.mean - a.mean, _array_module(share))
    return Moments(
        *(field.merge(getattr(a, name), getattr(b, name), context) for name, field in MOMENT_FIELDS.items())
    )


def _array_module(array: Array) -> Any:
    """The module whose ``where``, ``minimum`` and ``maximum`` fit the array: numpy or torch."""
    # Not imported here: whoever hands in a tensor has loaded torch, and who reads a file need not.
    return np if isinstance(array, (np.ndarray, np.generic)) else sys.modules["torch"]


def pool(moments: Moments) -> Moments:
    """Moments of the union of all sets along the first axis, each field of shape (1, ...); numpy arrays.

    Halves are merged pairwise, so rounding grows with the logarithm of the number of sets.
    """
    size = len(moments.count)
    if size == 0:
        return Moments.empty(1)
    # An odd one out waits for the next round, so each number is merged at most log2(size) times.
    while size > 1:
        half = size // 2
        front, back = moments.map(lambda x, h=half: x[:h]), moments.map(lambda x, h=half: x[h : 2 * h])
        rest = moments.map(lambda x, h=half: x[2 * h :])
        merged = merge(front, back)
        moments = Moments(
            *(np.concatenate([getattr(m, name) for m in (merged, rest)]) for name in MOMENT_FIELDS)
        )
        size = len(moments.count)
    return moments
