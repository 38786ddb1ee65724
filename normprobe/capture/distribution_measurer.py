"""Measures distributions beside moments, for probes that ask for kurtosis or quantiles.

The extension's hooks do not know of it: where it is asked for, a hook around each of them measures what that
one measured, and where it is not nothing is different.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor

from normprobe.capture.forwards.forward import Forward, Forwards
from normprobe.capture.group_measurer import GroupMeasurer
from normprobe.capture.hooks.torch_internals import ModesAside
from normprobe.capture.identity.observation import Observation
from normprobe.capture.identity.selection import RawSelection, Selection
from normprobe.capture.measure import (
    MOST_RECENT,
    HoldsPadding,
    MakeHooks,
    Measurer,
    arranged_values,
    axis_roles,
)
from normprobe.capture.states.layer_state import LayerState
from normprobe.capture.states.site_state import SiteState
from normprobe.kernels.choice import Choice
from normprobe.kernels.distributions.accumulators import CompiledDistribution, distribution_accumulator
from normprobe.kernels.distributions.options import DistributionAccumulator, DistributionOptions
from normprobe.layers.view import View
from normprobe.vocabulary import INPUT, OUTPUT

Hook = Callable[..., None]


class DistributionMeasurer(Measurer):
    """Adds each tensor that is measured to the distribution of its site, too."""

    def __init__(
        self,
        options: DistributionOptions,
        seed: int,
        k: int | None,
        holds_padding: HoldsPadding,
    ) -> None:
        super().__init__(seed, k, holds_padding)
        self._options = options
        self._recent: dict[Any, Any] = {}

    def layer_hooks(self, fast: MakeHooks, forwards: Forwards, calls: Any) -> MakeHooks:
        """The extension's hooks, around which what they measured is added to distributions."""
        made: dict[int, tuple[Hook, Hook]] = {}

        def layer(state: LayerState, before: Hook, after: Hook) -> tuple[Hook, Hook]:
            # Made once, as those of the extension are, which are used again in the probe's next block.
            if state.index not in made:
                reads, writes = (
                    _AroundFastHook(self, state, site, forwards, calls) for site in (INPUT, OUTPUT)
                )
                reads.fast, writes.fast = fast(state, reads.around(before), writes.around(after))
                made[state.index] = reads, writes
            return made[state.index]

        return layer

    def begin(self, forward: Forward) -> None:
        """Forget the tensors of the forward before."""
        super().begin(forward)
        # Its entries hold choices and results of tensors that are gone by now.
        self._recent.clear()

    def _add_strided(self, observation: Observation, selection: Selection, raw: RawSelection) -> bool:
        if not super()._add_strided(observation, selection, raw):
            return False
        # After the moments: what the kernel cannot read as it lies is added as arranged, and once only.
        self._add_distribution(observation, None, selection.choice)
        return True

    def _add_arranged(
        self, observation: Observation, values: Tensor, selection: Selection, raw: RawSelection
    ) -> None:
        super()._add_arranged(observation, values, selection, raw)
        self._add_distribution(observation, values, selection.choice)

    def _add_distribution(self, observation: Observation, values: Tensor | None, choice: Choice) -> None:
        """Add a tensor; ``values`` is it arranged, or None where it may be read as it lies."""
        held = self._distribution_of(observation.site, observation.state.view, observation.tensor)
        given = held.choice(choice) if isinstance(held, CompiledDistribution) else choice
        measure = partial(_measured, observation, values, choice, held)
        found = self._found(observation.tensor, observation.state.view, given, type(held), measure)
        held.merge(found, choice)

    def add_strided(self, state: LayerState, site: str, tensor: Tensor, choice: Any) -> None:
        """Add a tensor that a hook of the extension measured by its plan, whose choice is the extension's."""
        held = self._distribution_of(state.sites[site], state.view, tensor)
        # The extension measured it, so the extension is there and the tensor on the CPU.
        assert isinstance(held, CompiledDistribution)
        measure = partial(held.measure_chosen, tensor, choice)
        found = self._found(tensor, state.view, choice, type(held), measure)
        held.merge_chosen(found, choice)

    def _distribution_of(self, site: SiteState, view: View, tensor: Tensor) -> DistributionAccumulator:
        """The distribution of a site, begun with its first tensor."""
        if site.distribution is None:
            assert site.width is not None
            site.distribution = distribution_accumulator(
                site.width, axis_roles(view), self._options, tensor.device
            )
        return site.distribution

    def _found(
        self, tensor: Tensor, view: View, choice: Any, kernel: type, measure: Callable[[], Any]
    ) -> Any:
        """The tensor's distribution, once for all layers that read it; trusted as `measure._moments` is."""
        recent = self._recent
        if tensor.is_inference() or tensor.is_nested:  # has no version, or is arranged anew each time
            return measure()
        # `_version`, private in torch, grows with each write in place: the entry is of the numbers before.
        key = (id(tensor), tensor._version, id(choice), view.axis, view.trailing, view.sample, kernel)
        if key not in recent or recent[key][0]() is not tensor:
            # The first key is the oldest, as a dict keeps the order of insertion.
            while len(recent) >= MOST_RECENT:
                del recent[next(iter(recent))]
            # The entry holds the choice, so that no other one can have its id.
            recent[key] = weakref.ref(tensor), choice, measure()
        return recent[key][2]


def _measured(
    observation: Observation, values: Tensor | None, choice: Choice, held: DistributionAccumulator
) -> Any:
    """The distribution of a tensor, by its own strides where that can be."""
    if values is None and isinstance(held, CompiledDistribution):
        found = held.measure_chosen(observation.tensor, held.choice(choice))
        if found is not None:
            return found
    return held.measure(arranged_values(observation) if values is None else values, choice)


class _AroundFastHook:
    """Calls the extension's hook of a layer; where that measured a tensor alone, adds it to a distribution.

    The callback in Python does so itself. Of a call that the extension handled the choice is that of the plan
    by which it did, which holds in this very forward.

    Attributes:
        fast: the extension's hook.
    """

    fast: Hook

    def __init__(
        self, measurer: DistributionMeasurer, state: LayerState, site: str, forwards: Forwards, calls: Any
    ) -> None:
        self._measurer, self._state, self._site = measurer, state, site
        self._forwards, self._calls = forwards, calls
        # A layer may be called in several threads at once.
        self._thread = threading.local()

    def around(self, callback: Hook) -> Hook:
        """The callback for the extension to call, so that it is known when it does."""

        def call(*args: Any) -> None:
            self._thread.in_python = True
            callback(*args)

        return call

    def __call__(self, *args: Any) -> None:
        """Call the extension's hook with what torch gives, then add the tensor that it measured."""
        self._thread.in_python = False
        self.fast(*args)
        forward = self._forwards.current
        if self._thread.in_python or forward is None or not forward.state.measured:
            return
        slot = self._state.sites[self._site].counters.plan_slot
        choice = None if slot is None else slot.choice(forward.state)
        if choice is not None:
            tensor = args[1][0] if self._site == INPUT else args[3]
            add = partial(self._measurer.add_strided, self._state, self._site, tensor, choice)
            with self._calls.lock, ModesAside():
                self._calls.guard(self._state, f"the distribution at its {self._site}", add)


def measurer_of(
    options: DistributionOptions, *, grouped: bool
) -> Callable[[int, int | None, HoldsPadding], Measurer]:
    """What makes the measurer of a probe with these options, whose samples may be of groups."""
    plain = GroupMeasurer if grouped else Measurer
    return partial(DistributionMeasurer, options) if any(options) else plain
