"""What a comparison reads of one recording: arrays by place, every sample under its identity."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from normprobe.kernels.moments import Moments
from normprobe.tables.derive import moments_of, row_starts, starts
from normprobe.tables.frames import Tables

Numbers = NDArray[np.float64]
Whole = NDArray[np.int64]

_IDENTITY = ("part", "example", "position", "repeat")
# One entry a sample: identities of four numbers compare and intersect at once.
_SAME = np.dtype([(name, np.int64) for name in _IDENTITY])


@dataclass(frozen=True, eq=False)
class KeptSamples:
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


@dataclass(frozen=True, eq=False)
class _SampleTable:
    """What was kept of all places, in their order.

    Attributes:
        keys: as in `KeptSamples`.
        hash: as in `KeptSamples`.
        values: mean and standard deviation of each sample; of raw rows where the numbers of each begin.
        edges: where each place begins, and where the last ends.
    """

    keys: NDArray[np.void]
    hash: Whole
    values: NDArray[Any]
    edges: NDArray[np.intp]


class RecordingArrays:
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
        # Below 0 the parts that only this recording has, each by a number of its own: they pair with nothing.
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
    def _samples(self) -> _SampleTable:
        frame = self.tables.sample_moments
        # Without a finite value a sample has no mean to compare.
        frame = frame[frame["count"].to_numpy() > 0]
        count, m2 = frame["count"].to_numpy(), frame["m2"].to_numpy(np.float64)
        values = np.column_stack([frame["mean"].to_numpy(np.float64), np.sqrt(m2 / count)])
        return self._table(frame, values)

    @cached_property
    def _rows(self) -> _SampleTable:
        return self._table(self.tables.rows, row_starts(self.tables.sites, self.tables.rows))

    def features(self, place: int) -> Moments:
        """The moments of each feature of a place."""
        low, high = self._first[place], self._first[place + 1]
        return self._moments.map(lambda field: field[low:high])

    def vector(self, name: str, place: int) -> Numbers:
        """A vector that the layer applied (`weight`, `bias`, `running_mean`, `running_var`), NaN without."""
        low, high = self._first[place], self._first[place + 1]
        return self.tables.feature_moments[name].to_numpy(np.float64)[low:high]

    def samples(self, place: int) -> KeptSamples:
        """The kept samples of a place with a finite value: mean and standard deviation of each."""
        table = self._samples
        mine = slice(table.edges[place], table.edges[place + 1])
        return KeptSamples(table.keys[mine], table.hash[mine], table.values[mine])

    def rows(self, place: int) -> KeptSamples:
        """The kept raw rows of a place."""
        table = self._rows
        low, high = table.edges[place], table.edges[place + 1]
        # float64, as what is compared are small differences of squares.
        raw = self.tables.row_values[int(table.values[low]) : int(table.values[high])].astype(np.float64)
        values = raw.reshape(high - low, self.widths[place])
        return KeptSamples(table.keys[low:high], table.hash[low:high], values)

    def capped(self, place: int, kept: KeptSamples) -> bool:
        """Whether samples of this place were left out of the kept ones."""
        return len(kept) < int(self._counts[place])

    @cached_property
    def _counts(self) -> Whole:
        return self.tables.sites["n_samples"].to_numpy(np.int64)

    def _table(self, frame: pd.DataFrame, values: NDArray[Any]) -> _SampleTable:
        place = frame["place"].to_numpy()
        keys = np.empty(len(frame), _SAME)
        keys["part"] = self._part[frame["part"].to_numpy(np.int64)]
        for name in _IDENTITY[1:]:
            keys[name] = frame[name].to_numpy(np.int64)
        edges = np.searchsorted(place, np.arange(len(self.widths) + 1))
        return _SampleTable(keys, frame["hash"].to_numpy(np.int64), values, edges)


def pair_samples(a: KeptSamples, b: KeptSamples) -> tuple[Numbers, Numbers]:
    """The values of the samples that both have, in one order."""
    # Nearly always both kept the same in the same order, and intersecting would sort them.
    if len(a) == len(b) and (a.keys == b.keys).all():
        return a.values, b.values
    _, ia, ib = np.intersect1d(a.keys, b.keys, return_indices=True)
    return a.values[ia], b.values[ib]
