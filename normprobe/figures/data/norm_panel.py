"""The numbers behind the panel of one norm: values, samples and features, before and after."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from normprobe.errors import NoSamplesError
from normprobe.figures.data import layer_statistics
from normprobe.formatting import format_number, sample_word
from normprobe.tables.measures.by_site import by_site
from normprobe.tables.measures.common import cached
from normprobe.vocabulary import INPUT, OUTPUT

if TYPE_CHECKING:
    from normprobe.tables.frames import Tables

SITES = (INPUT, OUTPUT)  # the panel is of what a norm reads and writes; further sites are not in it
_MOMENTS = ("mean", "variance", "min", "max")
ROUNDING = 1e-6  # standard deviations: what float32 leaves of a mean that is 0


@dataclass(frozen=True)
class Panel:
    """The numbers of one norm.

    Attributes:
        layer: its name.
        kind: its kind.
        unit: what one sample is called, singular.
        moments: mean, variance, min and max by site; NaN where nothing was measured.
        values: kept raw rows by site, (rows, features), finite or not; empty where none were kept.
        features: variance per feature by site, in order of the features.
        samples: variance per kept sample by site.
        defined: whether variances across samples are defined: more than one value per feature.
        seen: how many samples the norm saw.
    """

    layer: str
    kind: str
    unit: str
    moments: dict[str, dict[str, float]]
    values: dict[str, np.ndarray]
    features: dict[str, np.ndarray]
    samples: dict[str, np.ndarray]
    defined: bool
    seen: int

    def text(self, site: str, key: str) -> str:
        """Write the mean or variance of one site; a mean that is only rounding as 0."""
        row = self.moments[site]
        rounding = key == "mean" and abs(row["mean"]) < ROUNDING * np.sqrt(row["variance"])
        return "0" if rounding else format_number(row[key])


def summarize(tables: Tables, layer: str) -> Panel:
    """Take from the tables what the panel of one norm shows.

    Raises:
        ValueError: no norm of this name fired.
    """
    rows, columns = _norm_rows(tables).get(layer), _columns(tables)
    if rows is None:
        names = ", ".join(map(repr, layer_statistics.norms(tables)["layer"].head(3)))
        raise ValueError(f"no norm {layer!r} fired in this recording; there are {names or 'none'}")
    features = {site: _in_order(tables, columns, layer, site) for site in SITES}
    samples = {site: by_site(tables, "samples").rows(layer, site) for site in SITES}
    first = next(iter(rows.values()))
    return Panel(
        layer=layer,
        kind=str(first["kind"]),
        unit=sample_word(tables.meta, str(first["sample_unit"])),
        moments={
            site: {name: rows[site][name] if site in rows else np.nan for name in _MOMENTS} for site in SITES
        },
        values={site: _values(tables, layer, site) for site in SITES},
        features={site: columns.feature_variance[at] for site, at in features.items()},
        samples={site: columns.sample_variance[at] for site, at in samples.items()},
        defined=any((columns.counts[at] > 1).any() for at in features.values()),
        seen=int(max(row["n_samples"] for row in rows.values())),
    )


class _Columns(NamedTuple):
    """What panels take of the large tables, as arrays: for each of up to 64 norms."""

    feature: np.ndarray
    counts: np.ndarray
    feature_variance: np.ndarray
    sample_variance: np.ndarray


@cached
def _columns(tables: Tables) -> _Columns:
    features, variances = tables.features, tables.samples["variance"]
    return _Columns(
        features["feature"].to_numpy(),
        features["count"].to_numpy(),
        features["variance"].to_numpy(dtype=float),
        variances.to_numpy(dtype=float),
    )


@cached
def _norm_rows(tables: Tables) -> dict[str, dict[str, dict[str, Any]]]:
    """What panels take of the layers table, by norm and site."""
    layers = tables.layers
    norms = layers.loc[
        layers["kind"] != "linear", ["layer", "site", "kind", "sample_unit", "n_samples", *_MOMENTS]
    ]
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for row in norms.to_dict("records"):
        found.setdefault(row["layer"], {})[row["site"]] = {str(name): value for name, value in row.items()}
    return found


def _values(tables: Tables, layer: str, site: str) -> np.ndarray:
    """The kept rows, none where none were kept."""
    try:
        return tables.values(layer, site)
    except NoSamplesError:
        return np.empty((0, 0))


def _in_order(tables: Tables, columns: _Columns, layer: str, site: str) -> np.ndarray:
    """Where the features of a layer and site are in the table, in order."""
    # A bar stands where its feature is: the order of rows is the chart's axis.
    rows = by_site(tables, "features").rows(layer, site)
    return rows[np.argsort(columns.feature[rows], kind="stable")]
