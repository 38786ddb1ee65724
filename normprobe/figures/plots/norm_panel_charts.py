"""The six charts of one norm's panel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis, XAxis, YAxis
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from normprobe.figures.drawing.axes import (
    foot,
    log_limits,
    note,
    positive,
    show_grid,
    size_in_points,
    title,
    use_log,
)
from normprobe.figures.drawing.palette import GRID, MUTED, SMALL, TEXT, site_look
from normprobe.formatting import format_number, format_tick, plural
from normprobe.vocabulary import INPUT, OUTPUT

if TYPE_CHECKING:
    from normprobe.figures.data.norm_panel import Panel
    from normprobe.figures.plots.norm_panel_marks import Marks

BINS = 40
MOST_BARS = 96  # features that get a bar each
NEAR_ZERO = 1e-6  # times the median feature's variance: the axis does not reach that low
MOST_DOTS = 800  # features that get a dot in the chart of one sample
SYMLOG = 20.0  # times the median |value|


def values(ax: Axes, panel: Panel, site: str, marks: Marks) -> None:
    """Draw the histogram of one site's kept values, between the percentiles 0.5 and 99.5."""
    moments = panel.moments[site]
    word = site_look(site).label
    title(ax, f"Values {word}: mean {panel.text(site, 'mean')}, var {panel.text(site, 'variance')}")
    data = panel.values[site][np.isfinite(panel.values[site])]
    if not data.size:
        _empty(ax, "no finite values kept")
        return
    # Between all values one outlier would leave a single bar.
    low, high = np.percentile(data, [0.5, 99.5])
    if low == high:
        _empty(ax, f"99 % of the values are {format_number(low)}")
        return
    # Binned here, as shares of all values: seaborn's percent are of those within the limits.
    counts, edges = np.histogram(data, BINS, (low, high))
    share = counts * 100 / data.size
    marks.histogram(ax, share, edges, site_look(site).colour)
    margin = 0.05 * (high - low)
    ax.set_xlim(low - margin, high + margin)
    # Room on top, for the remark.
    ax.set_ylim(0, 1.05 * 1.22 * share.max())
    _percent(ax)
    _plain(ax.xaxis)
    ends = f"1 % beyond: {format_number(moments['min'])} … {format_number(moments['max'])}"
    note(ax, ends, x=0.995, y=0.985, ha="right", va="top")


def one_sample(ax: Axes, panel: Panel, marks: Marks) -> None:
    """Draw one kept sample, a dot per feature: what it was before, what it became."""
    before, after = panel.values[INPUT], panel.values[OUTPUT]
    if not (before.size and after.size) or before.shape[1] != after.shape[1]:
        title(ax, f"One {panel.unit}: before → after")
        _empty(ax, "no kept row at both sites")
        return
    finite = (np.isfinite(before) & np.isfinite(after)).any(axis=1)
    if not finite.any():
        title(ax, f"One {panel.unit}: before → after")
        _empty(ax, "no finite values kept")
        return
    # Kept rows are in order of hash, so the first is one at random, and the same at both sites.
    first = int(finite.argmax())
    x, y = before[first], after[first]
    ok = _dots(x, y)
    wide = [_symlog(axis, data[ok]) for axis, data in ((ax.xaxis, x), (ax.yaxis, y))]
    marks.dots(ax, x[ok], y[ok])
    marks.cross(ax, GRID)
    names = [name for name, symlog in zip(("before", "after"), wide, strict=True) if symlog]
    note_text = "" if not names else " (symlog)" if len(names) == 2 else f" ({names[0]}: symlog)"
    title(ax, f"One {panel.unit}: before → after{note_text}")


def _dots(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Which features get a dot: all up to a limit; beyond it the extreme ones and every k-th."""
    ok = np.flatnonzero(np.isfinite(x) & np.isfinite(y))
    if len(ok) <= MOST_DOTS:
        return ok
    reach = np.maximum(np.abs(x[ok]) / np.abs(x[ok]).max(), np.abs(y[ok]) / np.abs(y[ok]).max())
    extreme = ok[np.argsort(-reach, kind="stable")[: MOST_DOTS // 4]]
    return np.union1d(extreme, ok[:: -(-len(ok) * 4 // (MOST_DOTS * 3))])


def features(axes: Sequence[Axes], panel: Panel, marks: Marks) -> None:
    """Draw the variance per feature before and after on one logarithmic axis."""
    both = np.concatenate(list(panel.features.values()))
    shown = positive(both)
    median = float(np.median(shown)) if shown.size else 1.0
    limits = log_limits(shown[shown >= NEAR_ZERO * median], room=10)
    for ax, (site, data) in zip(axes, panel.features.items(), strict=True):
        title(ax, f"Variance per feature, {site_look(site).label}")
        if not panel.defined:
            _empty(ax, f"1 {panel.unit}: variances\nacross {plural(panel.unit)} are undefined")
            continue
        if not np.isfinite(data).any():
            _empty(ax, "no finite values")
            continue
        use_log(ax.yaxis, limits)
        near = int((data < NEAR_ZERO * median).sum())
        _feature_bars(ax, data, marks, site_look(site).colour, limits[0])
        foot(
            ax,
            [float(i) for i in np.flatnonzero(data < NEAR_ZERO * median)][:MOST_BARS],
            site_look(site).colour,
        )
        if near:
            note(ax, f"{near} near 0", x=0.995, y=1.0, ha="right", va="top")
        _plain(ax.xaxis, whole=True)


def _feature_bars(ax: Axes, data: np.ndarray, marks: Marks, colour: str, floor: float) -> None:
    """Draw a bar per feature, or for many features the least and the largest of neighbours."""
    count = len(data)
    ax.set_xlim(-0.5 - 0.01 * count, count - 0.5 + 0.01 * count)
    group = max(1, -(-count // MOST_BARS))
    starts = np.arange(0, count, group)
    # reduceat hands NaN on to the neighbours that share a bar.
    safe = np.clip(np.nan_to_num(data, nan=floor), floor, None)
    low, high = np.minimum.reduceat(safe, starts), np.maximum.reduceat(safe, starts)
    edges = np.append(starts, count) - 0.5
    if group > 1:
        marks.steps(ax, 0, high, edges, floor, fill=True, color=colour, alpha=0.45, linewidth=0)
    marks.steps(ax, 1, low, edges, floor, fill=True, color=colour, alpha=0.8, linewidth=0, zorder=1.01)


def samples(ax: Axes, panel: Panel, marks: Marks) -> None:
    """Draw the variance per kept sample before and after as two histograms on one logarithmic axis."""
    title(ax, f"Variance per {panel.unit}")
    shown = {site: positive(data) for site, data in panel.samples.items()}
    both = np.concatenate(list(shown.values()))
    if reason := _no_variances(panel, both):
        _empty(ax, reason)
        return
    limits = log_limits(both)
    use_log(ax.xaxis, limits)
    show_grid(ax.xaxis, False)
    edges = np.geomspace(*limits, BINS + 1)
    highest = 0.0
    for number, (site, data) in enumerate(shown.items()):
        colour = site_look(site).colour
        share = np.histogram(data, edges)[0] * 100 / max(1, len(panel.samples[site]))
        highest = max(highest, float(share.max()))
        marks.steps(ax, 2 * number, share, edges, fill=True, color=colour, alpha=0.62, linewidth=0)
        marks.steps(ax, 2 * number + 1, share, edges, fill=False, edgecolor=colour, linewidth=0.8)
        if (panel.samples[site] == 0).any():
            ax.plot([0], [0], marker="v", markersize=4, color=colour, transform=ax.transAxes, clip_on=False)
    ax.set_ylim(0, max(1.05 * highest, 1) * 1.25)
    _percent(ax)
    _name_histograms(ax, panel)


def _no_variances(panel: Panel, positive_ones: np.ndarray) -> str:
    """Why there are no variances of samples to compare, "" where there are."""
    kept = max(map(len, panel.samples.values()))
    if kept > 1:
        return "" if positive_ones.size else "all variances are 0"
    return f"1 {panel.unit}: undefined" if kept == 1 or panel.seen == 1 else "none kept"


def _name_histograms(ax: Axes, panel: Panel) -> None:
    """Write the sites in the corner, each in its colour, with how many samples lie at 0."""
    right = 0.995
    for site, data in reversed(panel.samples.items()):
        zeros, look = int((data == 0).sum()), site_look(site)
        text = look.label + (f" ({zeros} at 0)" if zeros else "")
        ax.text(
            right,
            0.985,
            text,
            color=look.colour,
            transform=ax.transAxes,
            ha="right",
            va="top",
            fontsize=TEXT,
        )
        right -= 0.02 + 0.024 * len(text)


def _percent(ax: Axes) -> None:
    """Write the y axis as shares."""
    ax.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{format_tick(round(value, 6))} %"))
    show_grid(ax.yaxis, True)
    ax.set(xlabel="", ylabel="")


def _plain(axis: Axis, *, whole: bool = False) -> None:
    """Write an axis with round numbers."""
    axis.set_major_locator(MaxNLocator(6, integer=whole, steps=[1, 2, 5, 10]))
    # MaxNLocator adds steps up: a tick at 0.3 may come as 0.30000000000000004.
    axis.set_major_formatter(FuncFormatter(lambda value, _: format_number(round(value, 10))))


def _symlog(axis: Axis, data: np.ndarray) -> bool:
    """Make one axis symmetric-logarithmic if its largest |value| exceeds twenty times the median one."""
    sizes = np.abs(data)
    typical = float(np.median(sizes)) if sizes.size else 0.0
    top = float(sizes.max()) if sizes.size else 1.0
    if not (typical > 0 and top > SYMLOG * typical):
        if axis.get_scale() != "linear":
            _scale(axis, "linear")
        _plain(axis)
        pad = 0.06 * (np.ptp(data) or 1.0) if data.size else 1
        if data.size:
            _limits(axis, data.min() - pad, data.max() + pad)
        return False
    # A power of ten not above the median: half of the values lie on the logarithmic part.
    threshold = 10.0 ** np.floor(np.log10(typical))
    _scale(axis, "symlog", linthresh=threshold)
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: format_tick(value)))
    _limits(axis, min(data.min() * 1.7, -threshold), max(data.max() * 1.7, threshold))
    powers = [threshold * 10.0**e for e in range(int(np.ceil(np.log10(top / threshold))) + 1)]
    axis.set_major_locator(FixedLocator(_roomy(axis, [0.0, *(sign * p for p in powers for sign in (1, -1))])))
    return True


def _scale(axis: Axis, name: str, **options: float) -> None:
    """Set the scale of one axis."""
    (axis.axes.set_xscale if isinstance(axis, XAxis) else axis.axes.set_yscale)(name, **options)


def _roomy(axis: Axis, ticks: Sequence[float]) -> list[float]:
    """Those ticks, the first ones first, that leave room between one another."""
    ax, along = axis.axes, int(isinstance(axis, YAxis))
    least = 11 if along else 26
    length = size_in_points(ax)[along]
    # The first ones win, zero and the smallest: they show where the scale turns logarithmic.
    kept: dict[float, float] = {}
    for tick in ticks:
        at = float(ax.transAxes.inverted().transform(ax.transData.transform((tick, tick)))[along]) * length
        if 0 <= at <= length and all(abs(at - other) >= least for other in kept.values()):
            kept[tick] = at
    return sorted(kept)


def _limits(axis: Axis, low: float, high: float) -> None:
    """Set the limits of one axis."""
    (axis.axes.set_xlim if isinstance(axis, XAxis) else axis.axes.set_ylim)(low, high)


def _empty(ax: Axes, text: str) -> None:
    """Say why a chart has nothing to show."""
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(NullLocator())
        axis.set_minor_locator(NullLocator())
    ax.text(0.5, 0.5, text, transform=ax.transAxes, ha="center", va="center", fontsize=SMALL, color=MUTED)
