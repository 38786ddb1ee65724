"""What sites that are alike do with the tensors of one forward, agreed on once, and again for the next one like it.

The first of alike sites goes the long way and leaves what was decided in their cell, where the hooks of the
compiled kernel find it. A forward of the same sizes whose samples are all real differs from the one before it
in nothing but which samples they are: what was agreed holds again, with other numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor

from normprobe import kernels
from normprobe.choosing import RawSelection, Selection, select, select_rows
from normprobe.forwards import Forward
from normprobe.placing import place_again
from normprobe.watch import Watch


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
        first: running number of the forward's first example.
        selection: which samples count and are kept.
        raw: which raw rows are kept.
    """

    shape: tuple[int, ...]
    first: int
    selection: Selection
    raw: RawSelection


class Agreements:
    """The agreements of one probe.

    Attributes:
        seed: changes which samples are kept.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._compiled = kernels.compiled()
        self._cells: dict[Any, Any] = {}
        self._terms: dict[Any, Terms] = {}
        self._kin: Kin | None = None

    def make(
        self,
        watch: Watch,
        name: str,
        tensor: Tensor,
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
        terms = Terms(shape, forward.first, selection, raw)
        self._fill(account.cell, terms, now, account.samples, account.rows)
        kin = Kin.of(forward)
        if kin != self._kin:
            self._terms, self._kin = {}, kin
        if kin is not None:
            self._terms[alike] = terms

    def renew(self, forward: Forward) -> None:
        """Let all go the short way who agreed in the forward before, if this one is like it."""
        kin = Kin.of(forward) if self._terms else None
        if kin is None or kin != self._kin:
            return
        sequence = forward.sequences["own", None] = forward.sequence("own", forward.masks.own)
        for alike, old in self._terms.items():
            before = old.selection
            placed = place_again(before.placed, old.first, forward, sequence)
            key = (placed, before.roster, 0)
            selection = forward.selections.get(key)
            if selection is None:
                sizes = (before.choice.samples, before.choice.rows)
                selection = forward.selections[key] = select(placed, forward, 0, before.roster, sizes=sizes)
            raw = forward.rows.get((selection, old.raw.roster))
            if raw is None:
                raw = select_rows(selection, old.raw.roster, self.seed)
                forward.rows[selection, old.raw.roster] = raw
            terms = self._terms[alike] = Terms(old.shape, forward.first, selection, raw)
            self._fill(self._cells[alike], terms, forward.now, before.roster, old.raw.roster)

    def _fill(self, cell: Any, terms: Terms, now: Any, samples: Any, rows: Any) -> None:
        """Leave the terms where the hooks of sites find them that keep these samples and rows so far."""
        compiled, selection, raw = self._compiled, terms.selection, terms.raw
        assert compiled is not None
        cell.agreed = compiled.Agreed(
            pass_=now,
            shape=terms.shape,
            samples=samples,
            rows=rows,
            samples_after=selection.roster,
            rows_after=raw.roster,
            plan=selection.choice.plan,
            raw_plan=None if raw.choice is None else raw.choice.plan,
            small=compiled.SMALL,
            placed=selection.placed,
            n_samples=selection.n_samples,
            masked=selection.masked,
            masked_by=selection.masked_by,
        )
