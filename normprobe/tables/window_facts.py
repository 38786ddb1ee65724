"""What a recording says of the windows of a run that it holds: which phase, steps and forwards each is of."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, TypedDict

if TYPE_CHECKING:
    from normprobe.tables.frames import Tables


class WindowFacts(TypedDict):
    """One window, as JSON holds it; of several that were merged, all of them.

    Attributes:
        part: the probe's share of the data.
        phase: the phase of the run.
        first: number of the first window of the phase that it holds; windows of a phase count from 0.
        last: number of the last.
        first_step: the first step.
        last_step: the last step.
        forwards: how many forwards, measured or not.
        first_call: running number of the first of them.
        last_call: of the last.
        calls: how many forwards of all phases there were when it was closed.
        examples: how many examples they had.
    """

    part: str
    phase: str
    first: int
    last: int
    first_step: int
    last_step: int
    forwards: int
    first_call: int
    last_call: int
    calls: int
    examples: int


def windows_of(tables: Tables) -> list[WindowFacts]:
    """The windows that a recording holds; none of what was measured before there were windows."""
    found: list[WindowFacts] = tables.facts.get("windows", [])
    return found


def first_call(tables: Tables) -> int:
    """Running number of the first forward of its windows."""
    return min((window["first_call"] for window in windows_of(tables)), default=0)


def last_call(tables: Tables) -> int:
    """Running number of the last."""
    return max((window["last_call"] for window in windows_of(tables)), default=0)


def joined_windows(windows: Iterable[WindowFacts]) -> list[WindowFacts]:
    """Windows in order, those of a phase that follow one another as one."""
    joined: list[WindowFacts] = []
    for window in sorted(windows, key=lambda w: (w["part"], w["phase"], w["first"])):
        before = joined[-1] if joined else None
        follows = before is not None and (before["part"], before["phase"], before["last"] + 1) == (
            window["part"],
            window["phase"],
            window["first"],
        )
        if before is None or not follows:
            joined.append(window)
            continue
        whole = window.copy()
        whole["first"], whole["first_call"] = before["first"], before["first_call"]
        whole["first_step"] = before["first_step"]
        whole["forwards"] += before["forwards"]
        joined[-1] = whole
    return joined
