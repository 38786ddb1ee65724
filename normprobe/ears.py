"""The hooks of layers, and of modules that hold some: the short way where the compiled kernel has one.

Most calls are as those before: everything about them is decided. Of one decoded token they are all that a
probe costs, so they are one function of the extension each: a look at whether the call is as agreed, and one
pass. Whatever is not goes the long way, which is `Listener`'s.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import nn

from normprobe import kernels
from normprobe.forwards import Forward, Forwards
from normprobe.kernels import Extremes
from normprobe.placing import hold
from normprobe.watch import Watch

Call = Callable[..., None]


class Ears(NamedTuple):
    """Makes the hooks of one probe.

    Attributes:
        forwards: the forwards so far.
        lock: what measuring holds.
        snapshot: looks at the vectors of a layer, given (watch, module).
    """

    forwards: Forwards
    lock: Any
    snapshot: Call

    def layer(self, watch: Watch, before: Call, after: Call) -> tuple[Call, Call]:
        """The hooks ahead of a layer and behind it, for which these are the long ways."""
        compiled = kernels.compiled()
        if compiled is None or not isinstance(watch.sites["input"].account, compiled.Account):
            return before, after
        shared = (self.forwards.inside, self.lock, _hold, self.snapshot)
        return (
            compiled.Ear(before, watch, watch.sites["input"], False, *shared),
            compiled.Ear(after, watch, watch.sites["output"], True, *shared),
        )

    def container(self, model: nn.Module, before: Call, after: Call) -> tuple[Call, Call]:
        """The hooks ahead of a module that holds layers of this model and behind it, likewise."""
        compiled, inside = kernels.compiled(), self.forwards.inside
        if compiled is None or not isinstance(inside, compiled.Inside):
            return before, after
        return compiled.Gate(before, model, False, inside), compiled.Gate(after, model, True, inside)


def _hold(site: Any, news: Any, placed: Any, forward: Forward) -> None:
    hold(site, Extremes(*news), placed, forward)
