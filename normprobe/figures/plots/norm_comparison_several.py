"""Several recordings in one figure: their tables, the norms they share, and a line for each."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import TYPE_CHECKING, TypeVar

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes

from normprobe.figures.data import by_depth
from normprobe.figures.drawing.axes import Label, label_ends
from normprobe.figures.drawing.palette import ROLE_COLOURS, ROLE_DASHES

if TYPE_CHECKING:
    from normprobe.recording import Recording
    from normprobe.tables import Tables

BAND = (0.05, 0.5, 0.95)
_SHIFT = 0.06  # of a column, between the bars of neighbouring recordings

Name = TypeVar("Name", bound=Hashable)


def named(recordings: Mapping[Name, Tables | Recording]) -> dict[Name, Tables]:
    """Return the tables of recordings by name, refusing none at all."""
    if not recordings:
        raise ValueError("there is no recording to draw; give at least one, by what to call it")
    return {name: by_depth.tables_of(source) for name, source in recordings.items()}


def shared(tables: Mapping[str, Tables], layer: str | None) -> list[str]:
    """Return the norms that fired in all recordings, in the order of the first; only `layer` if given.

    Raises:
        ValueError: there is none, or `layer` is not one.
    """
    fired = {name: list(map(str, by_depth.norms(source)["layer"])) for name, source in tables.items()}
    common = [norm for norm in next(iter(fired.values())) if all(norm in norms for norms in fired.values())]
    if layer is None and common:
        return common
    if layer is not None and layer in common:
        return [layer]
    wanted = "a norm" if layer is None else f"the norm {layer!r}"
    told = "; ".join(f"{name}: {', '.join(map(repr, norms[:3])) or 'none'}" for name, norms in fired.items())
    raise ValueError(f"{wanted} must have fired in all {len(tables)} recordings; norms of {told}")


def lines(ax: Axes, found: Mapping[str, pd.DataFrame]) -> None:
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
