"""The hooks of layers, and of modules that hold some: the short way where the compiled kernel has one.

Most calls are as those before: everything about them is decided. Of one decoded token they are all that a
probe costs, so they are one function of the extension each: a look at whether the call is as agreed, and one
pass. Whatever is not goes the long way, which is `HookCallbacks`'s.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from normprobe.capture.forward import Forward, Forwards
from normprobe.capture.layer_state import LayerState
from normprobe.capture.sample_numbers import record_extremes
from normprobe.kernels import dispatch
from normprobe.kernels.types import Extremes
from normprobe.vocabulary import INPUT, OUTPUT, site_of

Callback = Callable[..., None]


@dataclass(frozen=True, eq=False)
class FastHooks:
    """Makes the hooks of one probe, and keeps them: what they know of a last call holds in the next block.

    Attributes:
        forwards: the forwards so far.
        lock: what measuring holds.
        snapshot: looks at the vectors of a layer, given (watch, module).
        made: the hooks of layers, by their index, and of modules that hold some, by id.
    """

    forwards: Forwards
    lock: Any
    snapshot: Callback
    made: dict[tuple[str, int], tuple[Callback, Callback]] = field(default_factory=dict)

    def layer(self, state: LayerState, before: Callback, after: Callback) -> tuple[Callback, Callback]:
        """The hooks ahead of a layer and behind it, for which these are the long ways."""
        compiled, sites = dispatch.compiled(), state.sites
        if compiled is None or not isinstance(sites[INPUT].counters, compiled.SiteCounters):
            return before, after
        key = ("layer", state.index)
        if key not in self.made:
            shared = (self.forwards.inside, self.lock, _record_extremes, self.snapshot)
            ahead = compiled.LayerHook(before, state, sites[INPUT], site_of(INPUT).number, *shared)
            number = site_of(OUTPUT).number
            self.made[key] = ahead, compiled.LayerHook(after, state, sites[OUTPUT], number, *shared)
        return self.made[key]

    def container(
        self, module: nn.Module, model: nn.Module, before: Callback, after: Callback
    ) -> tuple[Callback, Callback]:
        """The hooks ahead of a module that holds layers of this model and behind it, likewise."""
        compiled, inside = dispatch.compiled(), self.forwards.inside
        if compiled is None or not isinstance(inside, compiled.CurrentForward):
            return before, after
        key = ("container", id(module))
        if key not in self.made:
            ahead = compiled.ContainerHook(before, model, False, inside)
            self.made[key] = ahead, compiled.ContainerHook(after, model, True, inside)
        return self.made[key]


def _record_extremes(site: Any, news: Any, placement: Any, forward: Forward) -> None:
    record_extremes(site, Extremes(*news), placement, forward)
