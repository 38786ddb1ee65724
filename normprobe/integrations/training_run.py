"""A probe in the loop of a trainer: begun, told of steps and phases, its closed windows logged, and left."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from itertools import islice
from typing import Any

from torch import nn

from normprobe.errors import NormprobeError, NoSamplesError
from normprobe.integrations.metrics import Key, Numbers, check_limit, name_of
from normprobe.probe import Probe
from normprobe.recording import Recording
from normprobe.tables.frames import Tables
from normprobe.tables.window_facts import windows_of

TRAIN = "train"
Log = Callable[[dict[str, float], int], None]
"""What writes numbers to a tracker, under a step."""


class LogOfWindows:
    """The numbers of windows; those of one window also of the next ones, so that curves have no gaps."""

    def __init__(self, limit: int) -> None:
        """Begin without a number.

        Args:
            limit: how many numbers a window has at most; twice as many where others stand out later.
        """
        check_limit(limit)
        self._limit = limit
        self._keys: dict[str, dict[Key, None]] = {}

    def of(self, recording: Recording) -> tuple[dict[str, float], int]:
        """The numbers of a window and the step that they are of: its last."""
        # Of one window: the numbers of several would be of no one step.
        (facts,) = windows_of(recording.tables)
        phase = "" if facts["phase"] == TRAIN else facts["phase"]
        numbers = Numbers(recording)
        keys = self._keys.setdefault(phase, {})
        # Bounded: charts that come and go with each window would be too many to look at.
        most = self._limit if not keys else 2 * self._limit
        for key in islice(dict.fromkeys(numbers.ranked()), self._limit):
            if len(keys) < most:
                keys.setdefault(key)
        found = {name_of(key, phase): numbers.of(key) for key in keys}
        finite = {name: value for name, value in found.items() if abs(value) < float("inf")}
        return {**numbers.counts(phase), **finite}, facts["last_step"]


class TrainingRun:
    """The probe of one training, with the windows that are closed and not logged yet.

    Attributes:
        probe: the probe.
        trains: whether the model trains, and is not only evaluated.


    Whoever holds this holds the hooks: when it is collected, or Python ends, they are removed and the open
    windows written, for not every trainer says that it failed.
    """

    def __init__(self, model: nn.Module, *, logs: LogOfWindows, trains: bool, **options: Any) -> None:
        """Attach the hooks.

        Args:
            model: what is trained.
            logs: which numbers of windows are logged.
            trains: whether the model trains.
            options: of `Probe`.
        """
        # The probe knows of the list and not of this object, which would never be collected.
        self._closed: list[Tables] = []
        self.probe, self.trains = _StepProbe(model, self._closed, **options), trains
        self._logs = logs
        self._phase: AbstractContextManager[None] | None = None
        self.enter()

    def enter(self) -> None:
        """Attach the hooks, once more after `close`, too."""
        self._finalizer = weakref.finalize(self, _leave, self.probe.__enter__())

    @property
    def active(self) -> bool:
        """Whether hooks are attached."""
        return self._finalizer.alive

    def enter_phase(self, name: str) -> None:
        """Count the forwards from now on as those of a phase."""
        self.leave_phase()
        if self.active:
            self._phase = self.probe.phase(name)
            # Entered by hand, for it is left at another event of the trainer.
            self._phase.__enter__()

    def leave_phase(self) -> None:
        """Count forwards by the mode of the model again."""
        phase, self._phase = self._phase, None
        if phase is not None:
            phase.__exit__(None, None, None)

    def end_step(self, step: int, *, close: bool) -> None:
        """End an optimizer step, and close the windows if the trainer logs here."""
        if self.active:
            with self._left_on_error():
                self.probe.step(step)
                if close:
                    self.probe.close_windows()

    def close_windows(self) -> None:
        """Close the windows that are open."""
        if self.active:
            with self._left_on_error():
                self.probe.close_windows()

    def log(self, write: Log | None) -> None:
        """Write the numbers of the windows that were closed since."""
        while self._closed:
            tables = self._closed.pop(0)
            if write is not None:
                self._write(Recording(tables), write)

    def close(self) -> None:
        """Remove the hooks and close the windows; done already, nothing is done."""
        self.leave_phase()
        if self._finalizer.detach() is not None:
            # Those in memory stay open otherwise, and would not be logged.
            try:
                self.probe.close_windows()
            finally:
                self.probe.__exit__(None, None, None)

    @contextmanager
    def _left_on_error(self) -> Iterator[None]:
        """A block whose error removes the hooks: ``stop_on`` ends a run of which the trainer tells nobody."""
        try:
            yield
        except BaseException as error:
            self.leave_phase()
            if self._finalizer.detach() is not None:
                self.probe.__exit__(type(error), error, error.__traceback__)
            raise

    def _write(self, recording: Recording, write: Log) -> None:
        try:
            numbers, step = self._logs.of(recording)
        except NoSamplesError:  # forwards that reached no layer: the ledger says why
            return
        write(numbers, step)


class _StepProbe(Probe):
    """A probe that hands out its windows as they close, before any are merged."""

    def __init__(self, model: nn.Module, closed: list[Tables], **options: Any) -> None:
        super().__init__(model, **options)
        self._run.on_close = closed.append


def _leave(probe: Probe) -> None:
    # As after an error, for a run that failed ahead of its first forward need not warn of it.
    probe.__exit__(NormprobeError, None, None)
