"""Every figure of a recording's report, in the order of its sections: the one list that all others read.

To add a figure, write a file of `plots` that has what `Plot` asks for, and list it here. The report then
draws it in a section of its own, writes its files, and removes them where a later recording does not support
it. Hand its drawing function on in `normprobe.figures`, too, if users are to draw it on axes of their own.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from normprobe.figures.drawing.canvas import Facts, Plan
from normprobe.figures.plots import (
    depth_profile,
    linear_by_role,
    outlier_map,
    over_time,
    running_statistics,
    samples_through_depth,
)

if TYPE_CHECKING:
    from normprobe.tables.frames import Tables

Numbers = TypeVar("Numbers")


class Plot(Protocol[Numbers]):
    """What a file of `plots` has: numbers taken from the tables once, and what is said of them."""

    def supported(self, tables: Tables, /) -> bool:
        """Whether the recording has what the figure needs."""

    def summarize(self, tables: Tables, /) -> Numbers:
        """The numbers of the figure."""

    def facts(self, found: Numbers, /) -> Facts:
        """What the caption states, as numbers and names."""

    def caption(self, found: Numbers, /) -> str:
        """What to look at, with the facts in it."""

    def aria_label(self, found: Numbers, /) -> str:
        """One sentence for those who do not see the figure."""

    def numbers(self, found: Numbers, /) -> Iterable[tuple[str, str]]:
        """Each layer and its numbers, as hovering shows them."""

    def plan(self, tables: Tables, /) -> Plan:
        """The figure, decided."""


@dataclass(frozen=True)
class Entry:
    """One figure of the report.

    Attributes:
        name: of the figure and its files.
        section: id of its section in the page, a word of letters.
        link: the word that leads there.
        plot: the file of `plots`.
    """

    name: str
    section: str
    link: str
    plot: Plot[Any]


FIGURES: tuple[Entry, ...] = (
    Entry("over_time", "steps", "Over time", over_time),
    Entry("depth_profile", "norms", "Norms", depth_profile),
    Entry("outlier_map", "features", "Features", outlier_map),
    Entry("samples_through_depth", "samples", "Samples", samples_through_depth),
    Entry("running_statistics", "batchnorm", "BatchNorm", running_statistics),
    Entry("linear_by_role", "linear", "Linear", linear_by_role),
)


def entry_of(name: str) -> Entry | None:
    """The figure of this name, None where there is none."""
    return next((entry for entry in FIGURES if entry.name == name), None)
