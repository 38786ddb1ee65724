"""Measures what the experts of a module read and give, at each call of it and each of its products."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from normprobe.capture.experts.expert_state import ExpertState, ExpertWindow
from normprobe.capture.experts.products import Product, may_be_product, product_of
from normprobe.capture.experts.routing import SCALED, UNTOLD, Routing, routing_of
from normprobe.capture.experts.row_order import UNORDERED, order_of, pairs_of
from normprobe.capture.forwards.forward import Forward, Sequence
from normprobe.capture.hooks.interrupts import NoGrad
from normprobe.capture.hooks.torch_internals import ModesAside, in_backward, unmeasurable
from normprobe.capture.states.layer_state import LayerState
from normprobe.layers.layer import ExpertModule, ExpertWeight, Layer
from normprobe.vocabulary import INPUT, INTERMEDIATE, OUTPUT

UNSEEN = (
    "what its last weight reads and gives was not seen in a call: its products are of copies of the weights"
)
UNFIT = "the rows of its experts ({} tokens) do not fit {} {}: unmasked"


@dataclass(eq=False)
class OpenExperts:
    """A call of a module of experts that is under way.

    Attributes:
        routing: its rows.
        real: of each pair whether its token is no padding; None where nothing is.
        seen: whether a product with its last weight was seen.
    """

    routing: Routing
    real: Tensor | None
    seen: bool = False


class ExpertCapture:
    """Measures the experts of one probe's model; who calls `before`, `after` or `note` holds no lock.

    Attributes:
        states: the state of each module of experts, by its id.
    """

    def __init__(
        self,
        lock: Any,
        no_grad: NoGrad,
        sequence_of: Callable[[LayerState, str, Tensor, Forward], Sequence],
        state_of: Callable[[Layer], LayerState],
    ) -> None:
        self._lock, self._no_grad = lock, no_grad
        self._sequence_of, self._state_of = sequence_of, state_of
        self.states: dict[int, ExpertState] = {}
        self._by_weight: dict[tuple[int, str], tuple[ExpertState, ExpertWeight]] = {}
        self._layers: dict[int, list[LayerState]] = {}

    def enter(self, holders: Iterable[ExpertModule], layers: Iterable[Layer]) -> None:
        """Know the modules of a block that begins; those of an earlier one go on counting."""
        by_key = {layer.key: layer for layer in layers}
        for holder in holders:
            # The state holds its module, so no other one can have this id while it is looked up by it.
            state = self.states.setdefault(id(holder.module), ExpertState(holder))
            states = []
            for weight in holder.weights:
                key = (id(weight.module), weight.parameter)
                self._by_weight[key] = state, weight
                states.append(self._state_of(by_key[key]))
            self._layers[id(holder.module)] = states

    def holds(self, layer: Layer) -> bool:
        """Whether a layer is a weight of experts."""
        return layer.key in self._by_weight

    def before(
        self, forward: Forward | None, module: nn.Module, args: Any, kwargs: Mapping[str, Any]
    ) -> None:
        """A module of experts is called: measure what each of them reads."""
        # Checkpointing repeats calls in backward: their rows were counted in the forward.
        if forward is None or not forward.state.measured or in_backward():
            return
        with self._lock, ModesAside(), self._no_grad:
            begin = partial(self._begin, module, forward, (*args, *kwargs.values()))
            self._guard(module, "a call of its experts", begin)

    def _begin(self, module: nn.Module, forward: Forward, given: tuple[Any, ...]) -> None:
        state, layer = self.states[id(module)], self._layers[id(module)][0]
        why = next((why for t in given if isinstance(t, Tensor) and (why := unmeasurable(t))), "")
        routing = None if why else routing_of(state.holder, given)
        if routing is None:
            layer.note(why or UNTOLD)
            return
        if state.depth is None:
            # Those called before have a depth already, so their number is the next one.
            state.depth = sum(other.depth is not None for other in self.states.values())
        real = self._real(module, routing, forward)
        opened = forward.opened[_key(module)] = OpenExperts(routing, real)
        if routing.form == "all":
            layer.reasons[SCALED] = 1
        expert = _counted(routing.expert, real, state.holder.count)
        order = _in_order(expert)
        rows = routing.hidden.index_select(0, routing.token[order])
        if not state.add(INPUT, rows, expert[order]):
            layer.note(f"a call with {rows.shape[1]} features instead of those before is left out")
            # Without an open call its products are left out, too: all sites then have the same calls.
            del forward.opened[_key(module)]
        elif routing.weight is not None:
            state.add_weights(routing.weight, opened_expert(opened, state.holder.count))

    def _real(self, module: nn.Module, routing: Routing, forward: Forward) -> Tensor | None:
        """Of each pair whether its token is real; None where all are, or nothing tells."""
        layer = self._layers[id(module)][0]
        sequence = self._sequence_of(layer, INPUT, routing.hidden, forward)
        padding = sequence.padding
        if padding is None or padding.full:
            return None
        real = padding.real
        # A mask may have one row for the whole batch, and pairs need a flag for every token.
        if len(real) == 1 < sequence.grid.batch:
            real = np.broadcast_to(real, (sequence.grid.batch, real.shape[1]))
        if real.size != routing.positions:
            layer.note(UNFIT.format(routing.positions or len(routing.hidden), padding.name, real.shape))
            return None
        for state in self._layers[id(module)]:
            state.masked_by[padding.name] = None
        # Tokens are flattened as the batch lies in memory: with time first, position by position.
        flat = np.ascontiguousarray(real.T if sequence.grid.time_first else real).reshape(-1)
        flags = torch.from_numpy(flat).to(routing.hidden.device, non_blocking=True)
        # Of a call on all experts a row is a token at one expert, and the mask knows the token alone.
        token = routing.token if routing.position is None else routing.position[routing.token]
        return flags[token]

    def after(self, forward: Forward | None, module: nn.Module) -> None:
        """The call of a module of experts is over."""
        opened = None if forward is None else forward.opened.pop(_key(module), None)
        if opened is not None and not opened.seen:
            with self._lock:
                self._layers[id(module)][-1].note(UNSEEN)

    def note(
        self,
        forward: Forward | None,
        layer: Layer,
        func: Callable[..., Any],
        given: tuple[Any, ...],
        result: Any,
    ) -> bool:
        """A function read a weight of experts: if it is a product, measure it; whether it is one."""
        state, weight = self._by_weight[layer.key]
        opened = None if forward is None else forward.opened.get(_key(state.holder.module))
        if opened is None or not may_be_product(func):
            return False
        # What the rows of the others are is asked for to tell padding alone.
        if weight.last or opened.real is not None:
            add = partial(self._add, state, weight, opened, (func, given, result))
            with self._lock, ModesAside(), self._no_grad:
                self._guard(state.holder.module, "a product", add)
        return True

    def _add(
        self, state: ExpertState, weight: ExpertWeight, opened: OpenExperts, call: tuple[Any, ...]
    ) -> None:
        """Measure what a product of experts reads and gives, where an expert ends with it."""
        product = product_of(weight, *call)
        if product is None:
            return
        expert, real = product.expert, self._real_rows(state, weight, opened, product)
        if not weight.last:
            return
        opened.seen = True
        if real is UNTOLD_ROWS:
            self._layers[id(state.holder.module)][-1].note(UNORDERED)
            return
        counted = _counted(expert, real, state.holder.count)
        # What the first weight reads is what the call was given, which is measured already.
        if not weight.first:
            state.add(INTERMEDIATE, product.reads, counted)
        state.add(OUTPUT, product.gives, counted)

    def _real_rows(
        self, state: ExpertState, weight: ExpertWeight, opened: OpenExperts, product: Product
    ) -> Any:
        """Of each row of a product whether it counts; None where all do."""
        routing = opened.routing
        if routing.form != "pairs":
            # Of fewer rows nothing says which of them the model took out.
            same = len(product.reads) == len(routing.expert)
            real = opened.real
            if routing.form == "all" and same:  # those not chosen are computed, too
                chosen = routing.expert < state.holder.count
                return chosen if real is None else chosen & real
            return None if real is None else real if same else UNTOLD_ROWS
        if opened.real is None:
            return None
        # Products of one expert and of all have orders of their own, and a model may use both.
        whole = product.one is None
        # Only the first product reads what the module was given, so only it can be compared with that.
        if weight.first:
            before = state.orders.get(whole, "")
            state.orders[whole] = order_of(product.reads, routing, product.one, before)
        order = state.orders.get(whole)
        if not order:
            return UNTOLD_ROWS
        pairs = pairs_of(order, routing, product.one)
        return opened.real[pairs] if len(pairs) == len(product.reads) else UNTOLD_ROWS

    def _guard(self, module: nn.Module, what: str, call: Callable[[], None]) -> None:
        """Make a call that may fail; the ledger says so then, and the user's forward goes on."""
        try:
            call()
        # Not BaseException: an interrupt is the user's, and goes on.
        except Exception as error:
            message = str(error).splitlines()[0] if str(error) else "no message"
            text = f"{what} is left out: {type(error).__name__}: {message}"
            self._layers[id(module)][-1].note(text)

    def measured(self) -> frozenset[tuple[int, str]]:
        """The keys of the layers whose experts were measured in the window."""
        return frozenset(key for key, (state, _) in self._by_weight.items() if state.window.sums)

    def take(self) -> dict[int, ExpertWindow]:
        """Hand over what was measured in a window, for `put`."""
        return {key: state.window for key, state in self.states.items()}

    def put(self, held: Mapping[int, ExpertWindow]) -> None:
        """Go on with what was handed over, or afresh."""
        for key, state in self.states.items():
            state.window = held.get(key) or ExpertWindow()


# Not None, which says that every row counts.
UNTOLD_ROWS = object()


def opened_expert(opened: OpenExperts, count: int) -> Tensor:
    """The expert of each pair of a call; ``count`` of those that are padding."""
    return _counted(opened.routing.expert, opened.real, count)


def _counted(expert: Tensor, real: Tensor | None, count: int) -> Tensor:
    # Not by indexing with `real`: an accelerator would have to be waited for to know how many rows remain.
    return expert if real is None else torch.where(real, expert, count)


def _in_order(expert: Tensor) -> Tensor:
    """The pairs in the order of their experts, so that rows are gathered once."""
    return torch.sort(expert, stable=True).indices


def _key(module: nn.Module) -> Any:
    return "experts", id(module)
