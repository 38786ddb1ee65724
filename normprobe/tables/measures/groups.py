"""Measures of groups of samples: how their values at the inputs of layers differ."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from normprobe.tables.measures.common import cached
from normprobe.vocabulary import INPUT, NO_GROUP

if TYPE_CHECKING:
    from normprobe.tables.frames import Tables


@cached
def group_measures(tables: Tables) -> pd.DataFrame:
    """What each group of samples reads at the input of each norm; of each Linear in a model without norms.

    Returns:
        layer, group, n_samples, variance, abs_max and ratio (of the layer: the largest abs_max of a group ÷
        the smallest; NaN where that is 0, or there is one group), in order of execution. Samples of no group
        are left out. No rows where samples are not told apart.
    """
    columns = ["layer", "group", "n_samples", "variance", "abs_max"]
    if not tables.is_grouped:
        return pd.DataFrame(columns=[*columns, "ratio"])
    layers = tables.public("layers")
    norms = layers["kind"] != "linear"
    chosen = layers[
        (layers["site"] == INPUT) & (layers["group"] != NO_GROUP) & (norms if norms.any() else ~norms)
    ]
    found = chosen[columns].reset_index(drop=True)
    by_layer = found.groupby("layer", sort=False)["abs_max"]
    smallest, several = by_layer.transform("min"), by_layer.transform("count") > 1
    ratio = by_layer.transform("max") / smallest.where((smallest > 0) & several, np.nan)
    return found.assign(ratio=ratio)
