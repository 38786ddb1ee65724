"""Which layer wrote a value that another one reads."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from normprobe.tables.measures.common import at_site
from normprobe.tables.measures.features import finite_features
from normprobe.tables.measures.layers import layer_measures
from normprobe.vocabulary import INPUT, OUTPUT

if TYPE_CHECKING:
    from normprobe.tables.frames import Tables


def writer(tables: Tables, layer: str, feature: int, value: float) -> str:
    """The layer that wrote one value; see `writers`.

    Args:
        tables: the tables.
        layer: the layer that reads the value.
        feature: the feature that holds it.
        value: the largest |value| of that feature at the input of ``layer``.
    """
    read = pd.DataFrame({"layer": [layer], "feature": [feature], "abs_max": [value]})
    return str(writers(tables, read).iloc[0])


def writers(tables: Tables, read: pd.DataFrame) -> pd.Series:
    """By row of ``read``, the layer executed last before the reader whose output already has the value.

    A layer counts if its output has as many features as the input of the reader and reaches at least half of
    the value in that feature. Empty if there is none: then an operation that is not probed wrote it.

    Args:
        tables: the tables.
        read: ``layer`` (who reads), ``feature`` and ``abs_max`` (largest |value| of it there), one row each.

    Returns:
        Names of layers, with the index of ``read``.
    """
    layers = layer_measures(tables)
    reads, writes = at_site(layers, INPUT), at_site(layers, OUTPUT)
    features = finite_features(tables)
    wanted = features["feature"].isin(read["feature"].unique()) & (features["site"] == OUTPUT)
    wrote = features.loc[wanted, ["layer", "feature", "abs_max"]].pivot(
        index="layer", columns="feature", values="abs_max"
    )
    # In order of execution, so that the last one that has the value is the nearest to the reader.
    wrote = wrote.reindex(writes.index[np.argsort(writes["depth"].to_numpy(), kind="stable")])
    depth, width = (writes.loc[wrote.index, name].to_numpy() for name in ("depth", "n_features"))
    names = []
    for layer, feature, value in zip(read["layer"], read["feature"], read["abs_max"], strict=True):
        reader = reads.loc[layer]
        before = (depth < reader["depth"]) & (width == reader["n_features"])
        # Half of it: a sum or an activation on the way may have changed the value.
        has = before & (wrote[feature].to_numpy() >= 0.5 * value) if feature in wrote else ~before & before
        names.append(str(wrote.index[has.nonzero()[0][-1]]) if has.any() else "")
    return pd.Series(names, index=read.index, dtype="string")
