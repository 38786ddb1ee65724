"""The depth profile: what each norm does, in order of execution, in four charts over one axis."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from normprobe.figures.data import layer_statistics
from normprobe.figures.data.depth_profile import Profile, summarize
from normprobe.figures.drawing.canvas import Facts, Plan, column_hits, place
from normprobe.figures.drawing.depth_axis import margins, prepare, span
from normprobe.figures.drawing.palette import site_look
from normprobe.figures.plots import depth_profile_charts
from normprobe.formatting import format_count, format_number, format_range, in_prose, plural
from normprobe.vocabulary import INPUT, OUTPUT

if TYPE_CHECKING:
    from normprobe.tables.frames import HasTables, Tables

# With `summarize`, which `registry.Plot` asks of each file here, though it lies with the numbers.
__all__ = [
    "aria_label",
    "caption",
    "depth_profile",
    "facts",
    "numbers",
    "plan",
    "summarize",
    "supported",
]

UNEQUAL = 2.0  # p95 ÷ p5 of samples after a norm that should equalise them, from which its scale is named


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
    return place(plan(layer_statistics.tables_of(tables)), ax)


def supported(tables: Tables) -> bool:
    """Whether there are the four norms that make a profile."""
    return len(layer_statistics.norms(tables)) >= 4


def plan(tables: Tables) -> Plan:
    """Decide the depth profile."""
    profile = summarize(tables)
    stated = facts(profile)
    charts = [chart for chart, column in depth_profile_charts.CHARTS if _has(profile, column)]

    def draw(axes: Sequence[Axes]) -> None:
        """Draw each chart that has data."""
        for index, (ax, chart) in enumerate(zip(axes, charts, strict=True)):
            span(ax, profile.depth)
            chart(ax, profile)
            # After the chart, which clears the axis' label.
            prepare(ax, profile.depth, last=index == len(charts) - 1)

    return Plan(
        title="What each norm does, in order of execution",
        caption=_caption(profile, stated),
        aria_label=aria_label(profile),
        draw=draw,
        heights=tuple(2.25 if chart is depth_profile_charts.variances else 1.5 for chart in charts),
        margins=margins(profile.depth),
        hits=column_hits(numbers(profile)),
        facts=stated,
    )


def _has(profile: Profile, column: str | None) -> bool:
    """Whether a chart of this column has anything to show."""
    return column is None or bool(profile.sites[column].notna().any())


def facts(profile: Profile) -> Facts:
    """What the caption states: medians, the worst feature, and what was left out."""
    before, after = (profile.site(site)["p50"].dropna() for site in (INPUT, OUTPUT))
    medians = profile.sites.groupby("site")[["ratio", "spread", "scaled"]].median()
    return {
        "norms": len(profile.depth.layers),
        "sites": profile.drawn,
        "first_before": before.iloc[0] if len(before) else None,
        "last_before": before.iloc[-1] if len(before) else None,
        "after": (after.min(), after.max()) if len(after) else None,
        "stream": _ends_of_stream(profile),
        "pooled": int(profile.pooled.notna().sum()),
        "samples_p95_p5": _ends(medians["ratio"]),
        "features_p95_p5": _ends(medians["spread"]),
        "features_p95_p5_scaled": medians["scaled"][OUTPUT] if profile.scaled.notna().any() else None,
        "unequal_after": _unequal_after(profile),
        "largest": _largest(profile),
        "largest_ratio": _largest_ratio(profile),
        "constant_features": int(profile.sites.loc[profile.sites["site"] == INPUT, "constant"].sum()),
        "flat_samples": int(profile.sites["flat"].sum()),
        "one_feature": len(profile.by_feature),
        "nonfinite": profile.sites.loc[profile.sites["nonfinite"].fillna(0) > 0, "layer"].nunique(),
    }


def _ends(medians: pd.Series[float]) -> tuple[float, float] | None:
    """The median norm's value before and after, None where one is undefined."""
    ends = medians.reindex([INPUT, OUTPUT])
    return None if ends.isna().any() else (ends[INPUT], ends[OUTPUT])


def _ends_of_stream(profile: Profile) -> tuple[float, float] | None:
    """The stream's variance ahead of the first block and behind the last; None where it was not measured."""
    values = profile.stream["value"].dropna()
    return (values.iloc[0], values.iloc[-1]) if len(values) else None


def _unequal_after(profile: Profile) -> tuple[str, float] | None:
    """The norm that equalises samples and yet leaves them most unequal, with its p95 ÷ p5."""
    equalising = [kind in {"layer_norm", "rms_norm"} for kind in profile.depth.kinds]
    after = profile.site(OUTPUT)["ratio"].where(np.array(equalising))
    if not (after > UNEQUAL).any():
        return None
    column = int(np.nanargmax(after))
    return profile.depth.layers[column], after.iloc[column]


def _largest(profile: Profile) -> tuple[str, int, float, float] | None:
    """Layer and feature of the largest |value| before a norm, that value, and the median feature's."""
    worst = profile.peaks["worst"]
    if not (worst > 0).any():
        return None
    column = int(np.nanargmax(worst))
    peak = profile.peaks.iloc[column]
    return profile.depth.layers[column], int(peak["feature"]), peak["worst"], peak["typical"]


def _largest_ratio(profile: Profile) -> float | None:
    """How many times the median feature's the largest |value| of that layer is; None where that is 0."""
    worst = profile.peaks["worst"]
    ratio = profile.peaks["ratio"].iloc[int(np.nanargmax(worst))] if (worst > 0).any() else np.nan
    return None if pd.isna(ratio) else float(ratio)


def caption(profile: Profile) -> str:
    """What to look at, with the facts in it."""
    return _caption(profile, facts(profile))


def _caption(profile: Profile, stated: Facts) -> str:
    legend = "Blue, hollow: before the norm; orange, filled: after it, its own scale and shift included."
    runs = [legend, *_further(profile), _top(profile, stated)]
    if profile.sites[["ratio", "spread"]].notna().any(axis=None):
        runs.append(_middle(profile, stated))
    elif profile.single:
        runs.append(f"Of one {profile.unit}, variances across {plural(profile.unit)} are undefined.")
    return " ".join([*runs, _bottom(stated), *_left_out(profile, stated)])


def _further(profile: Profile) -> list[str]:
    """The markers of sites besides input and output."""
    looks = [site_look(name) for name in profile.drawn if name not in (INPUT, OUTPUT)]
    return [f"{'; '.join(f'{look.sign} {look.label}' for look in looks)}."] if looks else []


def _top(profile: Profile, stated: Facts) -> str:
    """Whether the stream grows and the norm brings it back."""
    text = "**Top:** does the stream grow with depth, and does the norm bring it back?"
    if stated["first_before"] is not None and stated["after"] is not None:
        subject = "It" if profile.single else "The median"
        text += (
            f" {subject} goes from {format_number(stated['first_before'])} at the first norm to "
            f"{format_number(stated['last_before'])} at the last; after the norm it is "
            f"{format_range(*stated['after'])}."
        )
    if stated["stream"]:
        first, last = map(format_number, stated["stream"])
        text += f" Diamonds: the residual stream between blocks, from {first} to {last}."
    if stated["pooled"]:
        text += (
            f" A × far above its circle means a few {plural(profile.unit)} hold nearly all of the variance."
        )
    return text


def _middle(profile: Profile, stated: Facts) -> str:
    """What the two charts of ratios mean, with their medians."""
    units = plural(profile.unit)
    changes = [
        f"{word} {' → '.join(map(format_number, stated[key]))}" if stated[key] else ""
        for word, key in ((units, "samples_p95_p5"), ("features", "features_p95_p5"))
    ]
    if changes[1] and stated["features_p95_p5_scaled"] is not None:
        scaled = format_number(stated["features_p95_p5_scaled"])
        changes[1] += f", with the layer’s own scale {scaled} (faint ticks)"
    text = (
        f"**Middle:** 1 means all equal; LayerNorm and RMSNorm equalise {units}, BatchNorm features; "
        "what stays high is what the norm leaves or its scale puts back."
    )
    if any(changes):
        text += f" In the median norm {'; '.join(filter(None, changes))}."
    if stated["unequal_after"]:
        layer, ratio = stated["unequal_after"]
        text += (
            f" Where {units} differ after such a norm, its scale does it: "
            f"{format_number(ratio)} at {in_prose(layer)}."
        )
    return text


def _bottom(stated: Facts) -> str:
    """Which feature is worst."""
    text = "**Bottom:** a long bar is an outlier feature"
    if stated["largest"] is None:
        return f"{text}."
    layer, feature, worst, _ = stated["largest"]
    text += f"; the longest reach is {format_number(worst)} in feature {feature} of {in_prose(layer)}"
    if stated["largest_ratio"] is not None:
        text += f", {format_number(stated['largest_ratio'])}× the median feature"
    return f"{text}."


def _left_out(profile: Profile, stated: Facts) -> list[str]:
    """What was left out or is undefined."""
    remarks = []
    if constant := stated["constant_features"]:
        features = format_count(constant, "feature")
        remarks.append(
            f"Left out of the ratios: {features} that before a norm varied by no more than rounding."
        )
    if flat := stated["flat_samples"]:
        remarks.append(f"Left out of the ratios: {format_count(flat, profile.unit)} without variance.")
    if single := stated["one_feature"]:
        over = f"that of the feature over {plural(profile.unit)}"
        remarks.append(f"{format_count(single, 'norm')} of one feature: the variance shown is {over}.")
    if broken := stated["nonfinite"]:
        norms = format_count(broken, "norm")
        remarks.append(f"{norms} met NaN or Inf (× at the foot); statistics are over finite values.")
    return remarks


def aria_label(profile: Profile) -> str:
    """One sentence for those who do not see the figure."""
    ranges = []
    for name in profile.drawn:
        medians, label = profile.site(name)["p50"], site_look(name).label
        where = f"{label} it" if name in (INPUT, OUTPUT) else f"at {label}"
        ranges.append(f"{where} {format_range(medians.min(), medians.max())}")
    return (
        f"Depth profile of {format_count(len(profile.depth.layers), 'norm')}: "
        f"median variance of one {profile.unit} {' and '.join(ranges)}; "
        f"largest |value| before a norm {format_number(profile.peaks['worst'].max())}."
    )


def numbers(profile: Profile) -> Iterator[tuple[str, str]]:
    """Each layer and its numbers, as hovering shows them."""
    further = [name for name in profile.drawn if name not in (INPUT, OUTPUT)]
    columns = {
        "median variance": "p50",
        f"{plural(profile.unit)} p95 ÷ p5": "ratio",
        "features p95 ÷ p5": "spread",
    }
    before, after, *others = (profile.site(name).to_dict("records") for name in (INPUT, OUTPUT, *further))
    peaks = profile.peaks.to_dict("records")
    for at, (layer, old, new, peak) in enumerate(
        zip(profile.depth.layers, before, after, peaks, strict=True)
    ):
        lines = [layer]
        for word, key in columns.items():
            lines.append(f"{word}: {format_number(old[key])} → {format_number(new[key])}")
        for name, rows in zip(further, others, strict=True):
            lines.append(f"{site_look(name).label}: median variance {format_number(rows[at]['p50'])}")
        if pd.notna(peak["feature"]):
            worst = f"{format_number(peak['worst'])} in feature {int(peak['feature'])}"
            lines.append(f"largest |value|: {worst}; median feature {format_number(peak['typical'])}")
        broken = [int(np.nan_to_num(site["nonfinite"])) for site in (old, new)]
        if any(broken):
            lines.append(f"NaN or Inf: {format_count(broken[0])} → {format_count(broken[1])}")
        yield layer, "\n".join(lines)
