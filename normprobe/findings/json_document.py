"""Findings as one JSON document whose names do not change."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from normprobe.findings.baseline import GONE, NEW
from normprobe.findings.check import SEVERITIES

if TYPE_CHECKING:
    from normprobe.tables.frames import Tables

FORMAT = 1
"""Rises when a name of the document goes away or changes its meaning; new names may come at any time."""


def to_json(findings: pd.DataFrame, tables: Tables, **facts: Any) -> str:
    """Findings as JSON, for programs to read.

    The document holds ``format`` (1), ``normprobe`` (the version), ``model``, ``weights``, ``data``,
    ``seconds`` (the measurement took), ``notes`` (what is to be known of the run), ``layers``
    (in the ledger), ``fired`` (of these), ``counts`` (findings
    by severity: error, warning, info) and ``findings``: a list in the table's order, an object each with the
    table's columns. ``affected`` is a list of layers. What does not apply is null, and so is a number that
    JSON cannot hold (NaN, infinite). Of findings with a column ``change``, as `changes` gives them, those
    that are gone stand in a list of their own, ``gone``, and ``counts`` has the numbers of new and gone ones.

    Args:
        findings: the table of `normprobe.findings.find`, or of `normprobe.findings.changes`.
        tables: the tables they were found in.
        facts: what else the document holds, before ``findings``.
    """
    ledger, meta = tables.ledger, tables.meta
    here, gone = present_and_gone(findings)
    document = {
        "format": FORMAT,
        # The version that measured, which need not be this one.
        "normprobe": (meta.get("versions") or {}).get("normprobe"),
        "model": meta.get("name"),
        "weights": meta.get("weights"),
        "data": meta.get("data"),
        "seconds": meta.get("seconds"),
        "notes": [str(note) for note in meta.get("warnings") or []],
        "layers": len(ledger),
        "fired": int((ledger["status"] == "fired").sum()),
        **facts,
        "counts": counts(findings),
        "findings": plain_rows(here),
    }
    if "change" in findings:
        document["gone"] = plain_rows(gone)
    return dumps(document)


def dumps(document: Mapping[str, Any]) -> str:
    """A document as JSON that any reader takes."""
    # Not NaN, which Python writes and other readers refuse.
    return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)


def counts(findings: pd.DataFrame) -> dict[str, int]:
    """How many findings there are of each severity, and, where that is known, new and gone."""
    here, gone = present_and_gone(findings)
    found: dict[str, int] = {str(name): int((here["severity"] == name).sum()) for name in SEVERITIES}
    if "change" in findings:
        found |= {NEW: int((here["change"] == NEW).sum()), GONE: len(gone)}
    return found


def present_and_gone(findings: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The findings that there are, and those that a comparison with earlier ones says are gone."""
    gone = findings["change"] == GONE if "change" in findings else pd.Series(False, index=findings.index)
    return findings[~gone], findings[gone]


def plain_rows(findings: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a table of findings as JSON holds them."""
    return [_plain(row) for row in findings.to_dict("records")]


def _plain(row: dict[Any, Any]) -> dict[str, Any]:
    """A row as JSON holds it."""
    found = {str(name): plain_value(value) for name, value in row.items()}
    return found | {"affected": str(row["affected"]).split("; ")}


def plain_value(value: Any) -> Any:
    """A cell as JSON holds it: null for what is missing, NaN or infinite."""
    if pd.isna(value) or (isinstance(value, float) and not np.isfinite(value)):
        return None
    return value.item() if isinstance(value, np.generic) else value
