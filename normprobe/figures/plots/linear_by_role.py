"""Linear layers by role: what each projection writes, and how uneven what it reads is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from normprobe.figures.data import layer_statistics
from normprobe.figures.drawing.axes import Label, foot, label_ends, log_limits, title, use_log
from normprobe.figures.drawing.canvas import Facts, Plan, place, without_ticks
from normprobe.figures.drawing.palette import ACCENT, INK, MUTED, ROLE_COLOURS, ROLE_DASHES, SURFACE
from normprobe.formatting import (
    format_count,
    format_number,
    format_range,
    in_prose,
    role_labels,
    shorten_name,
    spots,
    text_width,
)
from normprobe.vocabulary import INPUT, OUTPUT

if TYPE_CHECKING:
    from normprobe.tables.frames import HasTables, Tables

# Between two layers any line rises or falls.
LEAST = 3  # Linear layers that make a role
_ROOM = 25  # letters beside a line


def linear_by_role(tables: Tables | HasTables, *, ax: Any = None) -> Any:
    """Draw over blocks, a line per role: the variance of the output, and how uneven the input's features are.

    A role is a name with its first integer replaced by ``*``. Variances are population variances.

    Args:
        tables: a recording or its tables.
        ax: an array of two axes; new ones by default.

    Returns:
        Array of two axes: variance of the output; worst ÷ median feature of the input's largest |value|.

    Raises:
        ValueError: `ax` holds another number of axes, or no role has three Linear layers.
    """
    return place(plan(layer_statistics.tables_of(tables)), ax)


@dataclass(frozen=True)
class LinearRoles:
    """The numbers of the figure.

    Attributes:
        lines: a row per Linear layer drawn: role, block, variance, ratio, nonfinite.
        labels: short name of each role, in order of execution.
        joined: roles that read the same tensor, as lists, in order.
        left_out: how many further roles there are.
    """

    lines: pd.DataFrame
    labels: dict[str, str]
    joined: tuple[tuple[str, ...], ...]
    left_out: int


def supported(tables: Tables) -> bool:
    """Whether a role has three Linear layers."""
    layers = tables.layers
    names = layers.loc[(layers["kind"] == "linear") & (layers["site"] == OUTPUT), "layer"]
    places = spots(list(map(str, names)))
    counts = Counter(spot.role for spot in places.values() if spot.block is not None)
    return any(count >= LEAST for count in counts.values())


def summarize(tables: Tables) -> LinearRoles:
    """Take from the tables what the figure shows.

    Raises:
        ValueError: no role has three Linear layers.
    """
    layers = tables.layers[tables.layers["kind"] == "linear"].sort_values("depth", kind="stable")
    output = layers[layers["site"] == OUTPUT].set_index("layer")
    frame = pd.DataFrame({"variance": output["variance"], "nonfinite": output["nonfinite"]})
    places = spots(list(map(str, frame.index)))
    frame["role"] = [places[str(layer)].role for layer in frame.index]
    frame["block"] = [places[str(layer)].block for layer in frame.index]
    frame = frame[frame["block"].notna()]
    counts = frame["role"].value_counts()
    frame = frame[frame["role"].isin(counts.index[counts >= LEAST])]
    if frame.empty:
        raise ValueError(f"no role has {LEAST} Linear layers: nothing to draw over blocks")
    logs = np.log(frame["variance"].where(frame["variance"] > 0)).groupby(frame["role"], sort=False)
    spread = (logs.max() - logs.min()).fillna(0)
    # A colour each: a line that changes little says least.
    widest = spread.sort_values(ascending=False, kind="stable").index[: len(ROLE_COLOURS)]
    # A line runs through the blocks, in whatever order they were executed.
    drawn = frame[frame["role"].isin(widest)].sort_values(["role", "block"])
    peaks = layer_statistics.peaks(tables, list(drawn.index))
    drawn = drawn.assign(ratio=peaks["ratio"].to_numpy())
    order = [role for role in dict.fromkeys(frame["role"]) if role in set(widest)]
    return LinearRoles(
        drawn, role_labels(order), _same_input(layers, drawn, order), len(spread) - len(widest)
    )


def _same_input(
    layers: pd.DataFrame, drawn: pd.DataFrame, order: Sequence[str]
) -> tuple[tuple[str, ...], ...]:
    """Group the roles whose inputs have equal moments in every block: they read the same tensor."""
    read = layers[layers["site"] == INPUT].set_index("layer")[["mean", "variance", "min", "max"]]
    groups: dict[tuple[Any, ...], list[str]] = {}
    for role in order:
        mine = drawn[drawn["role"] == role]
        # Equal to 12 digits, whatever the scale: sums in another order differ in the last ones.
        moments = (f"{value:.11e}" for value in read.reindex(mine.index).to_numpy(float).ravel())
        key = (tuple(mine["block"]), tuple(moments))
        groups.setdefault(key, []).append(role)
    return tuple(tuple(group) for group in groups.values())


def plan(tables: Tables) -> Plan:
    """Decide the figure."""
    found = summarize(tables)
    return Plan(
        title="Linear layers by role",
        caption=caption(found),
        aria_label=aria_label(found),
        draw=lambda axes: _draw(axes, found),
        heights=(2.7,),
        columns=2,
        margins=(0.62, 2.0, 0.5, 0.34),
        gaps=(2.1, 0.5),
        facts=facts(found),
    )


def _draw(axes: Sequence[Axes], found: LinearRoles) -> None:
    """Draw the outputs' variance left, the inputs' outliers right."""
    _chart(axes[0], found, "variance", [(role,) for role in found.labels])
    title(axes[0], "Variance of the output")
    _chart(axes[1], found, "ratio", found.joined)
    title(axes[1], "Input: worst ÷ median feature, largest |value|")


def _chart(ax: Axes, found: LinearRoles, column: str, groups: Sequence[tuple[str, ...]]) -> None:
    """Draw one line per group of roles over blocks, each named at its right end."""
    order = list(found.labels)
    use_log(ax.yaxis, log_limits(found.lines[column]))
    _lines(ax, found, column, [group[0] for group in groups])
    ends = []
    for group in groups:
        style = order.index(group[0])
        rows = found.lines[found.lines["role"] == group[0]]
        x, y = rows["block"].astype(float), rows[column].where(rows[column] > 0)
        dashes = (0.0, ROLE_DASHES[style]) if ROLE_DASHES[style] else "solid"
        foot(ax, list(x[rows[column] == 0]), ROLE_COLOURS[style])
        foot(ax, list(x[rows["nonfinite"] > 0]), ACCENT, marker="X", fill=SURFACE)
        if y.notna().any():
            at = float(y.dropna().iloc[-1])
            ends.append(Label(_joined(found, group), at, INK, ROLE_COLOURS[style], dashes))
    blocks = found.lines["block"].astype(float)
    pad = max(0.5, 0.02 * (blocks.max() - blocks.min()))
    ax.set_xlim(blocks.min() - pad, blocks.max() + pad)
    ax.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    ax.set_xlabel("block", color=MUTED)
    ax.set_ylabel("")
    # The only role of a plain Sequential is "*": there is nothing to tell apart.
    label_ends(ax, ends if order[1:] or order[0] != "*" else [])


def _lines(ax: Axes, found: LinearRoles, column: str, roles: list[str]) -> None:
    """Draw one line for each of these roles over blocks."""
    styles = [list(found.labels).index(role) for role in roles]
    rows = found.lines[found.lines["role"].isin(roles)]
    with without_ticks(ax):
        # All at once: seaborn takes as long for one line as for all.
        sns.lineplot(
            x=rows["block"].astype(float),
            y=rows[column].where(rows[column] > 0),
            hue=rows["role"].astype(object),
            style=rows["role"].astype(object),
            hue_order=roles,
            style_order=roles,
            palette=[ROLE_COLOURS[style] for style in styles],
            dashes=[ROLE_DASHES[style] for style in styles],
            linewidth=1.5,
            estimator=None,
            legend=False,
            ax=ax,
        )


def _joined(found: LinearRoles, group: tuple[str, ...]) -> str:
    """The labels of roles that share a line, as many as there is room for."""
    names = [found.labels[role] for role in group]
    for count in range(len(names), 1, -1):
        left = f" and {len(names) - count} more" if count < len(names) else ""
        if text_width(text := ", ".join(names[:count]) + left) <= _ROOM:
            return text
    left = f" and {len(names) - 1} more" if names[1:] else ""
    return shorten_name(names[0], _ROOM - len(left)) + left


def facts(found: LinearRoles) -> Facts:
    """What the caption states: the layer that writes most, the one whose input is most uneven, the roles."""
    return {
        "roles": len(found.labels),
        "writes_most": _highest(found.lines["variance"]),
        "reads_most_uneven": _highest(found.lines["ratio"]),
        "joined": tuple(group for group in found.joined if len(group) > 1),
        "left_out": found.left_out,
    }


def _highest(values: pd.Series[float]) -> tuple[str, float] | None:
    """The layer of the largest finite value, and that value."""
    finite = values[np.isfinite(values)]
    return (str(finite.idxmax()), float(finite.max())) if len(finite) else None


def caption(found: LinearRoles) -> str:
    """What to look at, with the facts in it."""
    stated = facts(found)
    text = "Layers whose names differ only in the block number share a line."
    text += " **Left:** a rising line writes ever more"
    if stated["writes_most"]:
        layer, variance = stated["writes_most"]
        text += f"; most, variance {format_number(variance)}, comes out of {in_prose(layer)}"
    text += ". **Right:** a high line is hard to quantize per tensor"
    if stated["reads_most_uneven"]:
        layer, ratio = stated["reads_most_uneven"]
        text += f"; highest, {format_number(ratio)}×, is what {in_prose(layer)} reads"
    text += "."
    if stated["joined"]:
        text += " Names on one line read the same tensor."
    if further := stated["left_out"]:
        text += f" {format_count(further, 'further role')} whose variance changes less: see the table."
    return text


def aria_label(found: LinearRoles) -> str:
    """One sentence for those who do not see the figure."""
    variances = found.lines["variance"]
    return (
        f"Linear layers by role over blocks, {format_count(len(found.labels), 'role')}: "
        f"variance of the output {format_range(variances.min(), variances.max())}; "
        f"worst ÷ median input feature up to {format_number(found.lines['ratio'].max())}."
    )


def numbers(_: LinearRoles) -> tuple[()]:
    """No layer has a stretch of its own here: lines cross, and the table has the numbers."""
    return ()
