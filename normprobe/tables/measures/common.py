"""What every measure needs: computing once per recording, ratios, rows of one site."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakKeyDictionary

import pandas as pd

if TYPE_CHECKING:
    from normprobe.tables.frames import Tables

Frame = TypeVar("Frame", pd.DataFrame, pd.Series)


def cached(measure: Callable[[Tables], pd.DataFrame]) -> Callable[[Tables], pd.DataFrame]:
    """Compute a measure once for the same tables: a dozen checks ask for it, and features have many rows."""
    # Tables are frozen, so a result never grows stale; keyed weakly, so that it dies with its tables.
    results: WeakKeyDictionary[Tables, pd.DataFrame] = WeakKeyDictionary()

    @wraps(measure)
    def from_cache(tables: Tables) -> pd.DataFrame:
        if tables not in results:
            results[tables] = measure(tables)
        # A shallow copy: a caller that adds columns does not change what the next one gets.
        return results[tables].copy(deep=False)

    return from_cache


def ratio(above: pd.Series, below: pd.Series) -> pd.Series:
    """``above`` ÷ ``below``; NaN where the divisor is not positive, since a ratio to nothing says nothing."""
    return above / below.where(below > 0)


def percentile_ratio(values: pd.Series, by: list[pd.Series]) -> pd.Series:
    """95th ÷ 5th percentile of the positive values of each group; NaN where fewer than two are positive."""
    positive = values > 0
    # Percentiles: the ratio of the largest to the smallest would be that of two values.
    groups = values[positive].groupby([key[positive] for key in by], sort=False, observed=True)
    return (groups.quantile(0.95) / groups.quantile(0.05)).where(groups.size() > 1)


def at_site(frame: Frame, site: str) -> Frame:
    """The rows of one site, by layer, of a frame or series by layer and site."""
    return frame[frame.index.get_level_values("site") == site].droplevel("site")


def row_of(frame: pd.DataFrame, layer: str, site: str) -> Any:
    """The row of one layer and site; its columns are of many types."""
    return frame.loc[(layer, site)]
