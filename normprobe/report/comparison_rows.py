"""The table of a comparison: a row per layer, both sites in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from normprobe.formatting import format_number
from normprobe.report.overview import Value
from normprobe.vocabulary import INPUT, OUTPUT

if TYPE_CHECKING:
    from normprobe.divergence import Differences

MOST_ROWS = 1500


@dataclass(frozen=True)
class Row:
    """One layer: `mark` is `first`, `more arises` or empty, `values` the cells after its kind."""

    layer: str
    name: str
    other: str
    matched_by: str
    mark: str
    kind: str
    order: int
    values: list[Value]


def heads(found: Differences) -> list[tuple[str, str]]:
    """The headings after the layer's kind, in two lines each."""
    split = [("inherited", "dB"), ("introduced", "dB")] if found.facts["same_data"] else [("by chance", "")]
    return [
        ("error of", "input, dB"),
        ("error of", "output, dB"),
        *split,
        ("mean", "shift"),
        ("variance", "ratio"),
        ("features", "moved"),
    ]


def comparison_rows(found: Differences) -> tuple[list[Row], str]:
    """Build the rows, in order of execution, and the note on those left out.

    Args:
        found: what the comparison found; of more than 1,500 layers those that differ most are shown.
    """
    before, after = (
        found.layers[found.layers["site"] == site].set_index("layer", drop=False) for site in (INPUT, OUTPUT)
    )
    first = next((str(layer) for layer in found.layers.loc[found.layers["beyond"], "layer"]), None)
    worst = pd.concat([before["error_db"], after["error_db"]], axis=1).max(axis=1)
    ranked = [*([] if first is None else [first]), *worst.sort_values(ascending=False, kind="stable").index]
    shown = set(list(dict.fromkeys(ranked))[:MOST_ROWS])
    rows = [
        _row(found, before.loc[layer], after.loc[layer], order, layer == first)
        for order, layer in enumerate(before.index)
        if layer in shown
    ]
    left_out = len(before) - len(rows)
    note = f"The {len(rows):,} of {len(before):,} layers that differ most; comparison.csv has them all."
    return rows, note if left_out else ""


def _row(found: Differences, before: pd.Series, after: pd.Series, order: int, first: bool) -> Row:
    arises = bool(before["introduces"] or after["introduces"])
    kind = str(after["kind"]) if after["kind"] == after["kind_b"] else f"{after['kind']} → {after['kind_b']}"
    split: list[Value] = [decibels(after["inherited_db"]), decibels(_larger(before, after))]
    if not found.facts["same_data"]:
        split = [_plain(min(before["likely"], after["likely"]))]
    return Row(
        layer=str(after["layer"]),
        name=str(after["layer"]) or str(found.facts["models"][0]),
        other="" if after["layer_b"] == after["layer"] else str(after["layer_b"]),
        matched_by=str(after["matched_by"]),
        mark="first" if first else "more arises" if arises else "",
        kind=kind,
        order=order,
        values=[
            decibels(before["error_db"]),
            decibels(after["error_db"]),
            *split,
            _plain(after["mean_shift"]),
            _plain(np.exp(after["log_variance_ratio"])),
            _percent(after["features_beyond"]),
        ],
    )


def _larger(before: pd.Series, after: pd.Series) -> float:
    """What the layer introduced, or what arose on the way to it where that is what is beyond the noise."""
    return float(before["introduced_db"] if before["introduces"] else after["introduced_db"])


def decibels(value: Any) -> Value:
    """A cell of dB without its unit."""
    number = float(value)
    if np.isnan(number):
        return Value("–", "")
    if np.isinf(number):
        return Value("none" if number < 0 else "NaN or Inf", "-Infinity" if number < 0 else "Infinity")
    return Value(f"{'−' if number < -0.05 else ''}{abs(number):.1f}", f"{number:.4g}")


def _plain(value: Any) -> Value:
    return Value("–", "") if pd.isna(value) else Value(format_number(float(value)), f"{float(value):.6g}")


def _percent(value: Any) -> Value:
    if pd.isna(value):
        return Value("–", "")
    share = float(value)
    return Value("0" if share == 0 else "<0.1 %" if share < 1e-3 else f"{100 * share:.3g} %", f"{share:.6g}")
