"""What a probe knows of the compiled graphs that call its hooks: are there any, and what do hooks share."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn

from normprobe.capture.hooks.graph_calls import GraphHook, new_number


class GraphLayer(Protocol):
    """A layer that a hook measures."""

    reasons: dict[str, int]


@dataclass(eq=False)
class HeldValue:
    """A tensor that several hooks of a graph are given, until the last of them was.

    Attributes:
        tensor: as the first was given it.
        memory: where its moments are looked up.
        left: how many are still to come.
    """

    tensor: Tensor
    memory: Any
    left: int


class Memory(Protocol):
    """The forward of a thread, as graphs need it."""

    values: dict[str, HeldValue]

    def remember(self, memory: Any) -> Any:
        """Look up moments of tensors there from now on; in a fresh place if None. The place."""


_RECENT = 8


class Graphs:
    """Hooks of one probe as graphs call them.

    Layers that read one tensor measure it once. Outside of graphs a tensor is known by its Python object and
    version. Within one, memory is used again under the same object, and no version tells. There two hooks are
    given one tensor if they were as the graph was made, and it lies where it lay. A graph that is made later
    may show that they are not always; then they never are taken to be.

    Attributes:
        traced: whether a graph was made that calls one of the hooks.
    """

    def __init__(self, note: str, current: Callable[[], Memory | None]) -> None:
        self.traced = False
        self._note, self._current = note, current
        self._recent: list[tuple[weakref.ref[Tensor], int, str]] = []
        self._first: dict[str, str] = {}
        self._readers: dict[str, int] = {}

    def hook(
        self,
        call: Callable[..., None],
        module: nn.Module,
        *,
        behind: bool,
        layer: GraphLayer | None,
    ) -> GraphHook:
        """A hook as graphs call it."""
        made = GraphHook(new_number(), call, module)
        at = -1 if behind else 0

        def on_trace(tensors: list[Tensor]) -> None:
            self.traced = True
            if layer is not None:
                layer.reasons[self._note] = 1
                if tensors:
                    self._see(made.number, tensors[at])

        made.on_trace = on_trace
        if layer is not None:
            made.around = lambda tensors: self._ready(made.number, tensors, at)
        return made

    def _see(self, number: str, tensor: Tensor) -> None:
        """Note the tensor of a hook as a graph is made."""
        first = number
        for held, version, other in reversed(self._recent):
            if held() is tensor and version == tensor._version:
                first = other
                break
        self._recent = [*self._recent[1 - _RECENT :], (weakref.ref(tensor), tensor._version, first)]
        known = self._first.get(number)
        if known is None:
            self._first[number] = first
            if first != number:
                self._readers[first] = self._readers.get(first, 0) + 1
        elif known != first:
            self._first[number] = number

    def _ready(self, number: str, tensors: list[Tensor], at: int) -> list[Tensor]:
        """The tensors to give to a hook, with what is remembered of the one that it measures."""
        forward = self._current()
        if forward is None or not tensors:
            return tensors
        first = self._first.get(number, number)
        if first == number:
            memory = forward.remember(None)
            readers = self._readers.get(number, 0)
            if readers:
                forward.values[number] = HeldValue(tensors[at], memory, readers)
            return tensors
        value = forward.values.get(first)
        if value is None or not _same_place(value.tensor, tensors[at]):
            forward.remember(None)
            return tensors
        forward.remember(value.memory)
        value.left -= 1
        if not value.left:
            del forward.values[first]
        tensors = list(tensors)
        tensors[at] = value.tensor
        return tensors


def _same_place(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors lie in the same memory, in the same way."""
    return one is other or (
        one.data_ptr() == other.data_ptr()
        and one.shape == other.shape
        and one.stride() == other.stride()
        and one.dtype == other.dtype
    )
