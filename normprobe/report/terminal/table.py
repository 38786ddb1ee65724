"""The terminal's table of the layers that stand out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from normprobe.formatting import format_number, role_of, sample_word, shorten_text
from normprobe.report.display_text import display_name
from normprobe.report.layer_summary import LINEAR, further_sites
from normprobe.report.terminal.lines import Terminal, padded
from normprobe.vocabulary import site_of

if TYPE_CHECKING:
    from normprobe.tables.frames import Tables

_MOST_ROWS = 8
_WIDE = 120
_TITLE = "Layers that stand out"
# As in the outlier map and the check of outlier features.
_STANDS_OUT = 10.0
_SAME = 2.0


@dataclass(frozen=True)
class Column:
    """A column of numbers: heading, width, and what it shows of a layer's summary."""

    heading: str
    width: int
    text: Callable[[pd.Series], str]


def stand_out_table(
    tables: Tables, summary: pd.DataFrame, ranked: list[str], named: list[str], terminal: Terminal
) -> list[str]:
    """Lay out at most 8 layers: those that findings name, then those far above their median.

    Args:
        tables: the tables of a recording.
        summary: its frame of `summarize`.
        ranked: layers in the order in which they stand out.
        named: layers that findings name.
        terminal: the room there is.

    Returns:
        The lines, or none where no layer stands out.
    """
    chosen = _distinct(summary, ranked, set(named))[:_MOST_ROWS]
    if not chosen:
        return []
    columns = _columns(tables, wide=terminal.width is None or terminal.width >= _WIDE)
    shown = [
        [terminal.show(column.text(values)) for column in columns]
        for _, values in summary.loc[chosen].iterrows()
    ]
    # A number of many letters widens its column: there is always a blank before it.
    widths = [max(c.width, *(1 + len(row[at]) for row in shown)) for at, c in enumerate(columns)]
    headings = [terminal.show(c.heading).rjust(w) for c, w in zip(columns, widths, strict=True)]
    cells = ["".join(text.rjust(w) for text, w in zip(row, widths, strict=True)) for row in shown]
    lines = _lines(
        _TITLE, [display_name(tables, layer) for layer in chosen], "".join(headings), cells, terminal
    )
    return [*lines, *_further(tables, summary.loc[chosen], terminal)]


def _lines(title: str, layers: list[str], heads: str, cells: list[str], terminal: Terminal) -> list[str]:
    """A heading and a line for each layer, the names as wide as they need to be, or as there is room."""
    names, width = terminal.names([title, *layers], len(heads))
    return [(padded(name, width) + rest).rstrip() for name, rest in zip(names, [heads, *cells], strict=True)]


def _further(tables: Tables, chosen: pd.DataFrame, terminal: Terminal) -> list[str]:
    """The chosen layers once more for each further site at which they were measured."""
    lines = []
    for site in further_sites(tables.layers):
        rows = chosen[chosen[f"max_{site}"].notna()]
        if rows.empty:
            continue
        room = terminal.width or len(site_of(site).label) + 40
        label = shorten_text(site_of(site).label, room - 40)
        cells = [
            "".join(
                terminal.show(format_number(values[f"{what}_{site}"])).rjust(columns)
                for what, columns in (("variance", 10), ("max", 13))
            )
            for _, values in rows.iterrows()
        ]
        heads = f"{'variance':>10}{'max |value|':>13}"
        layers = [display_name(tables, str(layer)) for layer in rows.index]
        lines += ["", *_lines(f"The same at {label}", layers, heads, cells, terminal)]
    return lines


def _distinct(summary: pd.DataFrame, ranked: list[str], named: set[str]) -> list[str]:
    """Leave out layers that repeat a listed one of their role: the same feature, about as large."""
    chosen: list[str] = []
    seen: dict[tuple[str, int], list[float]] = {}
    standing = summary.loc[summary.index.isin(named) | (summary["ratio"] >= _STANDS_OUT)]
    # -1, which no feature is: a missing one differs from itself, and could not be found again.
    peaks = standing["peak"].astype("Int64").fillna(-1).to_dict()
    largest = standing["max_in"].astype("float64").to_dict()
    for layer in ranked:
        if layer not in peaks:
            continue
        sizes = seen.setdefault((role_of(layer), int(peaks[layer])), [])
        known = any(size / _SAME <= largest[layer] <= size * _SAME for size in sizes)
        if layer in named or not known:
            chosen.append(layer)
            sizes.append(largest[layer])
    return chosen


def _columns(tables: Tables, *, wide: bool) -> list[Column]:
    """The columns of numbers; three more where there is room."""
    before = Column("var in", 9, lambda row: format_number(row["variance_in"]))
    after = Column("var out", 9, lambda row: format_number(row["variance_out"]))
    largest = Column("max |in|", 11, lambda row: format_number(row["max_in"]))
    ratio = Column("÷ median feature", 18, lambda row: _times(row["ratio"]))
    if not wide:
        return [before, after, largest, ratio]
    kind = Column("kind", 15, lambda row: str(row["kind"]))
    written = Column("max |out|", 11, lambda row: format_number(row["max_out"]))
    return [
        kind,
        before,
        after,
        largest,
        written,
        ratio,
        Column(f"{sample_word(tables.meta)} spread", 17, _spread),
    ]


def _times(ratio: float) -> str:
    """A ratio with its sign, or a dash."""
    text = format_number(ratio)
    return text if pd.isna(ratio) else f"{text}×"


def _spread(row: pd.Series) -> str:
    """The 95th ÷ 5th percentile of the samples' variances, before and after a norm."""
    if row["kind"] == LINEAR or pd.isna(row["spread_in"]) or pd.isna(row["spread_out"]):
        return "–"
    return f"{format_number(row['spread_in'])} → {format_number(row['spread_out'])}"
