"""The notebook's chart: the median sample's variance at each norm's sites, over depth."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from math import ceil, floor, log10
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from normprobe.formatting import format_tick, role_of
from normprobe.report.layer_summary import LINEAR
from normprobe.report.log_scale import LogScale
from normprobe.report.site_markers import marker_path
from normprobe.tables.measures.samples import sample_measures
from normprobe.vocabulary import in_order

if TYPE_CHECKING:
    from normprobe.tables.frames import Tables

_LEFT, _RIGHT, _TOP, _FOOT = 60.0, 624.0, 8.0, 142.0
# As the depth profile has them; to import its constants would load matplotlib.
_FEWEST, _MOST_DOTS = 4, 150


@dataclass(frozen=True)
class Tick:
    """A line of the grid with its label; y in pixels."""

    y: float
    text: str


@dataclass(frozen=True)
class Line:
    """The norms of one role at one site: an SVG path, and their markers as one path."""

    site: str
    path: str
    dots: str


@dataclass(frozen=True)
class SmallChart:
    """What the template draws on 640 x 150 pixels."""

    ticks: list[Tick]
    lines: list[Line]

    @property
    def sites(self) -> tuple[str, ...]:
        """The sites that have a line, in order."""
        return in_order(line.site for line in self.lines)


def small_chart(tables: Tables) -> SmallChart | None:
    """Lay out the chart.

    Args:
        tables: the tables of a recording.

    Returns:
        The chart, or None with fewer than four norms whose median sample has a variance above zero.
    """
    points = _points(tables)
    if points["x"].nunique() < _FEWEST:
        return None
    low, high = floor(log10(points["value"].min())), ceil(log10(points["value"].max()))
    # Equal values still get a decade, so that there are two ticks.
    high = max(high, low + 1)
    scale = LogScale(10.0**low, 10.0**high, _FOOT, _TOP)
    points["y"] = [scale.place(value) for value in points["value"]]
    dotted = points["x"].nunique() <= _MOST_DOTS
    lines = [
        _line(str(site), chosen, dotted) for (site, _), chosen in points.groupby(["site", "role"], sort=False)
    ]
    # At most five ticks, whose labels do not touch.
    step = max(1, ceil((high - low) / 4))
    ticks = [Tick(scale.place(10.0**e), format_tick(10.0**e)) for e in range(low, high + 1, step)]
    return SmallChart(ticks, lines)


def _points(tables: Tables) -> pd.DataFrame:
    """A row per norm and site: the median sample's variance where that is above zero, its x and its role."""
    norms = tables.layers[tables.layers["kind"] != LINEAR]
    order = norms.drop_duplicates("layer").sort_values("depth", kind="stable")["layer"]
    points = sample_measures(tables)["sample_variance"].rename("value").reset_index()
    points = points[points["layer"].isin(order)]
    points = points[np.isfinite(points["value"]) & (points["value"] > 0)]
    place = {layer: i / max(1, len(order) - 1) for i, layer in enumerate(order)}
    points["x"] = [round(_LEFT + place[layer] * (_RIGHT - _LEFT), 1) for layer in points["layer"]]
    points["role"] = [role_of(str(layer)) for layer in points["layer"]]
    ordered: pd.DataFrame = points.sort_values(["site", "x"], kind="stable")
    return ordered


def _line(site: str, points: pd.DataFrame, dotted: bool) -> Line:
    """Join the points of one role at one site; equal neighbours once."""
    places = [place for place, _ in groupby(zip(points["x"], points["y"], strict=True))]
    path = "M" + "L".join(f"{x:g} {y:g}" for x, y in places)
    dots = "".join(marker_path(site, x, y) for x, y in places)
    return Line(site, path, dots if dotted else "")
