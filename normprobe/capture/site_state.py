"""What is kept of one site of one layer while it runs: moments, extremes and kept samples."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from normprobe.capture.counters import Account, account
from normprobe.kernels.moments import Moments, merge
from normprobe.kernels.types import Met, Sums
from normprobe.samples.reservoir import Roster
from normprobe.tables.records import Holder, Kept, SiteRecord


@dataclass(eq=False, slots=True)
class Site:
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

    account: Account
    width: int | None = None
    sums: Sums | None = None
    seen: Sums | None = None
    unpadded: Moments | None = None
    dtypes: dict[str, None] = field(default_factory=dict)
    minimum: Holder | None = None
    maximum: Holder | None = None

    @staticmethod
    def of(samples: Roster, rows: Roster) -> Site:
        """A fresh site that keeps the moments of these samples and the raw rows of those."""
        return Site(account(samples, rows))

    def meet(self, dtype: Any) -> None:
        """Note a dtype."""
        if dtype is self.account.dtype:
            return
        self.account.dtype = dtype
        self.dtypes[str(dtype).removeprefix("torch.")] = None

    def met(self) -> Met:
        """What was measured so far."""
        assert self.sums is not None
        return self.sums.met(self.account.samples.size, self.account.rows.size)

    def record(self, name: str) -> SiteRecord:
        """Freeze it."""
        met, account = self.met(), self.account
        low, high = self.minimum, self.maximum
        if met.holders is not None:
            low, high = (_holder(*held) for held in met.holders)
        return SiteRecord(
            site=name,
            dtype="; ".join(self.dtypes),
            calls=account.calls,
            n_samples=account.n_samples,
            masked=account.masked,
            nonfinite_masked=met.nonfinite_masked,
            within_sum=met.within_sum,
            within_count=met.within_count,
            features=met.features,
            seen=self._all_rows(),
            minimum=low,
            maximum=high,
            samples=_kept(account.samples, met.kept),
            rows=_kept(account.rows, met.raw),
        )

    def _all_rows(self) -> Moments | None:
        if self.seen is None:
            return None
        since = self.seen.met(0, 0).features
        return since if self.unpadded is None else merge(self.unpadded, since)


def _holder(value: float, example: int, position: int, feature: int) -> Holder | None:
    return Holder(value, example, position, feature, "") if example >= 0 else None


def _kept(roster: Roster, data: Any) -> Kept | None:
    """The kept samples in ascending order of hash and repeat; None if there are none."""
    if roster.size == 0:
        return None
    who = roster.identities()
    order = np.lexsort((who.repeat, who.hash))
    who = who.take(order)
    return Kept(who.hash, who.example, who.position, who.repeat, who.call, data[order], who.text)


def nbytes(sites: Iterable[Site]) -> int:
    """How much memory sites take with their rosters, each of which many of them share."""
    every = list(sites)
    rosters: dict[int, Roster] = {
        id(roster): roster for site in every for roster in (site.account.samples, site.account.rows)
    }
    sums = [held for site in every for held in (site.sums, site.seen) if held is not None]
    return sum(held.nbytes() for held in sums) + sum(roster.nbytes for roster in rosters.values())
