"""How findings are spoken of: signs and words of their severity, counts, and how many layers share one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from normprobe.report.display_text import text_or_empty
from normprobe.report.layer_summary import LINEAR

if TYPE_CHECKING:
    from normprobe.tables.frames import Tables

# Worst first: counts of findings come in this order.
SHAPES = {"error": "■", "warning": "▲", "info": "●"}
WORDS = {"error": "Error", "warning": "Warning", "info": "Note"}


def severity_counts(findings: pd.DataFrame) -> dict[str, int]:
    """Count findings by severity, worst first, those without any left out."""
    return {s: int(n) for s in SHAPES if (n := (findings["severity"] == s).sum())}


def extent(tables: Tables, row: pd.Series) -> str:
    """How many layers share a finding: `36 of 61 norms`; empty where it is one layer or none."""
    affected = int(row["layers_affected"])
    if affected < 2:
        return ""
    # Of what fired, as only that can share a finding.
    ledger = tables.ledger[tables.ledger["status"] == "fired"]
    linear = ledger["kind"] == LINEAR
    named = ledger["layer"].isin([str(row["layer"]), *text_or_empty(row["affected"]).split("; ")])
    if not named.any():
        return f"{affected:,} layers"
    # Of both sorts: it is a share of neither.
    if linear[named].nunique() > 1:
        return f"{affected:,} of {len(ledger):,} layers"
    same = linear == linear[named].iloc[0]
    return f"{affected:,} of {same.sum():,} {'Linear' if linear[named].iloc[0] else 'norms'}"
