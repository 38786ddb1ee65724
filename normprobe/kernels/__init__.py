"""One pass over a tensor to the moments of its features and samples; faster kernels slot in here."""

from __future__ import annotations

import importlib
import os
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import TYPE_CHECKING

from normprobe.moments import Moments

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class SampleMoments:
    """Moments of samples, float64 tensors of shape (samples,), as `normprobe.moments.Moments` has them.

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
        seen: moments of each feature over all rows, padding included; None unless asked for.
        nonfinite_masked: how many non-finite values lie in padding, shape ().
    """

    features: Moments
    kept: SampleMoments
    within_sum: torch.Tensor
    within_count: torch.Tensor
    minimum_at: torch.Tensor
    maximum_at: torch.Tensor
    seen: Moments | None
    nonfinite_masked: torch.Tensor


@cache
def _compiled() -> ModuleType | None:
    """The compiled kernel, unless it was not built or ``NORMPROBE_KERNEL=torch`` asks for plain torch."""
    if os.environ.get("NORMPROBE_KERNEL") == "torch":
        return None
    try:
        return importlib.import_module("normprobe.kernels.cpu")
    except ImportError:
        return None


def name() -> str:
    """Which kernel measures plain CPU tensors in this process: "c" or "torch"."""
    return "torch" if _compiled() is None else "c"


def measure(
    values: torch.Tensor, keep: torch.Tensor, real: torch.Tensor | None = None, *, seen: bool = False
) -> Measured:
    """Measure a tensor with the fastest kernel that takes it.

    Args:
        values: shape (samples, rows, features), any strides, a real floating dtype.
        keep: indices of the samples whose own moments are wanted, each with a real row, int64, shape (kept,).
        real: shape (samples, rows), True where a row is not padding; None if all are.
        seen: also measure all rows, padding included.
    """
    compiled = _compiled()
    if compiled is not None and compiled.takes(values):
        measured: Measured = compiled.measure(values, keep, real, seen=seen)
        return measured
    from normprobe.kernels.reference import measure as by_torch

    return by_torch(values, keep, real, seen=seen)
