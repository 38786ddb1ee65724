"""What is kept of one site of one layer while it runs: moments, extremes and kept samples."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from normprobe.capture.states.counters import SiteCounters, new_counters
from normprobe.capture.states.group_state import GroupState, joined, records_of, with_sums_of
from normprobe.kernels.distributions.options import Distribution, DistributionAccumulator
from normprobe.kernels.moments import Moments, merge
from normprobe.kernels.types import Accumulator, Totals
from normprobe.samples.layout import Layout
from normprobe.samples.reservoir import Reservoir
from normprobe.tables.records import WHOLE, FirstNonfinite, GroupRecord, Holder, Kept, Placement, SiteRecord


@dataclass(eq=False, slots=True)
class SiteState:
    """Everything measured at one site of one layer.

    How its tensors read is decided here and nowhere else: on the first call, and held against the sizes of
    every later one. What is cached of it (placements, plans) has `layout` and `time_axis` in its key.

    Attributes:
        counters: what is kept and how much was measured; the extension's hooks share it.
        width: how many features it has; None before its first measured call.
        accumulator: the moments, and the numbers of the kept samples.
        seen: the moments of all rows since the first call with padding, where a channel norm reads it.
        unpadded: the moments up to that call.
        distribution: fourth powers and counts in bins, where they are asked for.
        dtypes: the dtypes of its tensors.
        minimum: who holds the smallest value.
        maximum: who holds the largest.
        nonfinite: who holds the first NaN or Inf; None on an accelerator, which would have to be waited for.
        layout: how the leading sizes read; None before the first call.
        time_axis: which axis the mask runs along, where there was one.
        time_axis_certain: whether a call had only one such axis.
        unaligned: how many leading entries were numbered within the layer.
        no_data: the leading sizes of calls on what is no data of the forward.
        no_identities: the leading sizes of square matrices of which one was seen to be no identity.
        placement: what of a whole tensor this process has here; a hook that reads it from a sharded tensor
            replaces it. It stays over windows, as how its tensors read does.
    """

    counters: SiteCounters
    width: int | None = None
    accumulator: Accumulator | None = None
    seen: Accumulator | None = None
    unpadded: Moments | None = None
    distribution: DistributionAccumulator | None = None
    dtypes: dict[str, None] = field(default_factory=dict)
    minimum: Holder | None = None
    maximum: Holder | None = None
    nonfinite: FirstNonfinite | None = None
    layout: Layout | None = None
    time_axis: int | None = None
    time_axis_certain: bool = False
    unaligned: int = 0
    no_data: set[tuple[int, ...]] = field(default_factory=set)
    no_identities: set[tuple[int, ...]] = field(default_factory=set)
    placement: Placement = WHOLE

    def reset(self, empty: SiteState) -> None:
        """Forget what was measured: in place, as the extension's hooks share the counters."""
        counters = self.counters
        counters.samples, counters.rows = empty.counters.samples, empty.counters.rows
        counters.state = counters.plan_slot = counters.groups = None
        counters.calls = counters.n_samples = counters.masked = 0
        self.width, self.accumulator, self.seen, self.unpadded = None, None, None, None
        self.minimum, self.maximum, self.layout, self.time_axis = None, None, None, None
        self.nonfinite = self.distribution = None
        self.unaligned, self.time_axis_certain = 0, False

    def take(self) -> dict[str, Any]:
        """Hand over what was measured, for `put`; how tensors read here stays."""
        counters = self.counters
        return {
            **{name: getattr(self, name) for name in _MEASURED},
            **{name: getattr(counters, name) for name in _COUNTED},
        }

    def put(self, held: dict[str, Any] | None, empty: tuple[Reservoir, Reservoir]) -> None:
        """Go on with what was handed over, or with nothing but empty reservoirs.

        In place, as the extension's hooks share the counters; a plan made for other reservoirs does not fit.
        """
        counters = self.counters
        if held is None:
            fresh = SiteState.of(*empty)
            held = fresh.take()
            # The next call is looked at in Python, which notes its modes and its mask.
            counters.decided = False
        for names, target in ((_MEASURED, self), (_COUNTED, counters)):
            for name in names:
                setattr(target, name, held[name])

    @staticmethod
    def of(samples: Reservoir, rows: Reservoir) -> SiteState:
        """A fresh site that keeps the moments of these samples and the raw rows of those."""
        return SiteState(new_counters(samples, rows))

    def note_dtype(self, dtype: Any) -> None:
        """Note the dtype of a tensor."""
        # torch has one object a dtype, so identity is equality.
        if dtype is self.counters.dtype:
            return
        self.counters.dtype = dtype
        self.dtypes[str(dtype).removeprefix("torch.")] = None

    @property
    def groups(self) -> list[GroupState]:
        """The groups that had a sample here."""
        return [held[0] for held in self.counters.groups or () if held is not None]

    def group(self, code: int) -> GroupState | None:
        """What is held of the group of a code; None if it had no sample here."""
        held = self.counters.groups or ()
        return held[code][0] if code < len(held) and held[code] is not None else None

    def open_group(self, state: GroupState) -> GroupState:
        """Hold sums of a group from now on."""
        counters = self.counters
        if counters.groups is None:
            counters.groups = []
        counters.groups.extend([None] * (state.code + 1 - len(counters.groups)))
        # With its counters beside it, which the extension's hooks add to.
        counters.groups[state.code] = state, state.counters
        return state

    def totals(self) -> Totals:
        """The sums so far."""
        groups = records_of(self.groups)
        return self._totals(joined(groups) if groups else None)

    def _totals(self, whole: GroupRecord | None) -> Totals:
        """The sums so far; ``whole`` has those of all groups, where samples are of groups."""
        assert self.accumulator is not None
        totals = self.accumulator.totals(self.counters.samples.size, self.counters.rows.size)
        return totals if whole is None else with_sums_of(totals, whole)

    def record(self, name: str) -> SiteRecord:
        """The site frozen, under its name."""
        groups, counters = records_of(self.groups), self.counters
        whole = joined(groups) if groups else None
        totals, nonfinite = self._totals(whole), self.nonfinite
        low, high, found = self.minimum, self.maximum, self._distribution()
        # The torch accumulator keeps the holders itself, on its device, until they are asked for.
        if totals.holders is not None:
            low, high = (Holder.of(*held) for held in totals.holders)
        if whole is not None:
            low, high, nonfinite = whole.minimum, whole.maximum, whole.nonfinite
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
            samples=_kept(counters.samples, _with_powers(totals.kept, found)),
            rows=_kept(counters.rows, totals.raw),
            nonfinite=nonfinite,
            groups=groups,
            distribution=found,
            placement=self.placement,
        )

    def _distribution(self) -> Distribution | None:
        held = self.distribution
        return None if held is None else held.distribution(self.counters.samples.size)

    def _all_rows(self) -> Moments | None:
        """Moments of all rows, padding included; None where nothing was padded."""
        if self.seen is None:
            return None
        since = self.seen.totals(0, 0).features
        return since if self.unpadded is None else merge(self.unpadded, since)


# What is in neither of these stays at the site in `take` and `put`: it says how its tensors read.
_MEASURED = (
    *("accumulator", "seen", "unpadded", "distribution"),
    *("dtypes", "minimum", "maximum", "nonfinite"),
)
_COUNTED = ("samples", "rows", "dtype", "state", "calls", "n_samples", "masked", "firings", "groups")


def _with_powers(kept: NDArray[np.float64], found: Distribution | None) -> NDArray[np.float64]:
    """The moments of kept samples, with their third and fourth where these were measured."""
    powers = None if found is None else found.kept
    return kept if powers is None else np.concatenate([kept, powers[:, 3:]], axis=1)


def _kept(reservoir: Reservoir, data: Any) -> Kept | None:
    """The kept samples in ascending order of hash and repeat; None if there are none."""
    if reservoir.size == 0:
        return None
    kept = reservoir.identities()
    order = np.lexsort((kept.repeat, kept.hash))
    kept = kept.take(order)
    return Kept(kept.hash, kept.example, kept.position, kept.repeat, kept.call, data[order], kept.text)


def nbytes(sites: Iterable[SiteState]) -> int:
    """How much memory sites take, with their reservoirs, each of which many of them share."""
    every = list(sites)
    # By identity: most sites share theirs.
    kept = (reservoir for site in every for reservoir in (site.counters.samples, site.counters.rows))
    shared: dict[int, Reservoir] = {id(reservoir): reservoir for reservoir in kept}
    held_by = (held for site in every for held in (site.accumulator, site.seen, site.distribution))
    sums = [held for held in held_by if held is not None]
    sums += [group.accumulator for site in every for group in site.groups]
    return sum(held.nbytes() for held in sums) + sum(held.nbytes for held in shared.values())
