"""Statistics per layer and site as figures draw them: quantiles over samples and features, largest values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd

from normprobe.figures.drawing.depth_axis import DepthAxis
from normprobe.vocabulary import INPUT, OUTPUT, in_order

if TYPE_CHECKING:
    from normprobe.tables.frames import Tables

QUANTILES = (0.05, 0.5, 0.95)
NEAR_ZERO = 1e-6  # times the median feature's variance: less is 0 but for rounding
KEYS = ["layer", "site"]


def tables_of(source: Any) -> Tables:
    """The tables of a recording, or the tables themselves."""
    return cast("Tables", getattr(source, "tables", source))


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
    return _spread(samples, flat="flat", kept="kept")


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
    features = of_layers(tables.features, layers)
    features = features[features["count"] > 1]
    weight = features["weight"].astype(float).where(features["site"] == OUTPUT)
    frame = features[["layer", "site", "variance"]].copy()
    frame["scaled"] = frame["variance"]
    frame["variance"] = frame["variance"] / weight.fillna(1.0).where(lambda w: w != 0) ** 2
    varying = _varying(frame)
    frame["variance"] = frame["variance"].where(varying | frame["variance"].isna(), 0.0)
    frame["scaled"] = frame["scaled"].where(varying, 0.0)
    spread = _spread(frame[["layer", "site", "variance"]].dropna(), flat="constant", kept="features")
    scaled = frame.drop(columns="variance").rename(columns={"scaled": "variance"})
    spread["scaled"] = _spread(scaled, flat="constant", kept="features")["ratio"]
    return spread


def _varying(frame: pd.DataFrame) -> pd.Series[bool]:
    """Which features vary by more than rounding: not next to nothing beside the site's median one."""
    positive = frame["variance"].where(frame["variance"] > 0)
    typical = positive.groupby([frame["layer"], frame["site"]]).transform("median")
    return frame["variance"] > NEAR_ZERO * typical


def _spread(frame: pd.DataFrame, *, flat: str, kept: str) -> pd.DataFrame:
    """Quantiles of `variance` by layer and site, and how far the positive ones are spread."""
    result = quantiles(frame, QUANTILES)
    result.columns = pd.Index(["p5", "p50", "p95"])
    above = frame[frame["variance"] > 0]
    ends, size = quantiles(above, (0.05, 0.95)), above.groupby(KEYS)["variance"].size()
    result["ratio"] = (ends[0.95] / ends[0.05]).where(size > 1)
    result[kept] = frame.groupby(KEYS)["variance"].size()
    result[flat] = result[kept] - size.reindex(result.index, fill_value=0)
    result[["p5", "p95"]] = result[["p5", "p95"]].where(result[kept] > 1)
    return result


def quantiles(frame: pd.DataFrame, shares: Sequence[float], column: str = "variance") -> pd.DataFrame:
    """Quantiles of a column by layer and site, a column each; without rows where there are no data."""
    groups = frame.groupby(KEYS, observed=True)[column]
    return groups.quantile(np.array(shares)).unstack().reindex(columns=list(shares)).astype(float)


def largest_values(tables: Tables, layers: Sequence[str], site: str = INPUT) -> pd.DataFrame:
    """The largest |value| of each feature: columns layer, feature, value."""
    features = of_layers(tables.features, layers, site)
    ends = features[["min", "max"]].abs().max(axis=1)
    return features[["layer", "feature"]].assign(value=ends.astype(float))


def peaks(tables: Tables, layers: Sequence[str], site: str = INPUT) -> pd.DataFrame:
    """By layer the largest |value| (`worst`), its `feature`, and the median feature's (`typical`)."""
    largest = largest_values(tables, layers, site).dropna()
    at = largest.groupby("layer", observed=True)["value"].idxmax()
    worst = largest.loc[at].set_index("layer")
    typical = largest.groupby("layer", observed=True)["value"].median()
    return pd.DataFrame({"worst": worst["value"], "feature": worst["feature"], "typical": typical}).reindex(
        list(layers)
    )


def unit_of(chosen: pd.DataFrame) -> str | None:
    """The sample unit that all chosen norms share, or None where they differ."""
    units = set(map(str, chosen["sample_unit"]))
    return units.pop() if len(units) == 1 else None
