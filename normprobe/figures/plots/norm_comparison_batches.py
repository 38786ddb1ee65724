"""How far a norm's output for one sample depends on the batch that it is in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter

from normprobe.figures.drawing.axes import note, title
from normprobe.figures.data.row_pairs import change_with_batch
from normprobe.figures.drawing.canvas import Plan, place
from normprobe.figures.plots.norm_comparison_several import BAND, lines, named, shared

if TYPE_CHECKING:
    from normprobe.recording import Recording
    from normprobe.tables import Tables


def batch_sensitivity(
    recordings: Mapping[str, Mapping[int, Tables | Recording]],
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
        ValueError: no norm fired in all recordings.
        NoSamplesError: a recording keeps no raw rows, or shares none with the largest batches.
    """
    by_name = {name: named(sizes) for name, sizes in recordings.items()}
    every = {f"{name} {size}": source for name, sizes in by_name.items() for size, source in sizes.items()}
    norm = shared(every, layer)[0]
    sizes = sorted({size for found in by_name.values() for size in found})
    found = {name: _changes(sources, norm, sizes) for name, sources in by_name.items()}
    gaps = [
        f"{name}: not run with {size:,}" for name in by_name for size in sizes if size not in by_name[name]
    ]

    def draw(axes: Sequence[Axes]) -> None:
        """Draw a line per name."""
        chart = axes[0]
        chart.set_ylim(-0.02, 1.08 * max([0.1, *(float(frame.max().max()) for frame in found.values())]))
        chart.set_xlim(-0.4, len(sizes) - 0.6)
        lines(chart, found)
        chart.xaxis.set_major_locator(FixedLocator(list(range(len(sizes)))))
        chart.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{sizes[int(x)]:,}"))
        chart.set_xlabel("batch size")
        note(chart, "\n".join(gaps), x=0.98, y=0.96, ha="right", va="top")
        title(chart, f"How far one sample's output is from that in batches of {sizes[-1]:,}, ÷ its length")

    plan = Plan(
        title="Sensitivity to the batch size",
        caption="",
        aria_label=f"Change of the output after {norm} with batches of {', '.join(map(str, sizes))}.",
        draw=draw,
        heights=(2.0,),
        margins=(0.78, 1.9, 0.5, 0.34),
    )
    drawn: Axes = place(plan, ax)
    return drawn


def _changes(sources: Mapping[int, Tables], norm: str, sizes: list[int]) -> pd.DataFrame:
    """Quantiles over the kept rows of how far they move, a row per batch size."""
    changes = change_with_batch(sources, norm).groupby("batch")["change"]
    return changes.quantile(np.array(BAND)).unstack().reindex(sizes).reset_index(drop=True)
