"""The table of groups of samples, as page and terminal show it: the layers at which groups differ most."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from normprobe.formatting import format_count, format_number
from normprobe.report.display_text import display_name
from normprobe.tables.measures.groups import group_measures
from normprobe.vocabulary import group_order

if TYPE_CHECKING:
    from normprobe.tables.frames import Tables

MOST_GROUPS = 6
"""More columns than so many are not read."""


@dataclass(frozen=True)
class GroupRow:
    """A layer: the largest |value| and the variance of what each group reads, and how far groups differ."""

    layer: str
    name: str
    largest: tuple[str, ...]
    variances: tuple[str, ...]
    ratio: str


@dataclass(frozen=True)
class GroupTable:
    """Layers and groups.

    Attributes:
        groups: the names of the groups that are shown.
        intro: which samples are told apart, how many there are, and which layers are shown.
        rows: the layers, in order of execution.
    """

    groups: tuple[str, ...]
    intro: str
    rows: tuple[GroupRow, ...]


def group_table(tables: Tables, most: int) -> GroupTable | None:
    """The layers at which groups differ most.

    Args:
        tables: the tables of a recording.
        most: how many layers.

    Returns:
        The table; None where samples are not told apart.
    """
    found = group_measures(tables)
    if found.empty:
        return None
    # Layers may read only some of the samples; the most that one read is how many there are.
    counts = found.groupby("group")["n_samples"].max()
    largest = counts.sort_values(ascending=False, kind="stable").index[:MOST_GROUPS]
    groups = tuple(sorted(map(str, largest), key=group_order))
    ratios = found.drop_duplicates("layer").set_index("layer")["ratio"]
    # Stable, so that of equal layers the same are shown on every run.
    chosen = ratios.sort_values(ascending=False, kind="stable").index[:most]
    wide = {
        name: found.pivot(index="layer", columns="group", values=name) for name in ("abs_max", "variance")
    }
    rows = tuple(
        GroupRow(
            layer,
            display_name(tables, layer),
            _cells(wide["abs_max"], layer, groups),
            _cells(wide["variance"], layer, groups),
            "–" if pd.isna(ratios[layer]) else f"{format_number(float(ratios[layer]))}×",
        )
        for layer in map(str, ratios.index)
        if layer in set(chosen)
    )
    return GroupTable(groups, _intro(counts, groups, len(rows), len(ratios)), rows)


def _cells(wide: pd.DataFrame, layer: str, groups: tuple[str, ...]) -> tuple[str, ...]:
    row = wide.loc[layer].to_dict()
    return tuple(format_number(float(row[group])) for group in groups)


def _intro(counts: pd.Series, groups: tuple[str, ...], shown: int, total: int) -> str:
    parts = ", ".join(f"{int(counts[group]):,} {group}" for group in groups)
    more = len(counts) - len(groups)
    parts += f" and {format_count(more, 'smaller group')}" if more else ""
    which = (
        "in order of execution" if shown == total else f"the {shown:,} of {total:,} layers that differ most"
    )
    return f"Samples: {parts}. What they read, {which}"
