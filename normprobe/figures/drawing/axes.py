"""What every chart shares: logarithmic axes, marks at the foot, labels that never overlap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis, YAxis
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from numpy.typing import ArrayLike

from normprobe.figures.drawing.palette import INK, MUTED, SMALL, TEXT
from normprobe.formatting import format_tick

LABEL_GAP = 9.5  # points between the baselines of stacked labels; 12 px at the page's width
MARGIN = 0.06  # share of a logarithmic axis left free above and below the data


@dataclass(frozen=True)
class Label:
    """A text that stands at the right end of what it names: `at` is its height in data units."""

    text: str
    at: float
    colour: str = INK
    line: str | None = None  # colour of the leader, where it is not the text's own
    dashes: Any = "solid"


def positive(values: ArrayLike) -> np.ndarray:
    """The finite values above zero, which is what a logarithmic axis can show."""
    array = np.asarray(values, dtype=float).ravel()
    shown: np.ndarray = array[np.isfinite(array) & (array > 0)]
    return shown


def log_ticks(low: float, high: float) -> list[float]:
    """Ticks at 1, 2, 5 under two decades, else at powers of ten, at most seven.

    Args:
        low: lower limit, above zero.
        high: upper limit.

    Returns:
        Ticks within the limits, ascending.
    """
    # Limits come out of exp(log(x)): a power of ten may lack its last bit and would lose its tick.
    first, last = int(np.ceil(np.log10(low) - 1e-9)), int(np.floor(np.log10(high) + 1e-9))
    if np.log10(high / low) < 2 or last - first < 2:
        ticks = [factor * 10.0**e for e in range(first - 1, last + 1) for factor in (1, 2, 5)]
        return [tick for tick in ticks if low * 0.999 <= tick <= high * 1.001]
    step = -(-(last - first + 1) // 7)
    return [10.0**e for e in range(first, last + 1) if e % step == 0]


def log_limits(values: ArrayLike, *, room: float = 6.0) -> tuple[float, float]:
    """Limits that hold all positive values, at least a factor `room` apart.

    Args:
        values: data; what is not finite or not positive is left out.
        room: the least ratio of the upper to the lower limit.

    Returns:
        Lower and upper limit; (0.1, 10) without data.
    """
    data = positive(values)
    if not data.size:
        return 0.1, 10.0
    low, high = np.log(data.min()), np.log(data.max())
    # By default a factor of six, in which there are always two of the ticks 1, 2 and 5.
    spare = max(0.0, np.log(room) - (high - low)) / 2
    pad = MARGIN * max(high - low, np.log(room))
    # Room beside the largest or smallest float would end at infinity or 0, which no axis takes.
    edges = np.clip([low - spare - pad, high + spare + pad], np.log(1e-300), np.log(1e300))
    return float(np.exp(edges[0])), float(np.exp(edges[1]))


def use_log(axis: Axis, limits: tuple[float, float]) -> None:
    """Make one axis logarithmic within limits, with 1-2-5 ticks or powers of ten, and a grid."""
    axes = axis.axes
    vertical = isinstance(axis, YAxis)
    # A millisecond, for axes that are drawn on again.
    if axis.get_scale() != "log":
        (axes.set_yscale if vertical else axes.set_xscale)("log")
    (axes.set_ylim if vertical else axes.set_xlim)(*limits)
    axis.set_major_locator(FixedLocator(log_ticks(*limits)))
    # matplotlib labels minor ticks where an axis spans little, between and over these.
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: format_tick(value)))
    show_grid(axis, vertical)


def show_grid(axis: Axis, shown: bool) -> None:
    """Show or hide the grid of one axis."""
    # matplotlib makes a tick to set its look.
    if bool(axis.get_tick_params()["gridOn"]) is not shown:
        axis.grid(shown)


def push_apart(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Move positions as little as needed so that neighbours are `gap` apart and all lie in [low, high].

    Least squares by pooling: positions that collide move as one group around their common mean.

    Args:
        wanted: positions asked for, in any order.
        gap: least distance between two.
        low: lower end of the room.
        high: upper end; where the room is too small the gap shrinks.

    Returns:
        New positions in the order of `wanted`.
    """
    if not wanted:
        return []
    gap = min(gap, (high - low) / max(1, len(wanted) - 1))
    order = np.argsort(wanted, kind="stable")
    groups: list[list[float]] = []  # total of the wanted starts, size
    for index, target in enumerate(np.asarray(wanted, dtype=float)[order]):
        groups.append([target - gap * index, 1.0])
        while len(groups) > 1 and groups[-2][0] / groups[-2][1] >= groups[-1][0] / groups[-1][1]:
            total, size = groups.pop()
            groups[-1][0] += total
            groups[-1][1] += size
    starts = np.concatenate([np.full(int(size), total / size) for total, size in groups])
    starts = np.clip(starts, low, high - gap * (len(wanted) - 1))
    placed = np.empty(len(wanted))
    placed[order] = starts + gap * np.arange(len(wanted))
    return [float(p) for p in placed]


def fraction(ax: Axes, value: float) -> float:
    """Where a value lies on the y axis: 0 at its foot, 1 at its top."""
    low, high = ax.get_ylim()
    if ax.get_yscale() == "log":
        value, low, high = (float(np.log(max(v, 1e-300))) for v in (value, low, high))
    return float(np.clip((value - low) / (high - low), 0, 1))


def size_in_points(ax: Axes) -> tuple[float, float]:
    """Width and height of an axes in points."""
    # Not by its position, which is a share of the subfigure that a caller's axes may lie in.
    figure = ax.get_figure(root=True)
    points = 72 / figure.dpi if figure else 1.0
    return float(ax.bbox.width * points), float(ax.bbox.height * points)


def foot(ax: Axes, x: Sequence[float], colour: str, *, marker: str = "v", fill: str | None = None) -> None:
    """Mark at the foot of a logarithmic axis what it cannot show: a zero (v), or NaN and Inf (X)."""
    if len(x):
        size = 4.0 if marker == "v" else 6.0
        ax.plot(
            x,
            [(size / 2 + 1) / size_in_points(ax)[1]] * len(x),
            linestyle="none",
            marker=marker,
            markersize=size,
            markerfacecolor=fill or colour,
            markeredgecolor=colour,
            markeredgewidth=0.9,
            transform=ax.get_xaxis_transform(),
            clip_on=False,
            zorder=6,
        )


def label_ends(ax: Axes, labels: Sequence[Label], *, gap: float = LABEL_GAP) -> None:
    """Write labels to the right of a chart at the height of what they name, pushed apart, with leaders."""
    wide, high = size_in_points(ax)
    wanted = [fraction(ax, label.at) * high for label in labels]
    for label, want, at in zip(labels, wanted, push_apart(wanted, gap, -4, high + 4), strict=True):
        x = [3.0, 9.0] if label.line is None else [3.0, 9.0, 21.0]
        y = [want, at, at][: len(x)]
        ax.plot(
            1 + np.array(x) / wide,
            np.array(y) / high,
            color=label.line or label.colour,
            linewidth=0.7 if label.line is None else 1.5,
            linestyle=label.dashes,
            transform=ax.transAxes,
            clip_on=False,
        )
        ax.text(
            1 + (x[-1] + 3) / wide,
            at / high,
            label.text,
            transform=ax.transAxes,
            color=label.colour,
            va="center",
            fontsize=TEXT,
        )


def note(
    ax: Axes, text: str, *, x: float = 0.5, y: float = 0.5, ha: str = "center", va: str = "center"
) -> None:
    """Write a remark inside a chart, at a place in shares of the axes."""
    ax.text(x, y, text, transform=ax.transAxes, ha=ha, va=va, fontsize=SMALL, color=MUTED, linespacing=1.25)


def title(ax: Axes, text: str) -> None:
    """Set a chart's heading, at the left of its top."""
    ax.set_title(text, loc="left")
