"""BatchNorm's running statistics against what the layer observed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from normprobe.figures.data import layer_statistics
from normprobe.figures.drawing.axes import Label, foot, label_ends, log_limits, title
from normprobe.figures.drawing.canvas import Facts, Plan, column_hits, place
from normprobe.figures.drawing.depth_axis import DepthAxis, margins, prepare
from normprobe.figures.drawing.palette import ACCENT, BEFORE, INK, SURFACE
from normprobe.formatting import format_count, format_number, format_range, format_tick, sample_word
from normprobe.tables.measures.running_statistics import running_channels
from normprobe.vocabulary import INPUT

if TYPE_CHECKING:
    from normprobe.tables.frames import HasTables, Tables


QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
FEW = 1000  # values per channel; the standard error of a variance is √(2/n) of it, 4 % here


def running_statistics(tables: Tables | HasTables, *, ax: Any = None) -> Any:
    """Draw how far BatchNorm's running mean and variance are from what the layer itself observed.

    Observed variances are multiplied by n/(n - 1), as the running variance collects them; eps is added to
    both, as the layer does.

    Args:
        tables: a recording or its tables.
        ax: an array of two axes; new ones by default.

    Returns:
        Array of two axes: means, variances.

    Raises:
        ValueError: `ax` holds another number of axes, or no BatchNorm has running statistics.
    """
    return place(plan(layer_statistics.tables_of(tables)), ax)


@dataclass(frozen=True)
class RunningStatistics:
    """The numbers of the figure.

    Attributes:
        depth: the columns.
        means: a row per column: quantiles over channels of (observed - running) ÷ running standard deviation,
            the layer's eps included.
        variances: the same of observed ÷ running variance.
        constant: channels left out because they vary by no more than rounding.
        channels: how many channels there are.
        nonfinite: columns whose input has NaN or Inf.
        trained: how many of the layers ran in train mode.
        values: the fewest and the most values seen per channel.
        examples: the most examples that a layer saw.
        example: what one of them is called, in the right number.
    """

    depth: DepthAxis
    means: pd.DataFrame
    variances: pd.DataFrame
    constant: int
    channels: int
    nonfinite: tuple[int, ...]
    trained: int
    values: tuple[int, int]
    examples: int
    example: str


def supported(tables: Tables) -> bool:
    """Whether any BatchNorm has running statistics."""
    return not running_channels(tables).empty


def summarize(tables: Tables) -> RunningStatistics:
    """Take from the tables what the figure shows.

    Raises:
        ValueError: no BatchNorm has running statistics.
    """
    channels = running_channels(tables)
    if channels.empty:
        raise ValueError("no BatchNorm of this recording has running statistics")
    norms = layer_statistics.norms(tables, INPUT)
    norms = norms[norms["layer"].isin(channels["layer"])]
    order, examples = list(norms["layer"]), int(norms["n_samples"].max())
    frame, count = channels[~channels["constant"]], channels["count"]
    means, logarithms = (
        layer_statistics.quantiles(frame, QUANTILES, column)
        .droplevel("site")
        .reindex(order)
        .reset_index(drop=True)
        for column in ("shift", "log_variance_ratio")
    )
    return RunningStatistics(
        depth=layer_statistics.depth_axis(norms),
        means=means,
        # Between two channels a quantile lies in the middle of their logarithms, as on the axis.
        variances=logarithms.map(np.exp),
        constant=int(channels["constant"].sum()),
        channels=len(channels),
        nonfinite=tuple(int(i) for i in np.flatnonzero(norms["nonfinite"].to_numpy() > 0)),
        trained=_in_train_mode(tables, norms),
        values=(int(count.min()), int(count.max())),
        examples=examples,
        example=sample_word(tables.meta, "example", examples),
    )


def _in_train_mode(tables: Tables, norms: pd.DataFrame) -> int:
    """How many of these norms ran in train mode, where running statistics are not used."""
    training = tables.ledger.set_index("layer")["training"].reindex(norms["layer"])
    return int(training.astype("string").str.contains("train").fillna(False).sum())


def plan(tables: Tables) -> Plan:
    """Decide the figure."""
    found = summarize(tables)

    def draw(axes: Sequence[Axes]) -> None:
        """Draw means above, variances below."""
        _means(axes[0], found)
        _variances(axes[1], found)
        for ax in axes:
            foot(ax, found.nonfinite, ACCENT, marker="X", fill=SURFACE)
            prepare(ax, found.depth, last=ax is axes[1])

    return Plan(
        title="Do the running statistics fit this data?",
        caption=caption(found),
        aria_label=aria_label(found),
        draw=draw,
        heights=(1.75, 1.75),
        margins=margins(found.depth, right=1.2),
        hits=column_hits(numbers(found)),
        facts=facts(found),
    )


def _means(ax: Axes, found: RunningStatistics) -> None:
    """Draw the standardised differences of the means."""
    finite = found.means.to_numpy()[np.isfinite(found.means.to_numpy())]
    # At least half a standard deviation, so that what sampling leaves does not fill the chart.
    reach = max(0.5, float(np.abs(finite).max()) if finite.size else 0)
    ax.set_ylim(-1.08 * reach, 1.08 * reach)
    ax.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: format_number(value)))
    ax.grid(axis="y")
    ax.axhline(0, color=INK, linewidth=0.9)
    _boxes(ax, found, found.means)
    label_ends(ax, [Label("agreement", 0, INK)])
    title(ax, "Mean: (observed − running) ÷ running standard deviation")


def _variances(ax: Axes, found: RunningStatistics) -> None:
    """Draw the ratios of the variances."""
    values = np.append(found.variances.to_numpy().ravel(), [1.0])
    low, high = log_limits(values, room=16)
    ax.set_yscale("log")
    ax.set_ylim(low, high)
    base = 4.0 if high / low < 4.0**8 else 10.0
    powers = range(int(np.ceil(np.log(low) / np.log(base))), int(np.floor(np.log(high) / np.log(base))) + 1)
    step = max(1, -(-len(powers) // 7))
    ax.yaxis.set_major_locator(FixedLocator([base**p for p in powers if p % step == 0]))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(
        FuncFormatter(lambda v, _: f"×{format_tick(round(v))}" if v >= 1 else f"÷{format_tick(round(1 / v))}")
    )
    ax.grid(axis="y")
    ax.axhline(1, color=INK, linewidth=0.9)
    _boxes(ax, found, found.variances)
    label_ends(ax, [Label("agreement", 1, INK)])
    title(ax, "Variance: observed ÷ running")


def _boxes(ax: Axes, found: RunningStatistics, rows: pd.DataFrame) -> None:
    """Draw per column thin 5-95 %, thick 25-75 % and the median; bands and a line where there are many."""
    x = rows.index[rows[0.5].notna()]
    rows = rows.loc[x]
    if found.depth.many:
        ax.fill_between(x, rows[0.05], rows[0.95], color=BEFORE, alpha=0.2, linewidth=0)
        ax.fill_between(x, rows[0.25], rows[0.75], color=BEFORE, alpha=0.4, linewidth=0)
        ax.plot(x, rows[0.5], color=BEFORE)
        return
    thick = float(np.clip(250 / len(found.depth.layers), 2.5, 7))
    ax.vlines(x, rows[0.05], rows[0.95], color=BEFORE, linewidth=1.1, alpha=0.7)
    ax.vlines(x, rows[0.25], rows[0.75], color=BEFORE, linewidth=thick)
    ax.plot(
        x,
        rows[0.5],
        "o",
        markersize=min(thick, 4.0) + 0.4,
        markerfacecolor=SURFACE,
        markeredgecolor=INK,
        markeredgewidth=1.0,
    )


def facts(found: RunningStatistics) -> Facts:
    """What the caption states: the mode, how much was seen, and what was left out."""
    middle = found.variances[0.5]
    return {
        "layers": len(found.depth.layers),
        "trained": found.trained,
        "examples": found.examples,
        "values_per_channel": found.values,
        "channels": found.channels,
        "constant_channels": found.constant,
        "variance_ratio": (middle.min(), middle.max()),
    }


def caption(found: RunningStatistics) -> str:
    """What to look at, with the facts in it."""
    text = "Each bar is one BatchNorm: **thick** half of its channels, **thin** 90 %, **circle** the median."
    text = f"{text} {_mode(facts(found))}. {_seen(found)}."
    if found.constant:
        channels = format_count(found.channels, "channel")
        text += f" {format_count(found.constant)} of {channels} do not vary and are left out."
    return text


def _mode(stated: Facts) -> str:
    """In which mode the layers ran, and what that means for the figure."""
    if trained := stated["trained"]:
        return (
            f"{trained} of {format_count(stated['layers'], 'layer')} ran in train mode, where the batch’s "
            "own statistics normalize and the running ones are not used"
        )
    return (
        "In evaluation mode the layer normalizes with the running numbers, so what lies off the line "
        "comes out neither centred nor of unit variance"
    )


def _seen(found: RunningStatistics) -> str:
    """How much the layers saw, and whether that is little."""
    low, high = found.values
    values = (
        format_count(low, "value") if low == high else f"{format_count(low)} to {format_count(high)} values"
    )
    noise = "; so few carry sampling error of their own" if low < FEW else ""
    return f"{format_count(found.examples)} {found.example} and {values} per channel were seen{noise}"


def aria_label(found: RunningStatistics) -> str:
    """One sentence for those who do not see the figure."""
    stated = facts(found)
    return (
        f"Running against observed statistics of {format_count(stated['layers'], 'BatchNorm')}: the median "
        f"channel’s observed variance ÷ the running one is {format_range(*stated['variance_ratio'])}."
    )


def numbers(found: RunningStatistics) -> Iterator[tuple[str, str]]:
    """Each layer and its numbers, as hovering shows them."""
    charts = {
        "mean, running standard deviations off": found.means,
        "variance, observed ÷ running": found.variances,
    }
    for column, layer in enumerate(found.depth.layers):
        lines = [layer]
        for word, frame in charts.items():
            low, middle, high = (format_number(frame.iloc[column][q]) for q in (0.05, 0.5, 0.95))
            lines.append(f"{word}: median {middle}, 90 % {low} to {high}")
        yield layer, "\n".join(lines)
