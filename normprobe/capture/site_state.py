"""What is kept of one site of one layer while it runs: moments, extremes and kept samples."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from normprobe.capture.counters import SiteCounters, new_counters
from normprobe.kernels.moments import Moments, merge
from normprobe.kernels.types import Accumulator, Totals
from normprobe.samples.reservoir import Reservoir
from normprobe.tables.records import Holder, Kept, SiteRecord


@dataclass(eq=False, slots=True)
class SiteState:
    """Everything measured at one site of one layer.

    Attributes:
        account: what it keeps, what it met and how much.
        width: how many features it has; None before its first measured call.
        sums: the moments, and the numbers of the kept samples.
        seen: the moments of all rows since the first call with padding, where a channel norm reads it.
        unpadded: the moments up to that call.
        dtypes: the dtypes met.
        minimum: who holds the smallest value.
        maximum: who holds the largest.
    """

    counters: SiteCounters
    width: int | None = None
    accumulator: Accumulator | None = None
    seen: Accumulator | None = None
    unpadded: Moments | None = None
    dtypes: dict[str, None] = field(default_factory=dict)
    minimum: Holder | None = None
    maximum: Holder | None = None

    @staticmethod
    def of(samples: Reservoir, rows: Reservoir) -> SiteState:
        """A fresh site that keeps the moments of these samples and the raw rows of those."""
        return SiteState(new_counters(samples, rows))

    def note_dtype(self, dtype: Any) -> None:
        """Note a dtype."""
        if dtype is self.counters.dtype:
            return
        self.counters.dtype = dtype
        self.dtypes[str(dtype).removeprefix("torch.")] = None

    def totals(self) -> Totals:
        """What was measured so far."""
        assert self.accumulator is not None
        return self.accumulator.totals(self.counters.samples.size, self.counters.rows.size)

    def record(self, name: str) -> SiteRecord:
        """Freeze it."""
        totals, counters = self.totals(), self.counters
        low, high = self.minimum, self.maximum
        if totals.holders is not None:
            low, high = (_holder(*held) for held in totals.holders)
        return SiteRecord(
            site=name,
            dtype="; ".join(self.dtypes),
            calls=counters.calls,
            n_samples=counters.n_samples,
            masked=counters.masked,
            nonfinite_masked=totals.nonfinite_masked,
            within_sum=totals.within_sum,
            within_count=totals.within_count,
            features=totals.features,
            seen=self._all_rows(),
            minimum=low,
            maximum=high,
            samples=_kept(counters.samples, totals.kept),
            rows=_kept(counters.rows, totals.raw),
        )

    def _all_rows(self) -> Moments | None:
        if self.seen is None:
            return None
        since = self.seen.totals(0, 0).features
        return since if self.unpadded is None else merge(self.unpadded, since)


def _holder(value: float, example: int, position: int, feature: int) -> Holder | None:
    return Holder(value, example, position, feature, "") if example >= 0 else None


def _kept(reservoir: Reservoir, data: Any) -> Kept | None:
    """The kept samples in ascending order of hash and repeat; None if there are none."""
    if reservoir.size == 0:
        return None
    who = reservoir.identities()
    order = np.lexsort((who.repeat, who.hash))
    who = who.take(order)
    return Kept(who.hash, who.example, who.position, who.repeat, who.call, data[order], who.text)


def nbytes(sites: Iterable[SiteState]) -> int:
    """How much memory sites take with their rosters, each of which many of them share."""
    every = list(sites)
    reservoirs: dict[int, Reservoir] = {
        id(reservoir): reservoir
        for site in every
        for reservoir in (site.counters.samples, site.counters.rows)
    }
    accumulator = [held for site in every for held in (site.accumulator, site.seen) if held is not None]
    return sum(held.nbytes() for held in accumulator) + sum(
        reservoir.nbytes for reservoir in reservoirs.values()
    )
