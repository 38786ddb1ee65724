"""What sites that are alike do with the tensors of a forward: agreed on once, and again for those like it.

The first of alike sites goes the long way and leaves what was decided in their cell, where the hooks of the
compiled kernel find it. A forward of the same sizes whose samples are all real differs from the one before it
in nothing but which samples they are: what was agreed holds again, with other numbers.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor

from normprobe.capture.forward import Forward, Sequence
from normprobe.capture.layer_state import LayerState
from normprobe.capture.sample_numbers import Placement, place_shifted
from normprobe.capture.selection import RawSelection, Selection, select, select_rows
from normprobe.kernels import dispatch
from normprobe.samples.reservoir import Reservoir


class ForwardKey(NamedTuple):
    """What forwards have in common that place their samples alike.

    Attributes:
        owner: the module that was called, by id.
        batch: how many examples there are.
        time: positions of each, where known.
        mask: name and sizes of the padding mask, if there is one; it leaves nothing out.
    """

    owner: int
    batch: int
    time: int | None
    mask: tuple[str, tuple[int, ...]] | None

    @staticmethod
    def of(forward: Forward) -> ForwardKey | None:
        """That of a forward; None if it has samples that another one's may not be like."""
        batch, mask = forward.batch, forward.masks.own
        if (
            not forward.single_sequence
            or forward.labels is not None
            or batch.time_first
            or batch.packed is not None
        ):
            return None
        if batch.lead is None or batch.lead.is_nested or (mask is not None and not mask.full):
            return None
        known = None if mask is None else (mask.name, mask.real.shape)
        return ForwardKey(id(forward.state.owner), batch.size, batch.time, known)


@dataclass(frozen=True, eq=False)
class SitePlan:
    """What alike sites agreed on.

    Attributes:
        shape: the sizes of their tensors; -1 stands for any.
        selection: which samples count and are kept.
        raw: which raw rows are kept.
        agreed: the same as their hooks take it.
    """

    shape: tuple[int, ...]
    selection: Selection
    raw: RawSelection
    cached: Any


@dataclass(eq=False)
class PlannedForward:
    """What is agreed for a forward, before it begins if it is like others.

    Attributes:
        call: its running number.
        first: running number of its first example.
        sequences: what its layers work on, as a forward has it; likewise the next three.
        labels: none, or it would not be like others.
        plans: what was agreed on, by who is alike.
    """

    call: int
    first: int
    sequences: dict[Any, Sequence]
    placements: dict[Any, Placement] = field(default_factory=dict)
    selections: dict[Any, Selection] = field(default_factory=dict)
    rows: dict[Any, RawSelection] = field(default_factory=dict)
    labels: None = None
    plans: dict[Any, SitePlan] = field(default_factory=dict)


MOST_AHEAD, MOST_ROWS_AHEAD = 16, 1 << 15
"""For how many forwards, and for how many samples, is agreed at once: after the first the code is at hand."""


class PlanCache:
    """The agreements of one probe.

    Attributes:
        seed: changes which samples are kept.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._compiled = dispatch.compiled()
        self._slots: dict[Any, Any] = {}
        self._key: ForwardKey | None = None
        self._last: PlannedForward | None = None
        self._planned: list[PlannedForward] = []
        self._lookahead = 1

    def make(
        self,
        state: LayerState,
        name: str,
        tensor: Tensor,
        *,
        forward: Forward,
        selection: Selection,
        raw: RawSelection,
    ) -> None:
        """Let other sites that are alike go the short way with their tensors in this forward."""
        compiled = self._compiled
        if compiled is None or not isinstance(forward.state, compiled.ForwardState):
            return
        if not selection.n_samples or selection.unfit:
            return
        site, view = state.sites[name], state.view
        counters = site.counters
        axis_roles = (view.axis, view.trailing, view.unbatched, view.sample)
        placing = (site.layout, site.time_axis)
        last = axis_roles[:2] == (-1, 1)  # where features come last, how many there are changes nothing
        size = None if last else site.width
        site_key = (*axis_roles, *placing, tensor.dim(), size, tensor.dtype, counters.rows.k)
        counters.plan_slot = self._slots.setdefault(site_key, compiled.PlanSlot())
        shape = (*tensor.shape[:-1], -1) if last else tuple(tensor.shape)
        plan = self._plan_for(shape, selection, raw, counters.samples, counters.rows)
        counters.plan_slot.store(plan.cached, forward.state)
        self._note(site_key, plan, forward)

    def _note(self, site_key: Any, plan: SitePlan, forward: Forward) -> None:
        """Remember what was agreed, for forwards that are like this one."""
        key, last = ForwardKey.of(forward), self._last
        if key != self._key or last is None or last.call != forward.call:
            last = self._last = PlannedForward(forward.call, forward.first, {})
            self._key = key
        last.plans[site_key] = plan
        self._planned, self._lookahead = [], 1

    def prepare(self, forward: Forward) -> None:
        """Let all go the short way who agreed in the forward before, if this one is like it."""
        last = self._last
        if last is None or self._key is None or ForwardKey.of(forward) != self._key:
            return
        foreseen = self._planned[0] if self._planned else last
        if (foreseen.call, foreseen.first) != (forward.call, forward.first):
            self._plan_ahead(last, forward)
        planned = self._last = self._planned.pop(0)
        forward.sequences, forward.placements = planned.sequences, planned.placements
        forward.selections, forward.rows = planned.selections, planned.rows
        for site_key, plan in planned.plans.items():
            self._slots[site_key].store(plan.cached, forward.state)

    def _plan_ahead(self, last: PlannedForward, forward: Forward) -> None:
        """Agree for this forward, and, if those before it came as foreseen, for some that are to come."""
        rows = max(len(plan.selection.placement.assignment.example) for plan in last.plans.values())
        self._lookahead = 1 if self._planned else min(2 * self._lookahead, MOST_AHEAD)
        count = max(1, min(self._lookahead, MOST_ROWS_AHEAD // max(1, rows)))
        calls, examples = forward.call - last.call, forward.first - last.first
        sequences: dict[Any, Sequence] = {("own", None): forward.sequence("own", forward.masks.own)}
        self._planned = []
        for step in range(count):
            coming = PlannedForward(forward.call + step * calls, forward.first + step * examples, sequences)
            coming.plans = {
                site_key: self._again(old, examples, coming) for site_key, old in last.plans.items()
            }
            self._planned.append(coming)
            last = coming

    def _again(self, old: SitePlan, examples: int, forward: PlannedForward) -> SitePlan:
        """Agree on the same for a forward that begins so many examples after the one before it."""
        before, rows = old.selection, old.raw.reservoir
        placement = place_shifted(before.placement, forward, examples)
        sizes = (before.choice.samples, before.choice.rows)
        selection = select(placement, forward, 0, before.reservoir, sizes=sizes)
        raw = select_rows(selection, forward, rows, self.seed)
        return self._plan_for(old.shape, selection, raw, before.reservoir, rows)

    def _plan_for(
        self,
        shape: tuple[int, ...],
        selection: Selection,
        raw: RawSelection,
        samples: Reservoir,
        rows: Reservoir,
    ) -> SitePlan:
        """What sites agree on that keep these samples and rows so far."""
        compiled = self._compiled
        assert compiled is not None
        cached = compiled.CachedPlan(
            shape=shape,
            samples=samples,
            rows=rows,
            samples_after=selection.reservoir,
            rows_after=raw.reservoir,
            choice=compiled.compiled_choice(selection.choice),
            raw_choice=None if raw.choice is None else compiled.compiled_choice(raw.choice),
            small=compiled.SMALL,
            placement=selection.placement,
            n_samples=selection.n_samples,
            masked=selection.masked,
            masked_by=selection.masked_by,
        )
        return SitePlan(shape, selection, raw, cached)
