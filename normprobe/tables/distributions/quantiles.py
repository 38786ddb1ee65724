"""Quantiles and histograms of all data, from counts in bins."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from normprobe.kernels.distributions.bins import bin_edges, edges
from normprobe.tables.columns.distributions import QUANTILES
from normprobe.tables.columns.tables import shaped
from normprobe.tables.distributions.bin_counts import counts_at

SHARES = {name: float(name[1:]) / 100 for name in QUANTILES if name.startswith("p")}
"""The share of values that lie at or below each quantile, by its column."""


def quantile_table(counts: pd.DataFrame, sites: pd.DataFrame, kinds: pd.Series) -> pd.DataFrame:
    """A row per layer and site of which there are counts.

    Args:
        counts: the frame of counts.
        sites: a row per place.
        kinds: the kind of each place's layer.
    """
    places = np.unique(counts["place"].to_numpy())
    rows = [
        quantiles_of(*counts_at(counts, place), low=float(low), high=float(high))
        for place, low, high in zip(places, sites["min"].iloc[places], sites["max"].iloc[places], strict=True)
    ]
    names = sites[["layer", "site"]].assign(kind=kinds).iloc[places].reset_index(drop=True)
    frame = pd.DataFrame(rows, columns=["count", "zeros", *SHARES, "bound"])
    return shaped(pd.concat([names, frame], axis=1), QUANTILES)


def quantiles_of(
    bins: NDArray[np.int64], counts: NDArray[np.int64], *, low: float, high: float
) -> dict[str, Any]:
    """The quantiles of one place: of the value at each rank, the place in its bin that its rank has there.

    The value of a share p is that of rank ⌈p n⌉, the smallest one at or below which that share of the values
    lies (`numpy.quantile` calls it ``inverted_cdf``). It lies in a known bin, whose width bounds the error.

    Args:
        bins: the bins that hold numbers, ascending.
        counts: how many each holds.
        low: the smallest value.
        high: the largest.
    """
    upto = counts.cumsum()
    ranks = np.ceil(np.array(list(SHARES.values())) * upto[-1]).clip(1).astype(np.int64)
    at = np.searchsorted(upto, ranks)
    lower, upper = bin_edges(bins[at])
    # The last bin has no upper edge of its own: numbers of float64 beyond are in it, too.
    lower, upper = lower.clip(low, high), upper.clip(low, high)
    # The values of a bin are taken for evenly spread, each in the middle of its share.
    within = (ranks - (upto[at] - counts[at]) - 0.5) / counts[at]
    values = lower + within * (upper - lower)
    # Of the edge nearer to 0, where the same distance is the largest relative error.
    nearest = np.minimum(np.abs(lower), np.abs(upper))
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = np.where(upper > lower, (upper - lower) / nearest, 0.0)
    return {
        "count": upto[-1],
        "zeros": counts[bins == 0].sum(),
        **dict(zip(SHARES, values, strict=True)),
        "bound": relative.max(),
    }


def histogram_of(
    bins: NDArray[np.int64], counts: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Counts and edges as `numpy.histogram` gives them, from the first bin that holds a number to the last.

    Zeros are in the bin that begins at 0. Where there are no negative numbers, edges begin at 0 or above.
    """
    # Bin 0, which has no width, goes with the one above it; those below move up by one.
    slots = np.where(bins < 0, bins, np.maximum(bins - 1, 0))
    first, last = int(slots[0]), int(slots[-1])
    found = np.zeros(last - first + 1, np.int64)
    np.add.at(found, slots - first, counts)
    index = np.arange(first, last + 2)
    return found, np.sign(index) * edges()[np.abs(index)]
