"""Phases and steps of a run: which forwards are measured, and to which window each belongs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from normprobe.capture.forwards.step_numbers import StepNumbers


@dataclass(eq=False)
class Phase:
    """What is counted of one phase, such as training: over the run, and in its window that is open.

    Attributes:
        name: the phase.
        seen: forwards of the run, measured or not.
        ordinal: how many windows of it were closed.
        forwards: forwards of the open window, measured or not.
        measured: how many of them were measured.
        first_step: the first step of the open window; None before a forward.
        last_step: its last.
        first_call: running number of its first forward.
        last_call: of its last.
        pending: whether forwards wait for the end of their step.
        trained: whether the model was in training in a forward of the open window.
    """

    name: str
    seen: int = 0
    ordinal: int = 0
    forwards: int = 0
    measured: int = 0
    first_step: int | None = None
    last_step: int | None = None
    first_call: int | None = None
    last_call: int | None = None
    pending: bool = False
    trained: bool = False

    def note(self, step: int) -> None:
        """Note that a forward of the open window is of a step."""
        self.first_step = step if self.first_step is None else self.first_step
        self.last_step = step

    def reopen(self) -> None:
        """Begin the next window."""
        self.ordinal += 1
        self.forwards = self.measured = 0
        self.pending = self.trained = False
        self.first_step = self.last_step = self.first_call = self.last_call = None


class Phases:
    """Counts the steps and forwards of one probe, each phase by itself; the lock of its forwards guards it.

    A step is what `end_step` ends. Until a step is told of, each forward is one, by its running number.
    Forwards of a model in training belong to the step that ends next, all others to the one that ended last,
    whose weights they run.

    Attributes:
        every: every how many a step, or a forward outside of steps, is measured.
        window: how many steps, or forwards where no step was told of, a window has; None for all.
        steps: how many steps ended.
        last: the number of the last of them, also that of a checkpoint the run resumes from; None before one.
    """

    def __init__(self, every: int, window: int | None) -> None:
        self.every, self.window = every, window
        self.steps = 0
        self.last: int | None = None
        self._in_window = 0
        self._calls = 0
        self._numbers = StepNumbers()
        self._named: list[str] = []
        self._phases: dict[str, Phase] = {}

    @property
    def has_steps(self) -> bool:
        """Whether the end of a step was told of, or which step the run resumes from."""
        return self.last is not None

    def of(self, name: str) -> Phase:
        """The phase of a name, fresh if it is new."""
        return self._phases.setdefault(name, Phase(name))

    def all(self) -> list[Phase]:
        """Every phase so far."""
        return list(self._phases.values())

    def open(self) -> list[Phase]:
        """The phases in whose open window something was measured, in the order of their first forward."""
        measured = [phase for phase in self._phases.values() if phase.measured]
        return sorted(measured, key=lambda phase: phase.first_call or 0)

    def begin(self, training: bool, call: int) -> tuple[Phase, bool]:
        """Count a forward.

        Args:
            training: the mode of the module that was called.
            call: running number of the forward.

        Returns:
            Its phase, and whether it is measured.
        """
        phase, measured = self.next(training)
        in_step = self.has_steps and training
        phase.seen += 1
        phase.forwards += 1
        phase.measured += measured
        phase.pending = phase.pending or training
        phase.trained = phase.trained or training
        if not in_step:
            phase.note(call if self.last is None else self.last)
        self._calls = call + 1
        phase.first_call = call if phase.first_call is None else phase.first_call
        phase.last_call = call
        return phase, measured

    def pass_over(self, training: bool, call: int) -> None:
        """Count a forward that another process makes: windows of all processes are of the same steps."""
        phase, _ = self.next(training)
        phase.seen += 1
        phase.note(call)

    def next(self, training: bool) -> tuple[Phase, bool]:
        """The phase of a forward that begins now in this mode, and whether it is measured."""
        phase = self.of(self._named[-1] if self._named else "train" if training else "eval")
        count = self.steps if self.has_steps and training else phase.seen
        return phase, count % self.every == 0

    def withdraw(self, phase: Phase, *, measured: bool) -> None:
        """Take back a forward that ended before it began."""
        phase.seen -= 1
        phase.forwards -= 1
        phase.measured -= measured

    @contextmanager
    def named(self, name: str) -> Iterator[None]:
        """A block whose forwards are of the phase of this name."""
        self._named.append(name)
        try:
            yield
        finally:
            self._named.pop()

    def end_step(self, step: int | None) -> bool:
        """Count the end of a step; whether the open windows are full.

        Args:
            step: its number; None for the next one.
        """
        number = self.next_step if step is None else step
        for phase in self._phases.values():
            if not self.has_steps and phase.first_step is not None:
                # Numbered as forwards so far: what ran ahead of the first step is of the state before it.
                phase.first_step = phase.last_step = None
                phase.note(number if phase.pending else max(number - 1, 0))
            elif phase.pending:
                phase.note(number)
            phase.pending = False
        self._numbers.end(number, self._calls)
        self.steps += 1
        self.last = number
        self._in_window += 1
        full = self.window is not None and self._in_window >= self.window
        self._in_window = 0 if full else self._in_window
        return full

    def resume(self, step: int, windows: Mapping[str, tuple[int, int]]) -> None:
        """Go on behind a step of a run, after so many windows and forwards of each phase."""
        self.last = step
        for name, (ordinal, seen) in windows.items():
            phase = self.of(name)
            phase.ordinal, phase.seen = ordinal, seen

    def step_of(self, phase: Phase, call: int) -> int:
        """The step of a forward of a phase: outside of training the one that ended last before it."""
        if not self.has_steps:
            return call
        step = self._numbers.of(call) if phase.trained else self._numbers.before(call)
        if step is None:
            step = self.next_step if phase.trained else self.last
        return 0 if step is None else step

    def forget_steps(self) -> None:
        """Forget which forwards the steps had: no window of them is open."""
        self._numbers.forget()

    @property
    def next_step(self) -> int:
        """The number of the step that ends next."""
        return 0 if self.last is None else self.last + 1

    def settle(self) -> None:
        """Number the forwards of a step that has not ended: windows close in the midst of it."""
        for phase in self._phases.values():
            if phase.pending and self.has_steps:
                phase.note(self.next_step)

    def full(self) -> list[Phase]:
        """The phases whose window has as many forwards as it may, where no step was told of."""
        if self.window is None or self.has_steps:
            return []
        return [phase for phase in self.open() if phase.forwards >= self.window]
