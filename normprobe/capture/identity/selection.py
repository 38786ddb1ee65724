"""Which samples of a tensor count and which are kept: decided once for all sites with the same reservoir."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from normprobe.capture.identity.group_choices import GroupChoice, kept_alone
from normprobe.capture.identity.sample_numbers import NumberedForward, Placement
from normprobe.kernels.choice import Choice
from normprobe.samples.hashing import row_of
from normprobe.samples.reservoir import Identities, Reservoir

_NO_CANDIDATES = Identities.none(), np.empty(0, np.intp)


@dataclass(frozen=True, eq=False)
class Selection:
    """What a tensor adds to a site.

    Attributes:
        placement: who its samples are.
        choice: which rows count and which samples are kept, for the kernel.
        reservoir: the kept samples after it.
        candidates: its samples that may be kept, in ascending order of hash, and their indices.
        n_samples: how many of its samples are real.
        masked: how many of its rows are padding.
        masked_by: the mask applied, or "".
        unfit: why the mask there is was not applied, or "".
        groups: where samples are of groups, which are of which.
        kept: then, the choice of those that are kept alone; None where none is.
    """

    placement: Placement
    choice: Choice
    reservoir: Reservoir
    candidates: tuple[Identities, NDArray[np.intp]]
    n_samples: int
    masked: int
    masked_by: str
    unfit: str
    groups: tuple[GroupChoice, ...] | None = None
    kept: Choice | None = None


@dataclass(frozen=True, eq=False)
class RawSelection:
    """Which raw rows of a tensor a site keeps, and its kept rows after it; None: no further one."""

    choice: Choice | None
    reservoir: Reservoir


class SelectingForward(NumberedForward, Protocol):
    """A forward that holds what was chosen in it.

    Attributes:
        selections: which samples count and are kept, by placement, reservoir and repeat.
        rows: which raw rows are kept, by selection and reservoir.
    """

    selections: dict[Any, Selection]
    rows: dict[Any, RawSelection]


def select(
    placement: Placement,
    forward: SelectingForward,
    repeat: int,
    reservoir: Reservoir,
    *,
    sizes: tuple[int, int],
    unfit: str = "",
) -> Selection:
    """Choose the samples of a tensor of these sizes, (samples, rows), for sites with this reservoir."""
    # All by identity: neither a placement nor a reservoir ever changes, and the key keeps them alive.
    key = (placement, reservoir, repeat)
    selection = forward.selections.get(key)
    if selection is None:
        selection = _selected(placement, forward, repeat, reservoir, sizes=sizes, unfit=unfit)
        forward.selections[key] = selection
    return selection


def select_rows(
    selection: Selection, forward: SelectingForward, reservoir: Reservoir, seed: int
) -> RawSelection:
    """Choose the raw rows of a tensor that sites with this reservoir keep: one of each kept sample."""
    rows = forward.rows.get((selection, reservoir))
    if rows is None:
        rows = forward.rows[selection, reservoir] = _selected_rows(selection, reservoir, seed)
    return rows


def _selected(
    placement: Placement,
    forward: NumberedForward,
    repeat: int,
    reservoir: Reservoir,
    *,
    sizes: tuple[int, int],
    unfit: str,
) -> Selection:
    candidates, order = _candidates(placement, forward, repeat, reservoir)
    update = reservoir.offer(candidates)
    keep, slots = order[update.chosen].astype(np.int64), update.slots
    if len(keep) > 1:  # the kernel meets samples in the order of memory
        ascending = np.argsort(keep)
        keep, slots = keep[ascending], slots[ascending]
    assignment = placement.assignment
    choice = Choice(
        *sizes,
        real=placement.real,
        keep=keep,
        slots=slots,
        example=assignment.example,
        position=assignment.position,
    )
    groups = placement.groups
    return Selection(
        groups=None if groups is None else groups.choices(assignment, placement.real, sizes),
        kept=None if groups is None else kept_alone(choice),
        placement=placement,
        choice=choice,
        reservoir=update.reservoir,
        candidates=(candidates, order),
        n_samples=assignment.n_samples,
        masked=placement.masked,
        masked_by=assignment.masked_by,
        unfit=unfit,
    )


def _selected_rows(selection: Selection, reservoir: Reservoir, seed: int) -> RawSelection:
    candidates, order = selection.candidates
    count = reservoir.count_admissible(candidates.hash) if selection.choice.rows else 0
    if not count:
        return RawSelection(None, reservoir)
    # A prefix, for candidates ascend by hash and rows are kept of fewer samples than moments are.
    update = reservoir.offer(candidates.take(slice(count)))
    if not len(update.slots):
        return RawSelection(None, reservoir)
    keep = order[update.chosen]
    choice, placement = selection.choice, selection.placement
    if choice.rows > 1:
        real = np.ones((len(keep), choice.rows), bool) if placement.real is None else placement.real[keep]
        # By a hash of the example, not of the call: the same row at both sites and in other recordings.
        drawn = row_of(seed, placement.assignment.example[keep], real.sum(1))
        inner = np.array([np.flatnonzero(row)[index] for row, index in zip(real, drawn, strict=True)])
        keep = keep * choice.rows + inner
    raw = Choice(choice.samples, choice.rows, raw=keep.astype(np.int64), raw_slots=update.slots)
    return RawSelection(raw, update.reservoir)


def _candidates(
    placement: Placement, forward: NumberedForward, repeat: int, reservoir: Reservoir
) -> tuple[Identities, NDArray[np.intp]]:
    """The samples that the reservoir may keep, in ascending order of hash, and their indices."""
    assignment = placement.assignment
    # Above the limit none can be kept, and after the first forwards that is nearly all of them.
    order, hashes = assignment.kept_below(reservoir.limit)
    count = 0 if reservoir.k == 0 else len(order)
    if not count:
        return _NO_CANDIDATES
    texts = [placement.text_of(forward, int(sample)) for sample in order] if forward.labels else [""] * count
    candidates = Identities(
        hash=hashes,
        example=assignment.example[order],
        position=assignment.position[order],
        repeat=np.array([repeat] * count, np.int64),
        call=np.array([forward.call] * count, np.int64),
        text=np.array(texts, dtype=object),
    )
    return candidates, order
