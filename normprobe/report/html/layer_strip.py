"""The ledger strip: one cell per layer in order of execution, unseen layers at the end."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING

import pandas as pd

from normprobe.report.display_text import display_name
from normprobe.report.layer_summary import LINEAR
from normprobe.report.run_summary import unseen

if TYPE_CHECKING:
    from normprobe.tables.frames import Tables

# More would be narrower than a pointer can tell apart.
MOST_CELLS = 400
WIDTH, HEIGHT, LOW, WIDEST = 1000.0, 28, 8, 40.0
_RANK = {"linear": 0, "norm": 1, "flag": 2, "unseen": 3}


@dataclass(frozen=True)
class Cell:
    """One cell of the strip; lengths in the units of its 1000 x 28 view box."""

    look: str
    title: str
    layer: str
    x: float
    width: float

    @property
    def y(self) -> int:
        """Where the cell begins: Linear layers are low, all others tall."""
        return LOW if self.look == LINEAR else 4

    @property
    def height(self) -> int:
        """The cell's height down to the foot of the strip."""
        return HEIGHT - self.y - 1


def strip_cells(tables: Tables, findings: pd.DataFrame) -> list[Cell]:
    """Lay out the strip; with more than 400 layers a cell is several of them and shows the worst.

    Args:
        tables: the tables of a recording.
        findings: its findings; layers that an error or a warning names are flagged.

    Returns:
        Cells from left to right: fired layers in order of execution, then the unseen ones.
    """
    serious = findings[findings["severity"].isin(["error", "warning"])]["layer"]
    layers = _looks(tables, set(serious))
    group = max(1, ceil(len(layers) / MOST_CELLS))
    chunks = [layers[i : i + group] for i in range(0, len(layers), group)]
    # Few layers do not fill the strip: as wide blocks they would not look like layers any more.
    step = min(WIDEST, WIDTH / max(1, len(chunks)))
    gap = min(2.0, step * 0.2)
    return [_cell(chunk, i * step, step - gap) for i, chunk in enumerate(chunks)]


def _looks(tables: Tables, serious: set[str]) -> list[tuple[str, str, str]]:
    """List (look, title, layer) of every layer."""
    fired = tables.layers.drop_duplicates("layer").sort_values("depth", kind="stable")
    looks = []
    for layer, kind in zip(fired["layer"], fired["kind"], strict=True):
        look = LINEAR if kind == LINEAR else "norm"
        title = f"{display_name(tables, layer)} ({kind})"
        looks.append(("flag" if layer in serious else look, title, str(layer)))
    for row in unseen(tables.ledger).itertuples():
        name = display_name(tables, str(row.layer))
        looks.append(("unseen", f"{name} ({row.kind}): {row.status}", str(row.layer)))
    return looks


def _cell(chunk: list[tuple[str, str, str]], x: float, width: float) -> Cell:
    """One cell for some neighbouring layers: it looks like the worst of them."""
    look, title, layer = max(chunk, key=lambda entry: _RANK[entry[0]])
    if len(chunk) > 1:
        title = f"{title} and {len(chunk) - 1} more"
    return Cell(look, title, layer, round(x, 2), round(width, 2))
