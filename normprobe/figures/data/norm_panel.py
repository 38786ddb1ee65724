"""The numbers behind the panel of one norm: values, samples and features, before and after."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from normprobe.errors import NoSamplesError
from normprobe.figures.data import by_depth
from normprobe.formatting import format_number, sample_word

if TYPE_CHECKING:
    from normprobe.tables.frames import Tables

ROUNDING = 1e-6  # standard deviations: what float32 leaves of a mean that is 0


@dataclass(frozen=True)
class Panel:
    """The numbers of one norm.

    Attributes:
        layer: its name.
        kind: its kind.
        unit: what one sample is called, singular.
        moments: the rows of the layers table, by site.
        values: kept raw rows by site, (rows, features), finite or not; empty where none were kept.
        features: variance per feature by site, in order of the features.
        samples: variance per kept sample by site.
        defined: whether variances across samples are defined: more than one value per feature.
    """

    layer: str
    kind: str
    unit: str
    moments: dict[str, pd.Series[Any]]
    values: dict[str, np.ndarray]
    features: dict[str, np.ndarray]
    samples: dict[str, np.ndarray]
    defined: bool

    def text(self, site: str, key: str) -> str:
        """Write the mean or variance of one site; a mean that is only rounding as 0."""
        row = self.moments[site]
        rounding = key == "mean" and abs(row["mean"]) < ROUNDING * np.sqrt(row["variance"])
        return "0" if rounding else format_number(row[key])


def summarize(tables: Tables, layer: str) -> Panel:
    """Take from the tables what the panel of one norm shows."""
    rows = tables.layers[tables.layers["layer"] == layer].set_index("site")
    if rows.empty or rows["kind"].iloc[0] == "linear":
        names = ", ".join(map(repr, by_depth.norms(tables)["layer"].head(3)))
        raise ValueError(f"no norm {layer!r} fired in this recording; there are {names or 'none'}")
    if not set(by_depth.SITES) <= set(rows.index):
        raise ValueError(f"norm {layer!r} was not measured both before and after; a panel shows both")
    features = by_depth.of_layers(tables.features, [layer]).sort_values("feature")
    samples = by_depth.of_layers(tables.samples, [layer])
    return Panel(
        layer=layer,
        kind=str(rows["kind"].iloc[0]),
        unit=sample_word(tables.meta, str(rows["sample_unit"].iloc[0])),
        moments=dict(
            zip(by_depth.SITES, (row for _, row in rows.loc[list(by_depth.SITES)].iterrows()), strict=True)
        ),
        values={site: _values(tables, layer, site) for site in by_depth.SITES},
        features={site: _variances(features, site) for site in by_depth.SITES},
        samples={site: _variances(samples, site) for site in by_depth.SITES},
        defined=bool((features["count"] > 1).any()),
    )


def _values(tables: Tables, layer: str, site: str) -> np.ndarray:
    """Return the kept rows, none where none were kept."""
    try:
        return tables.values(layer, site)
    except NoSamplesError:
        return np.empty((0, 0))


def _variances(frame: pd.DataFrame, site: str) -> np.ndarray:
    """Return the variances of one site."""
    return np.asarray(frame.loc[frame["site"] == site, "variance"], dtype=float)
