"""A remark beside a point of a chart, where it leaves neither the chart nor room to doubt what it crosses."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from numpy.typing import NDArray

from normprobe.figures.drawing.axes import size_in_points
from normprobe.figures.drawing.palette import INK, SMALL
from normprobe.formatting import text_width

# Estimated: matplotlib knows the size of a text only once a renderer has laid it out.
_LETTER = 4.4  # points an average letter of the small size takes
_HEIGHT = 8.5
_STEP = 1.5  # points between the places of a line that are looked at
# Above first: what the remark is about is a peak, below which its own line runs.
_SIDES = ((-1, 1), (1, 1), (-1, 0), (1, 0), (-1, -1), (1, -1))
_AWAY = (5.0, 13.0, 22.0)

Places = NDArray[np.float64]


def beside(ax: Axes, text: str, point: tuple[float, float]) -> None:
    """Write a text near a point, on the first side and distance where it crosses no line, bar or dot.

    Args:
        ax: the chart, its limits set and all else drawn.
        text: one line; where no side has room it is left out, as the caption says it too.
        point: in data units.
    """
    wide, high = size_in_points(ax)
    scale = np.array([wide, high])
    x, y = _in_axes(ax, np.array([point]))[0] * scale
    crossed = np.concatenate([*_drawn(ax, scale), np.empty((0, 2))])
    width = text_width(text) * _LETTER
    for away in _AWAY:
        for across, up in _SIDES:
            left = x + across * away - width * (across < 0)
            foot = y + up * away - (_HEIGHT / 2 if up == 0 else _HEIGHT * (up < 0))
            box = (left, left + width, foot, foot + _HEIGHT)
            if _inside(box, wide, high) and not _touches(box, crossed):
                _write(ax, text, box[across < 0] / wide, (foot + _HEIGHT / 2) / high, across)
                return


def _write(ax: Axes, text: str, x: float, y: float, across: int) -> None:
    """Write at a place in shares of the chart, flush with the side that the point is on."""
    side = "right" if across < 0 else "left"
    ax.text(x, y, text, transform=ax.transAxes, ha=side, va="center", fontsize=SMALL, color=INK)


def _inside(box: tuple[float, float, float, float], wide: float, high: float) -> bool:
    """Whether a box (left, right, foot, top, points) lies within a chart of this size."""
    return box[0] >= 0 and box[1] <= wide and box[2] >= 0 and box[3] <= high


def _touches(box: tuple[float, float, float, float], places: Places) -> bool:
    """Whether anything drawn runs through a box, or within a point of it."""
    # NaN, the gap of a line, compares as outside of any box.
    x, y = places[:, 0], places[:, 1]
    return bool(((x > box[0] - 1) & (x < box[1] + 1) & (y > box[2] - 1) & (y < box[3] + 1)).any())


def _drawn(ax: Axes, scale: Places) -> Iterator[Places]:
    """Points along everything drawn, in points from the chart's foot: lines, bars and bounds of bands."""
    for line in ax.lines:
        if line.get_transform() == ax.transData:
            yield _along(_in_axes(ax, np.asarray(line.get_xydata(), dtype=float)) * scale)
        # What axhline draws: x in shares of the chart, y in data.
        elif line.get_transform() == ax.get_yaxis_transform():
            ends = np.asarray(line.get_xydata(), dtype=float)
            heights = _in_axes(ax, np.column_stack([np.full(len(ends), ax.get_xlim()[0]), ends[:, 1]]))[:, 1]
            yield _along(np.column_stack([ends[:, 0], heights]) * scale)
    for collection in ax.collections:
        if isinstance(collection, LineCollection):
            for segment in collection.get_segments():
                yield _along(_in_axes(ax, np.asarray(segment, dtype=float)) * scale)
        else:
            for path in collection.get_paths():
                yield _along(_in_axes(ax, np.asarray(path.vertices, dtype=float)) * scale)


def _in_axes(ax: Axes, data: Places) -> Places:
    """Data as shares of the chart's width and height; what a logarithm cannot show becomes NaN."""
    with np.errstate(all="ignore"):
        placed: Places = (ax.transData + ax.transAxes.inverted()).transform(data)
    return placed


def _along(ends: Places) -> Places:
    """Points along a line through `ends`, at most 1.5 points apart; a gap in it stays one."""
    ends = np.where(np.isfinite(ends).all(axis=1, keepdims=True), ends, np.nan)
    pieces = [ends]
    for one, other in itertools.pairwise(ends):
        length = float(np.hypot(*(other - one)))
        if np.isfinite(length):
            share = np.linspace(0, 1, max(2, int(length / _STEP) + 2))[:, None]
            pieces.append(one + share * (other - one))
    return np.concatenate(pieces)
