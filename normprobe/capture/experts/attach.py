"""The hooks of modules that hold experts: those of one weight, where they are measured, and lists."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

from normprobe.capture.experts.expert_capture import ExpertCapture
from normprobe.capture.experts.listed_rows import key_of, note_rows
from normprobe.capture.forwards.forward import Forwards
from normprobe.capture.hooks.handles import Hooks
from normprobe.capture.hooks.torch_internals import ModesAside, in_backward
from normprobe.layers.layer import LayerSet

Own = Callable[[Callable[..., None]], Callable[..., None]]
"""Makes a callback that lets no error of its own into the user's forward."""


def attach_experts(
    experts: ExpertCapture | None, found: LayerSet, hooks: Hooks, own: Own, forwards: Forwards
) -> None:
    """Hook the modules that hold experts, behind the hooks that begin a forward."""
    for name, module in found.expert_lists:
        hooks.before(module, own(partial(_before_list, forwards, name)))
        hooks.after(module, own(partial(_after_list, forwards, name)), always=True)
    if experts is None:
        return
    experts.enter(found.experts, found.layers)
    for holder in found.experts:
        hooks.before(holder.module, own(partial(_before, experts, forwards)), last=True)
        # Also after a call that raised: a later product must not be taken for one of that call.
        hooks.after(holder.module, own(partial(_after, experts, forwards)), always=True)


def _before_list(forwards: Forwards, name: str, module: nn.Module, args: Any, kwargs: Any) -> None:
    # Checkpointing repeats calls in backward, and nothing is measured there.
    if not in_backward():
        with ModesAside():
            note_rows(forwards.current, name, module, (*args, *kwargs.values()))


def _after_list(forwards: Forwards, name: str, module: nn.Module, *call: Any) -> None:
    if (forward := forwards.current) is not None:
        forward.opened.pop(key_of(name), None)


def _before(experts: ExpertCapture, forwards: Forwards, module: nn.Module, args: Any, kwargs: Any) -> None:
    experts.before(forwards.current, module, args, kwargs)


def _after(experts: ExpertCapture, forwards: Forwards, module: nn.Module, *call: Any) -> None:
    experts.after(forwards.current, module)
