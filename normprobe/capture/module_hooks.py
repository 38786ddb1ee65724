"""Hooks of modules that are no layers but say how a forward reads: its time, its decoder, its masks."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor, nn

from normprobe.capture.forwards.forward import Forwards
from normprobe.capture.forwards.run_info import RunInfo
from normprobe.capture.functions.fused_encoder import why_slowed, would_fuse
from normprobe.capture.hooks.graph_calls import in_graph
from normprobe.capture.hooks.handles import Hooks
from normprobe.capture.hooks.interrupts import NoGrad
from normprobe.capture.hooks.torch_internals import ModesAside
from normprobe.capture.identity.sequences import SequenceFinder
from normprobe.capture.states.layer_state import LayerState
from normprobe.samples.batch import decoders, first_tensor, takes_time_first
from normprobe.samples.strides import Stride, strides_of

Own = Callable[[Callable[..., None]], Callable[..., None]]
"""Makes a callback that lets no error of its own into the user's forward."""


class ModuleHooks:
    """Follows modules of one probe that are no layers; ``lock`` guards the run's data, which they change."""

    def __init__(
        self, forwards: Forwards, lock: Any, no_grad: NoGrad, run_info: RunInfo, sequences: SequenceFinder
    ) -> None:
        self._forwards, self._lock, self._no_grad = forwards, lock, no_grad
        self._run_info, self._sequences = run_info, sequences

    def attach(self, model: nn.Module, hooks: Hooks, own: Own, states: Iterable[LayerState]) -> None:
        """Put the hooks in place."""
        held = list(states)
        for module in model.modules():
            if takes_time_first(module):
                hooks.before(module, own(self._claim_time_first))
            if isinstance(module, nn.TransformerEncoderLayer):
                hooks.before(module, own(partial(_enter_fused, held)), shows="nothing")
            if strides := strides_of(module):
                hooks.after(module, own(partial(self._carry_masks, strides)))
        for module in decoders(model):
            hooks.before(module, self._enter_decoder, shows="nothing")

    def _enter_decoder(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if (forward := self._forwards.current) is not None:
            forward.decoder_fired = True

    def _claim_time_first(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Read the forward's first tensor as (time, batch, ...) if a module that reads so is given it."""
        forward = self._forwards.current
        lead = None if forward is None else forward.batch.lead
        given = (*args, *kwargs.values())
        if forward is None or lead is None or not any(_is_same(value, lead) for value in given):
            return
        with self._lock, ModesAside(), self._no_grad:
            before = replace(forward)
            if self._forwards.read_time_first(forward) and forward.state.measured:
                self._run_info.withdraw(before)
                self._run_info.add(forward)

    def _carry_masks(
        self, strides: tuple[Stride, ...], module: nn.Module, args: Any, kwargs: Any, output: Any
    ) -> None:
        """Carry the forward's masks through a convolution or a pool."""
        forward = self._forwards.current
        # Most forwards hold no padding, and then nothing is asked of a convolution.
        if forward is not None and forward.state.measured and forward.masks.padded:
            given, made = first_tensor((*args, *kwargs.values())), first_tensor([output])
            if given is not None and made is not None:
                self._sequences.carry(strides, forward, given, made)


def _is_same(value: Any, lead: Tensor) -> bool:
    """Whether a value is the forward's first tensor; a graph may give another object for it."""
    if value is lead or not in_graph() or not isinstance(value, Tensor):
        return value is lead
    return value.data_ptr() == lead.data_ptr() and value.shape == lead.shape


def _enter_fused(states: list[LayerState], module: nn.Module, args: Any, kwargs: Any) -> None:
    if would_fuse(module):
        inside, why = {id(child) for child in module.modules()}, why_slowed(module)
        for state in states:
            if id(state.layer.module) in inside:
                state.reasons[why] = 1
