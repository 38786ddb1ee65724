"""The numbers behind the depth profile: what each norm does, in order of execution."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from normprobe.figures.data import layer_statistics
from normprobe.figures.drawing.depth_axis import DepthAxis
from normprobe.formatting import sample_word
from normprobe.tables.measures.residual import stream_measures
from normprobe.vocabulary import INPUT, OUTPUT, in_order

if TYPE_CHECKING:
    from normprobe.tables.frames import Tables

POOLED = 5.0  # times the median from which the pooled variance is shown


@dataclass(frozen=True)
class Profile:
    """The numbers of the depth profile.

    Attributes:
        depth: the columns.
        drawn: the sites at which any norm was measured, in order.
        sites: a row per column and site (input and output among them, measured or not): p5, p50, p95,
            pooled, ratio, spread, scaled, nonfinite.
        peaks: a row per column: worst, feature, typical; of inputs.
        unit: what one sample is called, singular.
        by_feature: columns of one feature, whose variance is that of the feature.
        single: whether there was only one sample.
        stream: the residual stream where blocks were measured: ``chain`` (blocks one after another), ``x``
            (between the columns), ``value`` (variance of the median sample); without rows where not.
    """

    depth: DepthAxis
    drawn: tuple[str, ...]
    sites: pd.DataFrame
    peaks: pd.DataFrame
    unit: str
    by_feature: tuple[int, ...]
    single: bool
    stream: pd.DataFrame

    def site(self, name: str) -> pd.DataFrame:
        """The rows of one site, indexed by column."""
        return self._by_site[name]

    @cached_property
    def _by_site(self) -> dict[str, pd.DataFrame]:
        """The rows of each site: asked for by every chart and sentence."""
        groups = self.sites.groupby("site", sort=False)
        return {str(name): rows.set_index("column") for name, rows in groups}

    @property
    def pooled(self) -> pd.Series[float]:
        """The variance of all values pooled, where it exceeds five times the median sample's."""
        return self.sites["pooled"].where(self.sites["pooled"] > POOLED * self.sites["p50"])

    @property
    def scaled(self) -> pd.Series[float]:
        """By column, the features' ratio after the norm with its scale, where that differs by over 2 %."""
        after = self.site(OUTPUT)
        # Closer than that, a tick would lie on the marker.
        return after["scaled"].where((after["scaled"] / after["spread"] - 1).abs() > 0.02)


def summarize(tables: Tables) -> Profile:
    """Take from the tables what the depth profile shows.

    Raises:
        ValueError: no norm fired.
    """
    chosen = layer_statistics.norms(tables)
    if chosen.empty:
        raise ValueError("the recording has no normalization layer that fired: nothing to profile over depth")
    layers = list(chosen["layer"])
    drawn = layer_statistics.norm_sites(tables)
    sites = _by_site(tables, layers, in_order([*drawn, INPUT, OUTPUT]))
    single = _single_features(chosen)
    # The variance within a sample of one feature is 0 by definition; that of the feature says something.
    for layer in single:
        sites.loc[[layer], ["p5", "p50", "p95"]] = np.nan
        sites.loc[[layer], "p50"] = sites.loc[[layer], "pooled"]
        sites.loc[[layer], ["ratio", "flat"]] = np.nan
    depth = layer_statistics.depth_axis(chosen)
    place = {layer: column for column, layer in enumerate(layers)}
    sites = sites.reset_index()
    sites["column"] = sites["layer"].map(place).astype(int)
    sites["role"] = [depth.roles[column] for column in sites["column"]]
    return Profile(
        depth=depth,
        drawn=drawn,
        sites=sites,
        peaks=layer_statistics.peaks(tables, layers).reset_index(drop=True),
        unit=sample_word(tables.meta, layer_statistics.unit_of(chosen)),
        by_feature=tuple(place[layer] for layer in single),
        single=bool((chosen["n_samples"] == 1).all()),
        stream=_stream(tables, chosen),
    )


def _stream(tables: Tables, chosen: pd.DataFrame) -> pd.DataFrame:
    """The stream ahead of each block and behind the last of a chain, in order of execution."""
    blocks, points = stream_measures(tables), []
    # A recording may hold moments alone.
    blocks = blocks.assign(value=blocks["p50"].fillna(blocks["variance"]))
    names, depth = [str(name) for name in chosen["layer"]], chosen["depth"].to_numpy()
    for name, site, at, value in zip(
        *(blocks[column].tolist() for column in ("layer", "site", "depth", "value")), strict=True
    ):
        before = int((depth < at).sum())
        inside = [column for column, norm in enumerate(names) if norm.startswith(f"{name}.")]
        x = before - 0.5 if site == INPUT else max(inside, default=before - 1) + 0.5
        points.append((name.rpartition(".")[0], name, site, x, value))
    frame = pd.DataFrame(points, columns=["chain", "layer", "site", "x", "value"])
    # What a block writes the next one reads.
    last = ~frame["chain"].duplicated(keep="last")
    return frame[(frame["site"] == INPUT) | last].reset_index(drop=True)


def _by_site(tables: Tables, layers: list[str], names: tuple[str, ...]) -> pd.DataFrame:
    """A row per layer and site; NaN where a layer was not measured at a site."""
    index = pd.MultiIndex.from_product([layers, names], names=["layer", "site"])
    sites = layer_statistics.sample_quantiles(tables, layers).reindex(index)
    spread = layer_statistics.feature_quantiles(tables, layers).reindex(index)
    sites[["spread", "scaled", "constant"]] = spread[["ratio", "scaled", "constant"]]
    of_site = tables.layers.set_index(["layer", "site"])
    sites[["pooled", "nonfinite"]] = of_site[["variance", "nonfinite"]].reindex(index)
    return sites


def _single_features(chosen: pd.DataFrame) -> list[str]:
    """The layers of one feature per sample."""
    # An example of a norm of one channel has a value a pixel, and so a variance of its own.
    single = (chosen["n_features"] == 1) & (chosen["sample_unit"] == "position")
    return list(chosen.loc[single, "layer"])
