"""One pass over a tensor to the moments of its features and samples; faster kernels slot in here."""

from __future__ import annotations

import importlib
import os
import threading
from dataclasses import dataclass, field
from functools import cache, cached_property
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from normprobe.capture.counters import Account, Inside
from normprobe.kernels.moments import Moments

if TYPE_CHECKING:
    import torch


def _none() -> NDArray[np.int64]:
    return np.empty(0, np.int64)


@dataclass(frozen=True)
class SampleMoments:
    """Moments of samples, float64 tensors of shape (samples,), as `normprobe.kernels.moments.Moments` has them.

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


class Reading(NamedTuple):
    """How the axes of a tensor read as (samples, rows, features); see `normprobe.layers.view_registry.View`."""

    axis: int = -1
    trailing: int = 1
    unbatched: int | None = None
    by_example: bool = True


@dataclass(frozen=True, eq=False)
class Choice:
    """Which rows of a tensor (samples, rows, features) count, and what of it is kept in which slots.

    Attributes:
        samples: how many samples the tensor has.
        rows: how many rows each has.
        real: shape (samples, rows), True where a row is not padding; None if all are.
        keep: samples whose own moments are kept, each with a real row, ascending, int64.
        slots: where they are kept.
        raw: rows (sample * rows + row) whose numbers are kept, int64.
        raw_slots: where those are kept.
        example: which example each sample is, for accelerators: they cannot say at once who holds an extreme.
        position: likewise its position.
        sent: what was sent to an accelerator, by name.
    """

    samples: int
    rows: int
    real: NDArray[np.bool_] | None = None
    keep: NDArray[np.int64] = field(default_factory=_none)
    slots: NDArray[np.int64] = field(default_factory=_none)
    raw: NDArray[np.int64] = field(default_factory=_none)
    raw_slots: NDArray[np.int64] = field(default_factory=_none)
    example: NDArray[np.int64] = field(default_factory=_none)
    position: NDArray[np.int64] = field(default_factory=_none)
    sent: dict[str, torch.Tensor] = field(default_factory=dict)

    @cached_property
    def plan(self) -> Any:
        """The same as the compiled kernel takes it."""
        kernel = compiled()
        assert kernel is not None
        return kernel.plan_of(self)


class Extremes(NamedTuple):
    """Who holds a new extreme of a site; None where the old one stands.

    Each is (value, sample, feature).
    """

    low: tuple[float, int, int] | None
    high: tuple[float, int, int] | None


@dataclass(frozen=True, eq=False)
class Met:
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


class Sums(Protocol):
    """What one site of one layer has met so far, wherever it is added up.

    Attributes:
        state: the compiled kernel's own, which reads a tensor as it lies; None without one.
    """

    state: Any

    def measure(self, values: torch.Tensor, choice: Choice) -> Any:
        """What ``values`` (samples, rows, features) hold, and the samples chosen of it."""

    def take(self, found: Any, choice: Choice) -> Extremes:
        """Add what was measured with this choice."""

    def add(self, values: torch.Tensor, choice: Choice) -> Extremes:
        """Do both."""

    def keep(self, values: torch.Tensor, choice: Choice) -> None:
        """Keep the raw rows chosen of ``values``."""

    def met(self, slots: int, raw_slots: int) -> Met:
        """Everything so far."""

    def nbytes(self) -> int:
        """How much memory that takes."""


@cache
def compiled() -> ModuleType | None:
    """The compiled kernel, unless it was not built or ``NORMPROBE_KERNEL=torch`` asks for plain torch."""
    if os.environ.get("NORMPROBE_KERNEL") == "torch":
        return None
    try:
        return importlib.import_module("normprobe.kernels.cpu")
    except ImportError:
        return None


def name() -> str:
    """Which kernel measures plain CPU tensors in this process: "c" or "torch"."""
    return "torch" if compiled() is None else "c"


def account(samples: Any, rows: Any) -> Account:
    """A fresh account of a site that keeps these."""
    kernel = compiled()
    made: Account = Account(samples, rows) if kernel is None else kernel.Account(samples, rows)
    return made


def inside() -> Inside:
    """What knows which forward each thread is in."""
    kernel = compiled()
    made: Inside = Inside() if kernel is None else kernel.Inside()
    return made


def lock() -> Any:
    """A reentrant lock, to be used as a context."""
    kernel = compiled()
    return threading.RLock() if kernel is None else kernel.Lock()


def sums(features: int, reading: Reading, device: torch.device) -> Sums:
    """A fresh account of a site whose tensors lie on this device, with the fastest kernel there is for it.

    Args:
        features: how many features its tensors have.
        reading: how their axes read.
        device: where they lie.
    """
    kernel = compiled() if device.type == "cpu" else None
    if kernel is not None:
        found: Sums = kernel.CompiledSums(features, reading)
        return found
    from normprobe.kernels.accumulator import PlainSums

    return PlainSums(features, device)
