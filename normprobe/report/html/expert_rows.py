"""The table of experts on the page: how each layer's tokens are spread over them, a row a layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from normprobe.formatting import format_count, format_number
from normprobe.report.display_text import heading
from normprobe.vocabulary import INPUT

if TYPE_CHECKING:
    from normprobe.tables.frames import Tables

_WIDTH, _HEIGHT = 160.0, 18.0
MOST_ROWS = 200
"""Layers that the page lists."""


@dataclass(frozen=True)
class ExpertRow:
    """A layer of experts as the page shows it.

    Attributes:
        name: of the module or list that holds the experts.
        experts: how many there are.
        tokens: rows that were routed to them.
        entropy: the entropy of their shares ÷ that of equal ones.
        bars: a line for each expert, its height its share, as the path of an SVG.
        stroke: how wide each line is.
        label: the shares in words.
        least: the smallest share.
        most: the largest share.
        dead: how many experts had no token.
    """

    name: str
    experts: int
    tokens: str
    entropy: str
    bars: str
    stroke: float
    label: str
    least: str
    most: str
    dead: int


def expert_rows(tables: Tables) -> list[ExpertRow]:
    """The layers of experts in order of execution; none where no experts were measured."""
    read = tables.experts
    read = read[read["site"] == INPUT]
    rows = []
    for layer, of in list(read.groupby("layer", sort=False))[:MOST_ROWS]:
        # NaN where no token reached any of the layer's experts.
        share = of["share"].fillna(0.0).to_numpy(np.float64)
        evenness = of["entropy"].iloc[0] / of["entropy_max"].iloc[0]
        least, most = (f"{value:.1%}" for value in (share.min(), share.max()))
        rows.append(
            ExpertRow(
                name=heading(str(layer)),
                experts=len(of),
                tokens=f"{int(of['tokens'].sum()):,}",
                entropy=format_number(float(evenness)),
                bars=_bars(share),
                # Narrower than its room, so that the lines of neighbours stay apart.
                stroke=round(0.7 * _WIDTH / len(of), 2),
                label=f"shares of {format_count(len(of), 'expert')}: {least} to {most}",
                least=least,
                most=most,
                dead=int((of["tokens"] == 0).sum()),
            )
        )
    return rows


def _bars(share: np.ndarray) -> str:
    """A line upwards for each expert; the longest is as high as there is room."""
    # Not 0, for heights are divided by it.
    step, longest = _WIDTH / len(share), max(float(share.max()), 1e-12)
    return "".join(
        f"M{(at + 0.5) * step:.4g} {_HEIGHT:g}V{_HEIGHT * (1 - value / longest):.4g}"
        for at, value in enumerate(share)
        if value > 0
    )
