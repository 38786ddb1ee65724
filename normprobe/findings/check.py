"""What a check and a finding are, and the one table that findings become."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import pandas as pd

from normprobe.vocabulary import SEVERITIES, Severity

if TYPE_CHECKING:
    from normprobe.tables.frames import Tables

__all__ = ["COLUMNS", "SEVERITIES", "Check", "Finding", "Severity", "to_frame"]

# Nullable integers for what a finding may lack: a feature, an example, a position.
COLUMNS = {
    "check": "string",
    "title": "string",
    "severity": "string",
    "layer": "string",
    "site": "string",
    "feature": "Int64",
    "example": "Int64",
    "position": "Int64",
    "statistic": "string",
    "value": "float64",
    "threshold": "float64",
    "written_by": "string",
    "evidence": "string",
    "message": "string",
    "advice": "string",
    "source": "string",
    "layers_affected": "int64",
    "affected": "string",
    "follows_from": "string",
    "step": "Int64",
}


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One cause worth a person's attention; what is None comes from the check that found it.

    Attributes:
        layer: where it is: the first in order of execution if the others follow from it, else the worst.
        site: ``input`` or ``output`` of that layer.
        statistic: what was measured, in words.
        value: the statistic's value at that layer and site.
        threshold: what the value was held against.
        message: one sentence of what is wrong.
        evidence: the series that shows it, for `normprobe.findings.series`.
        affected: all layers that show it, the named one included, in order of execution.
        feature: the feature that holds it, where there is one.
        example: the example that holds it, where there is one.
        position: the position that holds it, where there is one.
        written_by: the layer whose output the value comes from, where there is one.
        severity: overrides the check's.
        title: overrides the check's.
        advice: overrides the check's.
        follows_from: the name of the check whose finding has the cause of this one, or "".
        step: the step at which it began, where it is known.
    """

    layer: str
    site: str
    statistic: str
    value: float
    threshold: float
    message: str
    evidence: str
    affected: tuple[str, ...]
    feature: int | None = None
    example: int | None = None
    position: int | None = None
    written_by: str = ""
    severity: Severity | None = None
    title: str | None = None
    advice: str | None = None
    follows_from: str = ""
    step: int | None = None


@dataclass(frozen=True, kw_only=True)
class Check(ABC):
    """A rule with its thresholds as fields; calling it maps tables to findings.

    The docstring of a check is its page: what it means, what to do, its source, when it is wrong.

    Attributes:
        name: what people filter by; never changes.
        title: the heading of its findings.
        severity: ``error``, ``warning`` or ``info``.
        advice: one sentence of what to do.
        source: the paper, standard or thread that the rule rests on.
        matters: when a note matters, to end "notes that matter": ``if you quantize``; "" for any finding that
            is to be acted on.
        rule: when it finds something, in a sentence for readers, with its fields in braces: ``{times}``, or
            ``{share:%}`` for per cent. By default the fields are listed.
        fitted: the thresholds among its fields that were fitted over many models, by `benchmarks.findings`;
            the others follow from the source, from a definition, or only say how much data is enough.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    severity: ClassVar[Severity]
    advice: ClassVar[str]
    source: ClassVar[str]
    matters: ClassVar[str] = ""
    rule: ClassVar[str] = ""
    fitted: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def __call__(self, tables: Tables) -> list[Finding]:
        """One finding per cause; an empty list if all is well."""


def to_frame(found: Iterable[tuple[Check, Finding]], depth: pd.Series) -> pd.DataFrame:
    """The findings as a table, by severity, those that follow from others last, by depth, then as given.

    Args:
        found: each finding with the check that found it.
        depth: order of first execution by layer name; a layer that is missing comes last.
    """
    rows = [_row(check, finding) for check, finding in found]
    # Cast once for all rows: a table without findings has the same dtypes.
    frame = pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)
    order = pd.DataFrame(
        {
            "severity": frame["severity"].map({name: i for i, name in enumerate(SEVERITIES)}),
            "follows": frame["follows_from"] != "",
            # NaN of a layer without a depth, which sorting puts last.
            "depth": frame["layer"].map(depth).astype("float64"),
        }
    )
    return frame.loc[order.sort_values(["severity", "follows", "depth"], kind="stable").index].reset_index(
        drop=True
    )


def _row(check: Check, finding: Finding) -> list[object]:
    return [
        check.name,
        finding.title or check.title,
        finding.severity or check.severity,
        finding.layer,
        finding.site,
        _integer(finding.feature),
        _integer(finding.example),
        _integer(finding.position),
        finding.statistic,
        float(finding.value),
        float(finding.threshold),
        finding.written_by,
        finding.evidence,
        finding.message,
        finding.advice or check.advice,
        check.source,
        len(finding.affected),
        "; ".join(finding.affected),
        finding.follows_from,
        _integer(finding.step),
    ]


def _integer(value: int | None) -> object:
    return pd.NA if value is None or pd.isna(value) else int(value)
