"""The table of a comparison: a row per layer, with the error at each of its sites."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from normprobe.divergence import side_names
from normprobe.formatting import format_number
from normprobe.report.display_text import Value
from normprobe.vocabulary import INPUT, OUTPUT, in_order, site_of

if TYPE_CHECKING:
    from normprobe.divergence import Differences

MOST_ROWS = 1500


@dataclass(frozen=True)
class Row:
    """One layer.

    Attributes:
        layer: its name in the first model.
        name: the name to show.
        other: its name in the second model, empty where that is the same.
        matched_by: name, role or order.
        mark: `first`, `more arises` or empty.
        kind: in both models.
        order: of first execution.
        errors: a cell for each site compared.
        split: inherited and introduced, or how likely chance gives the difference.
        moved: mean shift, variance ratio, share of features moved; of the output.
        differs: what of its own differs, in words.
    """

    layer: str
    name: str
    other: str
    matched_by: str
    mark: str
    kind: str
    order: int
    errors: list[Value]
    split: list[Value]
    moved: list[Value]
    differs: str = ""

    @property
    def values(self) -> list[Value]:
        """The cells after the kind."""
        return [*self.errors, *self.split, *self.moved]


def comparison_title(found: Differences) -> str:
    """Both sides by names that tell them apart."""
    return " against ".join(side_names(found.facts))


def compared_sites(found: Differences) -> tuple[str, ...]:
    """The sites of a comparison, in order; input and output among them."""
    return in_order([*found.layers["site"], INPUT, OUTPUT])


def site_word(site: str) -> str:
    """What a site is called in a comparison, where before and after would be of a norm only."""
    return site if site in (INPUT, OUTPUT) else site_of(site).label


def heads(found: Differences) -> list[tuple[str, str]]:
    """The headings after the layer's kind, in two lines each."""
    split = [("inherited", "dB"), ("introduced", "dB")] if found.facts["same_data"] else [("p", "")]
    return [
        *(("error of", f"{site_word(site)}, dB") for site in compared_sites(found)),
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
    sites = compared_sites(found)
    layers = list(dict.fromkeys(map(str, found.layers["layer"])))
    first = next((str(layer) for layer in found.layers.loc[found.layers["beyond"], "layer"]), None)
    worst = found.layers.groupby("layer", sort=False)["error_db"].max()
    ranked = [*([] if first is None else [first]), *worst.sort_values(ascending=False, kind="stable").index]
    shown = set(list(dict.fromkeys(map(str, ranked)))[:MOST_ROWS])
    measured = dict(list(found.layers.groupby("layer", sort=False)))
    rows = [
        _row(found, measured[layer].set_index("site", drop=False), sites, order, layer == first)
        for order, layer in enumerate(layers)
        if layer in shown
    ]
    left_out = len(layers) - len(rows)
    note = f"The {len(rows):,} of {len(layers):,} layers that differ most; comparison.csv has them all."
    return rows, note if left_out else ""


def _row(found: Differences, measured: pd.DataFrame, sites: Sequence[str], order: int, first: bool) -> Row:
    """What the table shows of one layer, a row of whose frame is a site."""
    arising = [site for site in sites if site in measured.index and measured["introduces"][site]]
    last = measured.loc[OUTPUT if OUTPUT in measured.index else measured.index[-1]]
    # Of what arises on the way to the layer and in it, that is shown which is beyond the noise.
    shown = measured.loc[arising[0]] if arising else last
    split = [decibels(last["inherited_db"]), decibels(shown["introduced_db"])]
    if not found.facts["same_data"]:
        split = [_plain(measured["likely"].min())]
    errors = measured["error_db"].reindex(list(sites))
    return Row(
        layer=str(last["layer"]),
        name=str(last["layer"]) or str(found.facts["models"][0]),
        other="" if last["layer_b"] == last["layer"] else str(last["layer_b"]),
        matched_by=str(last["matched_by"]),
        mark="first" if first else "more arises" if arising else "",
        kind=str(last["kind"]) if last["kind"] == last["kind_b"] else f"{last['kind']} → {last['kind_b']}",
        order=order,
        errors=[decibels(error) for error in errors],
        split=split,
        moved=[
            _plain(last["mean_shift"]),
            _plain(np.exp(last["log_variance_ratio"])),
            _percent(last["features_beyond"]),
        ],
        differs="" if pd.isna(last["differs"]) else str(last["differs"]),
    )


def decibels(value: Any) -> Value:
    """A cell of dB without its unit."""
    number = float(value)
    if np.isnan(number):
        return Value("–", "")
    if np.isinf(number):
        return Value("none" if number < 0 else "NaN or Inf", "-Infinity" if number < 0 else "Infinity")
    return Value(f"{'−' if number < -0.05 else ''}{abs(number):.1f}", f"{number:.4g}")


def _plain(value: Any) -> Value:
    """The cell of a number; a dash where it is missing."""
    return Value("–", "") if pd.isna(value) else Value(format_number(float(value)), f"{float(value):.6g}")


def _percent(value: Any) -> Value:
    """The cell of a share, in percent."""
    if pd.isna(value):
        return Value("–", "")
    share = float(value)
    return Value("0" if share == 0 else "<0.1 %" if share < 1e-3 else f"{100 * share:.3g} %", f"{share:.6g}")
