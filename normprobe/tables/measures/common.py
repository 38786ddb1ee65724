"""What every measure needs: computing once per recording, ratios, the rows of one site."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakKeyDictionary

import pandas as pd

if TYPE_CHECKING:
    from normprobe.tables.frames import Tables

Frame = TypeVar("Frame", pd.DataFrame, pd.Series)
Measured = TypeVar("Measured")


def cached(measure: Callable[[Tables], Measured]) -> Callable[[Tables], Measured]:
    """Compute a measure once for the same tables: a dozen checks ask for it, and features have many rows."""
    # Tables are frozen, so a result never grows stale; keyed weakly, so that it dies with its tables.
    results: WeakKeyDictionary[Tables, Measured] = WeakKeyDictionary()

    @wraps(measure)
    def from_cache(tables: Tables) -> Measured:
        if tables not in results:
            results[tables] = measure(tables)
        found = results[tables]
        # A shallow copy: a caller that adds columns does not change what the next one gets.
        return found.copy(deep=False) if isinstance(found, pd.DataFrame) else found

    return from_cache


def ratio(above: pd.Series, below: pd.Series) -> pd.Series:
    """``above`` ÷ ``below``; NaN where the divisor is not positive, since a ratio to nothing says nothing."""
    return above / below.where(below > 0)


def at_site(frame: Frame, site: str) -> Frame:
    """The rows of one site, by layer, of a frame or series by layer and site."""
    index = frame.index
    assert isinstance(index, pd.MultiIndex)
    # By the codes of the level: its names for each row are made first otherwise.
    level = index.names.index("site")
    code = index.levels[level].get_indexer(pd.Index([site]))[0]
    found = frame[index.codes[level] == code] if code >= 0 else frame.iloc[:0]
    return found.droplevel("site")


def row_of(frame: pd.DataFrame, layer: str, site: str) -> Any:
    """The row of one layer and site; its columns are of many types."""
    return frame.loc[(layer, site)]
