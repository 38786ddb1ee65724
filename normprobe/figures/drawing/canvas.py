"""One figure, decided before anything is drawn: its size, its words, and the function that draws it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backend_bases import FigureCanvasBase
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from normprobe.figures.drawing.palette import SURFACE, house_style
from normprobe.figures.drawing.svg import quiet_fonts

Facts = Mapping[str, Any]
"""What a caption states, by name: numbers, names of layers and sites, tuples of these, None if undefined."""

WIDTH = 10.6  # inches, of every figure of the report
PNG_DPI = 150
"""Of figures that are saved."""

_SCREEN_DPI = 100


@dataclass(frozen=True)
class Hit:
    """The stretch of one layer along an axis of a chart (the first by default), and its text on hovering."""

    layer: str
    low: float
    high: float
    text: str
    chart: int = 0


def column_hits(numbers: Iterable[tuple[str, str]]) -> tuple[Hit, ...]:
    """A stretch for each layer, with the text of its numbers, on an axis of a column per layer."""
    return tuple(Hit(layer, at - 0.5, at + 0.5, text) for at, (layer, text) in enumerate(numbers))


@dataclass(frozen=True)
class Plan:
    """What a figure will be.

    Attributes:
        title: heading of its section in the report.
        caption: what to look at, with **bold** runs.
        aria_label: one sentence for those who do not see it.
        draw: puts it on axes, one per chart.
        heights: height of each row of charts, inches.
        columns: charts per row.
        margins: room left, right, below and above the charts, inches.
        gaps: room between charts, across and down, inches.
        hits: stretches of layers, along `hit_axis` over all charts.
        hit_axis: "x" or "y".
        facts: what the caption states, as numbers and names.
    """

    title: str
    caption: str
    aria_label: str
    draw: Callable[[Sequence[Axes]], None]
    heights: tuple[float, ...]
    columns: int = 1
    margins: tuple[float, float, float, float] = (0.78, 2.15, 0.62, 0.34)
    gaps: tuple[float, float] = (0.5, 0.52)
    hits: tuple[Hit, ...] = ()
    hit_axis: str = "x"
    facts: Facts = field(default_factory=dict)

    @property
    def charts(self) -> int:
        """How many axes it takes."""
        return len(self.heights) * self.columns


class Picture(Figure):
    """A figure that a notebook shows although it lives outside pyplot, on paper of its own."""

    def savefig(self, *args: Any, **options: Any) -> None:
        """Save, as `matplotlib.figure.Figure.savefig` does, at 150 dpi unless told otherwise.

        The style's own 72 is that of its sizes in points: too coarse for a paper or a screen.
        """
        super().savefig(*args, **{"dpi": PNG_DPI, **options})

    def _repr_png_(self) -> bytes:
        """IPython asks a result for this; pyplot's figures have it from IPython itself."""
        stream = BytesIO()
        # Paper is named here: the style saves without any, and a notebook may be dark.
        with house_style(), quiet_fonts():
            self.savefig(stream, format="png", dpi=_SCREEN_DPI, facecolor=self.get_facecolor())
        return stream.getvalue()


def new_figure(plan: Plan) -> tuple[Figure, list[Axes]]:
    """Make a figure of the plan's size with its axes, outside pyplot, so that nothing is left open.

    Args:
        plan: a plan.

    Returns:
        The figure and its axes, row by row. Call it, and draw, under `house_style`.
    """
    left, right, bottom, top = plan.margins
    across, down = plan.gaps
    height = sum(plan.heights) + down * (len(plan.heights) - 1) + top + bottom
    width = (WIDTH - left - right - across * (plan.columns - 1)) / plan.columns
    figure = Picture(figsize=(WIDTH, height))
    # Outside pyplot a figure begins with a canvas whose draw() does nothing.
    FigureCanvasAgg(figure)
    # In inches, not by a layout engine: it would move charts while they are drawn, after labels were placed.
    axes, y = [], height - top
    for row in plan.heights:
        y -= row
        axes += [
            figure.add_axes(
                ((left + column * (width + across)) / WIDTH, y / height, width / WIDTH, row / height)
            )
            for column in range(plan.columns)
        ]
        y -= down
    return figure, axes


@contextmanager
def without_ticks(ax: Axes) -> Iterator[None]:
    """Keep seaborn from making every tick of a chart, whose labels it asks whether they are shown."""
    kept = [(axis, axis.get_major_locator()) for axis in (ax.xaxis, ax.yaxis)]
    for axis, _ in kept:
        axis.set_major_locator(NullLocator())
    try:
        yield
    finally:
        for axis, locator in kept:
            axis.set_major_locator(locator)


@contextmanager
def without_drawing(ax: Axes) -> Iterator[None]:
    """Keep seaborn from drawing a whole figure to measure labels that a heatmap does not have."""
    figure = ax.get_figure(root=True)
    kept = figure.canvas if figure else None
    if figure:
        # A canvas without a renderer, whose draw() does nothing.
        FigureCanvasBase(figure)
    try:
        yield
    finally:
        if figure and kept:
            figure.set_canvas(kept)


def place(plan: Plan, ax: Any = None) -> Any:
    """Draw a plan on new axes, or on the caller's.

    Args:
        plan: a plan.
        ax: an Axes, or an array of as many as the plan has charts.

    Returns:
        The Axes, or an array of them where there are several.

    Raises:
        ValueError: `ax` holds another number of axes.
    """
    with house_style():
        if ax is None:
            figure, axes = new_figure(plan)
            # Of a new figure only: a caller's axes stand on the paper that the caller chose.
            figure.set_facecolor(SURFACE)
        else:
            axes = list(np.ravel(ax))
        if len(axes) != plan.charts:
            raise ValueError(f"this figure has {plan.charts} charts, but `ax` holds {len(axes)} axes")
        plan.draw(axes)
    return axes[0] if len(axes) == 1 else np.array(axes, dtype=object)
