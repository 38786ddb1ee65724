"""Scaling with width: the mean |x| of each layer over the width of the model, with its slope."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter

from normprobe.errors import NormprobeError
from normprobe.figures.drawing.axes import Label, label_ends, log_limits, note, title, use_log
from normprobe.figures.drawing.canvas import Plan, place
from normprobe.figures.drawing.palette import ROLE_COLOURS, ROLE_DASHES
from normprobe.formatting import format_count, shorten_name
from normprobe.tables.measures.width_scaling import scaling, width_points
from normprobe.vocabulary import OUTPUT

if TYPE_CHECKING:
    from normprobe.tables.frames import HasTables

_MOST = len(ROLE_COLOURS)


def width_scaling(
    recordings: Mapping[int, HasTables | Sequence[HasTables]],
    *,
    site: str = OUTPUT,
    layers: Sequence[str] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw the mean |x| of each layer over the width of the model: muP's coordinate check.

    Both axes are logarithmic: flat lines keep their size. Dots are recordings, lines join the geometric means
    of each width, and at their ends stand the slopes of `normprobe.scaling`.

    Args:
        recordings: recordings of one model at several widths, by width; a list of them for several seeds.
        site: where.
        layers: which layers; by default the eight of the steepest slopes, up or down.
        ax: where to draw; new axes by default.

    Returns:
        The axes.

    Raises:
        NormprobeError: as `normprobe.scaling`, or a layer of ``layers`` has no slope.
        NoSamplesError: a recording holds nothing.
    """
    fitted = scaling(recordings, site=site).dropna(subset="slope").set_index("layer")
    chosen = _chosen(fitted, layers)
    points = width_points(recordings, site=site)
    points = points[points["layer"].isin(chosen) & (points["abs_mean"] > 0)]
    steepest = str(fitted["slope"].abs().idxmax())
    said = f"the steepest slope is {fitted['slope'].loc[steepest]:+.2f}, of {steepest}"

    def draw(axes: Sequence[Axes]) -> None:
        """Draw a line per layer."""
        _draw(axes[0], points, fitted.loc[chosen])
        left = len(fitted) - len(chosen)
        if left:
            note(axes[0], f"{format_count(left, 'layer')} not drawn", x=0.02, y=0.97, ha="left", va="top")
        title(axes[0], f"Mean |x| at the {site} over the width, and its slope")

    plan = Plan(
        title="Scaling with width",
        caption="",
        aria_label=f"Mean |x| of {len(chosen)} layers over {points['width'].nunique()} widths; {said}.",
        draw=draw,
        heights=(2.6,),
        margins=(0.78, 2.6, 0.5, 0.34),
    )
    drawn: Axes = place(plan, ax)
    return drawn


def _chosen(fitted: pd.DataFrame, layers: Sequence[str] | None) -> list[str]:
    """The layers that are drawn, in order of execution."""
    if layers is None:
        steep = set(fitted["slope"].abs().nlargest(_MOST).index)
        return [layer for layer in fitted.index if layer in steep]
    unknown = [layer for layer in layers if layer not in fitted.index]
    if unknown:
        known = ", ".join(map(repr, fitted.index[:5]))
        raise NormprobeError(f"layer {unknown[0]!r} has no slope; those that have one: {known}")
    return list(layers)


def _draw(ax: Axes, points: pd.DataFrame, fitted: pd.DataFrame) -> None:
    widths = sorted(points["width"].unique())
    use_log(ax.yaxis, log_limits(points["abs_mean"]))
    use_log(ax.xaxis, log_limits(widths, room=2.0))
    ax.xaxis.set_major_locator(FixedLocator(widths))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda width, _: f"{width:g}"))
    labels = []
    for index, (layer, row) in enumerate(fitted.iterrows()):
        own = points[points["layer"] == layer]
        colour, dashes = ROLE_COLOURS[index % _MOST], ROLE_DASHES[index % _MOST]
        middle = np.exp(np.log(own.set_index("width")["abs_mean"]).groupby(level=0).mean())
        sns.scatterplot(x=own["width"], y=own["abs_mean"], color=colour, s=14, alpha=0.7, legend=False, ax=ax)
        sns.lineplot(x=middle.index, y=middle, color=colour, estimator=None, legend=False, ax=ax)
        style: Any = (0, dashes) if dashes else "solid"
        ax.lines[-1].set(linestyle=style)
        text = f"{shorten_name(str(layer), 24) or 'model'}  {row['slope']:+.2f}"
        labels.append(Label(text, float(middle.iloc[-1]), colour, colour, style))
    ax.set(xlabel="width", ylabel="")
    label_ends(ax, labels)
