"""Measures distributions beside moments, for probes that ask for kurtosis or quantiles.

The extension's hooks do not know of it: where it is asked for every call comes to Python, and where it is not
nothing is different.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor

from normprobe.capture.forwards.forward import Forward
from normprobe.capture.group_measurer import GroupMeasurer
from normprobe.capture.identity.plan_cache import PlanCache
from normprobe.capture.identity.selection import RawSelection, Selection
from normprobe.capture.measure import (
    MOST_RECENT,
    HoldsPadding,
    MakeHooks,
    Measurer,
    Observation,
    arranged_values,
)
from normprobe.kernels.choice import Choice
from normprobe.kernels.distributions.accumulators import CompiledDistribution, distribution_accumulator
from normprobe.kernels.distributions.options import DistributionAccumulator, DistributionOptions
from normprobe.kernels.types import AxisRoles


class DistributionMeasurer(GroupMeasurer):
    """Adds each tensor that is measured to the distribution of its site, too."""

    def __init__(
        self, options: DistributionOptions, seed: int, k: int | None, holds_padding: HoldsPadding
    ) -> None:
        super().__init__(seed, k, holds_padding)
        self._options, self._plans = options, _NoPlans(seed)
        self._recent: dict[Any, Any] = {}

    def layer_hooks(self, fast: MakeHooks) -> MakeHooks:
        """Hooks that call Python at every call."""
        return lambda state, before, after: (before, after)

    def begin(self, forward: Forward) -> None:
        """Forget the tensors of the forward before."""
        super().begin(forward)
        self._recent.clear()

    def _add_strided(self, observation: Observation, selection: Selection, raw: RawSelection) -> bool:
        if not super()._add_strided(observation, selection, raw):
            return False
        self._add_distribution(observation, None, selection.choice)
        return True

    def _add_arranged(
        self, observation: Observation, values: Tensor, selection: Selection, raw: RawSelection
    ) -> None:
        super()._add_arranged(observation, values, selection, raw)
        self._add_distribution(observation, values, selection.choice)

    def _add_distribution(self, observation: Observation, values: Tensor | None, choice: Choice) -> None:
        """Add a tensor; ``values`` is it arranged, or None where it may be read as it lies."""
        site, view = observation.site, observation.state.view
        if site.distribution is None:
            assert site.width is not None
            roles = AxisRoles(view.axis, view.trailing, view.unbatched, view.sample == "example")
            device = observation.tensor.device
            site.distribution = distribution_accumulator(site.width, roles, self._options, device)
        found = self._found(observation, values, choice, site.distribution)
        site.distribution.merge(found, choice)

    def _found(
        self, observation: Observation, values: Tensor | None, choice: Choice, held: DistributionAccumulator
    ) -> Any:
        """The tensor's distribution, once for all layers that read it; trusted as `measure._moments` is."""
        tensor, view, recent = observation.tensor, observation.state.view, self._recent
        measure = partial(_measured, observation, values, choice, held)
        if tensor.is_inference() or tensor.is_nested:  # has no version, or is arranged anew each time
            return measure()
        key = (id(tensor), tensor._version, id(choice), view.axis, view.trailing, view.sample, type(held))
        if key not in recent or recent[key][0]() is not tensor:
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
        found = held.measure_strided(observation.tensor, choice)
        if found is not None:
            return found
    return held.measure(arranged_values(observation) if values is None else values, choice)


class _NoPlans(PlanCache):
    """No plans: they are for the extension's hooks."""

    def make(self, *args: Any, **kwargs: Any) -> None:
        """Make none."""


def measurer_of(
    options: DistributionOptions, *, grouped: bool
) -> Callable[[int, int | None, HoldsPadding], Measurer]:
    """What makes the measurer of a probe with these options, whose samples may be of groups."""
    plain = GroupMeasurer if grouped else Measurer
    return partial(DistributionMeasurer, options) if any(options) else plain
