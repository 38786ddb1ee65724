"""State of a forward, the forward that each thread is in, and the lock of a probe.

Twin of ``csrc/hooks/current_forward.h``, whose hooks look these up at every call. A `ForwardState` is used by
the thread of its forward only, so no lock guards it. The lock is held while a tensor is measured: the
extension gives up the interpreter's lock meanwhile, and a second thread must not add to the same site.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any

from normprobe.kernels import dispatch


@dataclass(eq=False, slots=True)
class ForwardState:
    """What hooks ask of a forward.

    Attributes:
        owner: the module that was called.
        measured: whether the forward is measured.
        sites: how many sites a layer may have.
        session: what follows torch's functions in it, if anything does.
        recent: moments of the last tensors, for other layers that read them; of the extension.
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
        """Note that no call of a layer is under way."""
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


class _ThreadEntry(threading.local):
    forward: Any = None


class CurrentForward:
    """The forward that each thread is in."""

    def __init__(self) -> None:
        self._entry = _ThreadEntry()

    @property
    def forward(self) -> Any:
        """The forward that this thread is in, or None."""
        return self._entry.forward

    def begin(self, owner: Any, measured: bool, sites: int) -> ForwardState:
        """State of a forward that begins with a call of this module; layers have at most so many sites."""
        return ForwardState(owner, measured, sites)

    def enter(self, forward: Any) -> None:
        """Set this thread's forward."""
        self._entry.forward = forward

    def leave(self) -> None:
        """Clear this thread's forward."""
        self._entry.forward = None

    def clear(self) -> None:
        """Clear the forwards of all threads."""
        # Another thread's value cannot be reached from here; a fresh object has none.
        self._entry = _ThreadEntry()


def new_current_forward() -> CurrentForward:
    """A record of each thread's forward, in the extension if it is there."""
    kernel = dispatch.compiled()
    made: CurrentForward = CurrentForward() if kernel is None else kernel.CurrentForward()
    return made


def new_memory() -> Any:
    """Room for the moments of tensors just measured, in the extension; None where it is missing."""
    kernel = dispatch.compiled()
    return None if kernel is None else kernel.RecentMoments()


def new_lock() -> Any:
    """A reentrant lock, used as a context; the extension's, if it is there, for its hooks take it, too."""
    kernel = dispatch.compiled()
    return threading.RLock() if kernel is None else kernel.Lock()
