"""Where two models diverge: the error at every layer over depth, against what noise gives."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from normprobe.figures.drawing.axes import Label, foot, label_ends, title
from normprobe.figures.drawing.canvas import Facts, Plan, column_hits, place
from normprobe.figures.drawing.depth_axis import DepthAxis, margins, prepare, span
from normprobe.figures.drawing.palette import ACCENT, INK, MUTED, SMALL, SURFACE, site_look
from normprobe.formatting import format_count, format_db, format_number, shorten_name
from normprobe.vocabulary import INPUT, OUTPUT, in_order

if TYPE_CHECKING:
    from normprobe.divergence import Differences
    from normprobe.divergence.differences import HasDifferences


_LOWEST = 30.0  # dB that the axis of errors spans at least
_ASIDE = 0.16  # columns from the middle of a layer to its input and its output


def divergence_profile(comparison: HasDifferences | Differences, *, ax: Any = None) -> Any:
    """Draw the error at each site of every layer in order of execution, and what arises there.

    Errors are noise power over signal power in dB. There is a second chart where error beyond the noise
    arises; never of other data, where nothing tells what a layer introduces.

    Args:
        comparison: what `compare` or `compare_live` returned.
        ax: axes, as many as there are charts; new ones by default.

    Returns:
        The Axes, or an array of two: errors, what is introduced.

    Raises:
        ValueError: `ax` holds another number of axes.
    """
    return place(plan(comparison), ax)


@dataclass(frozen=True)
class Divergences:
    """The numbers of the figure.

    Attributes:
        depth: the columns, one per layer.
        rows: a row per layer and site, in order, with `column` and `x`, beside the comparison's own columns.
        sites: the sites compared, in order.
        same: whether samples pair.
        first: the row of the first divergence, None without one.
    """

    depth: DepthAxis
    rows: pd.DataFrame
    sites: tuple[str, ...]
    same: bool
    first: pd.Series | None


def summarize(comparison: HasDifferences | Differences) -> Divergences:
    """Take from a comparison what the figure shows."""
    found = cast("Differences", getattr(comparison, "differences", comparison))
    rows = found.layers
    each = rows.drop_duplicates("layer")
    depth = DepthAxis(tuple(map(str, each["layer"])), tuple(map(str, each["kind"])), noun="layer")
    column = rows["layer"].map({layer: at for at, layer in enumerate(depth.layers)}).astype(int)
    sites = in_order([*rows["site"], INPUT, OUTPUT])
    reach = _ASIDE * min(2.0, (len(sites) - 1) ** 0.5)  # more sites take more room, up to a neighbour's
    aside = dict(zip(sites, np.linspace(-reach, reach, len(sites)), strict=True))
    rows = rows.assign(column=column, x=column + rows["site"].map(aside).astype(float))
    beyond = rows[rows["beyond"]]
    drawn = in_order(rows["site"])
    # Rows are in order of execution, input before output: the first of these is where the two differ.
    first = None if beyond.empty else beyond.iloc[0]
    return Divergences(depth, rows, drawn, bool(found.facts["same_data"]), first)


def plan(comparison: HasDifferences | Differences) -> Plan:
    """Decide the figure."""
    found = summarize(comparison)
    charts = [_errors, _introduced] if found.same and found.rows["introduces"].any() else [_errors]

    def draw(axes: Sequence[Axes]) -> None:
        """Draw each chart on the same columns."""
        for index, (ax, chart) in enumerate(zip(axes, charts, strict=True)):
            span(ax, found.depth)
            chart(ax, found)
            prepare(ax, found.depth, last=index == len(charts) - 1)

    return Plan(
        title="Where they diverge",
        caption=caption(found),
        aria_label=aria_label(found),
        draw=draw,
        heights=(2.4, 1.5)[: len(charts)],
        margins=margins(found.depth),
        hits=column_hits(numbers(found)),
        facts=facts(found),
    )


def _errors(ax: Axes, found: Divergences) -> None:
    """Draw errors of inputs and outputs, the noise, and where the first divergence is."""
    rows = found.rows
    _limit(ax, rows)
    # Without noise it is −∞ dB, without signal ∞: neither has a height.
    noise = rows.groupby("column")["noise_db"].max().replace([np.inf, -np.inf], np.nan)
    ax.step(noise.index, noise, where="mid", color=ACCENT, linewidth=0.9, linestyle=(0, (4, 2)))
    _points(ax, found, "error_db")
    limit = noise.dropna()
    words = "rounding: no divergence" if found.same else "typical of sampling"
    _label(ax, found, "error_db", [Label(words, float(limit.iloc[-1]), ACCENT)] if len(limit) else [])
    further = " and further sites" if set(found.sites) - {INPUT, OUTPUT} else ""
    title(ax, f"Error at the layer’s input and output{further}, dB (noise power ÷ signal power)")
    if found.first is not None:
        _name_first(ax, found)


def _introduced(ax: Axes, found: Divergences) -> None:
    """Draw what arises at each place, where that is more than noise and what was inherited explain."""
    _limit(ax, found.rows)
    own = found.rows[found.rows["introduces"]]
    for site in found.sites:
        mine = own[own["site"] == site]
        # Nothing introduced is −∞ dB.
        heights = mine["introduced_db"].clip(*ax.get_ylim())
        ax.vlines(
            mine["x"], ax.get_ylim()[0], heights, color=site_look(site).colour, linewidth=1.4, alpha=0.8
        )
    _points(ax, found, "introduced_db", own)
    title(ax, "What arises there: between the layers (input) or in the layer (output), dB")


def _limit(ax: Axes, rows: pd.DataFrame) -> None:
    """Span the axis from the lowest finite error or noise to the highest, the same in both charts."""
    finite = rows[["error_db", "noise_db"]].to_numpy(float).ravel()
    finite = finite[np.isfinite(finite)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (-_LOWEST, 0.0)
    high = max(high, low + _LOWEST)
    room = 0.07 * (high - low)
    ax.set_ylim(low - room, high + (2 if rows["beyond"].any() else 1) * room)  # on top, a line of text
    ax.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 4, 5, 10]))
    ax.grid(True, axis="y")


def _points(ax: Axes, found: Divergences, column: str, rows: pd.DataFrame | None = None) -> None:
    """Draw a marker per layer and site; a place without any error at the foot."""
    shown = found.rows if rows is None else rows
    size = 6.0 if found.depth.many else 17.0
    for site in found.sites:
        mine, look = shown[shown["site"] == site], site_look(site)
        finite = mine[np.isfinite(mine[column])]
        sns.scatterplot(
            x=finite["x"], y=finite[column], ax=ax, s=size, facecolor=look.face, edgecolor=look.colour,
            marker=look.marker, linewidth=0.9, legend=False, zorder=4,
        )  # fmt: skip
        if not found.depth.many:
            foot(ax, list(mine.loc[mine[column] == -np.inf, "x"]), look.colour, fill=look.face)
        foot(ax, list(mine.loc[mine[column] == np.inf, "x"]), ACCENT, marker="X", fill=SURFACE)
    ax.set(xlabel="", ylabel="")


def _label(ax: Axes, found: Divergences, column: str, labels: list[Label]) -> None:
    """Name the sites and the noise at the right end."""
    for site in found.sites:
        look = site_look(site)
        values = found.rows.loc[found.rows["site"] == site, column]
        finite = values[np.isfinite(values)]
        if len(finite):
            word = site if site in (INPUT, OUTPUT) else look.label
            labels = [Label(f"{look.sign} {word}", float(finite.iloc[-1]), look.colour), *labels]
    label_ends(ax, labels)


def _name_first(ax: Axes, found: Divergences) -> None:
    """Mark the first divergence by a line over the chart, and write its name on the side with room."""
    first = found.first
    assert first is not None
    x, columns = float(first["x"]), len(found.depth.layers)
    ax.axvline(x, color=INK, linewidth=0.7, zorder=1)
    left = x > columns / 2
    ax.annotate(
        f"first: {shorten_name(str(first['layer']), 40)} ({first['site']})",
        (x, 1.0),
        xycoords=("data", "axes fraction"),
        xytext=(-4 if left else 4, -3),
        textcoords="offset points",
        ha="right" if left else "left",
        va="top",
        fontsize=SMALL,
        color=MUTED,
    )


def facts(found: Divergences) -> Facts:
    """What the caption states: how many layers differ, where first, and by how much at most."""
    beyond = found.rows.groupby("layer", sort=False)["beyond"].any()
    first = found.first
    return {
        "same_data": found.same,
        "sites": found.sites,
        "layers": len(found.depth.layers),
        "layers_beyond": int(beyond.sum()),
        "first": None if first is None else (str(first["layer"]), str(first["site"])),
        "largest_db": float(found.rows["error_db"].max()),
    }


def caption(found: Divergences) -> str:
    """What to look at, with the facts in it."""
    stated = facts(found)
    looks = [site_look(site) for site in found.sites if site not in (INPUT, OUTPUT)]
    further = "".join(f"; {look.sign} {look.label}" for look in looks)
    legend = f"Blue, hollow: a layer’s input; orange, filled: its output{further}."
    runs = [f"{legend} Points on the lower edge: no error."]
    if found.same:
        runs.append(
            "Dots below the dashed line are rounding; a step up marks where the two begin to differ. "
            "−20 dB is a tenth of the signal, −40 dB a hundredth."
        )
        if stated["first"]:
            runs.append("**Bottom:** what a layer adds to the error that it was given, beyond rounding.")
    else:
        runs.append(
            "The two saw other data: the errors are those of means and variances, and the dashed line is "
            "what chance alone gives if the rows of each example are alike. Which layers differ is "
            "for the test to say, not for the line."
        )
    if not stated["first"]:
        return " ".join([*runs, "Nothing lies beyond the noise."])
    layers = format_count(stated["layers"], "layer")
    return " ".join([*runs, f"{stated['layers_beyond']:,} of {layers} differ beyond the noise."])


def aria_label(found: Divergences) -> str:
    """One sentence for those who do not see the figure."""
    stated = facts(found)
    where = "none beyond the noise"
    if stated["first"]:
        where = "first beyond the noise at {} ({})".format(*stated["first"])
    layers = format_count(stated["layers"], "layer")
    return f"Error of {layers} in order of execution, at most {format_db(stated['largest_db'])}; {where}."


def numbers(found: Divergences) -> Iterator[tuple[str, str]]:
    """Each layer and its numbers, as hovering shows them."""
    for layer, rows in found.rows.groupby("layer", sort=False):
        lines = [str(layer)]
        for row in rows.to_dict("records"):
            words = f"{row['site']}: error {format_db(row['error_db'])}"
            if row["beyond"] and found.same:
                words += f", inherited {format_db(row['inherited_db'])}"
                words += f", introduced {format_db(row['introduced_db'])}"
            if not found.same:
                words += f", p = {format_number(row['likely'])}"
            lines.append(words)
        yield str(layer), "\n".join(lines)
