"""What kernels take and give: how a tensor reads, what one pass yields, and what an accumulator promises."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from normprobe.kernels.choice import Choice
from normprobe.kernels.moments import Moments

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class SampleMoments:
    """Moments of samples, float64 tensors of shape (samples,), named as in `kernels.moments.Moments`.

    Attributes:
        count: how many finite numbers.
        mean: their mean, 0 without one.
        m2: their sum of squared deviations from the mean.
        minimum: the smallest, +inf without one.
        maximum: the largest, -inf without one.
    """

    count: torch.Tensor
    mean: torch.Tensor
    m2: torch.Tensor
    minimum: torch.Tensor
    maximum: torch.Tensor


@dataclass(frozen=True)
class Measured:
    """What one pass over a tensor (samples, rows, features) yields, as tensors on its device.

    Attributes:
        features: moments of each feature over the real rows, fields of shape (features,), float64.
        kept: moments of each kept sample over its real rows and features, fields of shape (kept,).
        within_sum: sum over samples of the variance of their finite values (divisor: their number), shape ().
        within_count: how many samples have a finite value, shape ().
        minimum_at: index (sample * features + feature) of the smallest value, shape (), int64: of the first
            sample that holds it the first feature; 0 where there is none.
        maximum_at: likewise of the largest.
        nonfinite_masked: how many non-finite values lie in padding, shape ().
    """

    features: Moments
    kept: SampleMoments
    within_sum: torch.Tensor
    within_count: torch.Tensor
    minimum_at: torch.Tensor
    maximum_at: torch.Tensor
    nonfinite_masked: torch.Tensor


class AxisRoles(NamedTuple):
    """How the axes of a tensor read as (samples, rows, features); see `normprobe.layers.view.View`."""

    axis: int = -1
    trailing: int = 1
    unbatched: int | None = None
    by_example: bool = True


class Extremes(NamedTuple):
    """Who holds a new extreme of a site; None where the old one stands.

    Each is (value, sample, feature).
    """

    low: tuple[float, int, int] | None
    high: tuple[float, int, int] | None


@dataclass(frozen=True, eq=False)
class Totals:
    """What a site has met, as numpy arrays.

    Attributes:
        features: moments of each feature.
        kept: count, mean, m2, minimum and maximum of the kept samples in order of slots, shape (slots, 5).
        raw: the kept rows in order of slots, shape (slots, features), float32 where that holds each number.
        within_sum: sum over samples of the variance of their finite values.
        within_count: how many samples that sum has.
        nonfinite_masked: how many non-finite numbers lie in padding.
        holders: value, example, position and feature of the smallest and of the largest, where the site lies
            on an accelerator; otherwise they were said at once.
    """

    features: Moments
    kept: NDArray[np.float64]
    raw: NDArray[Any]
    within_sum: float
    within_count: int
    nonfinite_masked: int
    holders: tuple[tuple[float, int, int, int], tuple[float, int, int, int]] | None = None


class Accumulator(Protocol):
    """What one site of one layer has met so far, wherever it is added up.

    Attributes:
        state: the compiled kernel's own, which reads a tensor as it lies; None without one.
    """

    state: Any

    def measure(self, values: torch.Tensor, choice: Choice) -> Any:
        """What ``values`` (samples, rows, features) hold, and the samples chosen of it."""

    def merge(self, found: Any, choice: Choice) -> Extremes:
        """Add what was measured with this choice."""

    def add(self, values: torch.Tensor, choice: Choice) -> Extremes:
        """Do both."""

    def keep(self, values: torch.Tensor, choice: Choice) -> None:
        """Keep the raw rows chosen of ``values``."""

    def totals(self, slots: int, raw_slots: int) -> Totals:
        """Everything so far."""

    def nbytes(self) -> int:
        """How much memory that takes."""
