"""The numbers behind the depth profile: what each norm does, in order of execution."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from normprobe.figures.data import by_depth
from normprobe.figures.drawing.depth_axis import DepthAxis
from normprobe.formatting import sample_word
from normprobe.vocabulary import OUTPUT

if TYPE_CHECKING:
    from normprobe.tables.frames import Tables

if TYPE_CHECKING:
    pass

POOLED = 5.0  # times the median from which the pooled variance is shown


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
        after = self.site(OUTPUT)
        return after["scaled"].where((after["scaled"] / after["spread"] - 1).abs() > 0.02)


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
