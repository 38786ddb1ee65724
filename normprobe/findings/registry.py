"""All checks in the order they are listed, and how to find one by its name."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from dataclasses import fields
from difflib import get_close_matches

from normprobe.errors import NormprobeError
from normprobe.findings.batchnorm_mode import (
    BatchnormTrainMode,
    FrozenButUpdating,
    SmallBatchStatistics,
    UpdatedTwice,
)
from normprobe.findings.check import Check
from normprobe.findings.collapsed import CollapsedSamples
from normprobe.findings.dead import ConstantFeatures, DeadFeatures
from normprobe.findings.depth import VarianceExplodes, VarianceVanishes
from normprobe.findings.nonfinite import Nonfinite
from normprobe.findings.norm_peers import NormUnlikePeers
from normprobe.findings.norms import NearlyConstantRows, OutlierNormWeight, VarianceBelowEps
from normprobe.findings.numerics import Fp16Overflow
from normprobe.findings.outliers import MassiveActivations, OutlierFeatures
from normprobe.findings.padding import PaddingInNorm, PaddingUnmasked
from normprobe.findings.running_statistics import RunningVarianceInvalid, StaleRunningStatistics
from normprobe.findings.samples import InputScale, OutlierSample
from normprobe.findings.saturated import SaturatedInput
from normprobe.findings.stale_channels import StaleChannels

CHECKS: tuple[Check, ...] = (
    Nonfinite(),
    Fp16Overflow(),
    VarianceBelowEps(),
    NearlyConstantRows(),
    StaleRunningStatistics(),
    StaleChannels(),
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
    NormUnlikePeers(),
    OutlierNormWeight(),
)
"""Every check with its default thresholds, in a stable order."""


def chosen(checks: Iterable[Check | str] | None) -> tuple[Check, ...]:
    """The checks to run: all of them for None; a name stands for that check with its defaults.

    Raises:
        NormprobeError: a name is not that of a check.
    """
    if checks is None:
        return CHECKS
    return tuple(_named(check) if isinstance(check, str) else check for check in checks)


def explain(name: str | None = None) -> str:
    """The page of a check as text, or the list of all of them.

    Raises:
        NormprobeError: ``name`` is not that of a check.
    """
    if name is None:
        width = max(len(check.name) for check in CHECKS)
        return "\n".join(f"{check.name:{width}}  {check.severity:7}  {check.title}" for check in CHECKS)
    check = _named(name)
    page = _page(check).replace("``", "")
    limits = thresholds(check)
    return f"{check.name} ({check.severity})\n\n{page}" + (f"\n\nThresholds: {limits}." if limits else "")


def thresholds(check: Check) -> str:
    """The numbers among a check's fields, each with whether it was fitted: ``share 0.5 (fitted)``."""
    # Words that a check looks for are fields, too, and no thresholds.
    numbers = {field.name: getattr(check, field.name) for field in fields(check)}
    return ", ".join(
        f"{name} {value:,g}{' (fitted)' if name in check.fitted else ''}"
        for name, value in numbers.items()
        if isinstance(value, int | float)
    )


def page_of(name: str) -> list[str]:
    """The paragraphs of a check's page without its fields; none for a name that is no check's."""
    found = next((check for check in CHECKS if check.name == name), None)
    text = _page(found) if found else ""
    paragraphs = text.partition("\nAttributes:")[0].replace("``", "").strip().split("\n\n")
    return [" ".join(paragraph.split()) for paragraph in paragraphs if paragraph]


def _page(check: Check) -> str:
    """The docstring of a check, with the thresholds that a base class describes for it."""
    # The last is of `Check` itself, which is about writing a check.
    texts = [inspect.getdoc(cls) or "" for cls in type(check).__mro__ if issubclass(cls, Check)][:-1]
    inherited = [text.partition("\n\nAttributes:")[1:] for text in texts if "\nAttributes:" in text]
    # Of several classes the nearest describes the thresholds.
    return texts[0].partition("\n\nAttributes:")[0] + ("".join(inherited[0]) if inherited else "")


def _named(name: str) -> Check:
    known = {check.name: check for check in CHECKS}
    if name not in known:
        close = get_close_matches(name, known, n=3) or list(known)
        raise NormprobeError(f"There is no check {name!r}; did you mean {', '.join(close)}?")
    return known[name]
