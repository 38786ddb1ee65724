"""The closed windows of a run that goes on: in memory or on disk, and as many as asked for."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from normprobe.errors import NormprobeError, RecordingError, warn
from normprobe.tables.frames import Tables
from normprobe.tables.merging.merge import ALIKE, merge_tables
from normprobe.tables.storage import load_meta
from normprobe.windows.folder import WindowFolder
from normprobe.windows.rollups import OpenRollup, Rollup
from normprobe.windows.series import Window


class Numbers(NamedTuple):
    """Where a run stands that is resumed.

    Attributes:
        part: the name of its part.
        calls: how many forwards there were.
        examples: how many examples they had.
        windows: how many windows of each phase, and how many forwards these had.
    """

    part: str
    calls: int
    examples: int
    windows: dict[str, tuple[int, int]]


class ClosedWindows:
    """The closed windows of one probe.

    Attributes:
        windows: they, in the order in which they were closed.
        rollups: files that each stand for many of them.
    """

    def __init__(self, folder: WindowFolder | None, most: int | None) -> None:
        """Begin without a window.

        Args:
            folder: where they are written; None keeps them in memory.
            most: how many there are at most: beyond that, two of a phase that follow one another become one.
        """
        self.windows: list[Window] = []
        self.rollups: list[Rollup] = []
        self._open_rollup = OpenRollup()
        self._folder, self._most = folder, most
        # A process forked from this one has the probe, too, and must not write what is not its own.
        self._process = os.getpid()

    @property
    def on_disk(self) -> bool:
        """Whether windows are written."""
        return self._folder is not None

    def resume(self, part: str | None, step: int) -> Numbers | None:
        """Go on behind a step: take over the windows up to it, and remove those past it.

        Args:
            part: the part's name; None for that of the one part in the folder.
            step: the last step of the checkpoint.

        Returns:
            Where the run stands; None where there is no window yet.

        Raises:
            NormprobeError: no part was named, and the folder holds several.
        """
        assert self._folder is not None
        found = self._folder.files(part)
        parts = {window.facts["part"] for window in found}
        if len(parts) > 1:
            raise NormprobeError(
                f"{self._folder.path} holds windows of {len(parts)} parts: say which one goes on, by part="
            )
        past = [window for window in found if window.facts["last_step"] > step]
        # First: windows of the same names will be written, of which the rollups must not be taken to be.
        self._remove_rollups(part, past)
        # Of the files, for one that another holds would count again once that one is gone.
        self._folder.remove(past)
        if not found:
            return None
        self.windows = self._folder.windows(found[0].facts["part"])
        self.rollups = self._folder.rollups(found[0].facts["part"])
        facts = [window.facts for window in self.windows]
        return Numbers(
            part=found[0].facts["part"],
            calls=max((one["calls"] for one in facts), default=0),
            examples=max((one["examples"] for one in facts), default=0),
            windows={
                one["phase"]: (
                    max(other["last"] for other in facts if other["phase"] == one["phase"]) + 1,
                    sum(other["forwards"] for other in facts if other["phase"] == one["phase"]),
                )
                for one in facts
            },
        )

    def _remove_rollups(self, part: str | None, past: Sequence[Window]) -> None:
        """Remove the rollups that hold one of these windows; all where windows are to be merged."""
        assert self._folder is not None
        gone = {Path(str(window.file)).name for window in past}
        for rollup in self._folder.rollups(part):
            if self._most is not None or any(name in gone for name, _, _ in rollup.windows):
                rollup.path.unlink(missing_ok=True)

    def check_new(self, part: str | None) -> None:
        """Raise NormprobeError if the folder holds windows of an earlier run of this part."""
        if self._folder is not None and (self._folder.files(part) or self._folder.rollups(part)):
            raise NormprobeError(
                f"{self._folder.path} holds windows of an earlier run: go on with it by resume_from=, the "
                "last step of the checkpoint, or name another folder"
            )

    def check_alike(self, options: Mapping[str, Any], model: str) -> None:
        """Raise NormprobeError if the windows taken over are of another model or other options."""
        for window in self.windows[:1]:
            held = load_meta(Path(str(window.file)))
            now = {"model": model} | {name: options.get(name) for name in ALIKE}
            then = {"model": held["model"]} | {name: held["options"].get(name) for name in ALIKE}
            if differing := [name for name in now if now[name] != then[name]]:
                name = differing[0]
                raise NormprobeError(
                    f"the windows to go on with are of {name} {then[name]!r}, this probe of {now[name]!r}: "
                    "they cannot be merged; probe alike, or name another folder"
                )

    def add(self, tables: Sequence[Tables]) -> None:
        """Add windows that were just closed; one that cannot be written stays in memory, with a warning."""
        for one in tables:
            window = self._kept(one)
            # Cut short just here the caller adds it again.
            if all(window.facts != other.facts for other in self.windows):
                self.windows.append(window)
                self._roll_up(window, one)
        while self._most is not None and len(self.windows) > self._most and self._coarsen():
            pass

    def _roll_up(self, window: Window, tables: Tables) -> None:
        """Add a window that was written to the rollup that is open; that is written when it is full."""
        # Windows that are merged are few enough to be read one by one, and their files change.
        if self._folder is None or window.file is None or self._most is not None:
            return
        # Taken out while it changes: what cuts this short, or a signal in between, finds a new one.
        rollup, self._open_rollup = self._open_rollup, OpenRollup()
        if not rollup.add(window.facts, tables, Path(window.file)):
            self._open_rollup = rollup
            return
        try:
            self.rollups.append(self._folder.write_rollup(rollup))
        except RecordingError as error:
            warn(f"windows will be read one by one: {error}")

    def _kept(self, tables: Tables) -> Window:
        if self._folder is not None and os.getpid() == self._process:
            try:
                return self._folder.write(tables)
            except RecordingError as error:
                warn(f"a window stays in memory: {error}")
        return Window.of(tables)

    def _coarsen(self) -> bool:
        """Merge the two windows of a phase, one behind the other, that span the fewest steps."""
        pair = min(self._neighbours(), key=_span, default=None)
        if pair is None:
            return False
        merged = merge_tables([window.load() for window in pair if window.load is not None])
        on_disk = self._folder is not None and all(window.file for window in pair)
        if on_disk and self._folder is not None and os.getpid() == self._process:
            try:
                whole = self._folder.replace(pair, merged)
            except RecordingError as error:
                warn(f"windows are not merged: {error}")
                return False
        # In a forked process, where the files are the parent's to replace.
        elif on_disk:
            return False
        else:
            whole = Window.of(merged)
        at = self.windows.index(pair[0])
        self.windows = [window for window in self.windows if window not in pair]
        self.windows.insert(at, whole)
        return True

    def _neighbours(self) -> list[tuple[Window, Window]]:
        by_phase: dict[str, list[Window]] = {}
        for window in self.windows:
            by_phase.setdefault(window.facts["phase"], []).append(window)
        return [
            pair
            for windows in by_phase.values()
            for pair in pairwise(sorted(windows, key=lambda window: window.facts["first"]))
        ]


def _span(pair: tuple[Window, Window]) -> int:
    """How many steps two windows span together."""
    return pair[1].facts["last_step"] - pair[0].facts["first_step"]
