"""A folder of windows on disk: each file is written whole or not at all, and none counts twice."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from pathlib import Path

from normprobe.errors import RecordingError
from normprobe.tables.frames import Tables
from normprobe.tables.storage import load_meta, load_tables, save_tables
from normprobe.tables.window_facts import WindowFacts, windows_of
from normprobe.windows.file_names import PATTERN, ROLLUP_PATTERN, file_name, rollup_name
from normprobe.windows.rollups import OpenRollup, Rollup, read_rollup
from normprobe.windows.series import Window


class WindowFolder:
    """The windows of runs as files; several parts, such as processes, may write into one folder.

    A window that was merged from others holds theirs: should the process have been killed between the writing
    of the one and the removal of the others, these are passed over.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def write(self, tables: Tables) -> Window:
        """Write a window; on return it is on the disk, also should the machine lose its power.

        Raises:
            RecordingError: the file cannot be written.
        """
        (facts,) = windows_of(tables)
        file = save_tables(tables, self.path / file_name(facts["part"], facts["first_call"]))
        return _window(facts, file)

    def windows(self, part: str | None = None) -> list[Window]:
        """The windows of a part, or of all, each forward in one: of which only the facts are read.

        Raises:
            RecordingError: a file is no recording.
        """
        return _uncovered(self.files(part))

    def files(self, part: str | None = None) -> list[Window]:
        """The windows of a part, or of all, as they lie there: one may hold what others hold."""
        found = []
        # Opening thousands of files takes a while: what a rollup says of one that is as it was stands.
        known = {name: (size, facts) for one in self.rollups(part) for name, size, facts in one.windows}
        for file in sorted(self.path.glob(PATTERN)):
            size, facts = known.get(file.name, (-1, None))
            if facts is None or file.stat().st_size != size:
                facts = _facts(file)
            if part in (None, facts["part"]):
                found.append(_window(facts, file))
        return found

    def rollups(self, part: str | None = None) -> list[Rollup]:
        """The rollups of a part, or of all, whether or not their windows are still there.

        Raises:
            RecordingError: a file is none.
        """
        # Sorted, so that of rollups that overlap the same one is used on every system.
        found = map(read_rollup, sorted(self.path.glob(ROLLUP_PATTERN)))
        return [rollup for rollup in found if part is None or part in rollup.parts]

    def write_rollup(self, rollup: OpenRollup) -> Rollup:
        """Write a rollup.

        Raises:
            RecordingError: the file cannot be written.
        """
        first = rollup.first
        path = self.path / rollup_name(first["part"], first["first_call"])
        rollup.write(path)
        # Read back, so that what is used is what the disk holds.
        return read_rollup(path)

    def replace(self, old: Iterable[Window], tables: Tables) -> Window:
        """Write the merge of windows in place of them."""
        # The merge has the name of the first: it takes its place at once, and then the others go.
        written = self.write(tables)
        self.remove(window for window in old if window.file != written.file)
        return written

    def remove(self, windows: Iterable[Window]) -> None:
        """Remove the files of windows."""
        for window in windows:
            if window.file is not None:
                Path(window.file).unlink(missing_ok=True)


def _facts(file: Path) -> WindowFacts:
    facts: list[WindowFacts] = load_meta(file).get("windows", [])
    if len(facts) != 1:
        raise RecordingError(f"{file} is not one window of a run; move it elsewhere")
    return facts[0]


def _window(facts: WindowFacts, file: Path) -> Window:
    return Window(facts, partial(load_tables, file), str(file))


def _uncovered(windows: list[Window]) -> list[Window]:
    """Windows without those that another one holds."""
    widest: dict[tuple[str, str], int] = {}
    kept = []
    # Of those that begin alike the longest first: whatever ends before the last one kept lies within it.
    for window in sorted(windows, key=lambda w: (w.facts["first"], -w.facts["last"])):
        of = window.facts["part"], window.facts["phase"]
        if window.facts["last"] > widest.get(of, -1):
            widest[of] = window.facts["last"]
            kept.append(window)
    return kept
