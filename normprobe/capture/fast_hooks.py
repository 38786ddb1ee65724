"""The hooks of layers and of modules that hold layers; twin of ``csrc/hooks/fast_hooks.h``.

Most calls are like those before, with everything about them decided; of one decoded token they are all that a
probe costs. So each hook is one C function: compare the call with the cached plan, then measure. Any other
call goes to the callback in Python, and so do all where the extension is missing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from normprobe.capture.forwards.forward import Forward, Forwards
from normprobe.capture.hooks.handles import Hook
from normprobe.capture.identity.sample_numbers import record_extremes
from normprobe.capture.states.layer_state import LayerState
from normprobe.kernels import dispatch
from normprobe.kernels.types import Extremes
from normprobe.vocabulary import INPUT, OUTPUT, site_of

Callback = Callable[..., None]


@dataclass(frozen=True, eq=False)
class FastHooks:
    """Makes the hooks of one probe and keeps them.

    A hook remembers the modes, mask and tensors it noted last. It is used again in the probe's next block, so
    that these are not noted twice.

    Attributes:
        forwards: the forwards so far.
        lock: the lock that is held while a tensor is measured.
        snapshot: records the vectors of a layer, given (layer state, module).
        made: the hooks ahead of and behind calls, by kind and the layer's index or the module's id, which no
            other module gets while the model holds it.
    """

    forwards: Forwards
    lock: Any
    snapshot: Callback
    made: dict[tuple[str, int], tuple[Callback, Callback]] = field(default_factory=dict)

    def layer(self, state: LayerState, before: Callback, after: Callback) -> tuple[Callback, Callback]:
        """The hooks ahead of calls of a layer and behind them, with these callbacks."""
        compiled, sites = dispatch.compiled(), state.sites
        # A probe that was made while the extension was switched off has counters that it cannot write.
        if compiled is None or not isinstance(sites[INPUT].counters, compiled.SiteCounters):
            return before, after
        key = ("layer", state.index)
        if key not in self.made:
            compiled.set_empty_hook(Hook)
            shared = (self.forwards.inside, self.lock, _RECORD_EXTREMES, self.snapshot)
            # Torch calls these hooks as they are, so what they call of Python must not be compiled.
            hook_before, hook_after = (
                compiled.LayerHook(Hook(callback), state, sites[site], site_of(site).number, *shared)
                for site, callback in ((INPUT, before), (OUTPUT, after))
            )
            self.made[key] = hook_before, hook_after
        return self.made[key]

    def container(
        self, module: nn.Module, model: nn.Module, before: Callback, after: Callback
    ) -> tuple[Callback, Callback]:
        """The hooks ahead of calls of a module that holds layers of this model and behind them, likewise."""
        compiled, inside = dispatch.compiled(), self.forwards.inside
        if compiled is None or not isinstance(inside, compiled.CurrentForward):
            return before, after
        key = ("container", id(module))
        if key not in self.made:
            self.made[key] = (
                compiled.ContainerHook(before, model, False, inside),
                compiled.ContainerHook(after, model, True, inside),
            )
        return self.made[key]


def _record_extremes(site: Any, extremes: Any, placement: Any, forward: Forward) -> None:
    """Record the extremes that a hook of the extension reports as a pair."""
    record_extremes(site, Extremes(*extremes), placement, forward)


_RECORD_EXTREMES = Hook(_record_extremes)
