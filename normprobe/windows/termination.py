"""SIGTERM closes the open windows: Slurm and Kubernetes send it before they kill, torchrun to other ranks."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from normprobe.errors import warn

_PACKAGE = __name__.partition(".")[0] + "."


class Termination:
    """A handler of SIGTERM that closes windows and hands the signal on to the handler that was there.

    Python runs a handler between any two steps of the main thread, in the midst of a measurement, too. Then
    closing waits for the end of the forward or of the call under way (`settle`).
    """

    def __init__(self, close: Callable[[], None], is_measuring: Callable[[], bool]) -> None:
        """Keep what to do.

        Args:
            close: closes the open windows.
            is_measuring: whether the main thread is inside a forward that is measured.
        """
        self._close, self._is_measuring = close, is_measuring
        self._before: Any = None
        self._process: int | None = None
        self._waits = self._handed_on = False
        # One object, by which it is known again: of a method each look makes another one.
        self._handler = self._handle

    def install(self) -> None:
        """Take over SIGTERM, if this is the main thread and Python can give it back."""
        if threading.current_thread() is not threading.main_thread():
            return
        before = signal.getsignal(signal.SIGTERM)
        if before is None:  # one that was not installed by Python cannot be put back
            return
        self._before, self._process, self._waits = before, os.getpid(), False
        signal.signal(signal.SIGTERM, self._handler)

    def restore(self) -> None:
        """Put back the handler that was there, unless another took over since, which hands on to this one."""
        if self._process is None:
            return
        main = threading.current_thread() is threading.main_thread()
        if main and signal.getsignal(signal.SIGTERM) is self._handler:
            signal.signal(signal.SIGTERM, self._before)
        self._process = None

    def settle(self) -> None:
        """Do now what a signal was to do that came in the midst of something."""
        if self._waits and threading.current_thread() is threading.main_thread():
            self._waits = False
            self._close_windows()
            if not self._handed_on:
                self._hand_on(signal.SIGTERM, None)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        # A process forked from this one, such as a loader's worker, has the handler, but no windows.
        if self._process == os.getpid():
            within = _is_within(frame)
            self._waits = within or self._is_measuring()
            # In a forward a handler of the user's is called at once; in ours it might raise through it.
            self._handed_on = callable(self._before) and not within
            if self._waits and not self._handed_on:
                return
            if not self._waits:
                self._close_windows()
        self._hand_on(number, frame)

    def _close_windows(self) -> None:
        try:
            self._close()
        except Exception as error:  # the signal is to be handed on all the same
            warn(f"windows were not closed at SIGTERM: {type(error).__name__}: {error}")

    def _hand_on(self, number: int, frame: FrameType | None) -> None:
        if callable(self._before):
            self._before(number, frame)
        elif self._before == signal.SIG_DFL:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)


def _is_within(frame: FrameType | None) -> bool:
    """Whether a call of normprobe is under way, in which a window may be half written."""
    while frame is not None:
        if str(frame.f_globals.get("__name__", "")).startswith(_PACKAGE):
            return True
        frame = frame.f_back
    return False
