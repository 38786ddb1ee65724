"""Whether a model's parameters change between the forwards that are measured."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from operator import attrgetter
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook

from normprobe.kernels import dispatch

_version_of = attrgetter("_version")


def _sum_of_versions(tensors: tuple[Tensor, ...]) -> int:
    """How often tensors were written to, all together."""
    compiled = dispatch.compiled()
    return sum(map(_version_of, tensors)) if compiled is None else int(compiled.versions(tensors))


class WeightChanges:
    """Counts the measured forwards before which parameters were written to since the measured one before.

    A write in place raises the version of its tensor; a look is one sum of these a forward, without a copy or
    a wait for a device. Fused optimizers raise none: so each step of an optimizer is seen as well.

    Attributes:
        count: how many such forwards there were.
    """

    def __init__(self, forget: Callable[[], None]) -> None:
        """Keep what to call after a write that raised no version: what was copied by versions is old then."""
        self.count = 0
        self._forget = forget
        # Found at the first forward that is measured: parameters that come later are not looked at.
        self._parameters: tuple[Tensor, ...] | None = None
        self._ids: frozenset[int] = frozenset()
        self._versions = 0
        self._has_stepped = False
        self._remove: Callable[[], Any] | None = None

    def enter(self) -> None:
        """Listen for steps of optimizers."""
        # The process holds this hook: it must not keep the model alive of a probe that is dropped unleft.
        weakly = weakref.WeakMethod(self._note_step)

        def note_step(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
            if (note := weakly()) is not None:
                note(optimizer)

        handle = register_optimizer_step_post_hook(note_step)
        self._remove = weakref.finalize(self, handle.remove)

    def leave(self) -> None:
        """Listen no more."""
        if self._remove is not None:
            self._remove()
            self._remove = None

    def look(self, model: nn.Module) -> None:
        """Note the state of the parameters as a forward that is measured begins."""
        if self._parameters is None:
            # One made in inference mode has no version, one without a shape is filled by its first forward.
            self._parameters = tuple(
                parameter
                for parameter in model.parameters()
                if not (parameter.is_inference() or isinstance(parameter, nn.UninitializedParameter))
            )
            self._ids = frozenset(map(id, self._parameters))
            self._versions = self._sum()
            return
        versions = self._sum()
        self.count += self._has_stepped or versions != self._versions
        self._versions, self._has_stepped = versions, False

    def _sum(self) -> int:
        return _sum_of_versions(self._parameters or ())

    def _note_step(self, optimizer: Optimizer) -> None:
        """Note a step of an optimizer of these parameters."""
        groups = optimizer.param_groups
        if any(id(parameter) in self._ids for group in groups for parameter in group["params"]):
            self._has_stepped = True
            if self._sum() == self._versions:
                self._forget()
