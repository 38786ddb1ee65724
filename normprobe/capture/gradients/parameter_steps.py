"""Parameters at the steps of optimizers: weights and gradients ahead of one, and what it changed."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from normprobe.capture.hooks.interrupts import NoGrad, finish
from normprobe.capture.hooks.torch_internals import ModesAside
from normprobe.capture.states.layer_state import LayerState
from normprobe.capture.states.parameter_sums import HALVES, Number, ParameterSums, Sums

Note = Callable[[str, Exception], None]


class _Copy(NamedTuple):
    """A parameter ahead of a step: its sums, a copy, its numbers, and whether its gradient is finite."""

    sums: ParameterSums
    parameter: Tensor
    copy: Tensor
    weight: Sums
    finite: Number


class ParameterSteps:
    """Reads the parameters of probed layers around each step that follows a measured forward with gradients.

    An optimizer has its own hooks around `step`: there gradients are whole, whenever they are set to zero,
    and a `GradScaler` has divided its scale out of them, or says by the optimizer's `grad_scale` that a fused
    optimizer is to. A step that the scaler skips is none. The copies of weights live as long as the step.
    """

    def __init__(self, states: Mapping[Any, LayerState], lock: Any, no_grad: NoGrad, note: Note) -> None:
        self._states, self._lock, self._no_grad, self._note = states, lock, no_grad, note
        # Per optimizer the traced forwards at its last step: each of several has steps of its own.
        self._seen: weakref.WeakKeyDictionary[Optimizer, int] = weakref.WeakKeyDictionary()
        self._traced: Callable[[], int] = int
        self._enter_phase: Callable[[], None] = lambda: None
        self._copies: list[_Copy] = []
        self._ended = 0
        self._remove: list[Callable[[], Any]] = []

    def enter(self, traced: Callable[[], int], enter_phase: Callable[[], None]) -> None:
        """Listen for steps of optimizers.

        Args:
            traced: how many forwards with gradients were measured so far.
            enter_phase: measures for the phase of the last of them from now on.
        """
        self._traced, self._enter_phase = traced, enter_phase
        # The process holds these hooks: they must not keep the model alive of a probe that is dropped unleft.
        ways = (
            (register_optimizer_step_pre_hook, self._before),
            (register_optimizer_step_post_hook, self._after),
        )
        for register, call in ways:
            handle = register(_weakly(call, self._note))
            self._remove.append(weakref.finalize(self, handle.remove))

    def leave(self) -> None:
        """Listen no more."""
        finish(*self._remove, self._remove.clear, self._copies.clear)

    def _before(self, optimizer: Optimizer) -> None:
        self._copies.clear()
        traced = self._traced()
        if self._seen.get(optimizer, 0) == traced:
            return
        self._seen[optimizer] = traced
        found = {id(parameter): (state, name) for state, name, parameter in self._every()}
        times, taken = _times(optimizer), _taken(optimizer)
        with self._lock, ModesAside(), self._no_grad:
            self._enter_phase()
            for parameter in (p for group in optimizer.param_groups for p in group["params"]):
                if id(parameter) in found:
                    self._measure(*found[id(parameter)], parameter, (times, taken))

    def _measure(self, state: LayerState, name: str, parameter: Tensor, step: tuple[Number, Number]) -> None:
        weight = Sums.of(parameter)
        gradient = None if parameter.grad is None else Sums.of(parameter.grad)
        sums = state.parameters.setdefault(name, ParameterSums())
        sums.traced = self._traced()
        finite = sums.add_step(weight, gradient, parameter.numel(), *step)
        if gradient is not None:
            self._copies.append(_Copy(sums, parameter, parameter.detach().clone(), weight, finite))

    def _after(self, _: Optimizer) -> None:
        with self._lock, ModesAside(), self._no_grad:
            while self._copies:
                sums, parameter, copy, weight, finite = self._copies.pop()
                # Half precision would round the difference; its sign is nowhere asked for.
                before = copy.float() if copy.dtype in HALVES else copy
                sums.add_update(Sums.of(before.sub_(parameter.detach()), largest=False), weight, finite)

    def end(self) -> None:
        """At the end of a step: count gradients that are not finite where no optimizer took it.

        So it is where a scaler found them and skipped the step of its optimizer.
        """
        traced = self._traced()
        if traced == self._ended:
            return
        self._ended = traced
        with self._lock, ModesAside(), self._no_grad:
            self._enter_phase()
            for state, name, parameter in self._every():
                sums = state.parameters.get(name) or ParameterSums(parameter.numel())
                if parameter.grad is not None and sums.traced != traced:
                    state.parameters[name] = sums
                    sums.add_skipped(Sums.of(parameter.grad))

    def _every(self) -> Iterator[tuple[LayerState, str, nn.Parameter]]:
        """Each parameter of a probed layer, with the layer and its name there."""
        known: set[int] = set()
        layers = {id(state.layer.module) for state in self._states.values() if not state.layer.parameter}
        for state in self._states.values():
            for name, parameter in _own(state, layers):
                # Of tied ones the first layer has it.
                if id(parameter) not in known:
                    known.add(id(parameter))
                    yield state, name, parameter


def _own(state: LayerState, layers: set[int]) -> Iterator[tuple[str, nn.Parameter]]:
    """The parameters of a layer, without those of layers inside it."""
    layer = state.layer
    if layer.parameter:
        found = layer.module._parameters.get(layer.parameter)
        yield from [] if found is None else [(layer.parameter, found)]
        return
    for prefix, module in layer.module.named_modules():
        if module is layer.module or id(module) not in layers:
            for name, parameter in module.named_parameters(recurse=False):
                yield f"{prefix}.{name}".lstrip("."), parameter


def _times(optimizer: Optimizer) -> Number:
    """What gradients of an optimizer are to be multiplied by: 1 but where it divides a scale out itself."""
    scale = getattr(optimizer, "grad_scale", None)
    if scale is None:
        return 1.0
    # On an accelerator its own number, which nobody waits for.
    own = torch.as_tensor(scale).double()
    return 1.0 / (float(own) if own.is_cpu else own)


def _taken(optimizer: Optimizer) -> Number:
    """Whether a step is taken: a fused optimizer is called for one that a scaler would skip, and told so."""
    found = getattr(optimizer, "found_inf", None)
    if found is None:
        return True
    taken = torch.as_tensor(found).reshape(()) == 0
    return bool(taken) if taken.is_cpu else taken


def _weakly(method: Callable[[Optimizer], None], note: Note) -> Callable[[Optimizer, Any, Any], None]:
    """A hook of optimizers that calls a method as long as its object lives, and lets no error through."""
    weak, weak_note = weakref.WeakMethod(method), weakref.WeakMethod(note)

    def call(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        try:
            if (found := weak()) is not None:
                found(optimizer)
        except Exception as error:
            if (noted := weak_note()) is not None:
                noted("a step of an optimizer was not measured", error)

    return call
