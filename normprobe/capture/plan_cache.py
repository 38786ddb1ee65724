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
from normprobe.capture.layer_state import Watch
from normprobe.capture.sample_numbers import Placed, place_again
from normprobe.capture.selection import RawSelection, Selection, select, select_rows
from normprobe.kernels import dispatch
from normprobe.samples.reservoir import Roster


class Kin(NamedTuple):
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
    def of(forward: Forward) -> Kin | None:
        """That of a forward; None if it has samples that another one's may not be like."""
        batch, mask = forward.batch, forward.masks.own
        if not forward.plain or forward.labels is not None or batch.swapped or batch.packed is not None:
            return None
        if batch.lead is None or batch.lead.is_nested or (mask is not None and not mask.full):
            return None
        known = None if mask is None else (mask.name, mask.real.shape)
        return Kin(id(forward.now.owner), batch.size, batch.time, known)


@dataclass(frozen=True, eq=False)
class Terms:
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
    agreed: Any


@dataclass(eq=False)
class Ahead:
    """What is agreed for a forward, before it begins if it is like others.

    Attributes:
        call: its running number.
        first: running number of its first example.
        sequences: what its layers work on, as a forward has it; likewise the next three.
        labels: none, or it would not be like others.
        terms: what was agreed on, by who is alike.
    """

    call: int
    first: int
    sequences: dict[Any, Sequence]
    placed: dict[Any, Placed] = field(default_factory=dict)
    selections: dict[Any, Selection] = field(default_factory=dict)
    rows: dict[Any, RawSelection] = field(default_factory=dict)
    labels: None = None
    terms: dict[Any, Terms] = field(default_factory=dict)


MOST_AHEAD, MOST_ROWS_AHEAD = 16, 1 << 15
"""For how many forwards, and for how many samples, is agreed at once: after the first the code is at hand."""


class Agreements:
    """The agreements of one probe.

    Attributes:
        seed: changes which samples are kept.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._compiled = dispatch.compiled()
        self._cells: dict[Any, Any] = {}
        self._kin: Kin | None = None
        self._last: Ahead | None = None
        self._ahead: list[Ahead] = []
        self._reach = 1

    def make(
        self,
        watch: Watch,
        name: str,
        tensor: Tensor,
        *,
        forward: Forward,
        selection: Selection,
        raw: RawSelection,
    ) -> None:
        """Let other sites that are alike go the short way with their tensors in this forward."""
        compiled, now = self._compiled, forward.now
        if compiled is None or not isinstance(now, compiled.Pass):
            return
        if not selection.n_samples or selection.unfit:
            return
        site, view = watch.sites[name], watch.view
        account = site.account
        reading = (view.axis, view.trailing, view.unbatched, view.sample)
        placing = (watch.layouts[name], watch.axes.get(name))
        last = reading[:2] == (-1, 1)  # where features come last, how many there are changes nothing
        size = None if last else site.width
        alike = (*reading, *placing, tensor.dim(), size, tensor.dtype, account.rows.k)
        account.cell = self._cells.setdefault(alike, compiled.Cell())
        shape = (*tensor.shape[:-1], -1) if last else tuple(tensor.shape)
        terms = self._terms(shape, selection, raw, account.samples, account.rows)
        account.cell.settle(terms.agreed, now)
        self._note(alike, terms, forward)

    def _note(self, alike: Any, terms: Terms, forward: Forward) -> None:
        """Remember what was agreed, for forwards that are like this one."""
        kin, last = Kin.of(forward), self._last
        if kin != self._kin or last is None or last.call != forward.call:
            last = self._last = Ahead(forward.call, forward.first, {})
            self._kin = kin
        last.terms[alike] = terms
        self._ahead, self._reach = [], 1

    def renew(self, forward: Forward) -> None:
        """Let all go the short way who agreed in the forward before, if this one is like it."""
        last = self._last
        if last is None or self._kin is None or Kin.of(forward) != self._kin:
            return
        foreseen = self._ahead[0] if self._ahead else last
        if (foreseen.call, foreseen.first) != (forward.call, forward.first):
            self._look_ahead(last, forward)
        now = self._last = self._ahead.pop(0)
        forward.sequences, forward.placed = now.sequences, now.placed
        forward.selections, forward.rows = now.selections, now.rows
        for alike, terms in now.terms.items():
            self._cells[alike].settle(terms.agreed, forward.now)

    def _look_ahead(self, last: Ahead, forward: Forward) -> None:
        """Agree for this forward, and, if those before it came as foreseen, for some that are to come."""
        rows = max(len(terms.selection.placed.assignment.example) for terms in last.terms.values())
        self._reach = 1 if self._ahead else min(2 * self._reach, MOST_AHEAD)
        count = max(1, min(self._reach, MOST_ROWS_AHEAD // max(1, rows)))
        calls, examples = forward.call - last.call, forward.first - last.first
        sequences: dict[Any, Sequence] = {("own", None): forward.sequence("own", forward.masks.own)}
        self._ahead = []
        for step in range(count):
            coming = Ahead(forward.call + step * calls, forward.first + step * examples, sequences)
            coming.terms = {alike: self._again(old, examples, coming) for alike, old in last.terms.items()}
            self._ahead.append(coming)
            last = coming

    def _again(self, old: Terms, examples: int, forward: Ahead) -> Terms:
        """Agree on the same for a forward that begins so many examples after the one before it."""
        before, rows = old.selection, old.raw.roster
        placed = place_again(before.placed, forward, examples)
        sizes = (before.choice.samples, before.choice.rows)
        selection = select(placed, forward, 0, before.roster, sizes=sizes)
        raw = select_rows(selection, forward, rows, self.seed)
        return self._terms(old.shape, selection, raw, before.roster, rows)

    def _terms(
        self, shape: tuple[int, ...], selection: Selection, raw: RawSelection, samples: Roster, rows: Roster
    ) -> Terms:
        """What sites agree on that keep these samples and rows so far."""
        compiled = self._compiled
        assert compiled is not None
        agreed = compiled.Agreed(
            shape=shape,
            samples=samples,
            rows=rows,
            samples_after=selection.roster,
            rows_after=raw.roster,
            plan=compiled.plan_of(selection.choice),
            raw_plan=None if raw.choice is None else compiled.plan_of(raw.choice),
            small=compiled.SMALL,
            placed=selection.placed,
            n_samples=selection.n_samples,
            masked=selection.masked,
            masked_by=selection.masked_by,
        )
        return Terms(shape, selection, raw, agreed)
