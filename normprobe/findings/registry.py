"""All checks in the order they are listed, and how to find one by its name."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from dataclasses import fields
from difflib import get_close_matches
from textwrap import fill
from typing import Any, cast

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
from normprobe.findings.experts import DeadExpert, TooFewTokens
from normprobe.findings.gradients import GradientsExplode, GradientsVanish, UpdateOutOfRange
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
from normprobe.findings.training_state import FeaturesStayDead, RunningStatisticsLag
from normprobe.findings.variance_history import VarianceDrift, VarianceSpike

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
    DeadExpert(),
    TooFewTokens(),
    GradientsVanish(),
    GradientsExplode(),
    UpdateOutOfRange(),
    VarianceSpike(),
    VarianceDrift(),
    RunningStatisticsLag(),
    FeaturesStayDead(),
)
"""Every check with its default thresholds, in a stable order."""


_WIDTH = 106
"""Columns of a page, those of the docstrings it is made of."""


def chosen(checks: Iterable[Check | str] | Check | str | None) -> tuple[Check, ...]:
    """The checks to run: all of them for None; a name stands for that check with its defaults.

    Raises:
        NormprobeError: a name is not that of a check, or something is neither a name nor a check.
    """
    if checks is None:
        return CHECKS
    if isinstance(checks, str | Check | type) or not isinstance(checks, Iterable):
        return (_check_of(checks),)
    return tuple(_check_of(check) for check in checks)


def _check_of(given: Any) -> Check:
    """A check that was given itself, or by name."""
    if isinstance(given, str):
        return _named(given)
    if isinstance(given, Check) or (callable(given) and not isinstance(given, type)):
        return cast("Check", given)
    shown = f"the class {given.__name__}" if isinstance(given, type) else repr(given)
    raise NormprobeError(
        "checks takes names, such as 'nonfinite', or checks, such as OutlierFeatures(times=20), one or "
        f"several; got {shown}"
    )


def explain(name: str | None = None) -> str:
    """The page of a check as text, or a list: of all checks, or of those that a part of a name is of.

    Args:
        name: a name, a title, or a part of either.

    Raises:
        NormprobeError: ``name`` is of no check.
    """
    found = CHECKS if name is None else _matching(name)
    if len(found) > 1:
        width = max(len(check.name) for check in found)
        return "\n".join(f"{check.name:{width}}  {check.severity:7}  {check.title}" for check in found)
    check = found[0]
    about = _page(check).partition("\n\nAttributes:")[0].replace("``", "")
    rule = fill(f"Threshold: {rule_of(check)}", _WIDTH)
    return f"{check.title} ({check.name}, {check.severity})\n\n{about}\n\n{rule}"


def rule_of(check: Check) -> str:
    """When a check finds something, in a sentence with its numbers, and which of these were fitted.

    >>> rule_of(OutlierSample(times=20))
    "The RMS of a sample is more than 20 times the median sample's, in at most 5 % of the examples \
(one at least). 20 was fitted to healthy and faulty models."
    """
    if not check.rule:
        return f"{thresholds(check)}."
    numbers = {field.name: getattr(check, field.name) for field in fields(check)}
    written = {name: _Number(value) for name, value in numbers.items() if isinstance(value, int | float)}
    chosen = [_as_written(check, name) for name in check.fitted]
    if not chosen:
        return check.rule.format(**written)
    *others, last = chosen
    named = f"{', '.join(others)} and {last} were" if others else f"{last} was"
    return f"{check.rule.format(**written)} {named} fitted to healthy and faulty models."


def _as_written(check: Check, name: str) -> str:
    """A field's number as the rule writes it."""
    spec = "%" if f"{{{name}:%}}" in check.rule else ""
    power = "10^" if f"10^{{{name}}}" in check.rule else ""
    return f"{power}{format(_Number(getattr(check, name)), spec)}"


class _Number(float):
    """A threshold as readers read it: 1,000 and 0.8; by ``%`` a share in per cent."""

    def __format__(self, spec: str) -> str:
        """Write it."""
        return f"{self * 100:,g} %" if spec == "%" else f"{float(self):,g}"


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


def selected(select: Iterable[str] = (), ignore: Iterable[str] = ()) -> tuple[Check, ...]:
    """The checks to run: those that are selected, or all, without those that are ignored.

    Args:
        select: names of checks, or unique parts of names; none selects all.
        ignore: the same of those to leave out.

    Raises:
        NormprobeError: a name is of no check, or of several.
    """
    wanted = [_named(name) for name in select] or list(CHECKS)
    unwanted = {check.name for name in ignore for check in [_named(name)]}
    return tuple(check for check in CHECKS if check in wanted and check.name not in unwanted)


def _named(name: str) -> Check:
    """The check of a name, of its title, or of a part that only one name or title has.

    Raises:
        NormprobeError: there is none, or more than one.
    """
    found = _matching(name)
    if len(found) > 1:
        raise NormprobeError(f"{name!r} is part of several checks: {', '.join(c.name for c in found)}")
    return found[0]


def _matching(name: str) -> list[Check]:
    """The check of a name or title, or those of which a part is given.

    Raises:
        NormprobeError: there is none.
    """
    part = _plain(name)
    titles = {check.name: _plain(check.title) for check in CHECKS}
    found = [check for check in CHECKS if part in (_plain(check.name), titles[check.name])]
    # A part of a name counts before one of a title, whose words others share.
    found = found or [check for check in CHECKS if part and part in _plain(check.name)]
    found = found or [check for check in CHECKS if part and part in titles[check.name]]
    if found:
        return found
    close = get_close_matches(part.replace(" ", "_"), [check.name for check in CHECKS], n=3)
    hint = f"did you mean {', '.join(close)}?" if close else "`normprobe explain` lists all."
    raise NormprobeError(f"There is no check {name!r}; {hint}")


def _plain(name: str) -> str:
    """A name as people type it: small letters, blanks for whatever joins the words."""
    return " ".join(name.lower().replace("_", " ").replace("-", " ").split())
