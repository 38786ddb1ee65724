"""Variance over the steps of a run: heat maps before and after norms, lines of what changed most."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, LinearSegmentedColormap, LogNorm, to_rgba
from matplotlib.ticker import FixedFormatter, FixedLocator, FuncFormatter, NullLocator

from normprobe.figures.data import layer_statistics
from normprobe.figures.drawing.axes import Label, label_ends, log_limits, title, use_log
from normprobe.figures.drawing.canvas import Facts, Hit, Plan, place, without_drawing
from normprobe.figures.drawing.palette import ACCENT, GRID, ROLE_COLOURS, SMALL
from normprobe.formatting import change_words, format_number, in_prose, shorten_name
from normprobe.tables.measures.history import history
from normprobe.tables.measures.over_time import (
    Binned,
    Change,
    beside,
    binned,
    changes,
    main_phase,
    other_phases,
)
from normprobe.vocabulary import INPUT, OUTPUT, OUTPUT_GRADIENT

if TYPE_CHECKING:
    from normprobe.tables.frames import HasTables, Tables

MOST_LINES = 4
_MOST_LABELS = 18
_WHERE = {INPUT: "before", OUTPUT: "after"}
_MAPS = (
    (INPUT, "variance", "Variance before each {}"),
    (OUTPUT, "variance", "Variance after each {}"),
    (OUTPUT_GRADIENT, "rms", "Root mean square of the gradient behind each {}"),
)


@dataclass(frozen=True, eq=False)
class Line:
    """The variance of one layer over the steps of a phase."""

    layer: str
    site: str
    steps: list[int]
    values: list[float]


@dataclass(frozen=True, eq=False)
class OverTime:
    """The numbers of the figure.

    Attributes:
        phase: the phase of the time axis.
        windows: how many windows it has.
        maps: each heat map's heading, and its numbers.
        most: what changed most, first.
        lines: the variance of these over the steps.
        other_phase: another phase, "" where there is none.
        other: the variance of the same layers in it.
        apart: the layer that differs most between the two phases, and how many times.
    """

    phase: str
    windows: int
    maps: tuple[tuple[str, Binned], ...]
    most: tuple[Change, ...]
    lines: tuple[Line, ...]
    other_phase: str
    other: tuple[Line, ...]
    apart: tuple[str, float] | None

    @property
    def steps(self) -> tuple[int, int]:
        """The first step and the last."""
        shown = self.maps[0][1]
        return int(shown.first[0]), int(shown.last[-1])


def over_time(tables: Tables | HasTables, *, ax: Any = None) -> Any:
    """Draw the variance before and after each norm over the steps of a run, and what changed most.

    In a model without norms the rows are Linear layers. Gradients have a chart where they were measured.
    More than 200 windows are merged, exactly, into so many columns.

    Args:
        tables: a recording or its tables.
        ax: where to draw, an axes per chart; a new figure by default.

    Returns:
        The axes.

    Raises:
        ValueError: the recording has a single window.
    """
    return place(plan(layer_statistics.tables_of(tables)), ax)


def supported(tables: Tables) -> bool:
    """Whether a phase has more than one window."""
    return main_phase(tables) is not None


def summarize(tables: Tables) -> OverTime:
    """Take from the windows what the figure shows.

    Raises:
        ValueError: the recording has a single window.
    """
    phase = main_phase(tables)
    if phase is None:
        raise ValueError("the recording has one window, so nothing changes over it; probe with window=")
    most = tuple(changes(tables)[:MOST_LINES])
    other = next(iter(other_phases(tables)), "")
    return OverTime(
        phase=phase,
        windows=int((history(tables).windows["phase"] == phase).sum()),
        maps=tuple(_maps(tables, phase)),
        most=most,
        lines=_lines(tables, phase, most),
        other_phase=other,
        other=_lines(tables, other, most) if other else (),
        apart=beside(tables, other) if other else None,
    )


def _maps(tables: Tables, phase: str) -> Iterator[tuple[str, Binned]]:
    """The heat maps: of norms, or of Linear layers where there is no norm."""
    kinds = tables.ledger_base.set_index("layer")["kind"]
    norms = kinds.index[kinds != "linear"]
    for site, statistic, heading in _MAPS:
        over = binned(tables, phase, site, statistic)
        here = over.values[over.values.index.isin(norms)]
        what = "norm" if len(norms) else "Linear"
        values = here if len(norms) else over.values
        if not values.empty:
            yield heading.format(what), Binned(values, over.first, over.last)


def _lines(tables: Tables, phase: str, most: Sequence[Change]) -> tuple[Line, ...]:
    found = []
    for change in most:
        over = binned(tables, phase, change.site, "variance")
        if change.layer in over.values.index:
            values = [float(value) for value in over.values.loc[change.layer].to_numpy()]
            found.append(Line(change.layer, change.site, over.last.tolist(), values))
    return tuple(found)


def facts(found: OverTime) -> Facts:
    """What the caption states: the run's steps and windows, and what changed most, where and when."""
    stated: dict[str, Any] = {
        **{"phase": found.phase, "windows": found.windows, "columns": len(found.maps[0][1].first)},
        **{"first_step": found.steps[0], "last_step": found.steps[1]},
    }
    if found.most:
        most = found.most[0]
        stated |= {"layer": most.layer, "site": most.site, "begin": most.begin, "end": most.end}
        stated |= {"from_step": most.first, "to_step": most.last, "factor": most.factor}
    if found.apart is not None:
        stated |= {"other_phase": found.other_phase, "apart": found.apart[0], "times": found.apart[1]}
    return stated


def caption(found: OverTime) -> str:
    """What to look at, with the facts in it."""
    columns, first_last = len(found.maps[0][1].first), found.steps
    merged = f", merged into {columns}" if columns < found.windows else ""
    text = [
        f"{found.windows:,} windows of {found.phase}{merged}, steps {first_last[0]:,} to {first_last[1]:,}; "
        "the stronger the colour, the larger."
    ]
    if found.most:
        most = found.most[0]
        text.append(f"**Changed most:** {_words(most)}.")
    if found.apart is not None:
        layer, ratio = found.apart
        text.append(
            f"**{found.other_phase}** differs most from {found.phase} before {in_prose(layer)}: its variance "
            f"there is {format_number(ratio)} times that at the end of {found.phase}."
        )
    return " ".join(text)


def _words(change: Change) -> str:
    place = f"{_WHERE[change.site]} {in_prose(change.layer)}"
    return change_words(place, (change.begin, change.end), (change.first, change.last), change.factor)


def aria_label(found: OverTime) -> str:
    """One sentence for those who do not see the figure."""
    first, last = found.steps
    rows = len(found.maps[0][1].values)
    return f"Variance of {rows} layers over steps {first:,} to {last:,} of {found.phase} as a map."


def numbers(found: OverTime) -> Iterator[tuple[str, str]]:
    """Each layer and its numbers, as hovering over the first heat map shows them."""
    heading, over = found.maps[0]
    for layer, values in zip(over.values.index, over.values.to_numpy(), strict=True):
        known = values[np.isfinite(values)]
        ends = f"{format_number(known[0])} to {format_number(known[-1])}" if len(known) else "not measured"
        yield str(layer), f"{layer}\n{heading.lower()}: {ends}"


def plan(tables: Tables) -> Plan:
    """Decide the figure."""
    found = summarize(tables)

    def draw(axes: Sequence[Axes]) -> None:
        for ax, (heading, over) in zip(axes, found.maps, strict=False):
            _draw_map(ax, heading, over)
        if found.lines:
            _draw_lines(axes[len(found.maps)], found)

    hits = tuple(Hit(layer, row, row + 1, text) for row, (layer, text) in enumerate(numbers(found)))
    heights = [float(np.clip(0.15 * len(over.values), 0.5, 3.0)) for _, over in found.maps]
    return Plan(
        title="What changed over the run",
        caption=caption(found),
        aria_label=aria_label(found),
        draw=draw,
        heights=(*heights, *([1.7] if found.lines else [])),
        margins=(1.95, 1.15, 0.62, 0.34),
        gaps=(0.5, 0.72),
        hits=hits,
        hit_axis="y",
        facts=facts(found),
    )


def _draw_map(ax: Axes, heading: str, over: Binned) -> None:
    """Draw the cells of one statistic, layers by steps."""
    values = over.values.to_numpy(np.float64)
    positive = values[np.isfinite(values) & (values > 0)]
    low, high = (positive.min(), positive.max()) if len(positive) else (1.0, 10.0)
    high = max(high, low * 1.01)  # of one value there is no scale
    hue = to_rgba(ACCENT)[:3]  # opacity alone varies: the page exchanges the colour for that of its theme
    shades: Colormap = LinearSegmentedColormap.from_list("steps", [(*hue, 0.04), (*hue, 1.0)])
    shades = shades.with_extremes(bad=(*hue, 0.0))
    bar_ax = ax.inset_axes((1.03, 0, 0.018, 1))
    with without_drawing(ax):
        sns.heatmap(
            pd.DataFrame(np.where(values > 0, values, np.nan)),
            ax=ax,
            cmap=shades,
            norm=LogNorm(low, high),
            rasterized=True,
            cbar_ax=bar_ax,
            xticklabels=False,
            yticklabels=False,
        )
    bar = ax.collections[0].colorbar
    if bar is not None and bar.solids is not None:
        bar.solids.set_rasterized(True)
        bar.outline.set(visible=True, edgecolor=GRID, linewidth=0.8)
    ticks = np.geomspace(low, high, 3)
    bar_ax.yaxis.set_major_locator(FixedLocator(ticks.tolist()))
    bar_ax.yaxis.set_minor_locator(NullLocator())
    bar_ax.yaxis.set_major_formatter(FixedFormatter([format_number(float(tick)) for tick in ticks]))
    for spine in ax.spines.values():
        spine.set(visible=True, color=GRID)
    _name_rows(ax, [str(name) for name in over.values.index])
    _name_columns(ax, over)
    title(ax, heading)


def _name_rows(ax: Axes, layers: Sequence[str]) -> None:
    """Name the rows, every k-th where there are many."""
    room = max(2, int(_MOST_LABELS * min(1.0, 0.15 * len(layers) / 3.0)))
    step = -(-len(layers) // room)
    shown = range(0, len(layers), step)
    ax.yaxis.set_major_locator(FixedLocator([row + 0.5 for row in shown]))
    ax.yaxis.set_major_formatter(
        FixedFormatter([shorten_name(layers[row] or "(the model)", 28) for row in shown])
    )
    ax.tick_params(axis="y", rotation=0, labelsize=SMALL)


def _name_columns(ax: Axes, over: Binned) -> None:
    """Write steps under some of the columns."""
    count = len(over.first)
    shown = sorted({round(at) for at in np.linspace(0, count - 1, min(8, count))})
    ax.xaxis.set_major_locator(FixedLocator([column + 0.5 for column in shown]))
    ax.xaxis.set_major_formatter(FixedFormatter([f"{over.first[column]:,}" for column in shown]))
    ax.tick_params(axis="x", rotation=0)
    ax.set_xlabel("step", labelpad=3)


def _draw_lines(ax: Axes, found: OverTime) -> None:
    """Draw what changed most, and the same layers in the other phase."""
    use_log(ax.yaxis, log_limits([value for line in (*found.lines, *found.other) for value in line.values]))
    for lines, style, marker in ((found.lines, "-", None), (found.other, (0, (3, 2)), "o")):
        for number, line in enumerate(lines):
            sns.lineplot(
                x=line.steps,
                y=line.values,
                ax=ax,
                color=ROLE_COLOURS[number],
                linestyle=style,
                marker=marker,
                markersize=4,
                markeredgewidth=0,
                errorbar=None,
                legend=False,
            )
    label_ends(ax, [_label(number, line) for number, line in enumerate(found.lines)])
    ax.set(ylabel="", xlim=found.steps)
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    ax.set_xlabel("step", labelpad=3)
    dashed = f" (dashed: {found.other_phase})" if found.other else ""
    title(ax, f"Variance of the layers that changed most{dashed}")


def _label(number: int, line: Line) -> Label:
    name = shorten_name(line.layer or "(the model)", 14)
    return Label(f"{_WHERE[line.site]} {name}", line.values[-1], ROLE_COLOURS[number])
