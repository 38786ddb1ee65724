"""The windows of a run in order: what each is of, the tables of one, and those of all over time or merged."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Protocol

import pandas as pd

from normprobe.errors import RecordingError
from normprobe.tables.frames import Tables
from normprobe.tables.measures.history import History, HistoryBuilder, history_of, history_of_tables
from normprobe.tables.merging.merge import merge_tables
from normprobe.tables.window_facts import WindowFacts, windows_of
from normprobe.windows.rollups import Rollup, usable

COLUMNS = {
    "window": "int64",
    "phase": "string",
    "first_step": "int64",
    "last_step": "int64",
    "forwards": "int64",
    "file": "string",
}
"""The columns of the frame of windows."""

_AT_ONCE = 64
"""Windows merged together: a run of any length is merged in bounded memory."""

_TABLES = ("layers", "features", "samples", "ledger", "parameters", "experts", "quantiles")


@dataclass(frozen=True, eq=False)
class Window:
    """A window: what it is of, and its tables.

    Attributes:
        facts: which phase, steps and forwards.
        load: gives what was measured; None where it was saved with others in one recording.
        file: the file that holds it, if one does.
    """

    facts: WindowFacts
    load: Callable[[], Tables] | None = None
    file: str | None = None

    @staticmethod
    def of(tables: Tables) -> Window:
        """The one window that these tables are of, in memory."""
        (facts,) = windows_of(tables)
        # No lambda: recordings are pickled, as to another process.
        return Window(facts, partial(_itself, tables))


class HasSeries(Protocol):
    """What holds windows: a recording."""

    @property
    def series(self) -> WindowSeries:
        """Its windows."""


class WindowSeries:
    """The windows of a run, in the order of their first forward."""

    def __init__(self, windows: Sequence[Window], rollups: Sequence[Rollup] = ()) -> None:
        """Put windows in order.

        Args:
            windows: they.
            rollups: files that each stand for many of them.
        """
        self.parts: dict[str, list[Window]] = {}
        self._rollups = rollups
        for window in windows:
            # Kept apart by part: each was closed in an order of its own, which the history follows.
            self.parts.setdefault(window.facts["part"], []).append(window)
        self._history: History | None = None
        self.windows = sorted(_over_parts(windows), key=lambda window: window.facts["first_call"])

    @staticmethod
    def of(tables: Tables) -> WindowSeries:
        """The windows that a recording names: its own where it is of one, else without tables."""
        facts = windows_of(tables)
        return WindowSeries([Window.of(tables)] if len(facts) == 1 else [Window(one) for one in facts])

    def ungrouped(self) -> WindowSeries:
        """The same windows without groups of samples."""
        return WindowSeries(
            [
                replace(window, load=None if window.load is None else partial(_ungrouped, window.load))
                for windows in self.parts.values()
                for window in windows
            ]
        )

    @staticmethod
    def joined(recordings: Sequence[HasSeries]) -> WindowSeries:
        """The windows of recordings that are merged."""
        series = [recording.series for recording in recordings]
        return WindowSeries(
            [window for one in series for windows in one.parts.values() for window in windows]
        )

    @property
    def frame(self) -> pd.DataFrame:
        """A row per window: its number, phase, steps, forwards and file."""
        facts = [window.facts for window in self.windows]
        columns = {
            name: [one[name] for one in facts] for name in ("phase", "first_step", "last_step", "forwards")
        }
        files = [window.file for window in self.windows]
        frame = pd.DataFrame({"window": range(len(facts)), **columns, "file": files}, columns=list(COLUMNS))
        return frame.astype(COLUMNS)

    def tables(self, number: int) -> Tables:
        """The tables of one window.

        Raises:
            RecordingError: there is no such window, or it was merged with others before it was saved.
        """
        if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < len(self.windows):
            raise RecordingError(
                f"window {number!r} is not in this recording, which has {len(self.windows)}; "
                "see recording.windows"
            )
        load = self.windows[number].load
        if load is None:
            raise RecordingError(
                f"window {number} was merged with others into this recording and is not in it by itself; "
                "load the folder that Probe(out=) wrote"
            )
        return load()

    def merged(self) -> Tables:
        """The tables of the whole run."""
        # Read once: the files of a long run take longer to read than to merge.
        builder = HistoryBuilder() if len(self.parts) == 1 else None
        numbers = {id(window): number for number, window in enumerate(self.windows)}
        parts = [
            _Merging(windows, self._rollups, builder, numbers).merged() for windows in self.parts.values()
        ]
        self._history = self._history if builder is None else builder.history()
        return merge_tables(parts) if len(parts) > 1 else parts[0]

    def history(self, whole: Tables) -> History:
        """What changes over the windows.

        Args:
            whole: the tables of the whole run, which stand for its windows where these are not here.
        """
        if self._history is None:
            here = self.windows and all(window.load is not None for window in self.windows)
            loaded = ((window.facts, _loaded(window)) for window in self.windows)
            self._history = history_of(loaded) if here else history_of_tables(whole)
        return self._history

    def over_time(self, table: str, phase: str | None) -> pd.DataFrame:
        """A table of every window, one after another.

        Raises:
            RecordingError: there is no such table or phase, or the windows are not here one by one.
        """
        if table not in _TABLES:
            raise RecordingError(f"over_time takes {', '.join(_TABLES)}, got {table!r}")
        frame = self.frame
        phases = list(dict.fromkeys(frame["phase"]))
        if phase is not None and phase not in phases:
            raise RecordingError(
                f"phase {phase!r} is not in this recording; it has {', '.join(phases) or 'none'}"
            )
        rows = frame if phase is None else frame[frame["phase"] == phase]
        names = ["window", "phase", "first_step", "last_step"]
        parts = [
            self.tables(int(row["window"])).public(table).assign(**{name: row[name] for name in names})
            for row in rows.to_dict("records")
        ]
        if not parts:
            raise RecordingError("this recording has no windows; probe with Probe(model, window=...)")
        joined: pd.DataFrame = pd.concat(parts, ignore_index=True)
        joined = joined[names + [name for name in joined if name not in names]]
        return joined.astype({name: COLUMNS[name] for name in names})


def _ungrouped(load: Callable[[], Tables]) -> Tables:
    return load().ungrouped


def _itself(tables: Tables) -> Tables:
    return tables


def _loaded(window: Window) -> Tables:
    assert window.load is not None
    return window.load()


class _Merging:
    """Merges the windows of one part, and adds each to the history."""

    def __init__(
        self,
        windows: Sequence[Window],
        rollups: Sequence[Rollup],
        history: HistoryBuilder | None,
        numbers: Mapping[int, int],
    ) -> None:
        self._history = history
        by_name = {Path(window.file).name: window for window in windows if window.file is not None}
        self._numbers = {name: numbers.get(id(window), 0) for name, window in by_name.items()}
        self._number_of = numbers
        whole = usable(rollups, {name: str(window.file) for name, window in by_name.items()})
        held = {id(by_name[name]) for rollup in whole for name, _, _ in rollup.windows}
        loads = [(rollup.last, partial(self._rollup, rollup)) for rollup in whole]
        loads += [(_closed(w.facts), partial(self._window, w)) for w in windows if id(w) not in held]
        self._loads = [load for _, load in sorted(loads, key=lambda pair: pair[0])]

    def merged(self) -> Tables:
        """All of them, added to the history in the order in which they were closed."""
        first, *others = self._loads
        whole = first()
        # All at once would not fit into memory; one by one, the whole would be copied for each.
        for start in range(0, len(others), _AT_ONCE):
            whole = merge_tables([whole, *(load() for load in others[start : start + _AT_ONCE])])
        return whole

    def _window(self, window: Window) -> Tables:
        tables = _loaded(window)
        if self._history is not None:
            self._history.add(window.facts, tables, self._number_of[id(window)])
        return tables

    def _rollup(self, rollup: Rollup) -> Tables:
        tables, history = rollup.load()
        if self._history is not None:
            numbers = [self._numbers[name] for name, _, _ in rollup.windows]
            self._history.extend(history, numbers)
        return tables


def _closed(facts: WindowFacts) -> tuple[int, int]:
    """What sorts windows in the order in which they were closed."""
    return facts["calls"], facts["first_call"]


def _over_parts(windows: Sequence[Window]) -> list[Window]:
    """Windows, those of several parts that are of the same steps of a phase as one."""
    alike: dict[tuple[str, int, int], list[Window]] = {}
    for window in windows:
        facts = window.facts
        alike.setdefault((facts["phase"], facts["first_step"], facts["last_step"]), []).append(window)
    joined = []
    for group in alike.values():
        # Two of one part are windows of its own, so they are not joined.
        if len({window.facts["part"] for window in group}) < len(group) or len(group) == 1:
            joined += group
            continue
        # A copy, for the first window keeps its own count of forwards.
        facts = group[0].facts.copy()
        facts["forwards"] = sum(window.facts["forwards"] for window in group)
        load = None if any(window.load is None for window in group) else partial(_of_parts, group)
        joined.append(Window(facts, load))
    return joined


def _of_parts(group: Sequence[Window]) -> Tables:
    return merge_tables([_loaded(window) for window in group])
