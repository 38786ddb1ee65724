"""Gradients of what layers read and write: hooks on those tensors, and what is done as one is called."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from normprobe.capture.calls.call_tensors import RESULT, input_at, output_at
from normprobe.capture.forwards.forward import Forward
from normprobe.capture.gradients.forward_trace import ForwardTrace, RecentTensors
from normprobe.capture.gradients.loss_scale import LossScale
from normprobe.capture.gradients.parameter_steps import Note, ParameterSteps
from normprobe.capture.gradients.recomputation import MeasuredCall, Recomputations
from normprobe.capture.gradients.tensor_hook import Reader, TensorHook
from normprobe.capture.hooks.autograd_functions import enclosing_function
from normprobe.capture.hooks.graph_calls import in_graph
from normprobe.capture.hooks.interrupts import NoGrad
from normprobe.capture.hooks.torch_internals import ModesAside, base_of, graph_task
from normprobe.capture.identity.numbered import Numbered
from normprobe.capture.states.layer_state import LayerState
from normprobe.vocabulary import GRADIENT_OF, INPUT, OUTPUT

FROZEN = "no gradient at its {}: the tensor requires none"
WITHOUT = "no gradient of a call without gradients (no_grad or inference mode)"
OVERWRITTEN = "no gradient at its {} of a call that wrote to it before it was known how the layer reads"
COMPILED = "no gradient of a call in a compiled graph: to measure gradients, run the model as it is written"
NESTED = "the gradient of a NestedTensor is left out"


class NumberedMeasurer(Protocol):
    """Measures tensors whose samples are numbered."""

    def observe_numbered(
        self,
        state: LayerState,
        name: str,
        tensor: Tensor,
        forward: Any,
        *,
        numbered: Numbered,
        repeat: int,
        dtype: torch.dtype,
    ) -> None:
        """Measure a tensor at a site of a layer, with the samples of another."""

    def recent(self) -> tuple[Any, int]:
        """Room for the moments of tensors just measured, and how many threads may measure one."""


class GradientCapture:
    """Puts hooks on tensors and measures the gradients that come; the probe's lock guards what it changes.

    Attributes:
        traced: how many forwards with gradients were measured.
    """

    def __init__(
        self,
        scale: LossScale,
        lock: Any,
        measurer: NumberedMeasurer,
        no_grad: NoGrad,
        enter_phase: Callable[[str], None],
    ) -> None:
        self.traced = 0
        self._enter_phase, self._phase = enter_phase, ""
        self._lock, self._measurer, self._no_grad = lock, measurer, no_grad
        self._scale, self._recomputations = scale, Recomputations()
        self._steps: ParameterSteps | None = None
        self._recent = RecentTensors(*measurer.recent())
        self._hooks: weakref.WeakSet[TensorHook] = weakref.WeakSet()

    def enter(self, states: Mapping[Any, LayerState], note: Note) -> None:
        """Listen for steps of optimizers of these layers; ``note`` is told of errors."""
        if self._steps is None:
            self._steps = ParameterSteps(states, self._lock, self._no_grad, note)
        self._steps.enter(lambda: self.traced, lambda: self._enter_phase(self._phase))

    def end_step(self) -> None:
        """Count gradients that are not finite of a step that no optimizer took."""
        if self._steps is not None:
            self._steps.end()

    def begin(self, forward: Forward) -> None:
        """Give a forward that is measured its trace."""
        enabled = torch.is_grad_enabled()
        self.traced += enabled
        phase = "" if forward.phase is None else forward.phase.name
        self._phase = phase if enabled else self._phase
        given = forward.call, forward.first, forward.deal, forward.labels
        forward.trace = ForwardTrace(*given, enabled, phase, self._recent)

    def leave(self) -> None:
        """Take every hook off that a graph still holds, and those of optimizers."""
        if self._steps is not None:
            self._steps.leave()
        for hook in list(self._hooks):
            hook.remove()
        self._hooks.clear()

    def follow(
        self, state: LayerState, site: str, tensor: Tensor | None, forward: Forward, numbered: Numbered | None
    ) -> None:
        """Measure the gradient of a tensor, too, whose samples were just measured at a site.

        Args:
            state: the layer.
            site: the site.
            tensor: the tensor; None where another stands there by now.
            forward: the forward.
            numbered: its samples; None if it was left out.
        """
        trace = forward.trace
        if trace is None or site not in GRADIENT_OF:
            return
        if not self._no_grad.enabled_around():
            self._expect(state, site, trace, numbered)
        elif numbered is not None:
            trace.count(state, site, numbered)
            state.awaited_gradients += self._put(state, site, tensor, MeasuredCall(trace, numbered))

    def _expect(self, state: LayerState, site: str, trace: ForwardTrace, numbered: Numbered | None) -> None:
        """Note a tensor without gradients, which has some where it is made again in backward."""
        # Of a forward that began without gradients nothing will run again: its frames need not be looked at.
        function = enclosing_function() if trace.with_gradients else None
        if function is not None:
            call = None if numbered is None else MeasuredCall(trace, numbered)
            self._recomputations.add(function, state.index, site, call)
        if numbered is None:
            return
        trace.count(state, site, numbered)
        if function is None:
            state.note(WITHOUT)
        else:
            state.awaited_gradients += 1

    def _put(
        self, state: LayerState, site: str, tensor: Tensor | None, call: MeasuredCall, passes: int = 0
    ) -> bool:
        """Put a hook on a tensor, one for all that read it; whether there is one."""
        trace = call.trace
        if tensor is not None and in_graph() and not tensor.requires_grad:
            state.note(COMPILED)
            return False
        if tensor is None or not tensor.requires_grad:
            state.note((OVERWRITTEN if tensor is None else FROZEN).format(site))
            return False
        # One for queries, keys and values, and for the layer that wrote what they read.
        hook = trace.hook_of(tensor)
        if hook is None:
            hook = TensorHook(self._measure, trace)
            hook.put_on(_written(tensor) if site == OUTPUT else tensor, tensor.shape)
            self._hooks.add(hook)
            trace.keep_hook(tensor, hook)
        hook.readers.append(Reader(state, GRADIENT_OF[site], call.numbered, site, passes))
        return True

    def again(self, state: LayerState, args: tuple[Any, ...], kwargs: dict[str, Any], *output: Any) -> None:
        """Follow the tensors of a call that backward makes again, as the call that was measured.

        Args:
            state: the layer.
            args: what the call is given.
            kwargs: likewise, by name.
            output: what it gave, once it has ended.
        """
        reading = state.readings.open(args, kwargs).reading
        if state.refused or not torch.is_grad_enabled() or reading is None or reading.left_out:
            return
        # A module that normalizes what it gives as well reads that only behind its call.
        reads = bool(output) == (reading.input[0] == RESULT)
        call = (args, kwargs, *output)
        with self._lock, ModesAside():
            if reads:
                self._put_again(state, INPUT, input_at(call, reading))
            if output:
                self._put_again(state, OUTPUT, output_at(call, reading))

    def _put_again(self, state: LayerState, site: str, tensor: Tensor | None) -> None:
        if tensor is None:
            return
        function = enclosing_function()
        call, passes = self._recomputations.next(function, state.index, site, graph_task())
        if call is not None and not self._put(state, site, tensor, call, passes) and not passes:
            state.awaited_gradients -= 1

    def _measure(self, hook: TensorHook, trace: ForwardTrace, gradient: Tensor) -> None:
        """Measure a gradient for each call that read or wrote its tensor."""
        task = graph_task()
        # A leaf has the gradients of all graphs that it is in; those of this one bring others before its own.
        if hook.on_leaf and trace.task != task:
            return
        trace.task = task
        with self._lock, ModesAside(), self._no_grad:
            # A forward of another phase may have run since, such as a validation ahead of backward.
            self._enter_phase(trace.phase)
            try:
                of_loss = self._scale.divided_out(gradient.detach().reshape(hook.shape))
            except Exception as error:
                for reader in hook.readers:
                    reader.state.note(f"its gradients are left out: {type(error).__name__}: {error}")
                return
            for reader in hook.readers:
                given = hook.passes + reader.passes, trace, of_loss, gradient.dtype
                self._guard(reader, partial(self._observe, reader, *given))
        hook.passes += 1

    def _observe(
        self, reader: Reader, passes: int, trace: ForwardTrace, gradient: Tensor, dtype: torch.dtype
    ) -> None:
        state, numbered = reader.state, reader.numbered
        if state.refused:
            return
        state.awaited_gradients -= not passes
        # A further backward over one graph gives each call a further gradient, with a number of its own.
        repeat = numbered.repeat + passes * trace.calls[state.index, reader.of]
        if numbered.nested or gradient.is_nested:
            state.note(NESTED)
            return
        self._measurer.observe_numbered(
            state, reader.site, gradient, trace, numbered=numbered, repeat=repeat, dtype=dtype
        )

    def _guard(self, reader: Reader, measure: Callable[[], None]) -> None:
        """Measure; what fails is said in the ledger, and the user's backward goes on."""
        try:
            measure()
        except Exception as error:
            message = str(error).splitlines()[0] if str(error) else "no message"
            reader.state.note(f"a gradient at its {reader.of} is left out: {type(error).__name__}: {message}")


def _written(output: Tensor) -> Tensor:
    """The tensor that a layer wrote its output to: where that is a view of all of another one, that one.

    `nn.Linear` computes a matrix and gives a view of it. Once the view is written to in place, as by a ReLU,
    no gradient comes to it any more: torch then differentiates what it is a view of.
    """
    base = base_of(output)
    if base is None or base.grad_fn is None or base.numel() != output.numel():
        return output
    return base if base.is_contiguous() and output.is_contiguous() else output
