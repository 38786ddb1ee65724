"""What every measure needs: computing once per recording, ratios, rows of one site."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakKeyDictionary

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from normprobe.tables.columns import SITE_KEY

if TYPE_CHECKING:
    from normprobe.tables.frames import Tables

_site_rows: WeakKeyDictionary[Tables, dict[str, dict[tuple[str, str], NDArray[np.int64]]]] = (
    WeakKeyDictionary()
)
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


def site_rows(tables: Tables, name: str) -> dict[tuple[str, str], NDArray[np.int64]]:
    """By layer and site, which rows of ``tables.features`` or ``tables.samples`` are its, in their order.

    Found once for the same tables: to look for one layer's among those of all takes a pass over all names.

    Args:
        tables: the tables.
        name: "features" or "samples".
    """
    found = _site_rows.setdefault(tables, {})
    if name not in found:
        groups = getattr(tables, name)[SITE_KEY].groupby(SITE_KEY, sort=False, observed=True)
        found[name] = groups.indices
    return found[name]


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
