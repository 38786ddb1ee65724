"""The marks of a norm's panel, made once where many panels are drawn on the same charts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import seaborn as sns
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.patches import StepPatch
from matplotlib.ticker import NullLocator

from normprobe.figures.drawing.palette import INK


class Marks:
    """The marks on the six charts of a panel.

    seaborn takes ten milliseconds for a chart of however few marks, matplotlib half of one for each, and a
    report has up to 64 panels of the same six charts. So the marks that were made for the first panel get the
    numbers of each further one, as matplotlib's own animations do; a picture is the same either way.
    """

    def __init__(self) -> None:
        self._made: dict[Axes, Any] = {}
        self._kept: dict[tuple[Axes, int], Any] = {}

    def clear(self, axes: Sequence[Axes]) -> None:
        """Make room for the next panel: marks that are kept are hidden, all else is removed."""
        kept = {*self._made.values(), *self._kept.values()}
        for ax in axes:
            marks: list[Artist] = [*ax.lines, *ax.patches, *ax.collections, *ax.texts]
            for mark in marks:
                if mark in kept:
                    mark.set_visible(False)
                else:
                    mark.remove()

    def histogram(self, ax: Axes, heights: np.ndarray, edges: np.ndarray, colour: str) -> None:
        """Draw the outline of counted bins, filled.

        Args:
            ax: the chart.
            heights: of the bins, shape (bins,).
            edges: of the bins, equally wide, shape (bins + 1,).
            colour: of the filling, for each chart always the same.
        """
        if (made := self._made.get(ax)) is not None:
            made.set_data(edges, np.zeros(len(edges)), np.append(heights, heights[-1]))
            made.set_visible(True)
            return
        _bare(ax)
        sns.histplot(
            x=(edges[1:] + edges[:-1]) / 2,
            weights=heights,
            bins=len(heights),
            binrange=(edges[0], edges[-1]),
            element="step",
            color=colour,
            alpha=0.8,
            linewidth=0,
            ax=ax,
        )
        self._made[ax] = ax.collections[-1]

    def steps(
        self, ax: Axes, number: int, heights: np.ndarray, edges: np.ndarray, floor: float = 0.0, **look: Any
    ) -> None:
        """Draw bars side by side, as `Axes.stairs` does, on axes whose limits are set.

        Args:
            ax: the chart.
            number: which bars of this chart.
            heights: of the bars, shape (bars,).
            edges: of the bars, shape (bars + 1,).
            floor: on which they stand.
            look: colours and widths, for each bars always the same.
        """
        if (made := self._kept.get((ax, number))) is not None:
            made.set_data(heights, edges, floor)
            made.set_visible(True)
            return
        # Without the search for limits of their own, which takes ten times as long as the drawing.
        self._kept[ax, number] = ax.add_artist(StepPatch(heights, edges, baseline=floor, **look))

    def cross(self, ax: Axes, colour: str) -> None:
        """Draw lines where x and where y are 0."""
        for number, line in enumerate((ax.axhline, ax.axvline)):
            if (made := self._kept.get((ax, number))) is None:
                made = self._kept[ax, number] = line(0, color=colour, linewidth=0.8, zorder=0)
            made.set_visible(True)

    def dots(self, ax: Axes, x: np.ndarray, y: np.ndarray) -> None:
        """Draw a dot at each place (x, y)."""
        if (made := self._made.get(ax)) is not None:
            made.set(offsets=np.column_stack([x, y]), visible=True)
            return
        sns.scatterplot(x=x, y=y, s=7, color=INK, alpha=0.6, linewidth=0, ax=ax)
        self._made[ax] = ax.collections[-1]


def _bare(ax: Axes) -> None:
    """Take the ticks off axes that get their own later: seaborn reads each one, a third of a panel's time."""
    ax.xaxis.set_major_locator(NullLocator())
    ax.yaxis.set_major_locator(NullLocator())
