"""The findings of a comparison, as a table with the columns of a recording's findings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from normprobe.divergence.causes import in_words
from normprobe.divergence.differences import Differences
from normprobe.divergence.explanations import clauses, is_undone
from normprobe.divergence.stored_differences import SETTINGS
from normprobe.divergence.verdict import (
    COMPARE_MODELS,
    Divergence,
    first_divergence,
    sentences,
    surely_same_data,
)
from normprobe.findings.check import COLUMNS, Finding
from normprobe.vocabulary import INPUT

_ROUNDING = "Higham, Accuracy and Stability of Numerical Algorithms, SIAM 2002, sections 2.2 and 3.1"
_SAMPLING = "Westfall and Young, Resampling-Based Multiple Testing, Wiley 1993, section 2.3"


@dataclass(frozen=True)
class _Rule:
    """What a finding of a comparison is called, and what to do about it."""

    check: str
    title: str
    severity: str
    advice: str


_FIRST = _Rule(
    "first_divergence",
    "The first layer that differs",
    "error",
    "Look at this layer first, in both models: what comes after it may differ only because it does.",
)
_DATA = replace(
    _FIRST,
    advice="Compare on the same data, or on data of one kind: the inputs differ before any layer runs.",
)
_AGAIN = _Rule(
    "introduces_error",
    "More error arises later",
    "warning",
    "Mend the first divergence, compare again, and see whether this remains.",
)
_DTYPE = _Rule(
    "dtype_differs",
    "Layers compute in different dtypes",
    "info",
    "Compare in one dtype to see anything smaller than rounding of the coarser one.",
)
_ALONE = _Rule(
    "not_compared",
    "Layers without a counterpart",
    "warning",
    "Look for their counterparts by hand; what happens in them shows only at the next layer compared.",
)
_ORDER = _Rule(
    "order_differs",
    "The layers run in another order",
    "warning",
    "Check which branch runs first; errors are listed in the first model's order.",
)


def findings_of(found: Differences) -> pd.DataFrame:
    """A row per finding, errors first, with the columns of a recording's findings."""
    return pd.DataFrame([_row(*pair) for pair in _found(found)], columns=list(COLUMNS)).astype(COLUMNS)


def _row(rule: _Rule, finding: Finding, source: str) -> dict[str, Any]:
    whole = asdict(finding) | {"check": rule.check, "title": rule.title, "severity": rule.severity}
    whole |= {"advice": rule.advice, "source": source, "layers_affected": len(finding.affected)}
    return whole | {"affected": "; ".join(finding.affected)}


def _found(found: Differences) -> Iterator[tuple[_Rule, Finding, str]]:
    layers, facts = found.layers, found.facts
    source = _ROUNDING if facts["same_data"] else _SAMPLING
    first = first_divergence(found)
    if first is not None:
        # Of other data a difference in what the first layer reads is one of the data.
        read = not facts["same_data"] and first.after is None and first.site == INPUT
        yield _DATA if read else _rule_of(found, first), _first(found), source
        # Beside the first, which is a finding of its own.
        own = layers[layers["introduces"] & (layers["layer"] != first.layer)]
        if len(own) and is_undone(found) is None:
            said = in_words(clauses(found, str(own["layer"].iloc[0])))
            words = f"Error arises here as well{': ' if said else ''}{said}."
            yield _AGAIN, _at(own, "error introduced, dB", "introduced_db", words), source
    if len(found.unmatched):
        # Projections that one Linear does together lie in another layout, and are no gap in the comparison.
        fused = found.unmatched["reason"].str.startswith("fused").all()
        yield replace(_ALONE, severity="info") if fused else _ALONE, _unmatched(found), ""
    if facts["reordered"] is not None:
        row = layers[layers["layer"] == facts["reordered"]]
        yield (
            _ORDER,
            _at(row, "depth", "depth", "The second model runs this layer earlier than the first."),
            "",
        )
    other = layers[layers["dtype"] != layers["dtype_b"]]
    if len(other):
        row = other.iloc[0]
        words = f"{row['dtype']} in the first model, {row['dtype_b']} in the second."
        yield _DTYPE, _at(other, "error, dB", "error_db", words), _ROUNDING


def _rule_of(found: Differences, first: Divergence) -> _Rule:
    """What to do about the first layer that differs, by what is known of the cause."""
    if is_undone(found) is not None:
        return replace(
            _FIRST,
            severity="info",
            advice="Nothing is to be mended for what both give: they hold other numbers inside and compute "
            "the same.",
        )
    if first.differs:
        return replace(
            _FIRST,
            advice=f"Make the {', '.join(first.differs[:3])} of the two alike, then compare again: "
            "what comes after it may differ only because it does.",
        )
    if first.site == INPUT:
        return _before(found, first)
    return _FIRST


def _before(found: Differences, first: Divergence) -> _Rule:
    """What to do about a difference that arises before a layer."""
    differing = found.facts.get("not_measured") or []
    stored = [name for name, said in differing if not said.startswith(SETTINGS)]
    if len(differing) > len(stored):
        names = [name for name, _ in differing]
        more = f" and {len(names) - 3:,} more" if len(names) > 3 else ""
        return replace(_FIRST, advice=f"Make {', '.join(names[:3])}{more} alike in both, then compare again.")
    if stored:
        more = f" and {len(stored) - 3:,} more" if len(stored) > 3 else ""
        return replace(
            _FIRST, advice=f"Load the same {', '.join(stored[:3])}{more} into both, then compare again."
        )
    if first.after is None:
        known = found.facts.get("not_measured") is not None
        models = f"{COMPARE_MODELS[0].upper()}{COMPARE_MODELS[1:]}."
        advice = "Compare the settings and the order of what runs before this layer." if known else models
        data = "" if surely_same_data(found) else "Compare the data and their preparation. "
        return replace(
            _FIRST,
            advice=data + advice,
        )
    return _FIRST


def _first(found: Differences) -> Finding:
    layers = found.layers
    beyond = layers[layers["beyond"]]
    if found.facts["same_data"]:
        return _at(beyond, "error, dB", "error_db", sentences(found)[0])
    row = beyond.iloc[0]
    return Finding(
        layer=row["layer"],
        site=row["site"],
        statistic="probability by chance",
        value=row["likely"],
        threshold=found.facts["level"],
        message=sentences(found)[0],
        evidence="",
        affected=tuple(dict.fromkeys(map(str, beyond["layer"]))),
    )


def _at(rows: pd.DataFrame, statistic: str, column: str, message: str) -> Finding:
    """A finding at the first of these rows."""
    row = rows.iloc[0]
    return Finding(
        layer=row["layer"],
        site=row["site"],
        statistic=statistic,
        value=float(row[column]),
        # The noise is an error in dB: nothing else can be held against it.
        threshold=float(row["noise_db"]) if column.endswith("_db") else np.nan,
        message=message,
        evidence="",
        affected=tuple(dict.fromkeys(map(str, rows["layer"]))),
    )


def _unmatched(found: Differences) -> Finding:
    row = found.unmatched.iloc[0]
    return Finding(
        layer=row["layer"],
        site="",
        statistic="layers not compared",
        value=len(found.unmatched),
        threshold=0.0,
        message=f"{row['layer']}: {row['reason']}.",
        evidence="",
        affected=tuple(map(str, found.unmatched["layer"])),
    )
