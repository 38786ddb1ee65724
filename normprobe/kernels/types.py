"""What kernels take and give: how a tensor reads, what one pass yields, and what an accumulator promises."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from normprobe.kernels.choice import Choice
from normprobe.kernels.moments import Array, Moments

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class SampleMoments:
    """Moments of samples, float64 arrays of shape (samples,), named as in `kernels.moments.Moments`.

    Attributes:
        count: how many finite numbers.
        mean: their mean, 0 without one.
        m2: their sum of squared deviations from the mean.
        minimum: the smallest, +inf without one.
        maximum: the largest, -inf without one.
    """

    count: Array
    mean: Array
    m2: Array
    minimum: Array
    maximum: Array


@dataclass(frozen=True)
class Measured:
    """What one pass over a tensor (samples, rows, features) yields.

    As tensors on its device; as numpy arrays and Python's numbers where a kernel or an accumulator says so.

    Attributes:
        features: moments of each feature over the real rows, fields of shape (features,), float64.
        kept: moments of each kept sample over its real rows and features, fields of shape (kept,).
        within_sum: sum over samples of the variance of their finite values (divisor: their number), shape ().
        within_count: how many samples have a finite value, shape ().
        minimum_at: index (sample * features + feature) of the smallest value, shape (), int64: the first
            sample that has it, and of that the first feature; 0 where there is none.
        maximum_at: likewise of the largest.
        nonfinite_masked: how many non-finite values lie in padding, shape ().
    """

    features: Moments
    kept: SampleMoments
    within_sum: Array
    within_count: Array
    minimum_at: Array
    maximum_at: Array
    nonfinite_masked: Array


class AxisRoles(NamedTuple):
    """How the axes of a tensor read as (samples, rows, features); see `normprobe.layers.view.View`."""

    axis: int = -1
    trailing: int = 1
    unbatched: int | None = None
    by_example: bool = True


class Extremes(NamedTuple):
    """New holders that a tensor brings a site, each (value, sample, feature); None where the old one stands.

    An accumulator knows the values so far, for only it can compare at no cost. Who has them is a matter of
    its caller (`capture.states.site_state`), to whom each new one goes at once. An accelerator
    cannot say what is new without waiting: there both are None, and the accumulator keeps who has them until
    `Totals.holders`.

    Attributes:
        low: the new smallest value.
        high: the new largest.
        nonfinite: the first NaN or Inf that the site had, of a tensor in which it was looked for; its sample
            is -1 where it is yet to be looked for.
    """

    low: tuple[float, int, int] | None
    high: tuple[float, int, int] | None
    nonfinite: tuple[float, int, int] | None = None


@dataclass(frozen=True, eq=False)
class Totals:
    """Everything an accumulator holds, as numpy arrays.

    Attributes:
        features: moments of each feature.
        kept: count, mean, m2, minimum and maximum of the kept samples in order of slots, shape (slots, 5).
        raw: the kept rows in order of slots, shape (slots, features), float32 where that holds each number.
        within_sum: sum over samples of the variance of their finite values.
        within_count: how many samples that sum has.
        nonfinite_masked: how many non-finite numbers lie in padding.
        holders: value, example, position and feature of the smallest and of the largest value, of an
            accumulator on an accelerator; None of others, whose `Extremes` said so at once.
    """

    features: Moments
    kept: NDArray[np.float64]
    raw: NDArray[Any]
    within_sum: float
    within_count: int
    nonfinite_masked: int
    holders: tuple[tuple[float, int, int, int], tuple[float, int, int, int]] | None = None


class Accumulator(Protocol):
    """Moments, kept samples and raw rows of one site of one layer, on the device where its tensors lie.

    `measure` and `merge` are apart so that a tensor that several layers read is measured once: what one
    accumulator measured may be merged into others of the same class and width, with the same choice.

    Attributes:
        state: the extension's accumulator, which reads a tensor by its own strides; None of other kernels.
    """

    state: Any

    def measure(self, values: torch.Tensor, choice: Choice) -> Any:
        """Measure a tensor on its own; nothing is added.

        Args:
            values: shape (samples, rows, features), any strides, device and real dtype.
            choice: which rows count, and of which samples the own moments are wanted.

        Returns:
            Moments for `merge` of an accumulator of the same class.
        """

    def merge(self, found: Any, choice: Choice) -> Extremes:
        """Add the moments of a tensor, and keep those of the samples chosen in their slots.

        Args:
            found: what `measure` returned.
            choice: the choice it was measured with.

        Returns:
            New extremes of the site.
        """

    def add(self, values: torch.Tensor, choice: Choice) -> Extremes:
        """Measure a tensor and merge it at once; see `measure` and `merge`."""

    def keep(self, values: torch.Tensor, choice: Choice) -> None:
        """Copy the raw rows chosen to their slots.

        Args:
            values: shape (samples, rows, features).
            choice: which rows (``raw``) go to which slots (``raw_slots``).
        """

    def totals(self, slots: int, raw_slots: int) -> Totals:
        """Everything so far, read back from the device; the accumulator goes on counting.

        Args:
            slots: how many slots of samples are filled.
            raw_slots: how many slots of raw rows are filled.
        """

    def nbytes(self) -> int:
        """How many bytes the arrays of this accumulator take."""
