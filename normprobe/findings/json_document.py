"""Findings as one JSON document whose names do not change."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from normprobe.findings.check import SEVERITIES

if TYPE_CHECKING:
    from normprobe.tables.frames import Tables

FORMAT = 1
"""Rises when a name of the document goes away or changes its meaning; new names may come at any time."""


def to_json(findings: pd.DataFrame, tables: Tables) -> str:
    """Findings as JSON, for programs to read.

    The document holds ``format`` (1), ``normprobe`` (the version), ``model``, ``data``, ``layers`` (in the
    ledger), ``fired`` (of these), ``counts`` (findings by severity: error, warning, info) and ``findings``:
    a list in the table's order, an object each with the table's columns. ``affected`` is a list of layers.
    What does not apply is null, and so is a number that JSON cannot hold (NaN, infinite).

    Args:
        findings: the table of `normprobe.findings.find`.
        tables: the tables they were found in.
    """
    ledger, versions = tables.ledger, tables.meta.get("versions") or {}
    severity = findings["severity"]
    document = {
        "format": FORMAT,
        # The version that measured, which need not be this one.
        "normprobe": versions.get("normprobe"),
        "model": tables.meta.get("name"),
        "data": tables.meta.get("data"),
        "layers": len(ledger),
        "fired": int((ledger["status"] == "fired").sum()),
        "counts": {name: int((severity == name).sum()) for name in SEVERITIES},
        "findings": [_plain(row) for row in findings.to_dict("records")],
    }
    # Not NaN, which Python writes and other readers refuse.
    return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)


def _plain(row: dict[Any, Any]) -> dict[str, Any]:
    """A row as JSON holds it."""
    found = {str(name): _value(value) for name, value in row.items()}
    return found | {"affected": str(row["affected"]).split("; ")}


def _value(value: Any) -> Any:
    if pd.isna(value) or (isinstance(value, float) and not np.isfinite(value)):
        return None
    return value.item() if isinstance(value, np.generic) else value
