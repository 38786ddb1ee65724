"""All checks in the order they are listed, and how to find one by its name."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from difflib import get_close_matches

from normprobe.errors import NormprobeError
from normprobe.findings.collapsed import CollapsedSamples
from normprobe.findings.dead import ConstantFeatures, DeadFeatures
from normprobe.findings.depth import VarianceExplodes, VarianceVanishes
from normprobe.findings.frame import Check
from normprobe.findings.norms import NearlyConstantRows, OutlierNormWeight, VarianceBelowEps
from normprobe.findings.numerics import Fp16Overflow, Nonfinite
from normprobe.findings.outliers import MassiveActivations, OutlierFeatures
from normprobe.findings.padding import PaddingInNorm, PaddingUnmasked
from normprobe.findings.running import RunningVarianceInvalid, StaleRunningStatistics
from normprobe.findings.samples import InputScale, OutlierSample
from normprobe.findings.saturated import SaturatedInput
from normprobe.findings.training import (
    BatchnormTrainMode,
    FrozenButUpdating,
    SmallBatchStatistics,
    UpdatedTwice,
)

CHECKS: tuple[Check, ...] = (
    Nonfinite(),
    Fp16Overflow(),
    VarianceBelowEps(),
    NearlyConstantRows(),
    StaleRunningStatistics(),
    RunningVarianceInvalid(),
    BatchnormTrainMode(),
    SmallBatchStatistics(),
    FrozenButUpdating(),
    UpdatedTwice(),
    PaddingInNorm(),
    PaddingUnmasked(),
    DeadFeatures(),
    ConstantFeatures(),
    SaturatedInput(),
    VarianceExplodes(),
    VarianceVanishes(),
    CollapsedSamples(),
    OutlierSample(),
    InputScale(),
    MassiveActivations(),
    OutlierFeatures(),
    OutlierNormWeight(),
)
"""Every check with its default thresholds, in a stable order."""


def chosen(checks: Iterable[Check | str] | None) -> tuple[Check, ...]:
    """Return the checks to run: all of them for None; a name stands for that check with its defaults.

    Raises:
        NormprobeError: A name is not that of a check.
    """
    if checks is None:
        return CHECKS
    return tuple(_named(check) if isinstance(check, str) else check for check in checks)


def explain(name: str | None = None) -> str:
    """Return the page of a check as text, or the list of all of them.

    Raises:
        NormprobeError: ``name`` is not that of a check.
    """
    if name is None:
        width = max(len(check.name) for check in CHECKS)
        return "\n".join(f"{check.name:{width}}  {check.severity:7}  {check.title}" for check in CHECKS)
    check = _named(name)
    page = (inspect.getdoc(type(check)) or "").replace("``", "")
    return f"{check.name} ({check.severity})\n\n{page}"


def _named(name: str) -> Check:
    known = {check.name: check for check in CHECKS}
    if name not in known:
        close = get_close_matches(name, known, n=3) or list(known)
        raise NormprobeError(f"There is no check {name!r}; did you mean {', '.join(close)}?")
    return known[name]
