"""Rollups: files that hold the merge of many windows and their history, by which a long run loads quickly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from normprobe.errors import RecordingError
from normprobe.tables.frames import Tables
from normprobe.tables.measures.history import History, HistoryBuilder
from normprobe.tables.measures.history_frames import COLUMNS, frames_of, history_of_frames, wrong_frames
from normprobe.tables.merging.merge import merge_tables
from normprobe.tables.storage import load_further, load_meta, load_tables, save_tables
from normprobe.tables.window_facts import WindowFacts

SIZE = 64
"""Windows a rollup."""

_ENTRY = "rollup"
"""The entry of a rollup's ``meta`` that lists its windows."""

_PENDING_BYTES = 32 << 20
_PENDING = 8
"""Windows that wait in memory to be merged: so many bytes or windows at most."""


@dataclass(frozen=True)
class Rollup:
    """A file that holds what the files of several windows hold, which lie beside it.

    Attributes:
        path: the file.
        windows: the name, the size in bytes and the facts of the file of each window, as they were closed.
    """

    path: Path
    windows: tuple[tuple[str, int, WindowFacts], ...]

    @property
    def parts(self) -> set[str]:
        """The parts of the run that its windows are of: one."""
        return {facts["part"] for _, _, facts in self.windows}

    @property
    def last(self) -> tuple[int, int]:
        """What sorts it among windows in the order in which they were closed: as its last one."""
        return max((facts["calls"], facts["first_call"]) for _, _, facts in self.windows)

    def load(self) -> tuple[Tables, History]:
        """The merge of its windows, and their history, in which they are numbered from 0.

        Raises:
            RecordingError: the file is damaged.
        """
        tables, frames = load_tables(self.path), load_further(self.path, COLUMNS)
        # The list of windows is of this file alone, and would be merged into the facts of the run.
        facts = {name: fact for name, fact in tables.facts.items() if name != _ENTRY}
        if wrong := wrong_frames(frames, len(self.windows)):
            raise RecordingError(f"{self.path} is damaged: {wrong}; remove it, for the windows hold the same")
        return replace(tables, facts=facts), history_of_frames(frames)


class OpenRollup:
    """Adds up windows as they are closed, until they are enough for a file."""

    def __init__(self) -> None:
        self._windows: list[dict[str, Any]] = []
        self._history = HistoryBuilder()
        self._merged: list[Tables] = []
        self._pending: list[Tables] = []

    @property
    def first(self) -> WindowFacts:
        """The first window that was added."""
        return _facts(self._windows[0])

    def add(self, facts: WindowFacts, tables: Tables, file: Path) -> bool:
        """Add a window that was just written; whether there are enough now."""
        # By name, as the folder may be moved, and with the size, which shows that a file was replaced.
        self._windows.append({"file": file.name, "size": file.stat().st_size, **facts})
        self._history.add(facts, tables)
        self._pending.append(tables)
        # Several at a time, for each merge copies the whole; by bytes, too, for wide models.
        if len(self._pending) >= _PENDING or sum(map(_nbytes, self._pending)) > _PENDING_BYTES:
            self._merge()
        return len(self._windows) >= SIZE

    def write(self, path: Path) -> None:
        """Write the file.

        Raises:
            RecordingError: it cannot be written.
        """
        self._merge()
        (merged,) = self._merged
        save_tables(
            merged.annotate({_ENTRY: self._windows}),
            path,
            further=frames_of(self._history.history()),
            columns=COLUMNS,
        )

    def _merge(self) -> None:
        if self._pending:
            together = [*self._merged, *self._pending]
            self._merged, self._pending = [merge_tables(together) if len(together) > 1 else together[0]], []


def read_rollup(path: Path) -> Rollup:
    """Which windows a file stands for.

    Raises:
        RecordingError: it is no rollup.
    """
    entries: Any = load_meta(path).get(_ENTRY)
    try:
        # Converted one by one, as nothing in a file is believed to be of its type.
        windows = [(str(one["file"]), int(one["size"]), _facts(one)) for one in entries]
    except (KeyError, TypeError, ValueError) as error:
        raise RecordingError(f"{path} is damaged: it does not name its windows; remove it") from error
    return Rollup(path, tuple(windows))


def _facts(entry: dict[str, Any]) -> WindowFacts:
    texts = {name: str(entry[name]) for name in ("part", "phase")}
    numbers = {name: int(entry[name]) for name in WindowFacts.__annotations__ if name not in texts}
    return cast(WindowFacts, texts | numbers)


def _nbytes(tables: Tables) -> int:
    return (
        # The other frames are small beside these.
        sum(len(frame) * len(frame.columns) for frame in (tables.feature_moments, tables.sample_moments)) * 8
    )


def usable(rollups: Sequence[Rollup], there: Mapping[str, str]) -> list[Rollup]:
    """The rollups whose windows are all there, as they were, and in no other rollup.

    Args:
        rollups: those that lie in a folder.
        there: the paths of the files of windows that are to be read, by name.
    """
    kept, taken = [], set[str]()
    for rollup in rollups:
        sizes = {name: size for name, size, _ in rollup.windows}
        # By size: a file that was written anew, as after a resume, is rarely as long as the one before.
        whole = all(name in there and Path(there[name]).stat().st_size == sizes[name] for name in sizes)
        # A window in two rollups would count twice.
        if whole and taken.isdisjoint(sizes):
            kept.append(rollup)
            taken |= sizes.keys()
    return kept
