"""One tensor at one site of one layer, the long way: placed, measured and added to what is kept.

Everything that can be decided once is: how a site's tensors read on its first call, which samples count on
the first tensor of a forward that is shaped alike. What was decided is left where `ears` finds it.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from normprobe.capture.forward import Forward, Sequence
from normprobe.capture.hooks.torch_internals import unmeasurable
from normprobe.capture.layer_state import Watch
from normprobe.capture.plan_cache import Agreements
from normprobe.capture.sample_numbers import hold, place, place_nested, unfit
from normprobe.capture.selection import RawSelection, Selection, select, select_rows
from normprobe.capture.site_state import Site
from normprobe.kernels import dispatch
from normprobe.kernels.choice import Choice
from normprobe.kernels.types import Extremes, Reading, Sums
from normprobe.layers.to_rows import Extent, arrange, extent_of

REMEMBERED = 8
"""Of how many tensors a forward knows what they hold, for other layers that read them."""


@dataclass(frozen=True, eq=False)
class Firing:
    """A tensor at a site of a layer.

    Attributes:
        watch: the layer.
        name: the site.
        tensor: the tensor.
        forward: the forward.
        sequence: what the layer works on in it.
        repeat: which of the layer's calls in it this is.
    """

    watch: Watch
    name: str
    tensor: Tensor
    forward: Forward
    sequence: Sequence
    repeat: int

    @property
    def site(self) -> Site:
        """The site."""
        return self.watch.sites[self.name]


class Measurer:
    """Measures the tensors of one probe.

    Attributes:
        seed: changes which samples are kept.
        k: how many samples are kept per site; None for all.
    """

    def __init__(self, seed: int, k: int | None) -> None:
        self.seed, self.k = seed, k
        self._compiled = dispatch.compiled()
        self._small = 0 if self._compiled is None else self._compiled.SMALL
        self._agreements = Agreements(seed)

    def begin(self, forward: Forward) -> None:
        """Get a forward ready to be measured."""
        if self._compiled is not None:
            now = forward.now
            now.memory, now.threads = self._compiled.Memory(), self._compiled.threads()
            self._agreements.renew(forward)

    def take(self, watch: Watch, name: str, tensor: Tensor, forward: Forward, sequence: Sequence) -> None:
        """Measure ``tensor`` at the site ``name`` of a layer and add it to what is kept."""
        turn = forward.now.take_turn(watch.index, name == "output")
        firing = Firing(watch, name, tensor, forward, sequence, turn)
        why = unmeasurable(tensor)
        if why:
            watch.note(why)
        elif tensor.is_nested:
            self._take_nested(firing)
        else:
            self._take_plain(firing)

    def _take_plain(self, firing: Firing) -> None:
        """Measure a tensor that has one shape."""
        site, tensor = firing.site, firing.tensor
        extent = extent_of(firing.watch.view, tensor.shape)
        selection = self._select(firing, extent)
        if not _fits(firing, extent.features):
            return
        raw = select_rows(selection, firing.forward, site.account.rows, self.seed)
        padded = firing.watch.view.kind == "batch_norm" and selection.choice.real is not None
        if padded or site.seen is not None:
            _add_padded(firing, _values(firing), selection, raw, padded=padded)
        elif not self._add_as_it_lies(firing, selection, raw):
            _add_arranged(firing, _values(firing), selection, raw)
        elif firing.forward.plain and firing.repeat == 0 and selection.placed.aligned:
            agree = self._agreements.make
            agree(firing.watch, firing.name, tensor, forward=firing.forward, selection=selection, raw=raw)
        _count(firing, selection, raw)

    def _select(self, firing: Firing, extent: Extent) -> Selection:
        """Place the samples of a tensor of this extent, and choose among them."""
        forward, roster = firing.forward, firing.site.account.samples
        placed = place(
            firing.watch,
            firing.name,
            extent,
            forward,
            firing.sequence,
            strides=firing.tensor.stride(),
            seed=self.seed,
            k=self.k,
        )
        why, sizes = unfit(extent, firing.sequence, placed), (extent.samples, extent.rows)
        return select(placed, forward, firing.repeat, roster, sizes=sizes, unfit=why)

    def _take_nested(self, firing: Firing) -> None:
        """Measure a NestedTensor: its components are the examples, their rows the positions."""
        site, forward = firing.site, firing.forward
        components = [arrange(firing.watch.view, part).values for part in firing.tensor.detach().unbind()]
        values = torch.cat(components)
        placed = place_nested([len(part) for part in components], forward, seed=self.seed, k=self.k)
        sizes = (len(values), values.shape[1])
        selection = select(placed, forward, firing.repeat, site.account.samples, sizes=sizes)
        if _fits(firing, values.shape[2]):
            raw = select_rows(selection, forward, site.account.rows, self.seed)
            _add_arranged(firing, values, selection, raw)
            _count(firing, selection, raw)

    def _add_as_it_lies(self, firing: Firing, selection: Selection, raw: RawSelection) -> bool:
        """Let the compiled kernel read the tensor by its own shape and strides, if it can."""
        site, forward = firing.site, firing.forward
        if site.account.state is None:
            return False
        assert self._compiled is not None
        plan_of, now = self._compiled.plan_of, forward.now
        plan, raw_plan = plan_of(selection.choice), None if raw.choice is None else plan_of(raw.choice)
        news = site.account.state.hear(firing.tensor, plan, raw_plan, now.memory, now.threads, self._small)
        if news is False:
            return False
        if news is not None:
            hold(site, Extremes(*news), selection.placed, forward)
        return True


def _fits(firing: Firing, width: int) -> bool:
    """Whether a tensor has as many features as those before it; the first one decides."""
    site, view = firing.site, firing.watch.view
    if site.width is None:
        reading = Reading(view.axis, view.trailing, view.unbatched, view.sample == "example")
        site.width, site.sums = width, dispatch.sums(width, reading, firing.tensor.device)
        site.account.state = site.sums.state
    if width == site.width:
        return True
    firing.watch.note(
        f"a call with {width} features instead of {site.width} at its {firing.name} is left out"
    )
    return False


def _values(firing: Firing) -> Tensor:
    """The tensor arranged as (samples, rows, features)."""
    tensor = firing.tensor.detach()
    return arrange(firing.watch.view, tensor.dequantize() if tensor.is_quantized else tensor).values


def _add_arranged(firing: Firing, values: Tensor, selection: Selection, raw: RawSelection) -> None:
    """Add a tensor that was arranged as (samples, rows, features)."""
    site = firing.site
    assert site.sums is not None
    if raw.choice is not None:
        site.sums.keep(values, raw.choice)
    found = _measured(firing, values, selection.choice, site.sums)
    hold(site, site.sums.take(found, selection.choice), selection.placed, firing.forward)


def _measured(firing: Firing, values: Tensor, choice: Choice, sums: Sums) -> Any:
    """What the tensor holds, as another layer that reads it may have found; if nobody wrote to it."""
    tensor, view = firing.tensor, firing.watch.view
    if tensor.is_inference():  # which says of no write
        return sums.measure(values, choice)
    key = (id(tensor), tensor._version, id(choice), view.axis, view.trailing, view.sample, type(sums))
    known = firing.forward.found
    if key not in known or known[key][0]() is not tensor:
        while len(known) >= REMEMBERED:
            del known[next(iter(known))]
        # With the choice, lest another one of its id is taken for it.
        known[key] = weakref.ref(tensor), choice, sums.measure(values, choice)
    return known[key][2]


def _add_padded(
    firing: Firing, values: Tensor, selection: Selection, raw: RawSelection, *, padded: bool
) -> None:
    """Add a tensor of a channel norm that reads padding: from the first such call on all rows, too."""
    site, before = firing.site, None
    if site.seen is None and padded and site.account.calls:
        before = site.met().features
    _add_arranged(firing, values, selection, raw)
    if site.seen is None:
        site.unpadded, site.seen = before, dispatch.sums(values.shape[2], Reading(), values.device)
        site.account.state = None
    site.seen.add(values, Choice(selection.choice.samples, selection.choice.rows))


def _count(firing: Firing, selection: Selection, raw: RawSelection) -> None:
    """Count a measured call; say which mask was applied, why one was not, and that nothing was left."""
    site, watch = firing.site, firing.watch
    account = site.account
    account.samples, account.rows = selection.roster, raw.roster
    account.calls += 1
    account.n_samples += selection.n_samples
    account.masked += selection.masked
    site.meet(firing.tensor.dtype)
    if selection.masked_by:
        watch.masked_by[selection.masked_by] = None
    if selection.unfit and firing.name == "input":
        watch.note(selection.unfit)
    if not selection.n_samples:
        watch.note(f"a call without a sample at its {firing.name}")
