"""Plans of how the tensors of a forward are measured, made once and used again; twin of ``plan_cache.h``.

Sites of one kind (same view, layout, number of axes, dtype and reservoir size) have tensors of one shape with
the same samples. The first of them in a forward is planned in Python; its plan goes into the slot that all of
them share, where the hooks of the extension find it without asking Python again.

Why a plan may be trusted: the extension uses it only (1) in the forward it was stored for, by serial number,
since in the next one the samples have other numbers; (2) at a site whose reservoirs are the very objects the
plan begins with, so that slots fit; (3) for a tensor of its shape and dtype; (4) that is the layer's first at
this site in the forward. Everything else goes to Python.

The next forward differs in nothing but the running numbers of its samples if its `ForwardKey` is the same.
Then `prepare` makes the plans of the whole forward before it begins, from those of the last one with the
numbers moved on, and, if forwards keep coming so, of up to `MAX_LOOKAHEAD` forwards at once. A forward with
another key, or whose numbers are not those foreseen (a module was called in between), drops what was made
ahead.

Plans of one probe are made under its lock; see `normprobe.capture.forwards.current_forward`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor

from normprobe.capture.forwards.forward import Forward, Sequence
from normprobe.capture.identity.group_choices import compiled_groups
from normprobe.capture.identity.numbered import Numbered
from normprobe.capture.identity.sample_numbers import Placement, place_shifted
from normprobe.capture.identity.selection import RawSelection, Selection, select, select_rows
from normprobe.capture.states.layer_state import LayerState
from normprobe.kernels import dispatch
from normprobe.samples.dealing import Deal
from normprobe.samples.reservoir import Reservoir


class ForwardKey(NamedTuple):
    """What identifies the shape of a forward; those of one key differ in their samples' numbers only.

    Attributes:
        owner: id of the module that was called.
        batch: how many examples there are.
        time: positions of each, where known.
        mask: name and sizes of the padding mask, if there is one. It leaves nothing out, so only its sizes
            matter.
        groups: of what group each sample is, where that is asked for.
    """

    owner: int
    batch: int
    time: int | None
    mask: tuple[str, tuple[int, ...]] | None
    groups: tuple[Any, ...] | None

    @staticmethod
    def of(forward: Forward) -> ForwardKey | None:
        """The key of a forward; None if its samples depend on more than this.

        That is so with several sequences or masks, padding, nested or packed tensors, labels, and batch and
        time swapped.
        """
        batch, mask = forward.batch, forward.masks.own
        if (
            not forward.single_sequence
            or forward.masks.several
            or forward.labels is not None
            or batch.time_first
            or batch.packed is not None
        ):
            return None
        if batch.lead is None or batch.lead.is_nested or (mask is not None and not mask.full):
            return None
        known = None if mask is None else (mask.name, mask.real.shape)
        groups = None if forward.groups is None else forward.groups.key
        return ForwardKey(id(forward.state.owner), batch.size, batch.time, known, groups)


@dataclass(frozen=True, eq=False)
class SitePlan:
    """How the tensors of sites of one kind are measured in one forward.

    Attributes:
        shape: the sizes of the tensors; -1 stands for any.
        selection: which samples count and are kept.
        raw: which raw rows are kept.
        cached: the same as the extension takes it.
    """

    shape: tuple[int, ...]
    selection: Selection
    raw: RawSelection
    cached: Any


@dataclass(eq=False)
class PlannedForward:
    """The plans of a forward; of one that is yet to come, where they are made ahead.

    It stands in for a `Forward` in `select` and `place_shifted`, and hands what they cache in it to the
    forward that comes.

    Attributes:
        call: its running number.
        first: running number of its first example, in this process.
        deal: the numbers of its examples over all processes, as a forward has it; likewise the next four.
        sequences: what its layers work on.
        labels: None, for a forward with labels has no key.
        plans: the plans, by kind of site.
    """

    call: int
    first: int
    deal: Deal
    sequences: dict[Any, Sequence]
    placements: dict[Any, Placement] = field(default_factory=dict)
    selections: dict[Any, Selection] = field(default_factory=dict)
    rows: dict[Any, RawSelection] = field(default_factory=dict)
    labels: None = None
    plans: dict[Any, SitePlan] = field(default_factory=dict)


MAX_LOOKAHEAD, MAX_LOOKAHEAD_ROWS = 16, 1 << 15
"""For how many forwards, and for how many samples of all of them, plans are made at once: the code is in the
processor's caches then, and a decoded token waits for it once in sixteen times."""


class PlanCache:
    """The plans of one probe.

    Attributes:
        seed: changes which samples are kept.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._compiled = dispatch.compiled()
        # A slot is never replaced: sites keep a reference to theirs.
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
        """Let the extension measure the tensors of sites of the same kind in this forward, as this one was.

        Called before the selection is counted, while the site's reservoirs are still those the plan begins
        with.
        """
        compiled = self._compiled
        if compiled is None or not isinstance(forward.state, compiled.ForwardState):
            return
        if not selection.n_samples or selection.unfit:
            return
        site, view = state.sites[name], state.view
        counters = site.counters
        axis_roles = (view.axis, view.trailing, view.unbatched, view.sample)
        placing = (site.layout, site.time_axis, forward.reading.get(state.index))
        # Where features come last, how many there are changes nothing of which samples there are.
        last = axis_roles[:2] == (-1, 1)
        size = None if last else site.width
        # Norms and Linears keep different numbers of raw rows, so the reservoir's size is part of the kind.
        site_key = (*axis_roles, *placing, tensor.dim(), size, tensor.dtype, counters.rows.k)
        counters.plan_slot = self._slots.setdefault(site_key, compiled.PlanSlot())
        shape = (*tensor.shape[:-1], -1) if last else tuple(tensor.shape)
        known = self._known(site_key, forward, shape, selection, raw)
        if known is not None:
            counters.plan_slot.store(known.cached, forward.state)
            return
        plan = self._plan_for(shape, selection, raw, counters.samples, counters.rows)
        _store(counters.plan_slot, plan, forward)
        self._note(site_key, plan, forward)

    def _known(
        self,
        site_key: Any,
        forward: Forward,
        shape: tuple[int, ...],
        selection: Selection,
        raw: RawSelection,
    ) -> SitePlan | None:
        """The plan of this forward for sites of a kind, if it is the one that would be made.

        All by identity: of a selection and its reservoirs there is one in a forward.
        """
        last = self._last
        plan = None if last is None or last.call != forward.call else last.plans.get(site_key)
        same = plan is not None and plan.shape == shape and plan.selection is selection and plan.raw is raw
        return plan if same else None

    def _note(self, site_key: Any, plan: SitePlan, forward: Forward) -> None:
        """Keep a plan for forwards of the same key; what was made ahead lacks it, so that is dropped."""
        key, last = ForwardKey.of(forward), self._last
        if key != self._key or last is None or last.call != forward.call:
            last = self._last = PlannedForward(forward.call, forward.first, forward.deal, {})
            self._key = key
        last.plans[site_key] = plan
        self._planned, self._lookahead = [], 1

    def prepare(self, forward: Forward) -> None:
        """Reuse the plans of the last forward if this one has the same key."""
        last = self._last
        if last is None or self._key is None or ForwardKey.of(forward) != self._key:
            return
        # With nothing made ahead this is the last forward, whose number this one cannot have.
        foreseen = self._planned[0] if self._planned else last
        if (foreseen.call, foreseen.first) != (forward.call, forward.first):
            self._plan_coming(last, forward)
        planned = self._last = self._planned.pop(0)
        forward.sequences, forward.placements = planned.sequences, planned.placements
        forward.selections, forward.rows = planned.selections, planned.rows
        for site_key, plan in planned.plans.items():
            _store(self._slots[site_key], plan, forward)

    def _plan_coming(self, last: PlannedForward, forward: Forward) -> None:
        """Make the plans of this forward and, if those before it came as foreseen, of some to come."""
        rows = max(len(plan.selection.placement.assignment.example) for plan in last.plans.values())
        # Plans left over were made for other numbers than came: begin again with one forward at a time.
        self._lookahead = 1 if self._planned else min(2 * self._lookahead, MAX_LOOKAHEAD)
        count = max(1, min(self._lookahead, MAX_LOOKAHEAD_ROWS // max(1, rows)))
        calls, examples = forward.call - last.call, forward.first - last.first
        sequences: dict[Any, Sequence] = {("own", None): forward.sequence("own", forward.masks.own)}
        self._planned = []
        for step in range(count):
            numbers = forward.call + step * calls, forward.first + step * examples
            coming = PlannedForward(*numbers, forward.deal, sequences)
            coming.plans = {
                site_key: self._shifted(old, examples, coming) for site_key, old in last.plans.items()
            }
            self._planned.append(coming)
            last = coming

    def _shifted(self, old: SitePlan, examples: int, forward: PlannedForward) -> SitePlan:
        """The same plan for a forward that begins so many examples after the last one."""
        before, rows = old.selection, old.raw.reservoir
        placement = place_shifted(before.placement, forward, examples)
        sizes = (before.choice.samples, before.choice.rows)
        selection = select(placement, forward, 0, before.reservoir, sizes=sizes)
        # Where neither keeps a sample, the extension's form of both choices is one and the same.
        if not len(selection.choice.keep) and not len(before.choice.keep):
            held = before.choice.prepared.get("compiled")
            if held is not None:
                selection.choice.prepared.setdefault("compiled", held)
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
        """The plan of sites that keep these samples and rows so far."""
        compiled = self._compiled
        assert compiled is not None
        cached = compiled.CachedPlan(
            shape=shape,
            samples=samples,
            rows=rows,
            samples_after=selection.reservoir,
            rows_after=raw.reservoir,
            choice=compiled.compiled_choice(selection.kept or selection.choice),
            raw_choice=None if raw.choice is None else compiled.compiled_choice(raw.choice),
            small=compiled.SMALL,
            placement=selection.placement,
            n_samples=selection.n_samples,
            masked=selection.masked,
            masked_by=selection.masked_by,
            groups=None if selection.groups is None else compiled_groups(selection.groups, compiled),
        )
        return SitePlan(shape, selection, raw, cached)


def _store(slot: Any, plan: SitePlan, forward: Forward) -> None:
    """Let a plan hold in a forward; where gradients are measured, with the samples that it is of."""
    slot.store(plan.cached, forward.state)
    if forward.trace is not None:
        choice = plan.selection.choice
        forward.numbered[slot] = Numbered(plan.selection.placement, (choice.samples, choice.rows), 0)
