"""From which site on samples are the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from normprobe.tables.columns import SITE_KEY
from normprobe.tables.measures.layers import inputs_and_outputs
from normprobe.vocabulary import INPUT

if TYPE_CHECKING:
    from normprobe.tables.frames import Tables


def collapsed(tables: Tables, *, spread: float = 1e-4, samples: int = 4, rest: float = 0.5) -> pd.MultiIndex:
    """The sites, in order of execution, from which on samples are the same.

    A model whose last Linear writes only zeros does not count: classifiers are often initialized so. Nor does
    a learned constant (a query, a class token, a branch started at 0): an input that is exactly the same for
    all samples of a model in whose last layer they differ.

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
    lost = layers[same & (later >= rest)]
    if len(lost) == 1 and lost["mean_square"].iloc[0] == 0 and lost.index[0] == layers.index[-1]:
        lost = lost.iloc[:0]
    if _is_learned_constant(layers, lost):
        lost = lost.iloc[:0]
    return pd.MultiIndex.from_tuples(lost.index.to_list() or [("", "")], names=SITE_KEY)[: len(lost)]


_ROUNDING = 1e-12
"""A share of the mean square that varies over samples only by rounding."""


def _is_learned_constant(layers: pd.DataFrame, lost: pd.DataFrame) -> bool:
    """Whether collapsed sites begin with one that reads a constant, though what the model ends in differs."""
    if lost.empty or lost.index[0][1] != INPUT or lost.index[0] == layers.index[0]:
        return False
    return bool(lost["spread"].iloc[0] <= _ROUNDING < layers["spread"].iloc[-1])
