"""What is kept of one site of one layer while it runs: moments, extremes and kept samples."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from normprobe.kernels import Met, Sums
from normprobe.moments import Moments, merge
from normprobe.records import Holder, Kept, SiteRecord
from normprobe.roster import Roster


@dataclass(frozen=True, eq=False, slots=True)
class Agreed:
    """What sites that read, place and keep alike do with the first tensor of one shape in a forward.

    Attributes:
        token: the forward's, which holds none of its tensors.
        shape: the shape; None where the number of features stands and may be any.
        samples: the kept samples before it.
        rows: the kept raw rows before it.
        samples_after: the kept samples after it.
        rows_after: the kept raw rows after it.
        plan: which rows count and which samples are kept, for the compiled kernel.
        raw_plan: which raw rows are kept, or None.
        small: numbers below which it measures on one thread.
        placed: where the samples lie.
        n_samples: how many are real.
        masked: how many rows are padding.
        masked_by: the mask applied, or "".
    """

    token: object
    shape: tuple[int | None, ...]
    samples: Roster
    rows: Roster
    samples_after: Roster
    rows_after: Roster
    plan: Any
    raw_plan: Any
    small: int
    placed: Any
    n_samples: int
    masked: int
    masked_by: str


class Cell:
    """Where sites that are alike look up what one of them agreed with the rest last."""

    __slots__ = ("agreed",)

    def __init__(self) -> None:
        self.agreed: Agreed | None = None


@dataclass(eq=False, slots=True)
class Site:
    """Everything measured at one site of one layer.

    Attributes:
        samples: whose moments are kept.
        rows: whose raw row is kept.
        width: how many features it has; None before its first measured call.
        sums: the moments, and the numbers of the kept samples.
        state: the compiled kernel's account among them, while that may read tensors as they lie.
        seen: the moments of all rows since the first call with padding, where a channel norm reads it.
        unpadded: the moments up to that call.
        cell: what it agreed on with the sites that are alike.
        calls: how many firings were measured.
        n_samples: how many samples, those without a finite value included.
        masked: how many rows were left out as padding.
        dtype: the dtype met last.
        dtypes: the dtypes met.
        minimum: who holds the smallest value.
        maximum: who holds the largest.
    """

    samples: Roster
    rows: Roster
    width: int | None = None
    sums: Sums | None = None
    state: Any = None
    seen: Sums | None = None
    unpadded: Moments | None = None
    cell: Cell = field(default_factory=Cell)
    calls: int = 0
    n_samples: int = 0
    masked: int = 0
    dtype: Any = None
    dtypes: dict[str, None] = field(default_factory=dict)
    minimum: Holder | None = None
    maximum: Holder | None = None

    def meet(self, dtype: Any) -> None:
        """Note a dtype."""
        if dtype is self.dtype:
            return
        self.dtype = dtype
        self.dtypes[str(dtype).removeprefix("torch.")] = None

    def met(self) -> Met:
        """What was measured so far."""
        assert self.sums is not None
        return self.sums.met(self.samples.size, self.rows.size)

    def record(self, name: str) -> SiteRecord:
        """Freeze it."""
        met = self.met()
        low, high = self.minimum, self.maximum
        if met.holders is not None:
            low, high = (_holder(*held) for held in met.holders)
        return SiteRecord(
            site=name,
            dtype="; ".join(self.dtypes),
            calls=self.calls,
            n_samples=self.n_samples,
            masked=self.masked,
            nonfinite_masked=met.nonfinite_masked,
            within_sum=met.within_sum,
            within_count=met.within_count,
            features=met.features,
            seen=self._all_rows(),
            minimum=low,
            maximum=high,
            samples=_kept(self.samples, met.kept),
            rows=_kept(self.rows, met.raw),
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
    rosters = {id(roster): roster for site in every for roster in (site.samples, site.rows)}
    sums = [held for site in every for held in (site.sums, site.seen) if held is not None]
    return sum(held.nbytes() for held in sums) + sum(roster.nbytes for roster in rosters.values())
