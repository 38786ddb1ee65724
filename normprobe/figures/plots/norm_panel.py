"""The panel of one norm: what goes in, what comes out, in six charts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from normprobe.figures.data import layer_statistics
from normprobe.figures.data.norm_panel import SITES, Panel, summarize
from normprobe.figures.drawing.canvas import Facts, Plan, place
from normprobe.figures.plots import norm_panel_charts
from normprobe.figures.plots.norm_panel_marks import Marks
from normprobe.formatting import format_count, shorten_name
from normprobe.vocabulary import INPUT, OUTPUT

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from normprobe.tables.frames import HasTables, Tables


def norm_panel(tables: Tables | HasTables, layer: str, *, ax: Any = None) -> Any:
    """Draw one norm before and after: its values, one sample, variances per feature and per sample.

    Variances are population variances (divided by n).

    Args:
        tables: a recording or its tables.
        layer: name of a norm that fired.
        ax: an array of six axes; new ones by default.

    Returns:
        Array of six axes, row by row.

    Raises:
        ValueError: `ax` holds another number of axes, or no norm of this name fired.
    """
    return place(plan(layer_statistics.tables_of(tables), layer), ax)


def plan(tables: Tables, layer: str) -> Plan:
    """Decide the panel of one norm.

    Raises:
        ValueError: no norm of this name fired.
    """
    return plan_of(summarize(tables, layer))


def draw(axes: Sequence[Axes], found: Panel, marks: Marks) -> None:
    """Draw the six charts.

    Args:
        axes: the charts, row by row.
        found: the numbers of one norm.
        marks: new ones, or those of the same charts, cleared of another norm's panel.
    """
    norm_panel_charts.values(axes[0], found, INPUT, marks)
    norm_panel_charts.values(axes[1], found, OUTPUT, marks)
    norm_panel_charts.one_sample(axes[2], found, marks)
    norm_panel_charts.features(axes[3:5], found, marks)
    norm_panel_charts.samples(axes[5], found, marks)


def plan_of(found: Panel) -> Plan:
    """Decide the panel of these numbers."""
    return Plan(
        title=found.layer or "(the model)",
        caption=caption(found),
        aria_label=aria_label(found),
        draw=lambda axes: draw(axes, found, Marks()),
        heights=(1.32, 1.32),
        columns=3,
        margins=(0.55, 0.22, 0.32, 0.34),
        gaps=(0.58, 0.68),
        facts=facts(found),
    )


def facts(found: Panel) -> Facts:
    """What the caption states: how many samples and rows the charts rest on."""
    return {
        "layer": found.layer,
        "kind": found.kind,
        "seen": found.seen,
        "kept_rows": max(len(rows) for rows in found.values.values()),
        "kept_samples": max(len(variances) for variances in found.samples.values()),
    }


def caption(found: Panel) -> str:
    """How many samples and rows the charts rest on."""
    stated = facts(found)
    text = f"Mean and variance of {format_count(stated['seen'], found.unit)}; "
    text += f"histograms of values from {format_count(stated['kept_rows'], 'kept row')}"
    return f"{text}, variances per {found.unit} of {format_count(stated['kept_samples'])} kept."


def aria_label(found: Panel) -> str:
    """One sentence for those who do not see the panel."""
    means, variances = (" to ".join(found.text(site, key) for site in SITES) for key in ("mean", "variance"))
    name = shorten_name(found.layer, 60) or "The model"
    return f"{name} before and after: mean {means}, variance {variances}."
