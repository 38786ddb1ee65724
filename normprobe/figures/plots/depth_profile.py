"""The depth profile: what each norm does, in order of execution, in four charts over one axis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from normprobe.figures.data import by_depth
from normprobe.figures.plots import depth_profile_charts, depth_profile_words
from normprobe.figures.drawing.depth_axis import DepthAxis, margins, prepare, span
from normprobe.figures.drawing.canvas import Hit, Plan, place
from normprobe.formatting import sample_word

if TYPE_CHECKING:
    from normprobe.recording import Recording
    from normprobe.tables import Tables

POOLED = 5.0  # times the median from which the pooled variance is shown


def depth_profile(tables: Tables | Recording, *, ax: Any = None) -> Any:
    """Draw what each norm does with depth, in four charts over one axis.

    Variances of samples; how unequal they are; how unequal the features' are; the largest |value| before the
    norm. Variances are population variances (divided by n).

    Args:
        tables: a recording or its tables.
        ax: an array of as many axes as there are charts: four, or fewer where percentiles are undefined
            (a single sample). New ones by default.

    Returns:
        Array of the axes; `axes[0].figure` is the whole figure.

    Raises:
        ValueError: `ax` holds another number of axes than there are charts, or the recording has no norm.
    """
    return place(plan(by_depth.tables_of(tables)), ax)


def supported(tables: Tables) -> bool:
    """Return whether there are the four norms that make a profile."""
    return len(by_depth.norms(tables)) >= 4


@dataclass(frozen=True)
class Profile:
    """The numbers of the depth profile.

    Attributes:
        depth: the columns.
        sites: a row per column and site: p5, p50, p95, pooled, ratio, spread, scaled, nonfinite.
        peaks: a row per column: worst, feature, typical.
        unit: what one sample is called, singular.
        by_feature: columns of one feature, whose variance is that of the feature.
        single: whether there was only one sample.
    """

    depth: DepthAxis
    sites: pd.DataFrame
    peaks: pd.DataFrame
    unit: str
    by_feature: tuple[int, ...]
    single: bool

    def site(self, name: str) -> pd.DataFrame:
        """Return the rows of one site, indexed by column."""
        return self.sites[self.sites["site"] == name].set_index("column")

    @property
    def pooled(self) -> pd.Series[float]:
        """The variance of all values pooled, where it exceeds five times the median sample's."""
        return self.sites["pooled"].where(self.sites["pooled"] > POOLED * self.sites["p50"])

    @property
    def scaled(self) -> pd.Series[float]:
        """By column, the features' ratio after the norm with its scale, where that differs by over 2 %."""
        after = self.site("output")
        return after["scaled"].where((after["scaled"] / after["spread"] - 1).abs() > 0.02)


def plan(tables: Tables) -> Plan:
    """Decide the depth profile."""
    profile = summarize(tables)
    charts = [chart for chart, column in depth_profile_charts.CHARTS if _has(profile, column)]

    def draw(axes: Sequence[Axes]) -> None:
        """Draw each chart that has data."""
        for index, (ax, chart) in enumerate(zip(axes, charts, strict=True)):
            span(ax, profile.depth)
            chart(ax, profile)
            prepare(ax, profile.depth, last=index == len(charts) - 1)

    heights = tuple(2.25 if chart is depth_profile_charts.variances else 1.5 for chart in charts)
    return Plan(
        title="What each norm does, in order of execution",
        caption=depth_profile_words.caption(profile),
        aria_label=depth_profile_words.aria_label(profile),
        draw=draw,
        heights=heights,
        margins=margins(profile.depth),
        hits=tuple(
            Hit(layer, column - 0.5, column + 0.5, text)
            for column, (layer, text) in enumerate(depth_profile_words.numbers(profile))
        ),
    )


def summarize(tables: Tables) -> Profile:
    """Take from the tables what the depth profile shows."""
    chosen = by_depth.norms(tables)
    if chosen.empty:
        raise ValueError("the recording has no normalization layer that fired: nothing to profile over depth")
    layers = list(chosen["layer"])
    index = pd.MultiIndex.from_product([layers, by_depth.SITES], names=["layer", "site"])
    sites = by_depth.sample_quantiles(tables, layers).reindex(index)
    spread = by_depth.feature_quantiles(tables, layers).reindex(index)
    sites[["spread", "scaled", "constant"]] = spread[["ratio", "scaled", "constant"]]
    of_site = tables.layers.set_index(["layer", "site"])
    sites[["pooled", "nonfinite"]] = of_site[["variance", "nonfinite"]].reindex(index)
    single = _single_features(chosen)
    for layer in single:
        sites.loc[[layer], ["p5", "p50", "p95"]] = np.nan
        sites.loc[[layer], "p50"] = sites.loc[[layer], "pooled"]
        sites.loc[[layer], ["ratio", "flat"]] = np.nan
    sites = sites.reset_index()
    sites["column"] = np.repeat(np.arange(len(layers)), 2)
    depth = by_depth.depth_axis(chosen)
    sites["role"] = np.repeat(np.array(depth.roles, dtype=object), 2)
    return Profile(
        depth=depth,
        sites=sites,
        peaks=by_depth.peaks(tables, layers).reset_index(drop=True),
        unit=sample_word(tables.meta, by_depth.unit_of(chosen)),
        by_feature=tuple(layers.index(layer) for layer in single),
        single=bool((chosen["n_samples"] == 1).all()),
    )


def _single_features(chosen: pd.DataFrame) -> list[str]:
    """Return the layers of one feature per sample: the variance within a sample is 0 there by definition."""
    single = (chosen["n_features"] == 1) & (chosen["sample_unit"] == "position")
    return list(chosen.loc[single, "layer"])


def _has(profile: Profile, column: str | None) -> bool:
    """Return whether a chart of this column has anything to show."""
    return column is None or bool(profile.sites[column].notna().any())
