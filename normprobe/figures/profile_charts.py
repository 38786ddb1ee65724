"""The four charts of the depth profile."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes

from normprobe.figures.axes import Label, foot, label_ends, log_limits, note, title, use_log
from normprobe.figures.palette import ACCENT, BEFORE, INK, ROLE_DASHES, SITE_WORDS, SITES, SMALL, SURFACE
from normprobe.wording import format_number, plural

if TYPE_CHECKING:
    from normprobe.figures.profile import Profile

POOLED = 5.0  # times the median from which the pooled variance is shown
FP16_LIMIT = 65504.0  # the largest finite number of IEEE 754 binary16


def variances(ax: Axes, profile: Profile) -> None:
    """Draw the variance of one sample's values: median and 5-95 % of the samples, before and after."""
    sites = profile.sites
    pooled = sites["pooled"].where(sites["pooled"] > POOLED * sites["p50"])
    use_log(ax.yaxis, log_limits(pd.concat([sites[["p5", "p50", "p95"]].stack(), pooled.dropna()])))
    for site in SITES:
        rows = profile.site(site)
        shift = _shift(profile, site)
        _bars(ax, profile, rows["p5"], rows["p95"], SITES[site], shift)
        _series(ax, profile, rows["p50"], site, shift=shift)
    crosses = pooled.notna()
    if crosses.any():
        ax.plot(sites.loc[crosses, "column"], pooled[crosses], "x", color=INK, markersize=3.6, markeredgewidth=0.9)
        _say_pooled(ax, profile, pooled)
    _label_roles(ax, profile)
    what = "each feature's" if len(profile.by_feature) == len(profile.depth.layers) else f"one {profile.unit}'s"
    bars = f": median and 5–95 % of {plural(profile.unit)}" if sites["p95"].notna().any() else ""
    title(ax, f"Variance of {what} values{bars}")
    _lost(ax, profile)


def sample_ratios(ax: Axes, profile: Profile) -> None:
    """Draw how unequal the samples' variances are: the 95th percentile ÷ the 5th."""
    _ratios(ax, profile, "ratio", f"How unequal the {plural(profile.unit)}' variances are")


def feature_ratios(ax: Axes, profile: Profile) -> None:
    """Draw how unequal the features' variances are, after the norm without its own scale, and with it as ticks."""
    after = profile.site("output")
    faint = after["scaled"].where((after["scaled"] / after["spread"] - 1).abs() > 0.02)
    _ratios(ax, profile, "spread", "How unequal the features' variances are", extra=faint)
    if faint.notna().any() and not profile.depth.many:
        ax.plot(faint.index, faint, linestyle="none", marker="_", markersize=5, color=SITES["output"], alpha=0.75,
                markeredgewidth=1.0)  # fmt: skip


def largest(ax: Axes, profile: Profile) -> None:
    """Draw the largest |value| before the norm: of the worst feature and of the median one."""
    peaks = profile.peaks
    top = float(peaks["worst"].max())
    near = FP16_LIMIT / 30 < top
    low, high = log_limits(pd.concat([peaks["worst"], peaks["typical"], pd.Series([FP16_LIMIT] if near else [])]))
    use_log(ax.yaxis, (low, high * 1.6))
    _bars(ax, profile, peaks["typical"], peaks["worst"], BEFORE)
    _series(ax, profile, peaks["worst"], "input", fill=BEFORE)
    _series(ax, profile, peaks["typical"], "input", marker="_", lines=False)
    if near:
        ax.axhline(FP16_LIMIT, color=ACCENT, linewidth=0.9, linestyle=(0, (4, 2)))
    title(ax, "Largest |value| before the norm: worst feature and median feature")
    ends = [Label("worst feature", _end(peaks["worst"]), BEFORE), Label("median feature", _end(peaks["typical"]), BEFORE)]
    label_ends(ax, ends + ([Label("fp16 limit 65,504", FP16_LIMIT, ACCENT)] if near else []))
    _name_worst(ax, profile)
    _lost(ax, profile)


CHARTS: tuple[tuple[Callable[[Axes, Profile], None], str | None], ...] = (
    (variances, None),
    (sample_ratios, "ratio"),
    (feature_ratios, "spread"),
    (largest, None),
)


def _lines(profile: Profile) -> tuple[str, ...]:
    """Return the roles that get a line: those whose variance ranges widest over depth, before the norm."""
    rows = profile.sites[(profile.sites["site"] == "input") & (profile.sites["p50"] > 0)]
    medians = np.log(rows["p50"]).groupby(rows["role"])
    return profile.depth.lines(medians.max() - medians.min())


def _shift(profile: Profile, site: str) -> float:
    """Return how far beside the column's middle a site is drawn, so that two bars stand side by side."""
    if len(profile.depth.layers) > 40:
        return 0.0
    return -0.09 if site == "input" else 0.09


def _bars(ax: Axes, profile: Profile, low: pd.Series, high: pd.Series, colour: str, shift: float = 0) -> None:
    """Draw the range of each column: bars, or one band per line where there are many columns."""
    floor = ax.get_ylim()[0]
    ok = low.notna() & high.notna() & (high > 0)
    if not profile.depth.many:
        ax.vlines(low.index[ok] + shift, low[ok].clip(lower=floor), high[ok], color=colour, alpha=0.42, linewidth=2.6)
        return
    roles = pd.Series(profile.depth.roles)
    for role in _lines(profile):
        mine = ok & (roles == role).to_numpy()
        ax.fill_between(low.index[mine], low[mine].clip(lower=floor), high[mine], color=colour, alpha=0.2, linewidth=0)


def _series(ax: Axes, profile: Profile, values: pd.Series, site: str, *, fill: str | None = None,
            marker: str = "o", lines: bool = True, shift: float = 0) -> None:  # fmt: skip
    """Draw one value per column: a line per role, a marker per column, zeros at the foot."""
    colour = SITES[site]
    frame = pd.DataFrame({"x": values.index + shift, "y": values.to_numpy(), "role": list(profile.depth.roles)})
    frame.loc[~(frame["y"] > 0), "y"] = np.nan
    chosen = _lines(profile)
    if lines and chosen:
        sns.lineplot(
            frame[frame["role"].isin(chosen)].dropna(), x="x", y="y", style="role", style_order=chosen, color=colour,
            dashes=list(ROLE_DASHES[: len(chosen)]), estimator=None, legend=False, ax=ax, linewidth=1.15,
        )  # fmt: skip
    face = fill or (SURFACE if site == "input" else colour)
    points = frame if not profile.depth.many else frame[~frame["role"].isin(chosen)]
    ax.plot(points["x"], points["y"], linestyle="none", marker=marker, markersize=4.2 if marker == "o" else 5.5,
            markerfacecolor=face, markeredgecolor=colour, markeredgewidth=1.0, zorder=4)  # fmt: skip
    foot(ax, list(values.index[values == 0]), colour, fill=face)
    ax.set(xlabel="", ylabel="")


def _ratios(ax: Axes, profile: Profile, column: str, heading: str, extra: pd.Series | None = None) -> None:
    """Draw one ratio per column and site, with a line where all are equal."""
    shown = profile.sites[column] if extra is None else pd.concat([profile.sites[column], extra.dropna()])
    low, high = log_limits(pd.concat([shown, pd.Series([1.0])]), room=6.0)
    use_log(ax.yaxis, (max(low, 0.8), high))
    ax.axhline(1, color=INK, linewidth=0.9)
    for site in SITES:
        _series(ax, profile, profile.site(site)[column], site)
    ends = {site: _end(profile.site(site)[column]) for site in SITES}
    suffix = {"input": "", "output": " (– with its scale)" if extra is not None and extra.notna().any() else ""}
    label_ends(ax, [Label(SITE_WORDS[s] + suffix[s], at, SITES[s]) for s, at in ends.items() if at == at])
    title(ax, f"{heading}: 95th ÷ 5th percentile (1 = all equal)")
    _lost(ax, profile)


def _end(values: pd.Series) -> float:
    """Return the last value a logarithmic axis can show, NaN where there is none."""
    shown = values[(values > 0) & np.isfinite(values)]
    return float(shown.iloc[-1]) if len(shown) else float("nan")


def _label_roles(ax: Axes, profile: Profile) -> None:
    """Write at each line's right end which role and site it is."""
    roles = _lines(profile)
    names = profile.depth.labels(roles)
    labels = []
    for site in SITES:
        rows = profile.site(site)
        for role in roles or ("",):
            mine = rows[rows["role"] == role] if role else rows
            if (at := _end(mine["p50"])) == at:
                labels.append(Label(f"{SITE_WORDS[site]} {names.get(role, '')}".strip(), at, SITES[site]))
    single = len({label.text for label in labels}) < len(labels)
    label_ends(ax, labels if not single else list({label.text: label for label in labels}.values()))


def _say_pooled(ax: Axes, profile: Profile, pooled: pd.Series) -> None:
    """Say what the crosses are, on the side of the chart's top where nothing is drawn."""
    text = f"× all values pooled: a few {plural(profile.unit)} carry it"
    x, y = _free_corner(ax, profile)
    note(ax, text, x=x, y=y, ha="left" if x < 0.5 else "right", va="top")


def _free_corner(ax: Axes, profile: Profile) -> tuple[float, float]:
    """Return the corner, at the left or right of the top, with most room above what is drawn there."""
    sites, columns = profile.sites, len(profile.depth.layers)
    drawn = sites[["p95", "p50", "pooled"]].max(axis=1)
    left = drawn[sites["column"] < columns * 0.45].max()
    right = drawn[sites["column"] > columns * 0.55].max()
    return (0.01, 0.985) if not left > right else (0.99, 0.985)


def _name_worst(ax: Axes, profile: Profile) -> None:
    """Write the largest |value| of all and its feature beside its point, on the side with room."""
    worst = profile.peaks["worst"]
    if not (worst > 0).any():
        return
    column = int(worst.idxmax())
    feature = int(profile.peaks.loc[column, "feature"])
    left = column > len(worst) * 0.3
    ax.annotate(
        f"{format_number(worst[column])} in feature {feature}", (column, worst[column]),
        xytext=(-5 if left else 5, 5), textcoords="offset points", ha="right" if left else "left",
        va="bottom", fontsize=SMALL, color=INK,
    )  # fmt: skip


def _lost(ax: Axes, profile: Profile) -> None:
    """Mark at the foot the layers that saw NaN or Inf, and say so where nothing else can be shown."""
    broken = profile.sites.loc[profile.sites["nonfinite"].fillna(0) > 0, "column"]
    foot(ax, sorted(set(broken)), ACCENT, marker="X", fill=SURFACE)
    if not any(len(line.get_xdata()) > 2 for line in ax.lines) and not ax.collections:
        note(ax, "no finite values")
