"""The frame of counts in bins: built from records, merged by adding, and checked.

A row per place and bin that holds a number. ``bin`` is that of `normprobe.kernels.distributions.bins` plus
`ZERO`, so that none is negative; NaN and Inf are in no bin.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from normprobe.kernels.distributions.bins import MOST_BIN, counted_bins
from normprobe.kernels.distributions.options import Distribution
from normprobe.tables.columns.tables import BASE, based

ZERO = MOST_BIN
"""The ``bin`` of exact zeros."""

_KEY = ["place", "bin"]


def no_counts() -> pd.DataFrame:
    """The counts of no place, as where none were asked for."""
    return pd.DataFrame({name: np.empty(0, np.int64) for name in BASE["bin_counts"]})


def count_frame(every: Sequence[Distribution | None]) -> pd.DataFrame:
    """The counts of each place, in order.

    Args:
        every: the distribution of each place.
    """
    tables = [None if held is None else held.counts for held in every]
    parts = [
        _counts_of(place, *counted_bins(table)) for place, table in enumerate(tables) if table is not None
    ]
    return based("bin_counts", pd.concat(parts)) if parts else no_counts()


def _counts_of(place: int, bins: NDArray[np.int64], counts: NDArray[np.int64]) -> pd.DataFrame:
    return pd.DataFrame({"place": np.full(len(bins), place), "bin": bins + ZERO, "count": counts})


def merge_counts(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """The counts of the union of all parts, whose places are those of the whole: exact, as they are whole."""
    union = pd.concat(frames, ignore_index=True)
    # Sorted, as `counts_at` finds a place by bisection.
    return based("bin_counts", union.groupby(_KEY, sort=True)["count"].sum().reset_index())


def counts_at(counts: pd.DataFrame, place: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The bins of one place that hold numbers, ascending, as `bins` numbers them, and how many each holds."""
    start, stop = np.searchsorted(counts["place"].to_numpy(), [place, place + 1])
    rows = counts.iloc[start:stop]
    return rows["bin"].to_numpy() - ZERO, rows["count"].to_numpy()


def wrong_counts(counts: pd.DataFrame, finite: NDArray[np.int64]) -> Iterator[str]:
    """What is wrong with the counts that a file holds.

    Args:
        counts: the frame.
        finite: how many finite numbers each place has.
    """
    place, bins = counts["place"].to_numpy(), counts["bin"].to_numpy()
    if (place >= len(finite)).any() or (bins > 2 * MOST_BIN).any():
        yield "counts of unknown sites or bins"
        return
    order = np.lexsort((bins, place))
    if counts.duplicated(_KEY).any() or (order != np.arange(len(order))).any():
        yield "counts out of order"
    total = np.zeros(len(finite), np.int64)
    # `total[place] +=` would add only one of the rows of each place.
    np.add.at(total, place, counts["count"].to_numpy())
    if ((total != finite) & (total != 0)).any():
        yield "other counts than its sites have numbers"
