"""A progress line on stderr for whatever takes over two seconds, where stderr is a terminal."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from rich.progress import Progress

_DELAY = 2.0  # seconds
_seen = threading.Event()  # whether this process has shown a line
_LONGEST = 42  # characters, which leaves room for a bar at 80 columns
_Item = TypeVar("_Item")


def visible() -> bool:
    """Whether stderr is a terminal that may get control codes."""
    return sys.stderr.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """Show that something of unknown length goes on.

    Args:
        what: such as ``"Loading ./smollm2"``.
    """
    if not visible():
        yield
        return
    with _delayed(_columns(counted=False)) as shown:
        shown.add_task(_short(what), total=None)
        yield


def tracked(items: Iterable[_Item], what: str, total: int | None) -> Iterator[_Item]:
    """Yield ``items`` and show how many are done.

    Args:
        items: what is worked through.
        what: such as ``"Measuring   48 texts"``.
        total: how many there are, or None.
    """
    if not visible():
        yield from items
        return
    with _delayed(_columns(counted=total is not None)) as shown:
        task = shown.add_task(_short(what), total=total)
        for item in items:
            yield item
            shown.advance(task)


def _short(what: str) -> str:
    """Shorten a long description in the middle, where the folders of a path are."""
    return what if len(what) <= _LONGEST else f"{what[:12]}...{what[15 - _LONGEST :]}"


def _columns(*, counted: bool) -> Progress:
    # rich is loaded only where its line can be seen.
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    # A path may hold brackets, which rich would take for a style.
    text, elapsed = TextColumn("{task.description}", markup=False), TimeElapsedColumn()
    if counted:
        return Progress(text, BarColumn(), MofNCompleteColumn(), elapsed, console=console, transient=True)
    return Progress(text, BarColumn(bar_width=20), elapsed, console=console, transient=True)


@contextmanager
def _delayed(progress: Progress) -> Iterator[Progress]:
    """Start the display only after a delay, so that what is quick leaves the screen alone.

    Whoever has seen one waits already: a further one comes at once, or nothing would move for as long. The
    timer is joined before the display is stopped: it may be about to start it.
    """

    def start() -> None:
        progress.start()
        _seen.set()

    timer = threading.Timer(0.0 if _seen.is_set() else _DELAY, start)
    # It must not keep a program alive that was stopped.
    timer.daemon = True
    timer.start()
    try:
        yield progress
    finally:
        timer.cancel()
        timer.join()
        if progress.live.is_started:
            progress.stop()
