"""Which step a forward was of, by its running number; steps that are alike take no memory of their own."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass


@dataclass(eq=False)
class _Run:
    """Steps that follow one another, each of so many forwards.

    Attributes:
        first_call: running number of the first forward.
        calls: how many forwards each step has.
        first_step: number of the first step.
        steps: how many there are.
    """

    first_call: int
    calls: int
    first_step: int
    steps: int = 1


class StepNumbers:
    """The numbers of steps that ended, by their forwards."""

    def __init__(self) -> None:
        self._runs: list[_Run] = []
        self._ended = 0

    def end(self, step: int, calls: int) -> None:
        """Note the end of a step.

        Args:
            step: its number.
            calls: running number of the forward that comes next.
        """
        count, run = calls - self._ended, self._runs[-1] if self._runs else None
        follows = run is not None and (run.first_step + run.steps, run.calls) == (step, count)
        if run is not None and follows and run.first_call + run.steps * count == self._ended:
            run.steps += 1
        elif count:
            self._runs.append(_Run(self._ended, count, step))
        self._ended = calls

    def of(self, call: int) -> int | None:
        """The step in which a forward ran; None where that has not ended, or was forgotten."""
        at = self._at(call)
        return None if at is None else at[0].first_step + at[1]

    def before(self, call: int) -> int | None:
        """The step that ended last before a forward; None where there was none, or it was forgotten."""
        at = self._at(call)
        if at is None:
            return self.of(self._ended - 1)
        return self.of(at[0].first_call + at[1] * at[0].calls - 1)

    def forget(self) -> None:
        """Forget the steps so far: no window of them is open."""
        self._runs.clear()

    def _at(self, call: int) -> tuple[_Run, int] | None:
        """The run of a forward, and which of its steps; None of a forward of no step."""
        found = bisect_right(self._runs, call, key=lambda run: run.first_call) - 1
        if found < 0 or call >= self._ended:
            return None
        run = self._runs[found]
        return run, min((call - run.first_call) // run.calls, run.steps - 1)
