"""What a comparison reads of one recording: arrays by place, every sample under its identity."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from normprobe.moments import Moments
from normprobe.tables import Tables
from normprobe.tables.derive import moments_of, row_starts, starts

Numbers = NDArray[np.float64]
Whole = NDArray[np.int64]

_IDENTITY = ("part", "example", "position", "repeat")
_SAME = np.dtype([(name, np.int64) for name in _IDENTITY])


@dataclass(frozen=True, eq=False)
class Kept:
    """Kept samples of one place.

    Attributes:
        keys: part, example, position and repeat of each, one entry of a structured array per sample.
        hash: what they were chosen by, below 2**63.
        values: shape (samples, 2), mean and standard deviation (divisor n); of raw rows (rows, features).
    """

    keys: NDArray[np.void]
    hash: Whole
    values: Numbers

    def __len__(self) -> int:
        return len(self.keys)


class Reader:
    """One recording, place by place (a place is one site of one layer)."""

    def __init__(self, tables: Tables, parts: Mapping[str, int] | None = None) -> None:
        """Prepare to read.

        Args:
            tables: the recording's.
            parts: the number by which each part is known in the comparison; by default its own index.
        """
        self.tables = tables
        names = tables.facts["parts"]
        known = {name: number for number, name in enumerate(names)} if parts is None else parts
        self._part = np.array([known.get(name, -1 - i) for i, name in enumerate(names)], np.int64)
        self.widths = tables.sites["n_features"].to_numpy(np.int64)
        self._first = starts(self.widths)

    @cached_property
    def places(self) -> dict[tuple[str, str], int]:
        """The number of each (layer, site)."""
        sites = self.tables.sites
        return {key: at for at, key in enumerate(zip(sites["layer"], sites["site"], strict=True))}

    @cached_property
    def ledger(self) -> pd.DataFrame:
        """The ledger's base frame by layer."""
        return self.tables.ledger_base.set_index("layer")

    @cached_property
    def _moments(self) -> Moments:
        return moments_of(self.tables.feature_moments)

    @cached_property
    def _samples(self) -> tuple[pd.DataFrame, Whole]:
        return _sorted(self.tables.sample_moments, len(self.widths))

    @cached_property
    def _rows(self) -> tuple[pd.DataFrame, Whole, Whole]:
        rows = self.tables.rows
        edges = np.searchsorted(rows["place"].to_numpy(), np.arange(len(self.widths) + 1))
        return rows, edges, row_starts(self.tables.sites, rows)

    def features(self, place: int) -> Moments:
        """The moments of each feature of a place."""
        low, high = self._first[place], self._first[place + 1]
        return self._moments.map(lambda field: field[low:high])

    def vector(self, name: str, place: int) -> Numbers:
        """A vector that the layer applied (`weight`, `bias`, `running_mean`, `running_var`), NaN without."""
        low, high = self._first[place], self._first[place + 1]
        return self.tables.feature_moments[name].to_numpy(np.float64)[low:high]

    def samples(self, place: int) -> Kept:
        """The kept samples of a place with a finite value: mean and standard deviation of each."""
        frame, edges = self._samples
        mine = frame.iloc[edges[place] : edges[place + 1]]
        mine = mine[mine["count"].to_numpy() > 0]
        count, m2 = mine["count"].to_numpy(), mine["m2"].to_numpy(np.float64)
        values = np.column_stack([mine["mean"].to_numpy(np.float64), np.sqrt(m2 / count)])
        return Kept(self._keys(mine), mine["hash"].to_numpy(np.int64), values)

    def rows(self, place: int) -> Kept:
        """The kept raw rows of a place."""
        frame, edges, bounds = self._rows
        low, high = edges[place], edges[place + 1]
        mine = frame.iloc[low:high]
        raw = self.tables.row_values[bounds[low] : bounds[high]].astype(np.float64)
        values = raw.reshape(len(mine), self.widths[place])
        return Kept(self._keys(mine), mine["hash"].to_numpy(np.int64), values)

    def capped(self, place: int, kept: Kept) -> bool:
        """Whether samples of this place were left out of the kept ones."""
        return len(kept) < int(self.tables.sites["n_samples"].iloc[place])

    def _keys(self, frame: pd.DataFrame) -> NDArray[np.void]:
        keys = np.empty(len(frame), _SAME)
        keys["part"] = self._part[frame["part"].to_numpy(np.int64)]
        for name in _IDENTITY[1:]:
            keys[name] = frame[name].to_numpy(np.int64)
        return keys


def _sorted(frame: pd.DataFrame, places: int) -> tuple[pd.DataFrame, Whole]:
    """The frame in order of place, and where each place begins."""
    place = frame["place"].to_numpy()
    if (np.diff(place) < 0).any():
        order = np.argsort(place, kind="stable")
        frame, place = frame.iloc[order], place[order]
    return frame, np.searchsorted(place, np.arange(places + 1))


def paired(a: Kept, b: Kept) -> tuple[Numbers, Numbers]:
    """The values of the samples that both have, in one order."""
    if len(a) == len(b) and (a.keys == b.keys).all():
        return a.values, b.values
    _, ia, ib = np.intersect1d(a.keys, b.keys, return_indices=True)
    return a.values[ia], b.values[ib]
