"""Tables of a recording with something taken out or put in, for tests of whatever reads them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np
import pandas as pd

from normprobe.errors import NoSamplesError
from normprobe.tables.frames import Tables
from normprobe.vocabulary import OUTPUT

Edit = Callable[[str, pd.DataFrame], pd.DataFrame]
BY_SITE = ("layers", "features", "samples")


class EditedTables:
    """Stands in for `Tables`: the public frames as an edit leaves them, everything else as it was."""

    def __init__(self, tables: Tables, edit: Edit) -> None:
        self._tables, self._edit = tables, edit
        self._frames: dict[str, pd.DataFrame] = {}

    def __getattr__(self, name: str) -> Any:
        if name not in {*BY_SITE, "ledger"}:
            return getattr(self._tables, name)
        if name not in self._frames:
            self._frames[name] = self._edit(name, getattr(self._tables, name)).reset_index(drop=True)
        return self._frames[name].copy()

    @property
    def activations(self) -> EditedTables:
        """These very tables, as nothing here has gradients."""
        return self

    def values(self, layer: str, site: str) -> np.ndarray:
        """The raw rows of a place that is still there; of a site that was put in, those of the output."""
        layers = self.layers
        if not ((layers["layer"] == layer) & (layers["site"] == site)).any():
            raise NoSamplesError("nothing is kept")
        known = set(self._tables.layers["site"])
        kept: np.ndarray = self._tables.values(layer, site if site in known else OUTPUT)
        return kept


def edited(tables: Tables, *edits: Edit) -> Tables:
    """The tables after these edits, one after the other."""
    for edit in edits:
        tables = cast("Tables", EditedTables(tables, edit))
    return tables


def without_site(site: str, layer: str | None = None) -> Edit:
    """Nothing was measured at a site, of one layer or of all."""

    def edit(name: str, frame: pd.DataFrame) -> pd.DataFrame:
        if name not in BY_SITE:
            return frame
        gone = frame["site"] == site
        return frame[~(gone if layer is None else gone & (frame["layer"] == layer))]

    return edit


def without_layer(layer: str) -> Edit:
    """A layer is in no table."""
    return lambda name, frame: frame[frame["layer"] != layer]


def with_site(site: str, kinds: tuple[str, ...] = ()) -> Edit:
    """A further site that holds what the output holds, at layers of some kinds or of all."""

    def edit(name: str, frame: pd.DataFrame) -> pd.DataFrame:
        if name not in BY_SITE:
            return frame
        copied = frame[(frame["site"] == OUTPUT) & (frame["kind"].isin(kinds) | (not kinds))]
        return pd.concat([frame, copied.assign(site=site)], ignore_index=True)

    return edit


def without_column(table: str, column: str) -> Edit:
    """Every entry of a column is missing, as in a recording that did not measure it."""

    def edit(name: str, frame: pd.DataFrame) -> pd.DataFrame:
        if name != table:
            return frame
        return frame.assign(**{column: frame[column].mask(frame[column].notna())})

    return edit


def columns_that_may_be_missing(tables: Tables) -> list[tuple[str, str]]:
    """Columns whose dtype knows missing entries; counts and names are always there."""
    return [
        (table, str(column))
        for table in BY_SITE
        for column, dtype in getattr(tables, table).dtypes.items()
        if str(dtype) in {"Float64", "float64", "Int64"}
    ]
