"""What is kept of one group of a site's samples while it runs, and what all groups of a site come to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce

from normprobe.capture.states.counters import SiteCounters, new_counters
from normprobe.kernels.moments import merge
from normprobe.kernels.types import Accumulator, Totals
from normprobe.samples.groups import UNLABELLED, UNTOLD
from normprobe.tables.records import FirstNonfinite, GroupRecord, Holder
from normprobe.vocabulary import NO_GROUP

_UNTOLD = f"samples at its {{}} are of group {NO_GROUP}: which are of which group cannot be told of them"
_UNLABELLED = f"samples at its {{}} are of group {NO_GROUP}: their label is None"


@dataclass(eq=False, slots=True)
class GroupState:
    """Everything measured of one group at one site of one layer; samples of it are kept by the site.

    Attributes:
        code: the group's.
        name: likewise.
        counters: how much was measured; the extension's hooks share it.
        accumulator: the moments.
        minimum: who holds the smallest value.
        maximum: who holds the largest.
        nonfinite: who holds the first NaN or Inf; None on an accelerator.
    """

    code: int
    name: str
    counters: SiteCounters
    accumulator: Accumulator
    minimum: Holder | None = None
    maximum: Holder | None = None
    nonfinite: FirstNonfinite | None = None

    @staticmethod
    def of(code: int, name: str, accumulator: Accumulator) -> GroupState:
        """A fresh state."""
        # Without reservoirs: the site itself keeps the samples of all its groups.
        counters = new_counters(None, None)
        counters.state = accumulator.state
        return GroupState(code, name, counters, accumulator)

    def count(self, n_samples: int, masked: int) -> None:
        """Count a call with samples of the group."""
        self.counters.calls += 1
        self.counters.n_samples += n_samples
        self.counters.masked += masked

    def record(self) -> GroupRecord:
        """The group frozen."""
        totals, counters = self.accumulator.totals(0, 0), self.counters
        low, high = self.minimum, self.maximum
        # An accumulator on an accelerator keeps the holders itself.
        if totals.holders is not None:
            low, high = (Holder.of(*held) for held in totals.holders)
        return GroupRecord(
            group=self.name,
            calls=counters.calls,
            n_samples=counters.n_samples,
            masked=counters.masked,
            nonfinite_masked=totals.nonfinite_masked,
            within_sum=totals.within_sum,
            within_count=totals.within_count,
            features=totals.features,
            minimum=low,
            maximum=high,
            nonfinite=self.nonfinite,
        )


def of_no_group(groups: Mapping[str, Sequence[GroupState]]) -> list[str]:
    """Why samples of a layer are of no group, for its ledger.

    Args:
        groups: those at each of its sites.
    """
    notes = []
    for why, says in ((UNTOLD, _UNTOLD), (UNLABELLED, _UNLABELLED)):
        at = [
            site for site, held in groups.items() if any(g.code == why and g.counters.n_samples for g in held)
        ]
        notes += [says.format(" and ".join(at))] if at else []
    return notes


def records_of(groups: Iterable[GroupState]) -> tuple[GroupRecord, ...]:
    """The groups of a site frozen; those of one name, for whatever reason they are of no group, as one."""
    by_name: dict[str, GroupRecord] = {}
    for group in groups:
        record = group.record()
        other = by_name.get(group.name)
        by_name[group.name] = record if other is None else joined([other, record])
    return tuple(by_name.values())


def joined(records: Sequence[GroupRecord]) -> GroupRecord:
    """The moments of several groups as those of one, under the first one's name."""
    sums = ("calls", "n_samples", "masked", "nonfinite_masked", "within_sum", "within_count")
    return replace(
        records[0],
        **{name: sum(getattr(record, name) for record in records) for name in sums},
        features=reduce(merge, (record.features for record in records)),
        minimum=min((r.minimum for r in records if r.minimum), key=_smaller, default=None),
        maximum=min((r.maximum for r in records if r.maximum), key=_larger, default=None),
        nonfinite=min((r.nonfinite for r in records if r.nonfinite), default=None),
    )


def _smaller(held: Holder) -> tuple[float, int, int, int]:
    # Of equal values the first in the order of samples, as where they are measured together.
    return held.value, held.example, held.position, held.feature


def _larger(held: Holder) -> tuple[float, int, int, int]:
    return -held.value, held.example, held.position, held.feature


def with_sums_of(totals: Totals, groups: GroupRecord) -> Totals:
    """What a site holds of its kept samples, with the sums of its groups."""
    return replace(
        totals,
        features=groups.features,
        within_sum=groups.within_sum,
        within_count=groups.within_count,
        nonfinite_masked=groups.nonfinite_masked,
        # Those that the accumulator knows are among the kept samples alone; `record` takes the groups'.
        holders=None,
    )
