"""Copies and pickles of a probed model: without the probe's hooks, and without a trace of them.

A model may be saved, copied or sent to another process inside the block. Its hooks lie in dictionaries of
torch's, OrderedDicts in each module, which pickle and copy find like everything else of the module. Python
asks `copyreg.dispatch_table` how objects of a class are pickled and copied; while a probe is entered, the
entry of OrderedDict leaves out what is a probe's. A copy has no entry for a hook then: it loads where
normprobe is not installed, and torch takes its fused paths in it.
"""

from __future__ import annotations

import copyreg
import threading
import weakref
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any


class _Held(weakref.ref[Any]):
    """A dictionary, which may be gone and its id another's, and the numbers of own hooks in it."""

    __slots__ = ("key", "numbers")
    key: int
    numbers: set[int]


class CopiesWithoutHooks:
    """What Python does about the dictionaries of hooks that it copies: one entry for the whole process.

    It is there while there is any hook. An entry that others have made is asked first; one that they put in
    the place of this one is left to them.
    """

    def __init__(self) -> None:
        self._held: dict[int, _Held] = {}
        self._before: Any = None
        self._thread = threading.local()

    def add(self, dictionaries: Iterable[dict[int, Any]], number: int) -> None:
        """Leave the entries of this number out of copies of these dictionaries."""
        for hooks in dictionaries:
            held = self._of(hooks)
            if held is None:
                held = _Held(hooks, self._gone)
                held.key, held.numbers = id(hooks), set()
                self._held[held.key] = held
            held.numbers.add(number)
        self._put()

    def discard(self, dictionaries: Iterable[dict[int, Any]], number: int) -> None:
        """Undo `add`, also where it was cut short; the last takes the entry away."""
        for hooks in dictionaries:
            held = self._of(hooks)
            if held is not None:
                held.numbers.discard(number)
                if not held.numbers:
                    self._held.pop(id(hooks), None)
        if not self._held and self._is_there():
            before = self._before
            if before is None:
                copyreg.dispatch_table.pop(OrderedDict, None)
            else:
                copyreg.dispatch_table[OrderedDict] = before
            # Without a lock, which an interrupt might leave closed: another thread may have added meanwhile.
            if self._held:
                self._put()

    def _put(self) -> None:
        if not self._is_there():
            self._before = copyreg.dispatch_table.get(OrderedDict)
            copyreg.dispatch_table[OrderedDict] = self._reduce

    def _is_there(self) -> bool:
        return copyreg.dispatch_table.get(OrderedDict) == self._reduce

    def _of(self, hooks: Any) -> _Held | None:
        held = self._held.get(id(hooks))
        return held if held is not None and held() is hooks else None

    def _gone(self, held: _Held) -> None:
        # By now another dictionary may have the id of this one.
        if self._held.get(held.key) is held:
            del self._held[held.key]

    def _reduce(self, found: OrderedDict[Any, Any]) -> Any:
        """How an OrderedDict is pickled and copied: as ever, but without the entries that are a probe's."""
        reduced = self._as_before(found)
        held = self._of(found)
        # The last of five is an iterator over the entries.
        if held is None or not isinstance(reduced, tuple) or len(reduced) != 5:
            return reduced
        return (*reduced[:4], iter([item for item in found.items() if item[0] not in held.numbers]))

    def _as_before(self, found: OrderedDict[Any, Any]) -> Any:
        # An entry that wraps this one may have become the one before it: it is asked once.
        if self._before is None or getattr(self._thread, "asked", False):
            return found.__reduce__()
        self._thread.asked = True
        try:
            return self._before(found)
        finally:
            self._thread.asked = False


COPIES = CopiesWithoutHooks()
