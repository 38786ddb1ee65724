"""Findings: named checks of a recording, each with its statistic, its threshold and its source.

In: `normprobe.tables.frames.Tables`, mostly through `normprobe.tables.measures`. Out: one table of findings
(`check.COLUMNS`), the series that shows one (`evidence_series`), what changed against an earlier one
(`baseline`), JSON or SARIF. A file holds the checks of one theme; `registry` lists them all, in the order in
which they run.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from normprobe.findings.baseline import changes
from normprobe.findings.causes import linked
from normprobe.findings.check import COLUMNS, Check, Finding, Severity, to_frame
from normprobe.findings.evidence_series import series
from normprobe.findings.json_document import to_json
from normprobe.findings.registry import (
    CHECKS,
    chosen,
    explain,
    page_of,
    rule_of,
    selected,
    thresholds,
)
from normprobe.findings.sarif import to_sarif

if TYPE_CHECKING:
    import pandas as pd

    from normprobe.tables.frames import Tables

__all__ = [
    "CHECKS",
    "COLUMNS",
    "Check",
    "Finding",
    "Severity",
    "changes",
    "explain",
    "find",
    "page_of",
    "rule_of",
    "selected",
    "series",
    "thresholds",
    "to_json",
    "to_sarif",
]


def find(tables: Tables, checks: Iterable[Check | str] | Check | str | None = None) -> pd.DataFrame:
    """What is wrong with a model, one row per check and cause.

    >>> find(recording.tables, ["nonfinite", StaleRunningStatistics(factor=2)])  # doctest: +SKIP

    Args:
        tables: the tables of a recording.
        checks: which checks to run, as objects with thresholds of your own or by name, one or several; all by
            default.

    Returns:
        DataFrame with the columns of `COLUMNS`, by severity (error, warning, info), those that follow
        from others last, then by depth. ``attrs["checks"]`` is how many checks ran.

    Raises:
        NormprobeError: a name is not that of a check, or something is neither a name nor a check.
    """
    rules = chosen(checks)
    # Each check may take for granted that something was measured.
    if tables.layers.empty:
        rules = ()
    depth = tables.layers.drop_duplicates("layer").set_index("layer")["depth"]
    found = [(check, finding) for check in rules for finding in check(tables)]
    table = to_frame(linked(found, depth.to_dict()), depth)
    table.attrs["checks"] = len(rules)
    return table


def __dir__() -> list[str]:
    """List the public names."""
    return sorted(__all__)
