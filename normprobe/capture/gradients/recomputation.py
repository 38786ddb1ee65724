"""Parts that reentrant checkpointing runs without gradients, and again in backward: which call is which."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from normprobe.capture.gradients.forward_trace import ForwardTrace
from normprobe.capture.identity.numbered import Numbered


class MeasuredCall(NamedTuple):
    """A call whose tensor was measured at a site: the forward, and the samples."""

    trace: ForwardTrace
    numbered: Numbered


@dataclass(eq=False)
class _Part:
    """The calls of one part, by the layer's index and the site, and how far it has been run again."""

    calls: dict[tuple[int, str], list[MeasuredCall | None]] = field(default_factory=dict)
    again: dict[tuple[int, str], int] = field(default_factory=dict)
    task: int = -1
    passes: int = -1


class Recomputations:
    """What was measured in parts that will run again; an entry goes with the function that holds the part."""

    def __init__(self) -> None:
        self._parts: weakref.WeakKeyDictionary[Any, _Part] = weakref.WeakKeyDictionary()

    def add(self, function: Any, layer: int, site: str, call: MeasuredCall | None) -> None:
        """Note a tensor that was measured, or left out, in the forward of a function."""
        part = self._parts.get(function)
        if part is None:
            part = self._parts[function] = _Part()
        part.calls.setdefault((layer, site), []).append(call)

    def next(self, function: Any, layer: int, site: str, task: int) -> tuple[MeasuredCall | None, int]:
        """The call that is run again now, None if it was not measured, and how often it was before.

        A part is run again in the order in which it ran first, once in each backward (``task``).
        """
        part = None if function is None else self._parts.get(function)
        if part is None:
            return None, 0
        if part.task != task:
            part.task, part.passes, part.again = task, part.passes + 1, {}
        at = part.again.get((layer, site), 0)
        part.again[layer, site] = at + 1
        calls = part.calls.get((layer, site), [])
        return calls[at] if at < len(calls) else None, part.passes
