"""What a check of a run is: it maps the windows of a recording to findings."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

from normprobe.findings.check import Check, Finding
from normprobe.tables.measures.history import history

if TYPE_CHECKING:
    from normprobe.tables.frames import Tables
    from normprobe.tables.measures.history import History


@dataclass(frozen=True, kw_only=True)
class OverTimeCheck(Check):
    """A rule over the windows of a run: of what changes, or of gradients, which differ from step to step."""

    def __call__(self, tables: Tables) -> list[Finding]:
        """The findings in the windows of a recording."""
        return self.over_time(history(tables))

    @abstractmethod
    def over_time(self, history: History) -> list[Finding]:
        """One finding per cause; an empty list if all is well, or if there are too few windows to tell."""
