"""One tensor at one site of one layer: its samples numbered, chosen, measured and added to what is kept.

Everything that can be decided once is: how a site's tensors read on its first call, which samples count and
are kept on the first tensor of its sizes in a forward. From what was decided `PlanCache` makes plans, by
which the extension's hooks (`fast_hooks`) measure the next such tensor without coming here.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from normprobe.capture.forwards.forward import Forward, Forwards, Sequence
from normprobe.capture.hooks.torch_internals import unmeasurable
from normprobe.capture.identity.no_data import is_no_data
from normprobe.capture.identity.numbered import Numbered
from normprobe.capture.identity.observation import Observation
from normprobe.capture.identity.plan_cache import PlanCache
from normprobe.capture.identity.sample_numbers import (
    place,
    place_graphs,
    place_nested,
    record_extremes,
    unfit,
)
from normprobe.capture.identity.selection import RawSelection, Selection, select, select_rows
from normprobe.capture.identity.sharding import place_part, samples_of_part
from normprobe.capture.identity.tensor_parts import Sharding
from normprobe.capture.states.layer_state import LayerState
from normprobe.kernels import dispatch
from normprobe.kernels.choice import Choice
from normprobe.kernels.first_nonfinite import first_nonfinite
from normprobe.kernels.types import Accumulator, AxisRoles, Extremes
from normprobe.layers.to_rows import Extent, arrange, by_graph, extent_of
from normprobe.layers.view import View
from normprobe.vocabulary import INPUT, OUTPUT, site_of

MakeHooks = Callable[
    [LayerState, Callable[..., None], Callable[..., None]], tuple[Callable[..., None], Callable[..., None]]
]
HoldsPadding = Callable[[Extent, Forward, Sequence], bool]
MOST_RECENT = 8
"""Of how many tensors a forward holds the moments, for other layers that read them."""


class Measurer:
    """Measures the tensors of one probe; who calls it holds the probe's lock.

    Attributes:
        seed: changes which samples are kept.
        k: how many samples are kept per site; None for all.
    """

    def __init__(self, seed: int, k: int | None, holds_padding: HoldsPadding) -> None:
        self.seed, self.k, self._holds_padding = seed, k, holds_padding
        self._compiled = dispatch.compiled()
        self._small = 0 if self._compiled is None else self._compiled.SMALL
        self._plans = PlanCache(seed)

    def layer_hooks(self, fast: MakeHooks, forwards: Forwards, calls: Any) -> MakeHooks:
        """What makes the hooks of layers: the extension's, which measure what this measures."""
        return fast

    def begin(self, forward: Forward) -> None:
        """Give a forward what measuring in it needs: room for recent moments, and plans where they hold."""
        if self._compiled is not None:
            state = forward.state
            # Each forward has a memory of its own: tensors of the one before may be gone, and their ids
            # taken.
            state.recent, state.threads = self._compiled.RecentMoments(), self._compiled.threads()
            self._plans.prepare(forward)

    def observe(
        self,
        state: LayerState,
        name: str,
        tensor: Tensor,
        forward: Forward,
        sequence: Sequence,
        *,
        graphs: Tensor | None = None,
        sharding: Sharding | None = None,
    ) -> Numbered | None:
        """Measure ``tensor`` at the site ``name`` of a layer; its samples, or None where it is left out."""
        repeat = forward.state.next_repeat(state.index, site_of(name).number)
        observation = Observation(state, name, tensor, forward, sequence, repeat, graphs, sharding)
        # The repeat is drawn first: a call that is left out is still one of the layer's calls in this
        # forward.
        why = unmeasurable(tensor) or place_part(observation)
        if why:
            state.note(why)
            return None
        if tensor.is_nested:
            selection = self._observe_nested(observation)
        elif state.view.graph and tensor.dim() == 2:
            selection = self._observe_graphs(observation)
        else:
            selection = self._observe_dense(observation)
        return None if selection is None or forward.trace is None else _numbered(observation, selection)

    def observe_numbered(
        self,
        state: LayerState,
        name: str,
        tensor: Tensor,
        forward: Any,
        *,
        numbered: Numbered,
        repeat: int,
        dtype: torch.dtype,
    ) -> None:
        """Measure a tensor whose samples are those of another one, measured before.

        Args:
            state: the layer.
            name: the site.
            tensor: of the sizes of the other.
            forward: what stands in for the forward (`gradients.forward_trace`).
            numbered: the samples.
            repeat: which of the layer's tensors at this site in the forward it is.
            dtype: its dtype as the model has it.
        """
        observation = Observation(state, name, tensor, forward, None, repeat, numbered.graphs)
        reservoir = observation.site.counters.samples
        selection = select(numbered.placement, forward, repeat, reservoir, sizes=numbered.sizes)
        graphs = numbered.graphs is not None
        width = tensor.shape[1] if graphs else extent_of(state.view, tensor.shape).features
        if not _fits(observation, width):
            return
        raw = select_rows(selection, forward, observation.site.counters.rows, self.seed)
        if graphs:
            self._add_arranged(observation, by_graph(tensor.detach(), numbered.graphs)[0], selection, raw)
        elif not self._add_strided(observation, selection, raw):
            self._add_arranged(observation, arranged_values(observation), selection, raw)
        _count(observation, selection, raw, dtype)

    def recent(self) -> tuple[Any, int]:
        """Room for the moments of tensors just measured, and how many threads may measure one."""
        compiled = self._compiled
        return (None, 1) if compiled is None else (compiled.RecentMoments(), compiled.threads())

    def _observe_dense(self, observation: Observation) -> Selection | None:
        """Measure a tensor that has one shape.

        The order matters: nothing is counted before the tensor's width is found to fit, and rows are chosen
        before the site's reservoirs are replaced in `_count`, for both choices are among the samples so far.
        """
        site, tensor = observation.site, observation.tensor
        extent = extent_of(observation.state.view, observation.whole_shape)
        forward, grid = observation.forward, observation.sequence.grid
        given = observation.state, observation.name, tensor, extent.leading
        if extent.leading and is_no_data(*given, forward=forward, grid=grid):
            return None
        selection = self._select(observation, extent)
        if not _fits(observation, extent_of(observation.state.view, tensor.shape).features):
            return None
        raw = select_rows(selection, observation.forward, site.counters.rows, self.seed)
        # A batch norm's statistics are over the padding, too: what it saw is summed beside what is real.
        padded = observation.state.view.kind == "batch_norm" and selection.choice.real is not None
        if padded or site.seen is not None:
            self._add_padded(observation, arranged_values(observation), selection, raw, padded=padded)
        elif not self._add_strided(observation, selection, raw):
            self._add_arranged(observation, arranged_values(observation), selection, raw)
        elif _is_repeatable(observation, selection):
            self._plans.make(
                observation.state,
                observation.name,
                tensor,
                forward=observation.forward,
                selection=selection,
                raw=raw,
            )
        _count(observation, selection, raw)
        if selection.unfit and observation.name == INPUT:
            observation.state.unmasked += self._holds_padding(
                extent, observation.forward, observation.sequence
            )
        return selection

    def _select(self, observation: Observation, extent: Extent) -> Selection:
        """Number the samples of a tensor of this extent, and choose among them."""
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
        if observation.sharding is not None:
            placement = samples_of_part(observation, placement, extent)
            sizes = len(placement.assignment.example), extent.rows
        return select(placement, forward, observation.repeat, reservoir, sizes=sizes, unfit=why)

    def _observe_nested(self, observation: Observation) -> Selection | None:
        """Measure a NestedTensor: its components are the examples, their rows the positions."""
        site, forward = observation.site, observation.forward
        # Its sizes are ragged, so no plan and no layout: every call is arranged and numbered anew.
        components = [
            arrange(observation.state.view, part).values for part in observation.tensor.detach().unbind()
        ]
        values = torch.cat(components)
        placement = place_nested([len(part) for part in components], forward, seed=self.seed, k=self.k)
        sizes = (len(values), values.shape[1])
        selection = select(placement, forward, observation.repeat, site.counters.samples, sizes=sizes)
        if _fits(observation, values.shape[2]):
            raw = select_rows(selection, forward, site.counters.rows, self.seed)
            self._add_arranged(observation, values, selection, raw)
            _count(observation, selection, raw)
            return selection
        return None

    def _observe_graphs(self, observation: Observation) -> Selection | None:
        """Measure the rows of graphs: each is an example, whose rows are its nodes."""
        site, forward, rows = observation.site, observation.forward, observation.tensor.detach()
        values, real = by_graph(rows, observation.graphs)
        placement = place_graphs(site, real, forward, seed=self.seed, k=self.k)
        sizes = (values.shape[0], values.shape[1])
        selection = select(placement, forward, observation.repeat, site.counters.samples, sizes=sizes)
        if _fits(observation, values.shape[2]):
            raw = select_rows(selection, forward, site.counters.rows, self.seed)
            self._add_arranged(observation, values, selection, raw)
            _count(observation, selection, raw)
            return selection
        return None

    def _add_strided(self, observation: Observation, selection: Selection, raw: RawSelection) -> bool:
        """Let the compiled kernel read the tensor by its own shape and strides; False if it cannot."""
        site, forward = observation.site, observation.forward
        if site.counters.state is None:
            return False
        extremes = self._observed(observation, site.counters.state, selection.choice, raw.choice)
        if extremes is False:
            return False
        if extremes is not None:  # new ones
            record_extremes(site, Extremes(*extremes), selection.placement, forward)
        return True

    def _observed(self, observation: Observation, state: Any, choice: Choice, raw: Choice | None) -> Any:
        """What the extension gives of a tensor: new extremes, or False where it cannot read it as it lies."""
        assert self._compiled is not None
        prepared, forward = self._compiled.compiled_choice, observation.forward.state
        choices = prepared(choice), None if raw is None else prepared(raw)
        return state.observe(observation.tensor, *choices, forward.recent, forward.threads, self._small)

    def _add_arranged(
        self, observation: Observation, values: Tensor, selection: Selection, raw: RawSelection
    ) -> None:
        """Add a tensor that was arranged as (samples, rows, features)."""
        site = observation.site
        assert site.accumulator is not None
        if raw.choice is not None:
            site.accumulator.keep(values, raw.choice)
        moments = measured_moments(observation, values, selection.choice, site.accumulator)
        extremes = site.accumulator.merge(moments, selection.choice)
        if extremes.nonfinite is not None:
            extremes = extremes._replace(nonfinite=first_nonfinite(values, selection.choice.real))
        record_extremes(site, extremes, selection.placement, observation.forward)

    def _add_padded(
        self,
        observation: Observation,
        values: Tensor,
        selection: Selection,
        raw: RawSelection,
        *,
        padded: bool,
    ) -> None:
        """Add a tensor of a channel norm that reads padding: from the first such call on all rows, too."""
        site, unpadded = observation.site, None
        if site.seen is None and padded and site.counters.calls:
            unpadded = site.totals().features
        self._add_arranged(observation, values, selection, raw)
        if site.seen is None:
            site.unpadded, site.seen = (
                unpadded,
                dispatch.accumulator(values.shape[2], AxisRoles(), values.device),
            )
            # The extension reads a tensor once, for one set of sums: from now on it must not.
            site.counters.state = None
        site.seen.add(values, Choice(selection.choice.samples, selection.choice.rows))


def _is_repeatable(observation: Observation, selection: Selection) -> bool:
    """Whether a plan of what was decided holds for other sites in this forward, and for the next.

    Layers with further sites never take the extension's hooks, so nobody would read a plan made for
    them, and making it again at each forward would discard those that are planned ahead for all others.
    """
    state, forward = observation.state, observation.forward
    first = forward.single_sequence and observation.repeat == 0 and observation.sharding is None
    return first and selection.placement.aligned and not state.by_callback


def _numbered(observation: Observation, selection: Selection) -> Numbered:
    choice, nested = selection.choice, observation.tensor.is_nested
    sizes = (choice.samples, choice.rows)
    graphs = observation.graphs if observation.state.view.graph else None
    return Numbered(selection.placement, sizes, observation.repeat, graphs, nested)


def axis_roles(view: View) -> AxisRoles:
    """How the axes of a layer's tensors read, as accumulators take it."""
    return AxisRoles(view.axis, view.trailing, view.unbatched, view.sample == "example")


def _fits(observation: Observation, width: int) -> bool:
    """Whether a tensor has as many features as those before it; the first one decides."""
    site, view = observation.site, observation.state.view
    site.width = width if site.width is None else site.width
    # Each window sums anew.
    if site.accumulator is None and width == site.width:
        site.accumulator = dispatch.accumulator(width, axis_roles(view), observation.tensor.device)
        site.counters.state = site.accumulator.state
    if width == site.width:
        return True
    observation.state.note(
        f"a call with {width} features instead of {site.width} at its {observation.name} is left out"
    )
    return False


def arranged_values(observation: Observation) -> Tensor:
    """The tensor arranged as (samples, rows, features)."""
    # Detached, so that what is kept of it holds no graph.
    tensor = observation.tensor.detach()
    return arrange(observation.state.view, tensor.dequantize() if tensor.is_quantized else tensor).values


def measured_moments(
    observation: Observation, values: Tensor, choice: Choice, accumulator: Accumulator
) -> Any:
    """The tensor's moments, once for all layers that read it, unless it was written to in between.

    An entry is trusted if it is of the very tensor (by a weak reference: an id is used again once a tensor is
    gone) at the same version, read by the same axes and choice. The entry holds the choice, so that no
    other one can have its id.
    """
    tensor, view = observation.tensor, observation.state.view
    if tensor.is_inference():  # has no version
        return accumulator.measure(values, choice)
    key = (id(tensor), tensor._version, id(choice), view.axis, view.trailing, view.sample, type(accumulator))
    recent = observation.forward.recent
    if key not in recent or recent[key][0]() is not tensor:
        while len(recent) >= MOST_RECENT:
            del recent[next(iter(recent))]
        recent[key] = weakref.ref(tensor), choice, accumulator.measure(values, choice)
    return recent[key][2]


def _count(
    observation: Observation, selection: Selection, raw: RawSelection, dtype: torch.dtype | None = None
) -> None:
    """Count a measured call; note which mask was applied, why one was not, and that no sample was left."""
    site, state = observation.site, observation.state
    counters = site.counters
    counters.samples, counters.rows = selection.reservoir, raw.reservoir
    counters.calls += 1
    counters.n_samples += selection.n_samples
    counters.masked += selection.masked
    site.note_dtype(dtype or observation.tensor.dtype)
    if selection.masked_by:
        state.masked_by[selection.masked_by] = None
    if selection.unfit and observation.name != OUTPUT:
        where = "" if observation.name == INPUT else f" at its {observation.name}"
        state.note(selection.unfit + where)
    if not selection.n_samples:
        state.note(f"a call without a sample at its {observation.name}")
