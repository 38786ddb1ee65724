"""The numbers behind the panel of one norm: values, samples and features, before and after."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from normprobe.errors import NoSamplesError
from normprobe.figures.data import layer_statistics
from normprobe.formatting import format_number, sample_word
from normprobe.tables.measures.by_site import by_site
from normprobe.vocabulary import INPUT, OUTPUT

if TYPE_CHECKING:
    from normprobe.tables.frames import Tables

SITES = (INPUT, OUTPUT)  # the panel is of what a norm reads and writes; further sites are not in it
ROUNDING = 1e-6  # standard deviations: what float32 leaves of a mean that is 0


@dataclass(frozen=True)
class Panel:
    """The numbers of one norm.

    Attributes:
        layer: its name.
        kind: its kind.
        unit: what one sample is called, singular.
        moments: the rows of the layers table, by site; all missing where nothing was measured.
        values: kept raw rows by site, (rows, features), finite or not; empty where none were kept.
        features: variance per feature by site, in order of the features.
        samples: variance per kept sample by site.
        defined: whether variances across samples are defined: more than one value per feature.
        seen: how many samples the norm saw.
    """

    layer: str
    kind: str
    unit: str
    moments: dict[str, pd.Series[Any]]
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
    rows = tables.layers[tables.layers["layer"] == layer].set_index("site")
    if rows.empty or rows["kind"].iloc[0] == "linear":
        names = ", ".join(map(repr, layer_statistics.norms(tables)["layer"].head(3)))
        raise ValueError(f"no norm {layer!r} fired in this recording; there are {names or 'none'}")
    features = {site: _in_order(tables, layer, site) for site in SITES}
    samples = {site: by_site(tables, "samples").rows(layer, site) for site in SITES}
    counts = tables.features["count"].to_numpy()
    return Panel(
        layer=layer,
        kind=str(rows["kind"].iloc[0]),
        unit=sample_word(tables.meta, str(rows["sample_unit"].iloc[0])),
        moments={str(site): row for site, row in rows.reindex(list(SITES)).iterrows()},
        values={site: _values(tables, layer, site) for site in SITES},
        features={site: _variances(tables.features, at) for site, at in features.items()},
        samples={site: _variances(tables.samples, at) for site, at in samples.items()},
        defined=any((counts[at] > 1).any() for at in features.values()),
        seen=int(rows["n_samples"].max()),
    )


def _values(tables: Tables, layer: str, site: str) -> np.ndarray:
    """The kept rows, none where none were kept."""
    try:
        return tables.values(layer, site)
    except NoSamplesError:
        return np.empty((0, 0))


def _in_order(tables: Tables, layer: str, site: str) -> np.ndarray:
    """Where the features of a layer and site are in the table, in order."""
    # A bar stands where its feature is: the order of rows is the chart's axis.
    rows = by_site(tables, "features").rows(layer, site)
    return rows[np.argsort(tables.features["feature"].to_numpy()[rows], kind="stable")]


def _variances(frame: pd.DataFrame, rows: np.ndarray) -> np.ndarray:
    """The variances in these rows."""
    return np.asarray(frame["variance"].to_numpy(dtype=float)[rows])
