"""The table of all layers: what each row shows and what it is sorted by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from normprobe.formatting import format_number
from normprobe.report.overview import Value, display_name

if TYPE_CHECKING:
    from normprobe.tables.frames import Tables

MOST_ROWS = 1500
_WIDTH, _PAD = 72.0, 5.0


@dataclass(frozen=True)
class Dumbbell:
    """Variance before and after as places on a common log scale, 0 to 72; None where it is 0 or unknown."""

    before: float | None
    after: float | None


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
    place = _log_scale(summary)
    measured = int(tables.meta["measured"])
    return [_row(tables, str(layer), values, place, measured) for layer, values in shown.iterrows()]


def _row(tables: Tables, layer: str, values: pd.Series, place: _Place, measured: int) -> Row:
    return Row(
        layer=layer,
        name=display_name(tables, layer),
        kind=str(values["kind"]),
        order=int(values["depth"]),
        calls=repeated_calls(int(values["calls"]), measured),
        dumbbell=Dumbbell(place(values["variance_in"]), place(values["variance_out"])),
        features=_value(values["n_features"]),
        before=_value(values["variance_in"]),
        after=_value(values["variance_out"]),
        largest=_value(values["max_in"]),
        ratio=_value(values["ratio"], "×"),
        zeros=_share(values["zeros"]),
        nonfinite=_value(values["nonfinite_in"] + values["nonfinite_out"]),
    )


def repeated_calls(calls: int, measured: int) -> str:
    """Say how often a layer ran where that is not once per forward: `12 calls`, `7 calls in 3 forwards`."""
    if measured in {calls, 0}:
        return ""
    if calls % measured == 0:
        return f"{calls // measured:,} calls"
    return f"{calls:,} call{'' if calls == 1 else 's'} in {measured:,} forwards"


class _Place:
    """Maps a variance to its place on the table's log scale."""

    def __init__(self, low: float, high: float) -> None:
        self._low, self._span = low, max(high - low, 1e-9)

    def __call__(self, variance: float) -> float | None:
        if not variance > 0 or not np.isfinite(variance):
            return None
        share = (np.log10(variance) - self._low) / self._span
        return round(_PAD + float(share) * (_WIDTH - 2 * _PAD), 1)


def _log_scale(summary: pd.DataFrame) -> _Place:
    values = summary[["variance_in", "variance_out"]].to_numpy(dtype="float64").ravel()
    logs = np.log10(values[np.isfinite(values) & (values > 0)])
    return _Place(float(logs.min()), float(logs.max())) if len(logs) else _Place(0.0, 1.0)


def _value(number: float, unit: str = "") -> Value:
    if pd.isna(number):
        return Value("–", "")
    return _keyed(format_number(float(number)) + unit, float(number))


def _keyed(shown: str, number: float) -> Value:
    """Leave the key out where the shown text sorts by itself: keys are a fifth of a large table."""
    key = f"{number:.6g}"
    return Value(shown, "" if key == shown else key)


def _share(number: float) -> Value:
    if pd.isna(number):
        return Value("–", "")
    percent = 100 * float(number)
    shown = "0" if percent == 0 else "<0.1 %" if percent < 0.1 else f"{percent:.3g} %"
    return _keyed(shown, float(number))
