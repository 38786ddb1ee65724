"""Measures of whole sites: extremes, mean squares, what varies over samples, gains of Linear layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from normprobe.tables.columns.tables import SITE_KEY
from normprobe.tables.measures.common import at_site, cached, ratio
from normprobe.tables.measures.features import feature_measures
from normprobe.tables.measures.samples import sample_measures
from normprobe.vocabulary import INPUT, OUTPUT, site_order

if TYPE_CHECKING:
    from normprobe.tables.frames import Tables


@cached
def layer_measures(tables: Tables) -> pd.DataFrame:
    """``tables.layers`` by layer and site, in order of execution, with what follows from its columns.

    Added columns: ``abs_max_feature``, ``abs_max_example`` and ``abs_max_position`` (who holds abs_max),
    ``mean_square`` (variance + mean²), ``rms``, ``abs_ratio`` (abs_max ÷ abs_median; NaN where that is 0),
    ``shades`` (1 - mean_square ÷ (abs_mean x abs_max): 0 when |value| is either 0 or the largest) and
    ``spread`` (within_feature_variance ÷ mean_square: 0 when all samples are the same, zero throughout among
    them).
    """
    layers = tables.layers
    # By the vocabulary, not as the rows lie: of a loaded file only the depths are known to be in order.
    order = pd.DataFrame({"depth": layers["depth"], "site": layers["site"].map(site_order)})
    frame = layers.loc[order.sort_values(["depth", "site"], kind="stable").index].set_index(SITE_KEY)
    # The identities are those of min and max: |value| has none of its own.
    at_the_top = frame["max"] >= -frame["min"]
    for name in ("feature", "example", "position"):
        frame[f"abs_max_{name}"] = frame[f"max_{name}"].where(at_the_top, frame[f"min_{name}"])
    frame["mean_square"] = frame["variance"] + frame["mean"] ** 2
    frame["rms"] = np.sqrt(frame["mean_square"])
    frame["abs_ratio"] = ratio(frame["abs_max"], frame["abs_median"])
    frame["shades"] = 1 - ratio(frame["mean_square"], frame["abs_mean"] * frame["abs_max"])
    frame["spread"] = ratio(frame["within_feature_variance"], frame["mean_square"])
    frame["spread"] = frame["spread"].mask(frame["mean_square"] == 0, 0.0)
    return frame


@cached
def inputs_and_outputs(tables: Tables) -> pd.DataFrame:
    """`layer_measures` of what layers read and write; other sites, such as gradients, are left out."""
    layers = layer_measures(tables)
    return layers[layers.index.isin([INPUT, OUTPUT], level="site")]


def inner_sites(tables: Tables, rows: int) -> pd.DataFrame:
    """The measures of the sites that read no raw data and hold at least ``rows`` values per feature.

    They must come from two samples at least: the pixels of one image are alike. Sites where more than 1 % of
    the values are NaN or Inf are left out: what is 0 or constant there follows from that.
    """
    layers, count = _inner(tables)
    return layers[count >= rows]


@cached
def _inner(tables: Tables) -> tuple[pd.DataFrame, NDArray[np.float64]]:
    """The measures of all such sites, and how many values a feature has there."""
    layers = inputs_and_outputs(tables)
    # Where a block is measured, too, it comes before what it holds: the first is not number 0 then.
    raw = (layers["depth"] == layers["depth"].min()).to_numpy() & (
        layers.index.get_level_values("site") == INPUT
    )
    count = feature_measures(tables)["rows"].reindex(layers.index).to_numpy(dtype=np.float64)
    finite = (layers["nonfinite"] <= 0.01 * count * layers["n_features"]).to_numpy(dtype=bool)
    inner = ~raw & finite & (layers["n_samples"] > 1).to_numpy()
    return layers[inner], count[inner]


def first_to_read(layers: pd.DataFrame) -> str | None:
    """The layer executed first, which reads the data, if its input was measured.

    Args:
        layers: `inputs_and_outputs`.
    """
    return next((str(layer) for layer, site in layers.index[:1] if site == INPUT), None)


@cached
def gain_measures(tables: Tables) -> pd.DataFrame:
    """By how much each Linear multiplies what it reads, at site ``output``.

    Columns: ``gain`` (mean square of the output ÷ of the input, of the median sample) and ``spread_gain``
    (within_feature_variance of the output ÷ of the input). A bias moves only the first, a few massive samples
    only the second. Layers that read or write exactly 0 are left out.
    """
    layers = layer_measures(tables)
    linear = layers[layers["kind"] == "linear"]
    squares = linear.join(sample_measures(tables))[["sample_square", "within_feature_variance"]]
    after, before = at_site(squares, OUTPUT), at_site(squares, INPUT)
    columns = {"gain": "sample_square", "spread_gain": "within_feature_variance"}
    frame = pd.DataFrame({name: ratio(after[column], before[column]) for name, column in columns.items()})
    # Where the layers of both sites are not the same list, dividing has sorted them by name.
    frame = frame.reindex(after.index)
    frame = frame[(frame > 0).all(axis=1)]
    return frame.set_index(pd.MultiIndex.from_product([frame.index, [OUTPUT]], names=SITE_KEY))
