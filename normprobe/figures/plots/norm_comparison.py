"""Recordings of one network with different norms, side by side: variances, order in a sample, batch size."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter

from normprobe.figures.data import layer_statistics
from normprobe.figures.data.norm_comparison import change_with_batch, order_within_samples
from normprobe.figures.drawing.axes import Label, foot, label_ends, log_limits, note, title, use_log
from normprobe.figures.drawing.canvas import Plan, place
from normprobe.figures.drawing.depth_axis import prepare
from normprobe.figures.drawing.palette import INK, ROLE_COLOURS, ROLE_DASHES, SURFACE, site_look
from normprobe.formatting import sample_word, shorten_name
from normprobe.tables.frames import Tables
from normprobe.vocabulary import in_order

if TYPE_CHECKING:
    from normprobe.tables.frames import HasTables

BAND = (0.05, 0.5, 0.95)
_BY_NAME = 'recordings by what to call them, such as {"LayerNorm": recording, "BatchNorm": other}'
_BY_SIZE = 'recordings by name and batch size, such as {"BatchNorm": {1: recording, 16: other}}'
_SIDE = 0.16  # of a recording's room, from its middle to the outer boxes
_SHIFT = 0.06  # of a column, between the bars of neighbouring recordings


def norm_variances(
    recordings: Mapping[str, Tables | HasTables], layer: str | None = None, *, ax: Any = None
) -> Any:
    """Draw both variances of one norm before and after it, a box for each recording and site.

    Left the variances per feature, right those per kept sample: population variances (divided by n). Boxes
    hold half of them, whiskers 90 %. LayerNorm and RMSNorm equalise the right ones, BatchNorm the left.

    Args:
        recordings: recordings of the same network with different norms, by what to call them.
        layer: a norm that fired in all of them; by default their first.
        ax: an array of two axes; new ones by default.

    Returns:
        Array of two axes: per feature, per sample.

    Raises:
        ValueError: `ax` holds another number of axes, no norm fired in all recordings, or they have no
            names.
    """
    tables = _named(recordings, "norm_variances")
    norm = _shared(tables, layer)[0]
    first = next(iter(tables.values()))
    unit = sample_word(first.meta, layer_statistics.unit_of(layer_statistics.norms(first).loc[[norm]]))

    def draw(axes: Sequence[Axes]) -> None:
        """Draw features left, samples right."""
        for chart, table, of in zip(axes, ("features", "samples"), ("feature", unit), strict=True):
            _boxes(chart, tables, norm, table)
            title(chart, f"Variance per {of}" + (f", norm {shorten_name(norm, 30)}" if norm else ""))

    plan = Plan(
        title="Both variances, before and after",
        caption="",
        aria_label=f"Variances per feature and per {unit} before and after {norm} in {', '.join(tables)}.",
        draw=draw,
        heights=(2.2,),
        columns=2,
        margins=(0.78, 0.7, 0.4, 0.34),
        gaps=(0.9, 0.5),
    )
    return place(plan, ax)


def _boxes(ax: Axes, tables: Mapping[str, Tables], layer: str, table: str) -> None:
    """Draw per recording a hollow box before and a filled one after; the foot marks variances of 0."""
    rows = [layer_statistics.of_layers(getattr(source, table), [layer]) for source in tables.values()]
    sites = in_order(site for frame in rows for site in frame["site"])
    variances = {
        site: [frame.loc[frame["site"] == site, "variance"].dropna().to_numpy(float) for frame in rows]
        for site in sites
    }
    use_log(ax.yaxis, log_limits([1.0, *(v for data in variances.values() for one in data for v in one)]))
    ax.axhline(1, color=INK, linewidth=0.7, zorder=0)
    labels = []
    for side, (site, data) in zip(np.linspace(-_SIDE, _SIDE, len(sites)), variances.items(), strict=True):
        look = site_look(site)
        x = np.arange(len(data)) + side
        above = [one[one > 0] for one in data]
        # Not seaborn's: it passes matplotlib an argument that 3.11 warns about and 3.13 will not take.
        boxes = ax.boxplot(
            above,
            positions=x,
            widths=0.52 / max(2, len(sites)),
            whis=(5, 95),
            showfliers=False,
            patch_artist=True,
            manage_ticks=False,
        )
        _colour(boxes, site)
        foot(ax, [at for at, one in zip(x, data, strict=True) if (one == 0).any()], look.colour)
        if above[-1].size:
            labels.append(Label(look.label, float(np.median(above[-1])), look.colour))
    ax.set_xlim(-0.5, len(tables) - 0.5)
    ax.set_xticks(range(len(tables)), [shorten_name(name, 24) for name in tables], color=INK)
    label_ends(ax, labels)


def _colour(boxes: dict[str, list[Any]], site: str) -> None:
    """Colour boxes, whiskers and medians by site: hollow before the norm, else filled."""
    look = site_look(site)
    for box in boxes["boxes"]:
        box.set(facecolor=look.face, edgecolor=look.colour, linewidth=1.2)
    for line in [*boxes["whiskers"], *boxes["caps"]]:
        line.set(color=look.colour, linewidth=1.1)
    for line in boxes["medians"]:
        line.set(color=look.colour if look.face == SURFACE else INK, linewidth=1.5)


def order_kept(recordings: Mapping[str, Tables | HasTables], *, ax: Axes | None = None) -> Axes:
    """Draw how well each norm keeps the order of the features within a sample, a line for each recording.

    Spearman's rank correlation of a row before and after the norm, without the norm's own scale and shift:
    median and 5-95 % of the kept rows. 1 means that the order is kept.

    Args:
        recordings: recordings of the same network with different norms, by what to call them.
        ax: where to draw; new axes by default.

    Returns:
        The axes.

    Raises:
        ValueError: no norm fired in all recordings, or they have no names.
        NoSamplesError: a recording keeps no raw rows.
    """
    tables = _named(recordings, "order_kept")
    common = _shared(tables, None)
    norms = layer_statistics.norms(next(iter(tables.values())))
    depth = layer_statistics.depth_axis(norms[norms["layer"].isin(common)])
    found = {
        name: pd.DataFrame(
            [order_within_samples(source, layer)["order"].quantile(list(BAND)) for layer in depth.layers]
        ).reset_index(drop=True)
        for name, source in tables.items()
    }

    def draw(axes: Sequence[Axes]) -> None:
        """Draw a line per recording."""
        chart = axes[0]
        low = min([0.0, *(float(frame.min().min()) for frame in found.values())])
        chart.set_ylim(1.05 * low - 0.04, 1.06)
        _lines(chart, found)
        prepare(chart, depth, last=True)
        title(chart, "Order of the features within a sample: rank correlation of before and after (1 = kept)")

    words = ("The order within a sample", "Rank correlation of the features before and after each norm in")
    drawn: Axes = place(_of_lines(words[0], f"{words[1]} {', '.join(tables)}.", draw, below=0.62), ax)
    return drawn


def batch_sensitivity(
    recordings: Mapping[str, Mapping[int, Tables | HasTables]],
    layer: str | None = None,
    *,
    ax: Axes | None = None,
) -> Axes:
    """Draw how far a norm's output for one sample depends on the size of the batch that it is in.

    The distance of a kept row after the norm from the same row in the largest batches, ÷ the latter's length:
    median and 5-95 %. 0 means that the others in the batch do not matter.

    Args:
        recordings: for each name, recordings of the same data in the same order by batch size, run in
            training mode where that matters. A size that a norm cannot take may be missing.
        layer: a norm that fired in all of them; by default their first.
        ax: where to draw; new axes by default.

    Returns:
        The axes.

    Raises:
        ValueError: no norm fired in all recordings, or they are not by name and batch size.
        NoSamplesError: a recording keeps no raw rows, or shares none with the largest batches.
    """
    if not isinstance(recordings, Mapping) or not recordings:
        raise ValueError(f"batch_sensitivity takes {_BY_SIZE}; got {type(recordings).__name__}")
    by_name = {
        name: _named(sizes, "batch_sensitivity", _BY_SIZE, str(name)) for name, sizes in recordings.items()
    }
    every = {f"{name} {size}": source for name, sizes in by_name.items() for size, source in sizes.items()}
    norm = _shared(every, layer)[0]
    sizes = sorted({size for found in by_name.values() for size in found})
    found = {name: _changes(sources, norm, sizes) for name, sources in by_name.items()}
    gaps = [
        f"{name}: not run with {size:,}" for name in by_name for size in sizes if size not in by_name[name]
    ]

    def draw(axes: Sequence[Axes]) -> None:
        """Draw a line per name."""
        chart = axes[0]
        # At least 0.1: rounding, all that a norm within samples shows, is not to fill the chart.
        chart.set_ylim(-0.02, 1.08 * max([0.1, *(float(frame.max().max()) for frame in found.values())]))
        chart.set_xlim(-0.4, len(sizes) - 0.6)
        _lines(chart, found)
        chart.xaxis.set_major_locator(FixedLocator(list(range(len(sizes)))))
        chart.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{sizes[int(x)]:,}"))
        chart.set_xlabel("batch size")
        note(chart, "\n".join(gaps), x=0.98, y=0.96, ha="right", va="top")
        title(chart, f"How far one sample's output is from that in batches of {sizes[-1]:,}, ÷ its length")

    label = f"Change of the output after {norm} with batches of {', '.join(map(str, sizes))}."
    drawn: Axes = place(_of_lines("Sensitivity to the batch size", label, draw, below=0.5), ax)
    return drawn


def _changes(sources: Mapping[int, Tables], norm: str, sizes: list[int]) -> pd.DataFrame:
    """Quantiles over the kept rows of how far they move, a row per batch size."""
    changes = change_with_batch(sources, norm).groupby("batch")["change"]
    return changes.quantile(np.array(BAND)).unstack().reindex(sizes).reset_index(drop=True)


def _named(recordings: Any, call: str, form: str = _BY_NAME, of: str = "") -> dict[Any, Tables]:
    """The tables of recordings by name, or by batch size.

    Args:
        recordings: as they were given.
        call: the function that they were given to.
        form: what it takes.
        of: of which name the recordings are, where they are by batch size.

    Raises:
        ValueError: they are not of the form, or there is none.
    """
    what = f" for {of!r}" if of else ""
    if not isinstance(recordings, Mapping):
        raise ValueError(f"{call} takes {form}; got {type(recordings).__name__}{what}")
    if not recordings:
        raise ValueError(f"there is no recording to draw; {call} takes {form}")
    tables = {name: layer_statistics.tables_of(source) for name, source in recordings.items()}
    wrong = [name for name, found in tables.items() if not hasattr(found, "layers")]
    if wrong:
        got = type(recordings[wrong[0]]).__name__
        raise ValueError(f"{call} takes {form}; got {got} at {wrong[0]!r}{what}")
    if of and not all(isinstance(size, int) for size in tables):
        raise ValueError(f"{call} takes {form}; got {', '.join(map(repr, tables))} for the sizes of {of!r}")
    return tables


def _shared(tables: Mapping[str, Tables], layer: str | None) -> list[str]:
    """The norms that fired in all recordings, in the order of the first; only `layer` if given.

    Raises:
        ValueError: there is none, or `layer` is not one.
    """
    fired = {name: list(map(str, layer_statistics.norms(source)["layer"])) for name, source in tables.items()}
    common = [norm for norm in next(iter(fired.values())) if all(norm in norms for norms in fired.values())]
    if layer is None and common:
        return common
    if layer is not None and layer in common:
        return [layer]
    wanted = "a norm" if layer is None else f"the norm {layer!r}"
    listed = "; ".join(
        f"{name}: {', '.join(map(repr, norms[:3])) or 'none'}" for name, norms in fired.items()
    )
    raise ValueError(f"{wanted} must have fired in all {len(tables)} recordings; norms of {listed}")


def _of_lines(heading: str, aria_label: str, draw: Callable[[Sequence[Axes]], None], *, below: float) -> Plan:
    """The figure of one chart with a line for each recording, named at its right end.

    Args:
        heading: of its section.
        aria_label: one sentence.
        draw: puts it on its axes.
        below: room below the chart, inches.
    """
    return Plan(heading, "", aria_label, draw, heights=(2.0,), margins=(0.78, 1.9, below, 0.34))


def _lines(ax: Axes, found: Mapping[str, pd.DataFrame]) -> None:
    """Draw a median and a bar from 5 to 95 % per column of the axis, a line for each recording.

    Args:
        ax: where.
        found: by recording, a row per column of the axis with quantiles 0.05, 0.5 and 0.95.
    """
    labels = []
    for index, (name, rows) in enumerate(found.items()):
        colour, dashes = ROLE_COLOURS[index % len(ROLE_COLOURS)], ROLE_DASHES[index % len(ROLE_DASHES)]
        low, middle, high = (rows[share].dropna() for share in BAND)
        if middle.empty:
            continue
        x = middle.index + _SHIFT * (index - (len(found) - 1) / 2)
        ax.vlines(x, low, high, color=colour, linewidth=1.4, alpha=0.6)
        sns.lineplot(x=x, y=middle, color=colour, dashes=False, estimator=None, legend=False, ax=ax)
        ax.lines[-1].set(linestyle=(0, dashes) if dashes else "solid", marker="o", markersize=4)
        labels.append(Label(name, float(middle.iloc[-1]), colour, colour, (0, dashes) if dashes else "solid"))
    ax.set(xlabel="", ylabel="")
    ax.grid(axis="y")
    label_ends(ax, labels)
