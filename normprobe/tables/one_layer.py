"""One layer of a recording: its rows of every table."""

from __future__ import annotations

from html import escape
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from normprobe.errors import NoLayersError
from normprobe.tables.close_names import close_names
from normprobe.tables.frames import Tables

_SHOWN = (
    "n_samples",
    "mean",
    "variance",
    "within_sample_variance",
    "within_feature_variance",
    "min",
    "max",
)


class OneLayer:
    """The rows of one layer, as `Recording.__getitem__` gives them.

    Attributes:
        name: of the layer.
    """

    def __init__(self, tables: Tables, name: str) -> None:
        """Find the layer.

        Raises:
            NoLayersError: the recording has no such layer; the message has close names.
        """
        names = tables.ledger["layer"].tolist()
        if name not in names:
            close = close_names(str(name), names)
            first = f"the first {min(3, len(names))} of them are"
            raise NoLayersError(
                f"the recording has no layer {name!r} among its {len(names)}; "
                f"{'close names' if close else first}: "
                + ", ".join(map(repr, close or names[:3]))
                + " (only Linear and norm layers are measured)"
            )
        self._tables, self.name = tables, name

    @property
    def sites(self) -> pd.DataFrame:
        """A row per site, the index: for a norm ``input`` is before it, ``output`` after it.

        The columns of `Recording.layers`; no row if the layer did not fire.
        """
        return self._rows(self._tables.layers).set_index("site")

    @property
    def features(self) -> pd.DataFrame:
        """A row per site and feature, as in `Recording.features`."""
        return self._rows(self._tables.features)

    @property
    def samples(self) -> pd.DataFrame:
        """A row per site and kept sample, as in `Recording.samples`."""
        return self._rows(self._tables.samples)

    @property
    def ledger(self) -> pd.Series[Any]:
        """Whether it fired, how often and why not, with its settings: its row of `Recording.ledger`."""
        return self._rows(self._tables.ledger).iloc[0]

    def values(self, site: str) -> NDArray[np.float64]:
        """The raw rows of some kept samples, shape (rows, features).

        Raises:
            NoSamplesError: nothing is kept there.
        """
        return self._tables.values(self.name, site)

    def _rows(self, frame: pd.DataFrame) -> pd.DataFrame:
        return frame[frame["layer"] == self.name].drop(columns="layer").reset_index(drop=True)

    def _title(self) -> str:
        row = self.ledger
        if row["status"] != "fired":
            return (
                f"{self.name or 'the model'}: {row['kind']} ({row['type']}), {row['status']}: {row['reason']}"
            )
        size = f", {row['n_features']} features" if pd.notna(row["n_features"]) else ""
        return f"{self.name or 'the model'}: {row['kind']} ({row['type']}){size}, {row['calls']} calls"

    def __repr__(self) -> str:
        """The layer in a line, and what is most asked for of each site."""
        shown = self.sites[list(_SHOWN)]
        return self._title() if shown.empty else f"{self._title()}\n{shown.to_string()}"

    def _repr_html_(self) -> str:
        """The same as a table."""
        shown = self.sites[list(_SHOWN)]
        return f"<p>{escape(self._title())}</p>" + ("" if shown.empty else shown.to_html(border=0))
