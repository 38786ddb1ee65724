"""What is done about a call of one layer: its input measured before the call, its output after it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor, nn

from normprobe.capture.calls.branches import REWRITTEN, branch_of, stream_before
from normprobe.capture.calls.call_tensors import (
    ARGS,
    DIRECT,
    RESULT,
    Call,
    Path,
    Reading,
    bits_of,
    first_tensors,
    input_at,
    output_at,
    tensor_at,
)
from normprobe.capture.calls.linear_results import own_result
from normprobe.capture.calls.readings import (
    NO_INPUT,
    NO_OUTPUT,
    Held,
    OpenCall,
    OwnResult,
    Pair,
    PairChoice,
    left_out,
)
from normprobe.capture.forwards.forward import Forward, Sequence
from normprobe.capture.gradients.gradient_capture import GradientCapture
from normprobe.capture.hooks.graph_calls import in_graph
from normprobe.capture.hooks.interrupts import NoGrad
from normprobe.capture.hooks.torch_internals import ModesAside
from normprobe.capture.identity.numbered import Numbered
from normprobe.capture.identity.tensor_parts import part_given
from normprobe.capture.measure import Measurer
from normprobe.capture.states.layer_state import LayerState
from normprobe.capture.states.settling import settle
from normprobe.layers.norms.call import graph_index
from normprobe.vocabulary import BRANCH, INPUT, OUTPUT

CHANGED = "its output is as hooks behind it leave it, which change what the layer itself gives"

IDS = "its input holds ids, which are not measured"
UNSHOWN = (
    "no softmax over keys was seen in its calls, which shows its weights; transformers computes one with "
    "attn_implementation='eager'"
)

Tensors = tuple[Tensor, Tensor | None]
"""What is measured, and the tensor of the graph that it is or was copied from; None where that is gone."""


class LayerCalls:
    """Measures what the layers of one probe read and write, call by call.

    Attributes:
        lock: held while a layer's state changes.
    """

    def __init__(
        self,
        lock: Any,
        measurer: Measurer,
        no_grad: NoGrad,
        sequence_of: Callable[[LayerState, str, Tensor, Forward], Sequence],
        gradients: GradientCapture | None,
    ) -> None:
        self.lock, self._gradients = lock, gradients
        self._measurer, self._no_grad, self._sequence_of = measurer, no_grad, sequence_of
        self._depth = 0

    def begin(
        self, state: LayerState, forward: Forward, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> OpenCall:
        """Measure what a layer reads, before a call of its module, in a forward that is measured."""
        with self.lock, ModesAside():
            opened = state.readings.open(args, kwargs)
            self._begin(state, forward, opened, (args, kwargs))
        return opened

    def begin_with(self, state: LayerState, forward: Forward, tensor: Tensor | None) -> None:
        """The same of a call that a function showed, which reads this tensor."""
        with self.lock, ModesAside():
            self._begin(state, forward, OpenCall(), (() if tensor is None else (tensor,), {}))

    def _begin(self, state: LayerState, forward: Forward, opened: OpenCall, call: Call) -> None:
        # Of a layer that holds others no call counts as under way: theirs are none of it.
        if not state.holds_layers:
            forward.state.enter(state.index)
        forward.opened[state.index] = opened
        if state.depth is None:  # the first time in any forward: the order of execution
            state.depth, self._depth = self._depth, self._depth + 1
        if forward.masks.two_sided and state.sequence_rule.side == "decoder":
            forward.decoder_fired = True
        if state.chain is not None:
            state.chain.enter(forward.call, first=not state.settled)
        reading, kind = opened.reading, state.view.kind
        if kind == "attention":  # whose functions show it
            return
        # Ahead of the call, which may write to the vector.
        if state.view.graph:
            opened.graphs = _graphs(call)
        if reading is None or not state.settled:
            # The output decides what the input is and how it reads, and the layer may overwrite it: copy it.
            self.guard(state, "a call at its input", partial(opened.hold, call))
            if not opened.held:
                state.note(NO_INPUT)
        elif reading.left_out:
            state.note(reading.left_out)
        elif reading.ids:
            state.reasons[IDS] = 1
        elif reading.input[0] != RESULT:
            tensor = input_at(call, reading)
            if kind == "residual":
                # Within a graph the stream's memory may be used again before the block gives its output.
                opened.note_stream(tensor.detach().clone() if in_graph() and tensor is not None else tensor)
            self._measure_input(state, forward, tensor, opened)

    def note_own(self, state: LayerState, forward: Forward, result: Any) -> None:
        """Remember what the layer itself gave, ahead of the hooks of others behind it."""
        opened = forward.opened.get(state.index)
        if opened is not None:
            with self.lock, ModesAside(), self._no_grad:
                opened.own = OwnResult.of(result, copied=bool(opened.held))

    def end(self, state: LayerState, forward: Forward, call: Call) -> None:
        """Measure what a layer gave; nothing if it raised, or gave nothing and changed nothing."""
        forward.state.leave(state.index)
        # Also of a call that raised: a later one must not find it open.
        opened = forward.opened.pop(state.index, None)
        if call[RESULT] is None and not (opened is not None and _changes_arguments(opened)):
            return
        with self.lock, ModesAside():
            state.firings += 1
            if forward.state.measured and not state.refused:
                # Without one the extension has measured the input.
                self._finish(state, forward, call, opened or state.readings.open(*call[:RESULT]))

    def _finish(self, state: LayerState, forward: Forward, call: Call, opened: OpenCall) -> None:
        """After the call: let it decide what there is to decide, then measure what is left to measure."""
        module, reading = state.layer.module, opened.reading
        if state.view.kind == "attention":
            self._finish_attention(state, opened)
            return
        spread = opened.own is not None and opened.own.is_part()
        if opened.own is not None and not spread and opened.own.differs(call[RESULT]):
            state.reasons[CHANGED] = 1
        if opened.held:
            reading = self._decide(state, opened, call)
            if state.refused:
                return
            # That it is a norm over graphs is known only now.
            if state.view.graph and opened.graphs is None:
                opened.graphs = _graphs(call)
        if reading is None or reading.left_out:
            return
        if not reading.ids and (opened.held or reading.input[0] == RESULT):
            # A clone, for the layer may have overwritten what it read.
            held = opened.held.get(reading.input)
            tensor = tensor_at(call, reading.input) if held is None else held.clone
            self._measure_input(state, forward, tensor, opened, held)
        if not isinstance(call[RESULT], Tensor) and reading.direct and state.view.kind == "linear":
            reading = self._of_several(state, opened, call)
        output, own = output_at(call, reading), None
        if spread and opened.own is not None:
            # Hooks behind it make whole, or plain, what it gives; the next call must be looked at, too.
            own, state.watched = output_at((*call[:RESULT], opened.own.result), reading), False
        if output is None:
            state.note(NO_OUTPUT)
            return
        self._observe(state, OUTPUT, (output, output), forward, graphs=opened.graphs, own=own)
        if state.view.kind == "residual":
            held = opened.held.get(reading.input, opened.stream)
            self.guard(state, f"a call at its {BRANCH}", partial(self._branch, state, forward, held, output))
        state.note_mode(module.training)
        self.snapshot(state, module)
        # Last: only what was measured whole may go through the extension's hooks from now on.
        state.update_decided(bits_of(*call[:RESULT]))

    def _finish_attention(self, state: LayerState, opened: OpenCall) -> None:
        if not opened.shown:
            state.note(opened.why_unshown or UNSHOWN)
        state.note_mode(state.layer.module.training)

    def _branch(self, state: LayerState, forward: Forward, held: Held | None, output: Tensor) -> None:
        """Measure what a residual block added."""
        before = stream_before(held, state.readings)
        if before is None:
            state.note(REWRITTEN)
            return
        added = branch_of(before, output)
        self._measurer.observe(
            state, BRANCH, added, forward, self._sequence_of(state, BRANCH, added, forward)
        )

    def _of_several(self, state: LayerState, opened: OpenCall, call: Call) -> Reading:
        """Which tensor of several a Linear's own product is, by the first such call of this form."""
        paths: list[Path | None] = []
        given = input_at(call, DIRECT)
        look = partial(own_result, state.layer.module, given, call[RESULT])
        self.guard(state, "its result", lambda: paths.append(look()))
        # Of a form of its own from now on, so that it is not looked at again.
        reading = DIRECT if not paths or paths[0] is None else Reading(output=paths[0])
        state.readings.known[opened.form] = reading
        return reading

    def _decide(self, state: LayerState, opened: OpenCall, call: Call) -> Reading | None:
        """Which tensors calls of this form read and write, by one of them; None if it has none."""
        choices: list[PairChoice] = []
        self.guard(state, "its result", lambda: choices.append(PairChoice(opened, call)))
        if not choices or not choices[0].pairs:
            state.note(NO_OUTPUT)
            return None
        # Should settling fail, the first pair stands, and the call is measured all the same.
        chosen = choices[0].pairs[:1]
        self.guard(state, "its first call", partial(self._settle, state, choices[0], chosen))
        reading = chosen[0].reading
        # Only of a form that is new: what was measured stays.
        if state.unlike and opened.form not in state.readings.known:
            reading = Reading(left_out=left_out(opened.form))
            state.note(reading.left_out)
        # Else the next call of this form is asked again.
        if state.settled:
            state.readings.known[opened.form] = reading
        return reading

    def _settle(self, state: LayerState, choice: PairChoice, chosen: list[Pair]) -> None:
        chosen[:] = [settle(state, state.layer.module, choice)]

    def _measure_input(
        self,
        state: LayerState,
        forward: Forward,
        tensor: Tensor | None,
        opened: OpenCall,
        held: Held | None = None,
    ) -> None:
        if tensor is None:
            state.note(NO_INPUT)
        else:
            read = tensor if held is None else held.tensor if held.is_as_it_was() else None
            self._observe(state, INPUT, (tensor, read), forward, graphs=opened.graphs)

    def observe(self, state: LayerState, site: str, tensor: Tensor, forward: Forward) -> None:
        """Measure a tensor at a site of a layer."""
        with self.lock, ModesAside():
            self._measure(state, site, (tensor, tensor), forward)

    def observe_own(self, state: LayerState, site: str, tensor: Tensor, forward: Forward) -> None:
        """Measure a tensor at a further site of a layer; the ledger says so if that fails."""
        self.guard(state, f"a call at its {site}", partial(self.observe, state, site, tensor, forward))

    def _observe(
        self,
        state: LayerState,
        site: str,
        tensors: Tensors,
        forward: Forward,
        *,
        graphs: Tensor | None,
        own: Tensor | None = None,
    ) -> None:
        measure = partial(self._measure, state, site, tensors, forward, graphs=graphs, own=own)
        self.guard(state, f"a call at its {site}", measure)

    def _measure(
        self,
        state: LayerState,
        site: str,
        tensors: Tensors,
        forward: Forward,
        *,
        graphs: Tensor | None = None,
        own: Tensor | None = None,
    ) -> None:
        tensor, followed = tensors
        local, sharding = part_given(tensor, own)
        # Of its sizes: those of the whole tensor say which samples there are.
        sequence = self._sequence_of(state, site, tensor if own is None else own, forward)
        numbered = self._measurer.observe(
            state, site, local, forward, sequence, graphs=graphs, sharding=sharding
        )
        if sharding is None and self._gradients is not None:
            self._gradients.follow(state, site, followed, forward, numbered)

    @property
    def follows(self) -> bool:
        """Whether the gradients of tensors are measured, too."""
        return self._gradients is not None

    def follow_alone(
        self, state: LayerState, site: str, tensor: Tensor, forward: Forward, numbered: Numbered
    ) -> None:
        """Follow a tensor that the extension measured, whose samples its plan told."""
        if self._gradients is not None:
            with self.lock, ModesAside():
                follow = partial(self._gradients.follow, state, site, tensor, forward, numbered)
                self.guard(state, f"the gradient at its {site}", follow)

    def snapshot_alone(self, state: LayerState, module: nn.Module) -> None:
        """`snapshot` for the extension's hooks, around which no modes are aside."""
        with ModesAside():
            self.snapshot(state, module)

    def snapshot(self, state: LayerState, module: nn.Module) -> None:
        """Copy the vectors that a layer applies, if they changed since they were copied last."""
        if not state.unchanged(module):
            self.guard(state, "its scale", partial(state.snapshot_vectors, module))

    def guard(self, state: LayerState, what: str, call: Callable[[], None]) -> None:
        """Make a call that may fail; the ledger says so then, and the user's forward goes on."""
        # Statistics are no part of the user's graph, whatever the mode around.
        with self._no_grad:
            try:
                call()
            # Not BaseException: an interrupt is the user's, and goes on.
            except Exception as error:
                message = str(error).splitlines()[0] if str(error) else "no message"
                state.note(f"{what} is left out: {type(error).__name__}: {message}")


def _graphs(call: Call) -> Tensor | None:
    """The vector of a call that says which graph each row of its first tensor is of."""
    first = next(iter(first_tensors(call[:RESULT]).values()), None)
    return None if first is None else graph_index((*call[ARGS], *call[1].values()), len(first))


def _changes_arguments(opened: OpenCall) -> bool:
    """Whether a call that gives nothing may have written to what it was given."""
    reading = opened.reading
    return bool(opened.held) if reading is None else reading.output[0] != RESULT
