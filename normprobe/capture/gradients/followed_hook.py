"""The extension's hook of a layer at a site, where the gradient of what it measures is measured, too."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Protocol

from torch import Tensor

from normprobe.capture.forwards.forward import Forward, Forwards
from normprobe.capture.identity.numbered import Numbered
from normprobe.capture.states.layer_state import LayerState
from normprobe.vocabulary import INPUT, OUTPUT

Follow = Callable[[LayerState, str, Tensor, Forward, Numbered], None]
Hook = Callable[..., None]
MakeHooks = Callable[[LayerState, Hook, Hook], tuple[Hook, Hook]]


class Following(Protocol):
    """Follows tensors that the extension measured, if gradients are asked for."""

    @property
    def follows(self) -> bool:
        """Whether they are."""

    def follow_alone(
        self, state: LayerState, site: str, tensor: Tensor, forward: Forward, numbered: Numbered
    ) -> None:
        """Have the gradient of a tensor measured, too."""


class FollowedHook:
    """Calls the extension's hook; where that measured a tensor alone, hands the tensor on to be followed.

    The callback in Python follows tensors itself, with what it decided of their samples. Those of a call that
    the extension handled are in the plan by which it did, of this very forward.
    """

    def __init__(self, state: LayerState, site: str, forwards: Forwards, follow: Follow) -> None:
        self._state, self._site, self._forwards, self._follow = state, site, forwards, follow
        self._fast: Hook | None = None
        # A layer may be called in several threads at once.
        self._thread = threading.local()

    def around(self, callback: Hook) -> Hook:
        """The callback for the extension to call, so that it is known when it does."""

        def call(*args: Any) -> None:
            self._thread.in_python = True
            callback(*args)

        return call

    def of(self, fast: Hook) -> FollowedHook:
        """This hook, which is to call the extension's."""
        self._fast = fast
        return self

    def __call__(self, *args: Any) -> None:
        """Call the extension's hook with what torch gives, then follow the tensor that it measured."""
        assert self._fast is not None
        self._thread.in_python = False
        self._fast(*args)
        forward = self._forwards.current
        if self._thread.in_python or forward is None or not forward.state.measured:
            return
        numbered = forward.numbered.get(self._state.sites[self._site].counters.plan_slot)
        if numbered is not None:
            tensor = args[1][0] if self._site == INPUT else args[3]
            self._follow(self._state, self._site, tensor, forward, numbered)


def layer_hooks(fast: MakeHooks, forwards: Forwards, calls: Following) -> MakeHooks:
    """What makes the hooks of layers: the extension's, around which tensors are followed where asked for."""
    return _FollowedHooks(fast, forwards, calls).layer if calls.follows else fast


class _FollowedHooks:
    """The hooks of the layers of one probe, each made once, as those of the extension are."""

    def __init__(self, fast: MakeHooks, forwards: Forwards, calls: Following) -> None:
        self._fast, self._forwards, self._calls = fast, forwards, calls
        self._made: dict[int, tuple[Hook, Hook]] = {}

    def layer(self, state: LayerState, before: Hook, after: Hook) -> tuple[Hook, Hook]:
        """The hooks ahead of calls of a layer and behind them, with these callbacks."""
        if state.index not in self._made:
            given = self._forwards, self._calls.follow_alone
            reads, writes = FollowedHook(state, INPUT, *given), FollowedHook(state, OUTPUT, *given)
            fast = self._fast(state, reads.around(before), writes.around(after))
            self._made[state.index] = reads.of(fast[0]), writes.of(fast[1])
        return self._made[state.index]
