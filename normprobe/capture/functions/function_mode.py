"""Layers whose modules are never called: found in torch's function calls by the identity of their weights.

Attention hands its projections' weights to one function, routers call ``F.linear(x, self.weight)``, some
models call ``layer.forward(x)`` or ``F.layer_norm``: no hook sees them. A `TorchFunctionMode` does.

It is on by default, but not all the time. Under a mode every function and every ``x.shape`` costs 1 to 2
microseconds: under 1 % of a forward of a batch, but 10 % of one decoded token. So a probe listens to
    the whole of the first forward of each kind (training or not, a prompt or one token, which arguments)
    and of the 4th, 16th, 64th, ...; in the others only inside the modules where a layer was used so, and
    for most models there are none.

A mode changes what torch itself decides: attention leaves its fused kernel under one, an encoder makes no
NestedTensors. There the mode is taken out, outputs stay equal to the last bit, and the ledger says what was
not seen. A mode belongs to one call of the model in one thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.compiler import is_dynamo_compiling
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from normprobe.capture.forwards.forward import Forward, Forwards
from normprobe.capture.functions.attention_weights import (
    FUSED,
    FUSED_CALL,
    OTHER_SHAPE,
    SOFTMAX,
    by_query,
    logits_of,
)
from normprobe.capture.functions.function_session import (
    FunctionSession,
    ListeningSchedule,
    UsedLayer,
    holds_bias,
)
from normprobe.capture.functions.fused_encoder import decides_by_mode
from normprobe.capture.hooks.compiled import is_compiled
from normprobe.capture.hooks.compiled_frames import between_graphs
from normprobe.capture.hooks.graph_calls import in_graph
from normprobe.capture.hooks.torch_internals import (
    PRIVATE_TORCH,
    ModeAside,
    ModesAside,
    called_module,
    end_cut_blocks,
    in_backward,
    put_below,
    take_out,
)
from normprobe.capture.hooks.weight_functions import (
    COMPOSITE,
    COPIES,
    LOST,
    USES,
    WeightUse,
    lost_arguments,
    reads_values,
    with_linear,
)
from normprobe.capture.states.layer_state import LayerState
from normprobe.layers.layer import Layer
from normprobe.vocabulary import ENTROPY, MAX_LOGIT

BIAS_APART = "its bias was added apart from it, so its output is without"


Observe = Callable[[LayerState, str, Tensor, Forward], None]


class LayerCallbacks(Protocol):
    """What is done about a call of a layer, whether a hook saw it or the mode."""

    forwards: Forwards
    lock: Any

    def layers(self) -> Iterable[Layer]:
        """All layers, and the parameters that may turn out to be one."""

    def state_of(self, layer: Layer) -> LayerState:
        """The running state of a layer, fresh if it is new."""

    def before(self, state: LayerState, forward: Forward, tensor: Tensor | None) -> None:
        """Measure what a layer reads, before its call."""

    def after(
        self, state: LayerState, forward: Forward, output: Tensor | None, given: tuple[Any, ...]
    ) -> None:
        """Measure what a layer gave for these arguments; no output if it raised."""


class ExpertProducts(Protocol):
    """What is done about products with weights of experts."""

    def holds(self, layer: Layer) -> bool:
        """Whether a layer is a weight of experts."""

    def note(
        self,
        forward: Forward | None,
        layer: Layer,
        func: Callable[..., Any],
        given: tuple[Any, ...],
        result: Any,
    ) -> bool:
        """A function read a weight of experts: if it is a product, measure it; whether it is one."""


class FunctionCapture:
    """Finds the calls of one probe's layers among those of torch's functions.

    A forward is opened, its modules are entered and left in turn; `close` ends all of it. The callbacks' lock
    guards the schedules; a session is of one forward, so of one thread.

    Attributes:
        left_out: modules (by id) whose calls are none of a layer, though they use the weight of one.
        reads: the first function that read the weight of a layer, by the layer's key.
        experts: what measures products with the weights of experts; None where nobody asked for them.
    """

    experts: ExpertProducts | None = None

    def __init__(self, callbacks: LayerCallbacks) -> None:
        self._callbacks = callbacks
        self.left_out: frozenset[int] = frozenset()
        self.reads: dict[tuple[int, str], str] = {}
        self._schedules: dict[Any, ListeningSchedule] = {}
        self._mode = _Mode(self)
        self._attention: dict[int, LayerState] = {}
        self._observe: Observe | None = None

    def follow_attention(self, states: Iterable[LayerState], observe: Observe) -> None:
        """Listen inside attention among these layers in every measured forward; measure it by ``observe``."""
        self._observe = observe
        attention = (state for state in states if state.layer.view.kind == "attention")
        self._attention = {id(state.layer.module): state for state in attention}
        # Functions that nobody asks for are not looked at.
        self._mode = (_AttentionMode if self._attention else _Mode)(self)

    def open(self, module: nn.Module, forward: Forward, kwargs: dict[str, Any]) -> FunctionSession | None:
        """Begin to listen to a forward that is measured; None if there is nothing to listen for."""
        take_out(self._mode)  # if a KeyboardInterrupt left it behind
        # A mode would have code compiled again; without private names none is put in place.
        if in_graph() or between_graphs() or not PRIVATE_TORCH:
            return None
        # What decides which code of a model runs; a kind that is new is listened to from the first.
        given = tuple(name for name, value in kwargs.items() if value is not None)
        kind = (id(module), module.training, torch.is_grad_enabled(), forward.batch.time == 1, given)
        with self._callbacks.lock:
            schedule = self._schedules.setdefault(kind, ListeningSchedule())
            schedule.forwards += 1
            count = schedule.forwards
            due = count.bit_count() == 1 and count.bit_length() % 2 == 1  # 1, 4, 16, ...
            if due or not schedule.complete:
                return FunctionSession.of(schedule, self._callbacks.layers(), everywhere=True)
            if not schedule.containers and not self._attention:
                return None
            return FunctionSession.of(schedule, schedule.layers.values(), everywhere=False)

    def enter(
        self, session: FunctionSession, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        """A module that holds layers is called: put the mode in place if the session listens inside it."""
        parent = session.entered[-1][0] if session.entered else None
        # With how it was before, so that leaving restores it whatever happened inside.
        session.entered.append((module, session.on))
        inside = id(module) in session.schedule.containers or id(module) in self._attention
        wanted = (session.everywhere or inside) and not is_compiled(module)
        self._set_mode(session, wanted and not decides_by_mode(module, parent, args, kwargs))
        if session.on:
            with ModesAside():
                session.refresh_owners(module)

    def leave(self, forward: Forward | None, module: nn.Module, output: Any) -> None:
        """The module's call is over: put the mode in place, or take it out, as it was before the call."""
        session: FunctionSession | None = None if forward is None else forward.state.session
        if session is None:
            return
        # Calls inside it that were cut short are over, too; a module that was never entered changes nothing.
        while any(entered is module for entered, _ in session.entered):
            last, on = session.entered.pop()
            if last is module:
                self._set_mode(session, on)
                break
        if not session.entered and session.everywhere and output is not None:
            session.schedule.complete = True

    def close(self) -> None:
        """Stop listening in this thread, whatever was left behind."""
        if self._callbacks.forwards.current is not None:  # which an interrupt cut short
            end_cut_blocks(self._mode)
        take_out(self._mode)

    def aside(self) -> AbstractContextManager[None]:
        """A block in which the mode does not see this thread: for functions that the user gave."""
        return ModeAside(self._mode)

    def _set_mode(self, session: FunctionSession, on: bool) -> None:
        if on is not session.on:
            session.on = on
            if on:
                put_below(self._mode)
            else:
                take_out(self._mode)

    def session(self) -> FunctionSession | None:
        """The session of the forward that this thread is in; None in backward, whose calls are repeated."""
        forward = self._callbacks.forwards.current
        session: FunctionSession | None = None if forward is None or in_backward() else forward.state.session
        return session

    def linear(self, *args: Any, **kwargs: Any) -> Any:
        """Call `torch.nn.functional.linear` from within a function that hides it from the mode."""
        return self.call(functional.linear, args, kwargs)

    def call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call a function that may be a layer's, and measure what the layer reads and writes if it is one."""
        forward, session = self._callbacks.forwards.current, self.session()
        found = None if session is None else _used(session, func, args, kwargs)
        if forward is None or session is None or found is None:
            return self.note_reads(func, args, kwargs, func(*args, **kwargs))
        use, used = found
        given = use.given(args, kwargs)
        # Inside the call of a Linear that is one as a whole, its weights are used as its parts.
        whole = session.around.get(id(used.layer.module))
        inside = whole is not None and forward.state.is_open(self._callbacks.state_of(whole).index)
        if inside or (use.moves and not _is_data(given, forward)):
            return self.note_reads(func, args, kwargs, func(*args, **kwargs))
        # The lock is not held during the call itself, which other threads' calls may wait for.
        with self._callbacks.lock:
            state = self._callbacks.state_of(used.layer)
            sharing = session.sharing.get(used.owner.key, {}).values()
            indices = {state.index, *(self._callbacks.state_of(layer).index for layer in sharing)}
        # Of a layer whose module is being called the hooks measure this; which of those that share a weight
        # the function belongs to cannot be told, so a call of any of them counts.
        hooked = any(forward.state.is_open(index) for index in indices)
        if state.refused or hooked or (self.left_out and id(called_module()) in self.left_out):
            return func(*args, **kwargs)
        self._callbacks.before(state, forward, given)
        output = None
        try:
            output = func(*args, **kwargs)
        finally:
            self._callbacks.after(state, forward, use.made(output), (*args, *kwargs.values()))
        with self._callbacks.lock:
            self._note_use(state, used, session, has_bias=use.has_bias(args, kwargs))
        return output

    def observe_attention(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], result: Any
    ) -> None:
        """Measure attention by a function of torch that the innermost one under way called."""
        forward, session = self._callbacks.forwards.current, self.session()
        if forward is None or session is None:
            return
        around = (self._attention.get(id(module)) for module, _ in reversed(session.entered))
        state = next((state for state in around if state is not None), None)
        opened = None if state is None else forward.opened.get(state.index)
        if state is None or opened is None or self._observe is None:
            return
        if func in FUSED:
            opened.why_unshown = FUSED_CALL
            return
        with ModesAside():
            logits = logits_of(args, kwargs)
            if logits is not None:
                measured = by_query(logits, result, state.layer.module, forward.batch.size)
                opened.shown = measured is not None
                opened.why_unshown = OTHER_SHAPE.format(tuple(logits.shape))
                for site, tensor in zip((MAX_LOGIT, ENTROPY), measured or (), strict=False):
                    self._observe(state, site, tensor, forward)

    def note_reads(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], result: Any
    ) -> Any:
        """Note whose weight a function read to give a tensor; hand the result on."""
        # What gives no tensor asks for a size or a dtype; most calls end here.
        session = self.session() if isinstance(result, (Tensor, tuple)) and reads_values(func) else None
        if session is not None:
            try:
                for layer in session.owners_among((*args, *kwargs.values())):
                    self.reads.setdefault(layer.key, getattr(func, "__name__", "a function"))
                    if self.experts is not None and self.experts.holds(layer):
                        self._note_experts(session, layer, func, (*args, *kwargs.values()), result)
                for layer in session.running():
                    self.reads.setdefault(layer.key, "")
            except Exception:  # tensors of others that cannot be asked
                return result
        return result

    def _note_experts(
        self,
        session: FunctionSession,
        layer: Layer,
        func: Callable[..., Any],
        given: tuple[Any, ...],
        result: Any,
    ) -> None:
        """Measure a product with a weight of experts, and listen there in the next forwards, too."""
        forward = self._callbacks.forwards.current
        if self.experts is not None and self.experts.note(forward, layer, func, given, result):
            with self._callbacks.lock:
                # A schedule is shared by threads; `note` took the lock for itself and has given it back.
                session.note_use(layer)

    def _note_use(
        self, state: LayerState, used: UsedLayer, session: FunctionSession, *, has_bias: bool
    ) -> None:
        """Count a call that a function showed, and note what of it is missing."""
        state.functional_calls += 1
        if holds_bias(used.layer) and not has_bias:
            state.reasons[BIAS_APART] = 1
        for site in state.further_sites:
            state.note(f"a call at its {site} is left out: a function used its weight, not its module")
        missed = session.note_use(used.owner)
        if missed:
            state.note(f"uses of its weight alone before forward {missed + 1} of a kind may be missing")


def _used(
    session: FunctionSession, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[WeightUse, UsedLayer] | None:
    """How a call uses the weight of which layer; None, too, of weights that cannot be asked (sparse ones)."""
    uses = USES[func]
    try:
        for use in uses(args, kwargs) if callable(uses) else uses:
            used = session.layer_of(use, args, kwargs)
            if used is not None:
                return use, used
    except Exception:
        return None
    return None


def _is_data(tensor: Tensor | None, forward: Forward) -> bool:
    """Whether a tensor that a weight is multiplied by from the left is the forward's, features last.

    A product of two weights, or one with a rotation of a weight, looks the same; its rows are no samples.
    """
    if tensor is None or isinstance(tensor, nn.Parameter):
        return False
    # The weight's own width would fit by chance: then as many rows as the forward has, or none.
    batch, time, sizes = forward.batch.size, forward.batch.time, tuple(tensor.shape)
    if len(sizes) != 2:
        return len(sizes) == 1 or sizes[0] % max(batch, 1) == 0
    whole = sizes[0] in (batch, batch * (time or 0))
    return whole or (batch > 1 and sizes[0] % batch == 0 and sizes[0] != sizes[1])


class _Mode(TorchFunctionMode):
    """Hands on every call as it is, and those that may be a layer's to `FunctionCapture.call`."""

    def __init__(self, capture: FunctionCapture) -> None:
        super().__init__()
        self._capture = capture

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        # At once: the fewer steps around it, the fewer interrupts find the user's gradient mode half changed.
        if func is torch._C._set_grad_enabled:
            return func(*args, **kwargs)
        if is_dynamo_compiling():  # a function of the model's that compiles itself, whole perhaps
            return func(*args, **kwargs)
        # Lookups by identity first: this runs for every function and attribute of a tensor.
        if func in USES:
            return self._capture.call(func, args, kwargs)
        if func in LOST:
            kwargs = {**kwargs, **lost_arguments(func)}
        if func in COMPOSITE:
            return with_linear(func, self._capture.linear)(*args, **kwargs)
        result = func(*args, **kwargs)
        if func in COPIES:
            session = self._capture.session()
            if session is not None and isinstance(args[0], Tensor) and isinstance(result, Tensor):
                session.note_copy(args[0], result)
            return result
        return self._capture.note_reads(func, args, kwargs, result)


class _AttentionMode(_Mode):
    """Follows the functions by which attention computes its weights, too."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = super().__torch_function__(func, types, args, kwargs)
        if func in SOFTMAX or func in FUSED:
            self._capture.observe_attention(func, args, kwargs or {}, result)
        return result
