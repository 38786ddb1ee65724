"""The table of all layers: what each row shows and what it is sorted by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from normprobe.formatting import format_number
from normprobe.report.display_text import Value, display_name
from normprobe.report.log_scale import LogScale
from normprobe.report.site_markers import marker_path

if TYPE_CHECKING:
    from normprobe.tables.frames import Tables

MOST_ROWS = 1500
# Room for half a marker at either end.
_WIDTH, _PAD = 72.0, 5.0


@dataclass(frozen=True)
class Dumbbell:
    """Variances as places on a common log scale, 0 to 72; None where one is 0 or unknown.

    Attributes:
        before: of the input.
        after: of the output.
        further: an SVG path of the marker of each further site that has a place, with its colour's variable.
    """

    before: float | None
    after: float | None
    further: list[tuple[str, str]]


@dataclass(frozen=True)
class Further:
    """A site besides input and output: its label, its marker as a letter, its colour's CSS variable."""

    name: str
    label: str
    sign: str
    variable: str


@dataclass(frozen=True)
class Row:
    """One layer of the table."""

    layer: str
    name: str
    kind: str
    order: int
    calls: str
    dumbbell: Dumbbell
    features: Value
    before: Value
    after: Value
    largest: Value
    ratio: Value
    zeros: Value
    nonfinite: Value
    further_variances: list[Value]
    further_largest: list[Value]


def further_columns(summary: pd.DataFrame) -> list[Further]:
    """The further sites of a summary; each has two columns, variance and largest |value|."""
    # Loads matplotlib: not when this module is imported.
    from normprobe.figures.drawing.palette import site_look, variables

    names = [column.removeprefix("max_") for column in summary.columns if column.startswith("max_")]
    looks = {name: site_look(name) for name in names if name not in {"in", "out"}}
    known = variables()
    return [Further(name, look.label, look.sign, known[look.colour]) for name, look in looks.items()]


def layer_rows(tables: Tables, summary: pd.DataFrame, ranked: list[str]) -> list[Row]:
    """Build the rows of the table.

    Args:
        tables: the tables of a recording.
        summary: its frame of `summarize`.
        ranked: layers in the order in which they stand out; the first 1,500 are shown.

    Returns:
        Rows in order of execution.
    """
    shown = summary[summary.index.isin(set(ranked[:MOST_ROWS]))]
    further = further_columns(summary)
    scale = _variance_scale(summary, further)
    measured = int(tables.meta["measured"])
    return [
        _row(
            str(layer),
            display_name(tables, str(layer)),
            values,
            further=further,
            scale=scale,
            measured=measured,
        )
        for layer, values in shown.iterrows()
    ]


def _row(
    layer: str, name: str, values: pd.Series, *, further: list[Further], scale: LogScale, measured: int
) -> Row:
    """What the table shows of one layer."""
    places = [(site, _place(scale, values[f"variance_{site.name}"])) for site in further]
    return Row(
        layer=layer,
        name=name,
        kind=str(values["kind"]),
        order=int(values["depth"]),
        calls=repeated_calls(int(values["calls"]), measured),
        dumbbell=Dumbbell(
            before=_place(scale, values["variance_in"]),
            after=_place(scale, values["variance_out"]),
            further=[(marker_path(site.name, x, 6), site.variable) for site, x in places if x is not None],
        ),
        features=_value(values["n_features"]),
        before=_value(values["variance_in"]),
        after=_value(values["variance_out"]),
        largest=_value(values["max_in"]),
        ratio=_value(values["ratio"], "×"),
        zeros=_share(values["zeros"]),
        nonfinite=_value(values["nonfinite"]),
        further_variances=[_value(values[f"variance_{site.name}"]) for site in further],
        further_largest=[_value(values[f"max_{site.name}"]) for site in further],
    )


def repeated_calls(calls: int, measured: int) -> str:
    """How often a layer ran, where that is not once per forward: `12 calls`, `7 calls in 3 forwards`."""
    if measured in {calls, 0}:
        return ""
    if calls % measured == 0:
        return f"{calls // measured:,} calls"
    return f"{calls:,} call{'' if calls == 1 else 's'} in {measured:,} forwards"


def _variance_scale(summary: pd.DataFrame, further: list[Further]) -> LogScale:
    """The common scale of all variances of the table."""
    # One scale for all rows, so that markers compare down the column.
    columns = ["variance_in", "variance_out", *(f"variance_{site.name}" for site in further)]
    values = summary[columns].to_numpy(dtype="float64").ravel()
    shown = values[np.isfinite(values) & (values > 0)]
    low, high = (float(shown.min()), float(shown.max())) if len(shown) else (1.0, 10.0)
    return LogScale(low, high, _PAD, _WIDTH - _PAD)


def _place(scale: LogScale, variance: float) -> float | None:
    """The place of a variance, None where a log scale has none."""
    return scale.place(variance) if variance > 0 and np.isfinite(variance) else None


def _value(number: float, unit: str = "") -> Value:
    """The cell of a number; a dash, which sorts last, where it is missing."""
    if pd.isna(number):
        return Value("–", "")
    return _keyed(format_number(float(number)) + unit, float(number))


def _keyed(shown: str, number: float) -> Value:
    """Leave the key out where the shown text sorts by itself: keys are a fifth of a large table."""
    # Six digits, where the three that are shown are equal.
    key = f"{number:.6g}"
    return Value(shown, "" if key == shown else key)


def _share(number: float) -> Value:
    """The cell of a share, in percent."""
    if pd.isna(number):
        return Value("–", "")
    # However few, some zeros are not none.
    percent = 100 * float(number)
    shown = "0" if percent == 0 else "<0.1 %" if percent < 0.1 else f"{percent:.3g} %"
    return _keyed(shown, float(number))
