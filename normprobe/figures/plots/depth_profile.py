"""The depth profile: what each norm does, in order of execution, in four charts over one axis."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from normprobe.figures.data import by_depth
from normprobe.figures.data.depth_profile import Profile, summarize
from normprobe.figures.drawing.canvas import Hit, Plan, place
from normprobe.figures.drawing.depth_axis import margins, prepare, span
from normprobe.figures.plots import depth_profile_charts
from normprobe.formatting import format_count, format_number, format_range, in_prose, plural
from normprobe.vocabulary import INPUT, OUTPUT

if TYPE_CHECKING:
    from normprobe.tables.frames import HasTables, Tables

if TYPE_CHECKING:
    pass


def depth_profile(tables: Tables | HasTables, *, ax: Any = None) -> Any:
    """Draw what each norm does with depth, in four charts over one axis.

    Variances of samples; how unequal they are; how unequal the features' are; the largest |value| before the
    norm. Variances are population variances (divided by n).

    Args:
        tables: a recording or its tables.
        ax: an array of as many axes as there are charts: four, or fewer where percentiles are undefined
            (a single sample). New ones by default.

    Returns:
        Array of the axes; `axes[0].figure` is the whole figure.

    Raises:
        ValueError: `ax` holds another number of axes than there are charts, or the recording has no norm.
    """
    return place(plan(by_depth.tables_of(tables)), ax)


def supported(tables: Tables) -> bool:
    """Return whether there are the four norms that make a profile."""
    return len(by_depth.norms(tables)) >= 4


def plan(tables: Tables) -> Plan:
    """Decide the depth profile."""
    profile = summarize(tables)
    charts = [chart for chart, column in depth_profile_charts.CHARTS if _has(profile, column)]

    def draw(axes: Sequence[Axes]) -> None:
        """Draw each chart that has data."""
        for index, (ax, chart) in enumerate(zip(axes, charts, strict=True)):
            span(ax, profile.depth)
            chart(ax, profile)
            prepare(ax, profile.depth, last=index == len(charts) - 1)

    heights = tuple(2.25 if chart is depth_profile_charts.variances else 1.5 for chart in charts)
    return Plan(
        title="What each norm does, in order of execution",
        caption=caption(profile),
        aria_label=aria_label(profile),
        draw=draw,
        heights=heights,
        margins=margins(profile.depth),
        hits=tuple(
            Hit(layer, column - 0.5, column + 0.5, text)
            for column, (layer, text) in enumerate(numbers(profile))
        ),
    )


def _has(profile: Profile, column: str | None) -> bool:
    """Return whether a chart of this column has anything to show."""
    return column is None or bool(profile.sites[column].notna().any())


def caption(profile: Profile) -> str:
    """Return what to look at, with the numbers filled in."""
    legend = "Blue, hollow: before the norm; orange, filled: after it, its own scale and shift included."
    runs = [legend, _top(profile)]
    if profile.sites[["ratio", "spread"]].notna().any(axis=None):
        runs.append(_middle(profile))
    elif profile.single:
        runs.append(f"Of one {profile.unit}, variances across {plural(profile.unit)} are undefined.")
    return " ".join([*runs, _bottom(profile), *_remarks(profile)])


def aria_label(profile: Profile) -> str:
    """Return one sentence for those who do not see the figure."""
    ranges = []
    for word, site in (("before", INPUT), ("after", OUTPUT)):
        medians = profile.site(site)["p50"]
        ranges.append(f"{word} it {format_range(medians.min(), medians.max())}")
    return (
        f"Depth profile of {format_count(len(profile.depth.layers), 'norm')}: "
        f"median variance of one {profile.unit} {' and '.join(ranges)}; "
        f"largest |value| before a norm {format_number(profile.peaks['worst'].max())}."
    )


def numbers(profile: Profile) -> Iterator[tuple[str, str]]:
    """Yield each layer and its numbers, as hovering shows them."""
    pairs = {
        "median variance": "p50",
        f"{plural(profile.unit)} p95 ÷ p5": "ratio",
        "features p95 ÷ p5": "spread",
    }
    before, after = (profile.site(site).to_dict("records") for site in (INPUT, OUTPUT))
    peaks = profile.peaks.to_dict("records")
    for layer, old, new, peak in zip(profile.depth.layers, before, after, peaks, strict=True):
        lines = [layer]
        for word, key in pairs.items():
            lines.append(f"{word}: {format_number(old[key])} → {format_number(new[key])}")
        if pd.notna(peak["feature"]):
            worst = f"{format_number(peak['worst'])} in feature {int(peak['feature'])}"
            lines.append(f"largest |value|: {worst}; median feature {format_number(peak['typical'])}")
        broken = [int(np.nan_to_num(site["nonfinite"])) for site in (old, new)]
        if any(broken):
            lines.append(f"NaN or Inf: {format_count(broken[0])} → {format_count(broken[1])}")
        yield layer, "\n".join(lines)


def _top(profile: Profile) -> str:
    """Say whether the stream grows and the norm brings it back."""
    before, after = (profile.site(site)["p50"].dropna() for site in (INPUT, OUTPUT))
    text = "**Top:** does the stream grow with depth, and does the norm bring it back?"
    if len(before) and len(after):
        subject = "It" if profile.single else "The median"
        text += (
            f" {subject} goes from {format_number(before.iloc[0])} at the first norm to "
            f"{format_number(before.iloc[-1])} at the last; after the norm it is "
            f"{format_range(after.min(), after.max())}."
        )
    if profile.pooled.notna().any():
        text += (
            f" A × far above its circle means a few {plural(profile.unit)} hold nearly all of the variance."
        )
    return text


def _middle(profile: Profile) -> str:
    """Say what the two charts of ratios mean, with their medians."""
    units = plural(profile.unit)
    medians = profile.sites.groupby("site")[["ratio", "spread", "scaled"]].median()
    facts = [_change(medians, "ratio", units), _change(medians, "spread", "features")]
    if facts[1] and profile.scaled.notna().any():
        facts[1] += (
            f" ({format_number(medians['scaled']['output'])} with the layer’s own scale, the faint ticks)"
        )
    text = (
        f"**Middle:** 1 means all equal; LayerNorm and RMSNorm equalise {units}, BatchNorm features; "
        "what stays high is what the norm leaves or its scale puts back."
    )
    if any(facts):
        text += f" In the median norm {'; '.join(filter(None, facts))}."
    return text + _scale(profile)


def _scale(profile: Profile) -> str:
    """Say where a norm that equalises its samples leaves them unequal: there its own scale does it."""
    equalising = [kind in {"layer_norm", "rms_norm"} for kind in profile.depth.kinds]
    after = profile.site(OUTPUT)["ratio"].where(np.array(equalising))
    if not (after > 2).any():
        return ""
    column = int(np.nanargmax(after))
    return (
        f" Where {plural(profile.unit)} differ after such a norm, its scale does it: "
        f"{format_number(after.iloc[column])} at {in_prose(profile.depth.layers[column])}."
    )


def _change(medians: pd.DataFrame, column: str, word: str) -> str:
    """Return "tokens 2.3 → 1.9", or nothing where it is undefined."""
    ends = medians[column].reindex([INPUT, OUTPUT])
    return "" if ends.isna().any() else f"{word} {' → '.join(map(format_number, ends))}"


def _bottom(profile: Profile) -> str:
    """Say which feature is worst."""
    worst = profile.peaks["worst"]
    text = "**Bottom:** a long bar is an outlier feature"
    if not (worst > 0).any():
        return f"{text}."
    column = int(np.nanargmax(worst))
    peak = profile.peaks.iloc[column]
    text += f"; the longest reach is {format_number(peak['worst'])} in feature {int(peak['feature'])}"
    text += f" of {in_prose(profile.depth.layers[column])}"
    if peak["typical"] > 0:
        text += f", {format_number(peak['ratio'])}× the median feature"
    return f"{text}."


def _remarks(profile: Profile) -> list[str]:
    """Say what was left out or is undefined."""
    remarks, units = [], plural(profile.unit)
    constant = int(profile.sites.loc[profile.sites["site"] == INPUT, "constant"].sum())
    flat = int(profile.sites["flat"].sum())
    broken = profile.sites.loc[profile.sites["nonfinite"].fillna(0) > 0, "layer"].nunique()
    if constant:
        features = format_count(constant, "feature")
        remarks.append(
            f"Left out of the ratios: {features} that before a norm varied by no more than rounding."
        )
    if flat:
        remarks.append(f"Left out of the ratios: {format_count(flat, profile.unit)} without variance.")
    if profile.by_feature:
        norms = format_count(len(profile.by_feature), "norm")
        remarks.append(f"{norms} of one feature: the variance shown is that of the feature over {units}.")
    if broken:
        norms = format_count(broken, "norm")
        remarks.append(f"{norms} met NaN or Inf (× at the foot); statistics are over finite values.")
    return remarks
