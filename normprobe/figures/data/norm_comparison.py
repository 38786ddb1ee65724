"""The numbers behind the comparison of norms: the order kept within a row, the change with the batch size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from normprobe.errors import NoSamplesError
from normprobe.figures.data import layer_statistics
from normprobe.vocabulary import INPUT, OUTPUT

if TYPE_CHECKING:
    from normprobe.tables.frames import HasTables, Tables

IDENTITY = ["example", "position", "repeat"]


def order_within_samples(tables: Tables | HasTables, layer: str) -> pd.DataFrame:
    """How well a norm keeps the order of the features within each kept row: Spearman's rank correlation.

    The norm's own scale and shift are taken out (features scaled by 0 left out), so that 1 means that the
    normalization alone changes no order, as LayerNorm's does not.

    Args:
        tables: a recording or its tables.
        layer: name of a norm that fired.

    Returns:
        Columns example, position, repeat, order (-1 to 1; missing where a row is constant or not finite).

    Raises:
        NoSamplesError: no raw rows of this layer are kept.
    """
    source = layer_statistics.tables_of(tables)
    before, after = (source.values(layer, site) for site in (INPUT, OUTPUT))
    applied = layer_statistics.of_layers(source.features, [layer], OUTPUT).sort_values("feature")
    weight, bias = (applied[name].to_numpy(float) for name in ("weight", "bias"))
    # What was multiplied by 0 cannot be had back.
    scaled = weight != 0
    bare = (after[:, scaled] - bias[scaled]) / weight[scaled]
    order = _rank_correlation(before[:, scaled], bare)
    return _identities(source, layer, len(order)).assign(order=order)


def change_with_batch(recordings: Mapping[int, Tables | HasTables], layer: str) -> pd.DataFrame:
    """How far the output of a norm for one and the same row depends on the batch that it is in.

    Args:
        recordings: recordings of the same data by their batch size.
        layer: name of a norm that fired in all of them.

    Returns:
        Columns example, position, repeat, batch, change: the Euclidean distance of the row after the norm
        from what it is in the largest batches, ÷ the latter's length.

    Raises:
        NoSamplesError: no raw rows of this layer are kept, or the recordings share none.
    """
    rows = {
        size: _rows_after(layer_statistics.tables_of(recordings[size]), layer) for size in sorted(recordings)
    }
    reference = rows[max(rows)]
    changes = []
    for size, frame in rows.items():
        shared = frame.index.intersection(reference.index)
        if shared.empty:
            raise NoSamplesError(
                f"batches of {size} and of {max(rows)} share no kept row of {layer!r}; record the same data, "
                "in the same order, with the same seed"
            )
        one, other = frame.loc[shared].to_numpy(), reference.loc[shared].to_numpy()
        distance = np.linalg.norm(one - other, axis=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            # Two rows of zeros are equal; 0 ÷ 0 would leave them out.
            changed = np.where(distance == 0, 0.0, distance / np.linalg.norm(other, axis=1))
        changes.append(shared.to_frame(index=False).assign(batch=size, change=changed))
    return pd.concat(changes, ignore_index=True)


def _rows_after(tables: Tables, layer: str) -> pd.DataFrame:
    """The kept rows after a norm, a column per feature, indexed by their identity."""
    values = tables.values(layer, OUTPUT)
    return pd.DataFrame(values, index=pd.MultiIndex.from_frame(_identities(tables, layer, len(values))))


def _identities(tables: Tables, layer: str, count: int) -> pd.DataFrame:
    """Which samples the kept raw rows belong to: the first of the kept samples."""
    samples = layer_statistics.of_layers(tables.samples, [layer], OUTPUT)
    return samples[IDENTITY].head(count).reset_index(drop=True)


def _rank_correlation(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Pearson's correlation of the ranks of each pair of rows; NaN where one is constant or not finite."""
    # Ties share the mean of their ranks, which pandas gives by default and two argsorts would not.
    ranks = [pd.DataFrame(values).rank(axis=1).to_numpy() for values in (one, other)]
    a, b = (rank - rank.mean(axis=1, keepdims=True) for rank in ranks)
    size = np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
    finite = np.isfinite(one).all(axis=1) & np.isfinite(other).all(axis=1) & (size > 0)
    result: np.ndarray = np.where(finite, (a * b).sum(axis=1) / np.where(size > 0, size, 1), np.nan)
    return result
