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
from normprobe.capture.layer_state import LayerState
from normprobe.capture.plan_cache import PlanCache
from normprobe.capture.sample_numbers import place, place_nested, record_extremes, unfit
from normprobe.capture.selection import RawSelection, Selection, select, select_rows
from normprobe.capture.site_state import SiteState
from normprobe.kernels import dispatch
from normprobe.kernels.choice import Choice
from normprobe.kernels.types import Accumulator, AxisRoles, Extremes
from normprobe.layers.to_rows import Extent, arrange, extent_of
from normprobe.vocabulary import INPUT, OUTPUT, site_of

MOST_REMEMBERED = 8
"""Of how many tensors a forward knows what they hold, for other layers that read them."""


@dataclass(frozen=True, eq=False)
class Observation:
    """A tensor at a site of a layer.

    Attributes:
        watch: the layer.
        name: the site.
        tensor: the tensor.
        forward: the forward.
        sequence: what the layer works on in it.
        repeat: which of the layer's calls in it this is.
    """

    state: LayerState
    name: str
    tensor: Tensor
    forward: Forward
    sequence: Sequence
    repeat: int

    @property
    def site(self) -> SiteState:
        """The site."""
        return self.state.sites[self.name]


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
        self._plans = PlanCache(seed)

    def begin(self, forward: Forward) -> None:
        """Get a forward ready to be measured."""
        if self._compiled is not None:
            state = forward.state
            state.recent, state.threads = self._compiled.RecentMoments(), self._compiled.threads()
            self._plans.prepare(forward)

    def observe(
        self, state: LayerState, name: str, tensor: Tensor, forward: Forward, sequence: Sequence
    ) -> None:
        """Measure ``tensor`` at the site ``name`` of a layer and add it to what is kept."""
        turn = _turn(state.index, name, forward)
        observation = Observation(state, name, tensor, forward, sequence, turn)
        why = unmeasurable(tensor)
        if why:
            state.note(why)
        elif tensor.is_nested:
            self._observe_nested(observation)
        else:
            self._observe_dense(observation)

    def _observe_dense(self, observation: Observation) -> None:
        """Measure a tensor that has one shape."""
        site, tensor = observation.site, observation.tensor
        extent = extent_of(observation.state.view, tensor.shape)
        selection = self._select(observation, extent)
        if not _fits(observation, extent.features):
            return
        raw = select_rows(selection, observation.forward, site.counters.rows, self.seed)
        padded = observation.state.view.kind == "batch_norm" and selection.choice.real is not None
        if padded or site.seen is not None:
            _add_padded(observation, _values(observation), selection, raw, padded=padded)
        elif not self._add_as_it_lies(observation, selection, raw):
            _add_arranged(observation, _values(observation), selection, raw)
        elif self._is_repeatable(observation, selection):
            agree = self._plans.make
            agree(
                observation.state,
                observation.name,
                tensor,
                forward=observation.forward,
                selection=selection,
                raw=raw,
            )
        _count(observation, selection, raw)

    def _is_repeatable(self, observation: Observation, selection: Selection) -> bool:
        """Whether what was decided holds for other sites in this forward and may be cached for the next.

        Layers with registered sites never take the extension's hooks, so a plan made for them would be read
        by nobody, and making it again at each forward would discard those planned ahead for all others.
        """
        state, forward = observation.state, observation.forward
        first = forward.single_sequence and observation.repeat == 0
        return first and selection.placement.aligned and not state.further_sites

    def _select(self, observation: Observation, extent: Extent) -> Selection:
        """Place the samples of a tensor of this extent, and choose among them."""
        forward, reservoir = observation.forward, observation.site.counters.samples
        placement = place(
            observation.state,
            observation.name,
            extent,
            forward,
            observation.sequence,
            strides=observation.tensor.stride(),
            seed=self.seed,
            k=self.k,
        )
        why, sizes = unfit(extent, observation.sequence, placement), (extent.samples, extent.rows)
        return select(placement, forward, observation.repeat, reservoir, sizes=sizes, unfit=why)

    def _observe_nested(self, observation: Observation) -> None:
        """Measure a NestedTensor: its components are the examples, their rows the positions."""
        site, forward = observation.site, observation.forward
        components = [
            arrange(observation.state.view, part).values for part in observation.tensor.detach().unbind()
        ]
        values = torch.cat(components)
        placement = place_nested([len(part) for part in components], forward, seed=self.seed, k=self.k)
        sizes = (len(values), values.shape[1])
        selection = select(placement, forward, observation.repeat, site.counters.samples, sizes=sizes)
        if _fits(observation, values.shape[2]):
            raw = select_rows(selection, forward, site.counters.rows, self.seed)
            _add_arranged(observation, values, selection, raw)
            _count(observation, selection, raw)

    def _add_as_it_lies(self, observation: Observation, selection: Selection, raw: RawSelection) -> bool:
        """Let the compiled kernel read the tensor by its own shape and strides, if it can."""
        site, forward = observation.site, observation.forward
        if site.counters.state is None:
            return False
        assert self._compiled is not None
        compiled_choice, state = self._compiled.compiled_choice, forward.state
        plan, raw_choice = (
            compiled_choice(selection.choice),
            None if raw.choice is None else compiled_choice(raw.choice),
        )
        news = site.counters.state.observe(
            observation.tensor, plan, raw_choice, state.recent, state.threads, self._small
        )
        if news is False:
            return False
        if news is not None:
            record_extremes(site, Extremes(*news), selection.placement, forward)
        return True


def _turn(layer: int, name: str, forward: Forward) -> int:
    """Which of the layer's tensors at this site in this forward comes now; counts it."""
    number = site_of(name).number
    if number < 2:
        return forward.state.take_turn(layer, name == OUTPUT)
    turn = forward.turns.get((layer, number), 0)
    forward.turns[layer, number] = turn + 1
    return turn


def _fits(observation: Observation, width: int) -> bool:
    """Whether a tensor has as many features as those before it; the first one decides."""
    site, view = observation.site, observation.state.view
    if site.width is None:
        axis_roles = AxisRoles(view.axis, view.trailing, view.unbatched, view.sample == "example")
        site.width, site.accumulator = (
            width,
            dispatch.accumulator(width, axis_roles, observation.tensor.device),
        )
        site.counters.state = site.accumulator.state
    if width == site.width:
        return True
    observation.state.note(
        f"a call with {width} features instead of {site.width} at its {observation.name} is left out"
    )
    return False


def _values(observation: Observation) -> Tensor:
    """The tensor arranged as (samples, rows, features)."""
    tensor = observation.tensor.detach()
    return arrange(observation.state.view, tensor.dequantize() if tensor.is_quantized else tensor).values


def _add_arranged(observation: Observation, values: Tensor, selection: Selection, raw: RawSelection) -> None:
    """Add a tensor that was arranged as (samples, rows, features)."""
    site = observation.site
    assert site.accumulator is not None
    if raw.choice is not None:
        site.accumulator.keep(values, raw.choice)
    found = _measured(observation, values, selection.choice, site.accumulator)
    record_extremes(
        site, site.accumulator.merge(found, selection.choice), selection.placement, observation.forward
    )


def _measured(observation: Observation, values: Tensor, choice: Choice, accumulator: Accumulator) -> Any:
    """What the tensor holds, as another layer that reads it may have found; if nobody wrote to it."""
    tensor, view = observation.tensor, observation.state.view
    if tensor.is_inference():  # which says of no write
        return accumulator.measure(values, choice)
    key = (id(tensor), tensor._version, id(choice), view.axis, view.trailing, view.sample, type(accumulator))
    known = observation.forward.found
    if key not in known or known[key][0]() is not tensor:
        while len(known) >= MOST_REMEMBERED:
            del known[next(iter(known))]
        # With the choice, lest another one of its id is taken for it.
        known[key] = weakref.ref(tensor), choice, accumulator.measure(values, choice)
    return known[key][2]


def _add_padded(
    observation: Observation, values: Tensor, selection: Selection, raw: RawSelection, *, padded: bool
) -> None:
    """Add a tensor of a channel norm that reads padding: from the first such call on all rows, too."""
    site, before = observation.site, None
    if site.seen is None and padded and site.counters.calls:
        before = site.totals().features
    _add_arranged(observation, values, selection, raw)
    if site.seen is None:
        site.unpadded, site.seen = before, dispatch.accumulator(values.shape[2], AxisRoles(), values.device)
        site.counters.state = None
    site.seen.add(values, Choice(selection.choice.samples, selection.choice.rows))


def _count(observation: Observation, selection: Selection, raw: RawSelection) -> None:
    """Count a measured call; say which mask was applied, why one was not, and that nothing was left."""
    site, state = observation.site, observation.state
    counters = site.counters
    counters.samples, counters.rows = selection.reservoir, raw.reservoir
    counters.calls += 1
    counters.n_samples += selection.n_samples
    counters.masked += selection.masked
    site.note_dtype(observation.tensor.dtype)
    if selection.masked_by:
        state.masked_by[selection.masked_by] = None
    if selection.unfit and observation.name != OUTPUT:
        where = "" if observation.name == INPUT else f" at its {observation.name}"
        state.note(selection.unfit + where)
    if not selection.n_samples:
        state.note(f"a call without a sample at its {observation.name}")
