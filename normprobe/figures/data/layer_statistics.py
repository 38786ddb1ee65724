"""Statistics per layer and site as figures draw them: quantiles over samples and features, largest values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd

from normprobe.figures.drawing.depth_axis import DepthAxis
from normprobe.tables.columns import SITE_KEY
from normprobe.tables.measures.common import at_site
from normprobe.tables.measures.features import (
    feature_measures,
    feature_spreads,
    finite_features,
    normalized_variances,
)
from normprobe.tables.measures.samples import sample_spreads
from normprobe.vocabulary import INPUT, in_order

if TYPE_CHECKING:
    from normprobe.tables.frames import Tables

QUANTILES = (0.05, 0.5, 0.95)


def tables_of(source: Any) -> Tables:
    """The tables of a recording, or the tables themselves, of activations alone."""
    # By attribute: recordings lie above figures, which may not import their type.
    found = getattr(source, "tables", source)
    return cast("Tables", getattr(found, "activations", found))


def norms(tables: Tables, site: str | None = None) -> pd.DataFrame:
    """A row per norm that fired, in order of first execution, indexed by layer.

    Args:
        tables: the tables.
        site: only norms measured there, and their rows there; by default each norm's first site.
    """
    layers = tables.layers
    chosen = layers[layers["kind"] != "linear"]
    if site is not None:
        chosen = chosen[chosen["site"] == site]
    # The order of sites, not of rows: a file from elsewhere may list an output before the input.
    place = chosen["site"].map({name: at for at, name in enumerate(in_order(chosen["site"]))})
    chosen = chosen.assign(_place=place).sort_values(["depth", "_place"], kind="stable")
    chosen = chosen.drop_duplicates("layer").drop(columns="_place")
    # A nameless index: pandas calls "layer" ambiguous if both index and column bear the name.
    return chosen.set_index("layer", drop=False).rename_axis(None)


def norm_sites(tables: Tables) -> tuple[str, ...]:
    """The sites at which any norm was measured, in order."""
    layers = tables.layers
    return in_order(layers.loc[layers["kind"] != "linear", "site"])


def depth_axis(chosen: pd.DataFrame) -> DepthAxis:
    """The axis of depth of some rows of `norms`."""
    return DepthAxis(tuple(map(str, chosen["layer"])), tuple(map(str, chosen["kind"])))


def of_layers(frame: pd.DataFrame, layers: Sequence[str], site: str | None = None) -> pd.DataFrame:
    """The rows of some layers, at one site if given."""
    # A panel asks for one layer among the features of all, and isin takes five times as long as ==.
    mask = frame["layer"] == layers[0] if len(layers) == 1 else frame["layer"].isin(list(layers))
    return frame[mask & (frame["site"] == site)] if site else frame[mask]


def sample_quantiles(tables: Tables, layers: Sequence[str]) -> pd.DataFrame:
    """Quantiles over the kept samples of their variance, by (layer, site).

    Args:
        tables: the tables.
        layers: which layers.

    Returns:
        Columns p5, p50, p95 of the kept samples (p5, p95 NaN of a single one); `ratio`, p95 ÷ p5 of those
        with a variance above zero (NaN with fewer than two); `flat`, how many have variance 0; `kept`, how
        many there are.
    """
    samples = of_layers(tables.samples, layers)[["layer", "site", "variance"]].dropna()
    result = _quantiles_and_counts(samples, flat="flat", kept="kept")
    return result.assign(ratio=sample_spreads(tables)["ratio"].reindex(result.index))


def feature_quantiles(tables: Tables, layers: Sequence[str]) -> pd.DataFrame:
    """Quantiles over the features of their variance, by (layer, site), without the layer's own scale.

    Args:
        tables: the tables.
        layers: which layers.

    Returns:
        As `sample_quantiles`, at norm outputs of variance ÷ weight², what the normalization alone gives;
        `scaled` is the ratio with the scale; `constant`, how many vary by no more than rounding and are left
        out of the ratios. Features of fewer than two values have no variance: left out.
    """
    features = of_layers(normalized_variances(tables), layers)[["layer", "site", "variance"]].dropna()
    result = _quantiles_and_counts(features, flat="constant", kept="features")
    spreads = feature_spreads(tables).reindex(result.index)
    return result.assign(ratio=spreads["ratio"], scaled=spreads["scaled"])


def _quantiles_and_counts(frame: pd.DataFrame, *, flat: str, kept: str) -> pd.DataFrame:
    """Quantiles of `variance` by layer and site, how many there are, and how many of these are 0."""
    result = quantiles(frame, QUANTILES)
    result.columns = pd.Index(["p5", "p50", "p95"])
    result[kept] = frame.groupby(SITE_KEY)["variance"].size()
    result[flat] = (frame["variance"] == 0).groupby([frame[name] for name in SITE_KEY]).sum()
    # Of one number every percentile is that number, which would draw a spread of nothing.
    result[["p5", "p95"]] = result[["p5", "p95"]].where(result[kept] > 1)
    return result


def quantiles(frame: pd.DataFrame, shares: Sequence[float], column: str = "variance") -> pd.DataFrame:
    """Quantiles of a column by layer and site, a column each; without rows where there are no data."""
    groups = frame.groupby(SITE_KEY, observed=True)[column]
    # Of no rows unstack makes no column at all.
    return groups.quantile(np.array(shares)).unstack().reindex(columns=list(shares)).astype(float)


def largest_values(tables: Tables, layers: Sequence[str], site: str = INPUT) -> pd.DataFrame:
    """The largest |value| of each feature: layer, feature, value, ratio (÷ the median feature's)."""
    features = of_layers(tables.features, layers, site)[["layer", "feature"]]
    finite = finite_features(tables)[["abs_max", "ratio"]].reindex(features.index)
    return features.assign(value=finite["abs_max"], ratio=finite["ratio"])


def peaks(tables: Tables, layers: Sequence[str], site: str = INPUT) -> pd.DataFrame:
    """By layer the largest |value|, of which feature, and the median feature's.

    Columns: worst, feature, typical, ratio (worst ÷ typical).
    """
    found = at_site(feature_measures(tables), site)
    columns = {"worst": "peak", "feature": "peak_feature", "typical": "median_peak", "ratio": "feature_ratio"}
    return pd.DataFrame({name: found[column] for name, column in columns.items()}).reindex(list(layers))


def unit_of(chosen: pd.DataFrame) -> str | None:
    """The sample unit that all chosen norms share, or None where they differ."""
    units = set(map(str, chosen["sample_unit"]))
    return units.pop() if len(units) == 1 else None
