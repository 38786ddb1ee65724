"""The windows of a probe while its run goes on: closed when they are full, and on disk when the run ends."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import nn

from normprobe.capture.forwards.phases import Phase
from normprobe.capture.forwards.probe_options import check_finding_options, users_own
from normprobe.capture.freezing import Freezer
from normprobe.capture.hook_callbacks import HookCallbacks
from normprobe.capture.hooks.torch_internals import is_over
from normprobe.tables.frames import Tables
from normprobe.windows.run import ClosedWindows
from normprobe.windows.series import Window, WindowSeries
from normprobe.windows.termination import Termination

if TYPE_CHECKING:
    from normprobe.windows.finding_monitor import FindingMonitor


class OpenRun:
    """Closes the windows of one probe.

    Attributes:
        closed: the windows that are closed.
        options: the probe's options and warnings, as entries of ``meta``.
        on_close: is given each window as it closes, before windows are merged.
    """

    def __init__(
        self,
        model: nn.Module,
        callbacks: HookCallbacks,
        part: str,
        closed: ClosedWindows,
        options: dict[str, Any],
        *,
        monitor: FindingMonitor | None = None,
    ) -> None:
        self.closed, self.options = closed, options
        self.on_close: Callable[[Tables], None] | None = None
        self._forwards = callbacks.forwards
        self._made: list[Tables] = []
        self._monitor = monitor
        # Closed, but not looked at: not within the handler of a signal, nor while others are to be closed.
        self._unseen: list[Tables] = []
        self._freezer = Freezer(model, callbacks, part)
        self._termination = Termination(self._close_open, self._is_measuring)

    def enter(self) -> None:
        """Follow forwards, and SIGTERM where windows are written."""
        self._forwards.on_end = self._end_forward
        if self.closed.on_disk:
            self._termination.install()

    def leave(self) -> None:
        """Close what is open, where windows are written; else it stays, should the probe be entered again."""
        self._forwards.on_end = None
        if self.closed.on_disk:
            self._close_open()
        # Last: a signal that came meanwhile was to wait for this.
        self._termination.restore()
        self._termination.settle()

    def end_step(self, step: int | None) -> None:
        """Count the end of a step, and close the windows that are full."""
        with self._forwards.lock:
            full = self._forwards.phases.end_step(step)
        if full:
            self._close_open()
            with self._forwards.lock:
                self._forwards.phases.forget_steps()
        self._termination.settle()
        self.look()

    def close_windows(self) -> None:
        """Close the windows that are open."""
        self._close_open()
        self._termination.settle()
        self.look()

    def nothing(self) -> Tables:
        """The tables of a run of which nothing was measured."""
        return self._freezer.nothing(self.options)

    def series(self) -> WindowSeries | None:
        """All windows so far; None where nothing was measured."""
        made = self._freezer.freeze(self.options)
        self._termination.settle()
        windows = [*self.closed.windows, *map(Window.of, made)]
        return WindowSeries(windows, self.closed.rollups) if windows else None

    def _end_forward(self) -> None:
        phases = self._forwards.phases
        if phases.window is not None and (full := phases.full()):
            self._close(full)
        self._termination.settle()
        if self._monitor is not None:
            with users_own():
                self.look()

    def _close_open(self) -> None:
        self._close(self._forwards.phases.open())

    def _close(self, phases: list[Phase]) -> None:
        self._made += self._freezer.close(phases, self.options)
        # One at a time, and forgotten last: cut short, what is left is added by the next close.
        while self._made:
            self.closed.add(self._made[:1])
            closed = self._made.pop(0)
            if self.on_close is not None:
                self.on_close(closed)
            if self._monitor is not None:
                self._unseen.append(closed)

    def look(self, *, at_end: bool = False) -> None:
        """Look for findings in the windows that were closed, at the end of a run in those that are open, too.

        Raises:
            FindingError: the run is to end on one.
        """
        if self._monitor is None:
            return
        opened = self._freezer.freeze(self.options) if at_end and not self.closed.on_disk else []
        self._unseen += opened
        while self._unseen:
            self._monitor.look(self._unseen.pop(0))

    def _is_measuring(self) -> bool:
        forward = self._forwards.current
        return forward is not None and forward.state.measured and not is_over(forward.frame)


def finding_monitor(on_finding: Any, stop_on: Any) -> FindingMonitor | None:
    """What looks for findings as windows close; None where nobody is to be told of any.

    Raises:
        NormprobeError: an option is of another type.
    """
    check_finding_options(on_finding, stop_on)
    if on_finding is None and stop_on is None:
        return None
    # Here, as few probes ask for it, and none of the others is to load the checks.
    from normprobe.windows.finding_monitor import FindingMonitor

    return FindingMonitor(on_finding, stop_on)
