"""Third and fourth moments: columns of frames that are there where kurtosis was measured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from normprobe.kernels.distributions.central_moments import (
    CENTRAL_FIELDS,
    CentralMoments,
    merge_central,
    pool_central,
)
from normprobe.kernels.distributions.options import Distribution
from normprobe.tables.columns.distributions import KURTOSIS
from normprobe.tables.columns.tables import POWERS


def has_powers(frame: pd.DataFrame) -> bool:
    """Whether a frame of moments has the third and fourth."""
    return POWERS[0] in frame


def power_columns(every: Sequence[Distribution | None], widths: Sequence[int]) -> dict[str, NDArray[Any]]:
    """The columns of the third and fourth moments of each feature; none where no place has them.

    Args:
        every: the distribution of each place.
        widths: how many features each has.
    """
    held = [None if found is None else found.features for found in every]
    if all(features is None for features in held):
        return {}
    unknown = [np.full(width, np.nan) for width in widths]
    return {
        name: np.concatenate(
            [
                gap if features is None else getattr(features, name)
                for features, gap in zip(held, unknown, strict=True)
            ]
        )
        for name in POWERS
    }


def central_of(frame: pd.DataFrame) -> CentralMoments:
    """The central moments that a frame's columns hold."""
    return CentralMoments(*(frame[name].to_numpy(np.float64) for name in CENTRAL_FIELDS))


def merged_powers(parts: Sequence[tuple[pd.DataFrame, NDArray[np.int64]]], size: int) -> dict[str, Any]:
    """The third and fourth moments of the whole; no columns where a part lacks them.

    Args:
        parts: the features' moments of each part, and which rows of the whole they are.
        size: how many rows the whole has.
    """
    if not all(has_powers(frame) for frame, _ in parts):
        return {}
    merged = CentralMoments.empty(size)
    for frame, rows in parts:
        own = CentralMoments.empty(size)
        for into, column in zip(vars(own).values(), vars(central_of(frame)).values(), strict=True):
            into[rows] = column
        merged = merge_central(merged, own)
    return {name: getattr(merged, name) for name in POWERS}


def kurtosis_columns(frame: pd.DataFrame) -> dict[str, Any]:
    """The column of kurtosis, a row per row of a frame of moments; none where that has no fourth moments."""
    return {KURTOSIS: _where_varying(central_of(frame).kurtosis, frame)} if has_powers(frame) else {}


def _where_varying(found: NDArray[np.float64], extremes: pd.DataFrame) -> NDArray[np.float64]:
    """Kurtosis without that of numbers that are all equal, whose variance is 0 or rounding."""
    return np.where(extremes["min"] < extremes["max"], found, np.nan)


def layer_kurtosis(
    features: pd.DataFrame,
    by_width: Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]],
    sites: pd.DataFrame,
) -> dict[str, Any]:
    """The column of kurtosis of the table of layers, of all finite values of each place.

    Args:
        features: the moments of features.
        by_width: places of one width each, and the rows of their features, shape (width, places).
        sites: a row per place, with its smallest and largest value.
    """
    if not has_powers(features):
        return {}
    moments, found = central_of(features), np.full(len(sites), np.nan)
    for at, grid in by_width:
        block = CentralMoments(*(field[grid] for field in vars(moments).values()))
        found[at] = pool_central(block).kurtosis[0]
    return {KURTOSIS: _where_varying(found, sites)}
