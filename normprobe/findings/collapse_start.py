"""From which site on samples are the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from normprobe.tables.columns.tables import SITE_KEY
from normprobe.tables.measures.layers import inputs_and_outputs
from normprobe.vocabulary import INPUT, OUTPUT

if TYPE_CHECKING:
    from normprobe.tables.frames import Tables


def collapsed(tables: Tables, *, spread: float = 1e-4, samples: int = 4, rest: float = 0.5) -> pd.MultiIndex:
    """The sites, in order of execution, from which on samples are the same.

    Where a later layer reads samples that differ they were not lost, and came by another path: only what lies
    behind the last such layer counts. Nor is a branch at the end of a model a collapse whose weights are
    small beside its bias: what it is added to is not measured. A model whose last Linear writes only zeros
    does not count: classifiers are often initialized so. Nor does a learned constant (a query, a class
    token, a branch started at 0): an input that is exactly the same for all samples of a model in whose
    last layer they differ.

    Args:
        tables: the tables.
        spread: largest share of the mean square that varies over samples where they count as the same.
        samples: least number of samples at a site.
        rest: least share of the later sites where samples must be the same as well.
    """
    layers = inputs_and_outputs(tables)
    layers = layers[layers["n_samples"] >= samples]
    same = (layers["spread"] < spread).to_numpy()
    # The share of collapsed sites from each one on: a single layer that reads a constant is no collapse.
    later = same[::-1].cumsum()[::-1] / np.arange(len(same), 0, -1)
    reads = np.array([site == INPUT for _, site in layers.index], dtype=bool)
    # Of channel layers the rows are pixels, which differ at the borders of examples that are all the same.
    reads &= layers["sample_unit"].eq("position").to_numpy(bool)
    differs = reads & (layers["spread"] >= _LEAST_SPREAD).to_numpy(bool)
    behind = np.arange(len(same)) > differs.nonzero()[0].max(initial=-1)
    lost = layers[same & (later >= rest) & behind]
    if len(lost) == 1 and lost["mean_square"].iloc[0] == 0 and lost.index[0] == layers.index[-1]:
        lost = lost.iloc[:0]
    if _is_learned_constant(layers, lost) or _is_last_branch(layers, lost):
        lost = lost.iloc[:0]
    return pd.MultiIndex.from_tuples(lost.index.to_list() or [("", "")], names=SITE_KEY)[: len(lost)]


_ROUNDING = 1e-12
"""A share of the mean square that varies over samples only by rounding."""


_LEAST_SPREAD = 0.01
"""A share of the mean square that varies over samples by far more than where they count as the same."""


def _is_last_branch(layers: pd.DataFrame, lost: pd.DataFrame) -> bool:
    """Whether a Linear with small weights begins what is lost, all of it in a module at the model's end."""
    if lost.empty or lost.index[-1] != layers.index[-1]:
        return False
    site, parent = lost.index[0][1], str(lost.index[0][0]).rpartition(".")[0]
    inside = parent and all(str(name).startswith(f"{parent}.") for name, _ in lost.index)
    # Weights that are 0 give exactly the same; that is a fault, wherever it is.
    small = site == OUTPUT and lost["spread"].iloc[0] > _ROUNDING and lost["kind"].iloc[0] == "linear"
    if not (inside and small):
        return False
    # What the branch reads differs, if not what its last Linear does: all of its weights may be small.
    reads = [site == INPUT and str(name).startswith(f"{parent}.") for name, site in layers.index]
    return bool((layers.loc[reads, "spread"] >= _LEAST_SPREAD).any())


def _is_learned_constant(layers: pd.DataFrame, lost: pd.DataFrame) -> bool:
    """Whether collapsed sites begin with a constant that is read, though what the model ends in differs.

    Or with what small branches have made of it: tensors as large as one that an earlier layer read.
    """
    if lost.empty or lost.index[0][1] != INPUT or lost.index[0] == layers.index[0]:
        return False
    first = lost.iloc[0]
    before = layers.iloc[: layers.index.to_list().index(lost.index[0]) + 1]
    before = before[[site == INPUT for _, site in before.index]].iloc[1:]
    sized = (before["n_samples"] == first["n_samples"]) & (before["n_features"] == first["n_features"])
    return bool(before.loc[sized, "spread"].min() <= _ROUNDING < layers["spread"].iloc[-1])
