"""Statistics per layer and site as figures draw them: quantiles over samples and features, largest values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd

from normprobe.figures.drawing.depth_axis import DepthAxis
from normprobe.tables.measures.by_site import by_site, grouped, numbers
from normprobe.tables.measures.common import at_site, cached
from normprobe.tables.measures.features import (
    feature_measures,
    feature_spreads,
    finite_features,
)
from normprobe.tables.measures.samples import sample_spreads
from normprobe.vocabulary import INPUT, in_order

if TYPE_CHECKING:
    from normprobe.tables.frames import Tables


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
    found = _found_norms(tables)
    if site not in found:
        found[site] = _norms(tables.layers, site)
    return found[site].copy(deep=False)


@cached
def _found_norms(_: Tables) -> dict[str | None, pd.DataFrame]:
    """The norms by site, as far as figures have asked: each does several times."""
    return {}


def _norms(layers: pd.DataFrame, site: str | None) -> pd.DataFrame:
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
    """What `sample_spreads` says of some layers, by (layer, site)."""
    return _of(sample_spreads(tables), layers)


def feature_quantiles(tables: Tables, layers: Sequence[str]) -> pd.DataFrame:
    """What `feature_spreads` says of some layers, by (layer, site)."""
    return _of(feature_spreads(tables), layers)


def _of(found: pd.DataFrame, layers: Sequence[str]) -> pd.DataFrame:
    return found[found.index.isin(list(layers), level="layer")]


def quantiles(frame: pd.DataFrame, shares: Sequence[float], column: str = "variance") -> pd.DataFrame:
    """Quantiles of a column by layer and site, a column each; without rows where there are no data."""
    sites = grouped(frame)
    found = sites.quantiles(numbers(frame, column), tuple(shares))
    return pd.DataFrame(found.T, index=sites.index, columns=list(shares))


def largest_ratios(tables: Tables, layers: Sequence[str], site: str = INPUT) -> pd.DataFrame:
    """The largest |value| of each feature ÷ the median feature's: a row per layer, a column per feature."""
    finite, sites = finite_features(tables), by_site(tables, "features")
    ratio = np.full(len(sites.codes), np.nan)
    ratio[finite.index] = numbers(finite, "ratio")
    feature = tables.features["feature"].to_numpy()
    rows = [sites.rows(layer, site) for layer in layers]
    width = 1 + max((int(feature[at].max(initial=-1)) for at in rows), default=-1)
    found = np.full((len(layers), width), np.nan)
    for line, at in zip(found, rows, strict=True):
        line[feature[at]] = ratio[at]
    return pd.DataFrame(found, index=pd.Index(list(layers), name="layer"))


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
