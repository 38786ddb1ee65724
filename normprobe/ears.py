"""The hooks of a layer: the short way of a call of which everything is decided, one look and one pass.

Most calls are such calls, and of one decoded token they are all that a probe costs, so they are one function
each. Whatever is not as it was decided goes the long way, which is `Listener`'s.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, NamedTuple

from torch import nn

from normprobe.accumulators import Agreed, Site
from normprobe.arguments import graph_task
from normprobe.forwards import Forward, Forwards
from normprobe.hooks import Hook
from normprobe.kernels import Extremes
from normprobe.measuring import hold
from normprobe.watch import Watch


class Shared(NamedTuple):
    """What all ears of a probe have in common."""

    forwards: Forwards
    lock: threading.RLock


class _Ear(Hook):
    """What both have in common; a copy of it is an empty hook."""

    __slots__ = ("_forwards", "_lock", "_watch")

    def __init__(self, long_way: Callable[..., None], watch: Watch, shared: Shared) -> None:
        super().__init__(long_way)
        self._watch, (self._forwards, self._lock) = watch, shared

    def _hear(self, site: Site, agreed: Agreed, tensor: Any, forward: Forward) -> bool:
        """Measure a tensor as was agreed; False where it is of another kind, and nothing is done."""
        if site.samples is not agreed.samples or site.rows is not agreed.rows or site in forward.repeats:
            return False
        try:
            if tensor.shape != agreed.shape or tensor.dtype is not site.dtype:
                return False
            news = site.state.hear(
                tensor, agreed.plan, agreed.raw_plan, forward.memory, forward.threads, agreed.small
            )
        except Exception:  # the long way finds out what it is, and says so
            return False
        if news is False:
            return False
        forward.repeats[site] = 1
        site.samples, site.rows = agreed.samples_after, agreed.rows_after
        site.calls += 1
        site.n_samples += agreed.n_samples
        site.masked += agreed.masked
        if news is not None:
            hold(site, Extremes(*news), agreed.placed, forward)
        if agreed.masked_by:
            self._watch.masked_by[agreed.masked_by] = None
        return True


class InputEar(_Ear):
    """What runs ahead of a layer."""

    __slots__ = ()

    def call(self, *given: Any) -> None:
        """Measure what it reads, given (module, args, kwargs)."""
        args: tuple[Any, ...] = given[1]
        watch, forward = self._watch, self._forwards.threads.forward
        if forward is not None and watch.decided and args and not forward.open:
            site = watch.sites["input"]
            agreed = site.cell.agreed
            if agreed is not None and agreed.token is forward.token and graph_task() == -1:
                with self._lock:
                    if self._hear(site, agreed, args[0], forward):
                        forward.open.add(watch.index)
                        return
        super().call(*given)


class OutputEar(_Ear):
    """What runs behind a layer."""

    __slots__ = ("_snapshot",)

    def __init__(
        self, long_way: Callable[..., None], watch: Watch, shared: Shared, snapshot: Callable[..., None]
    ) -> None:
        super().__init__(long_way, watch, shared)
        self._snapshot = snapshot

    def call(self, *given: Any) -> None:
        """Measure what it writes, given (module, args, kwargs, output)."""
        module: nn.Module = given[0]
        watch, forward = self._watch, self._forwards.threads.forward
        if forward is not None and watch.decided and forward.owner is not module:
            site = watch.sites["output"]
            agreed = site.cell.agreed
            if agreed is not None and agreed.token is forward.token and graph_task() == -1:
                with self._lock:
                    if self._hear(site, agreed, given[3], forward):
                        forward.open.discard(watch.index)
                        watch.firings += 1
                        watch.meet(module.training)
                        if watch.scaled:
                            self._snapshot(watch, module)
                        return
        super().call(*given)
