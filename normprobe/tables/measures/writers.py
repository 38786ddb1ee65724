"""Which layer wrote a value that another one reads."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from normprobe.tables.measures.by_site import by_site, numbers
from normprobe.tables.measures.common import at_site
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
    # In order of execution, so that the last one that has the value is the nearest to the reader.
    writes = writes.iloc[np.argsort(writes["depth"].to_numpy(), kind="stable")]
    wanted, column = np.unique(read["feature"].to_numpy(dtype=np.int64), return_inverse=True)
    wrote = _written(tables, writes.index, wanted)
    depth, width = (writes[name].to_numpy() for name in ("depth", "n_features"))
    known = dict(zip(reads.index, zip(reads["depth"], reads["n_features"], strict=True), strict=True))
    names = []
    for layer, at, value in zip(read["layer"], column, read["abs_max"], strict=True):
        reader_depth, reader_width = known[layer]
        before = (depth < reader_depth) & (width == reader_width)
        # Half of it: a sum or an activation on the way may have changed the value.
        has = np.flatnonzero(before & (wrote[:, at] >= 0.5 * value))
        names.append(str(writes.index[has[-1]]) if len(has) else "")
    return pd.Series(names, index=read.index, dtype="string")


def _written(tables: Tables, layers: pd.Index, features: NDArray[np.int64]) -> NDArray[np.float64]:
    """The largest |value| that each of the layers writes into each of these features, NaN for none."""
    sites = by_site(tables, "features")
    line = [
        layers.get_loc(layer) if site == OUTPUT and layer in layers else -1 for layer, site in sites.index
    ]
    feature = tables.features["feature"].to_numpy()
    rows = np.flatnonzero(np.isin(feature, features) & (sites.of(np.array(line, dtype=np.int64)) >= 0))
    found = np.full((len(layers), len(features)), np.nan)
    at = np.array(line, dtype=np.int64)[sites.codes[rows]], np.searchsorted(features, feature[rows])
    found[at] = numbers(tables.features, "abs_max")[rows]
    return found
