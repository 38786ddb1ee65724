"""The forward that each thread is in; the extension has the same as plain memory, for its hooks."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from normprobe.kernels import dispatch

if TYPE_CHECKING:
    pass


@dataclass(eq=False, slots=True)
class ForwardState:
    """What hooks ask of a forward.

    Attributes:
        owner: the module that was called.
        measured: whether the forward is measured.
        sites: how many sites a layer may have.
        session: what listens to torch's functions in it, if anything does.
        memory: what tensors held that were just measured, for the compiled kernel.
        threads: how many threads may measure one tensor.
    """

    owner: Any
    measured: bool
    sites: int
    session: Any = None
    recent: Any = None
    threads: int = 1
    _open: set[int] = field(default_factory=set)
    _counts: dict[tuple[int, int], int] = field(default_factory=dict)

    def enter(self, layer: int) -> None:
        """Note that a call of a layer, by its index, is under way."""
        self._open.add(layer)

    def leave(self, layer: int) -> None:
        """Note that none is."""
        self._open.discard(layer)

    def is_open(self, layer: int) -> bool:
        """Whether a call of a layer is under way."""
        return layer in self._open

    def next_repeat(self, layer: int, site: int) -> int:
        """Count a tensor of a layer at a site, both by number; how many came before it in this forward.

        Raises:
            IndexError: the forward began before there was such a site.
        """
        if not 0 <= site < self.sites:
            raise IndexError(f"site {site} is not one of the forward's {self.sites}")
        before = self._counts.get((layer, site), 0)
        self._counts[layer, site] = before + 1
        return before


class _Place(threading.local):
    forward: Any = None


class CurrentForward:
    """The forward that each thread is in."""

    def __init__(self) -> None:
        self._place = _Place()

    @property
    def forward(self) -> Any:
        """The forward that this thread is in, or None."""
        return self._place.forward

    def begin(self, owner: Any, measured: bool, sites: int) -> ForwardState:
        """State of a forward that begins with a call of this module; layers have at most so many sites."""
        return ForwardState(owner, measured, sites)

    def enter(self, forward: Any) -> None:
        """Be in this forward from now on."""
        self._place.forward = forward

    def leave(self) -> None:
        """Be in none."""
        self._place.forward = None

    def clear(self) -> None:
        """Have no thread be in any forward."""
        self._place = _Place()


def inside() -> CurrentForward:
    """What knows which forward each thread is in."""
    kernel = dispatch.compiled()
    made: CurrentForward = CurrentForward() if kernel is None else kernel.CurrentForward()
    return made


def lock() -> Any:
    """A reentrant lock, to be used as a context."""
    kernel = dispatch.compiled()
    return threading.RLock() if kernel is None else kernel.Lock()
