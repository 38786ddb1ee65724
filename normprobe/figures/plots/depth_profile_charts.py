"""The four charts of the depth profile."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes

from normprobe.figures.drawing.annotate import beside
from normprobe.figures.drawing.axes import (
    Label,
    foot,
    label_ends,
    log_limits,
    note,
    positive,
    size_in_points,
    title,
    use_log,
)
from normprobe.figures.drawing.canvas import without_ticks
from normprobe.figures.drawing.palette import ACCENT, BEFORE, INK, ROLE_DASHES, SURFACE, site_look
from normprobe.formatting import format_number, plural
from normprobe.vocabulary import INPUT, OUTPUT

if TYPE_CHECKING:
    from normprobe.figures.data.depth_profile import Profile

FP16_LIMIT = 65504.0  # the largest finite number of IEEE 754 binary16
_BAR_OPACITY = 0.7  # 3 : 1 against the paper of both themes


def variances(ax: Axes, profile: Profile) -> None:
    """Draw the variance of one sample's values: median and 5-95 % of the samples, before and after."""
    sites, unit = profile.sites, profile.unit
    pooled = profile.pooled
    drawn = (sites[["p5", "p50", "p95"]].to_numpy().ravel(), pooled, profile.stream["value"])
    low, high = log_limits(np.concatenate(drawn))
    room = 0.09 if pooled.notna().any() else 0.0  # for the remark on top
    use_log(ax.yaxis, (low, high * (high / low) ** room))
    asides, rows = _asides(ax, profile), {site: profile.site(site) for site in profile.drawn}
    _join(ax, profile, {site: rows[site]["p50"] for site in rows}, asides)
    for site, aside in asides.items():
        _bars(ax, profile, rows[site]["p5"], rows[site]["p95"], site_look(site).colour, aside=aside)
        _series(ax, profile, rows[site]["p50"], site, aside=aside)
    for _, chain in profile.stream[profile.stream["value"] > 0].groupby("chain", sort=False):
        ax.plot(chain["x"], chain["value"], "-D", color=INK, linewidth=0.9, markersize=2.8, zorder=3)
    if room:
        ax.plot(sites["column"], pooled, "x", color=INK, markersize=3.6, markeredgewidth=0.9)
        note(ax, f"× all values pooled: a few {plural(unit)} carry it", x=0.008, y=0.985, ha="left", va="top")
    _label_roles(ax, profile)
    single = len(profile.by_feature) == len(profile.depth.layers)
    what = "each feature’s" if single else f"one {unit}’s"
    percentiles = f": median and 5–95 % of {plural(unit)}" if sites["p95"].notna().any() else ""
    title(ax, f"Variance of {what} values{percentiles}")
    _finish(ax, profile, sites["p50"])


def sample_ratios(ax: Axes, profile: Profile) -> None:
    """Draw how unequal the samples' variances are: the 95th percentile ÷ the 5th."""
    _ratios(ax, profile, "ratio", f"How unequal the {plural(profile.unit)}’ variances are")


def feature_ratios(ax: Axes, profile: Profile) -> None:
    """Draw how unequal the features' variances are; after the norm without its scale, with it as ticks."""
    faint = profile.scaled
    _ratios(ax, profile, "spread", "How unequal the features’ variances are", extra=faint)
    if faint.notna().any() and not profile.depth.many:
        ax.plot(
            faint.index,
            faint,
            linestyle="none",
            marker="_",
            markersize=5,
            color=site_look(OUTPUT).colour,
            alpha=0.75,
            markeredgewidth=1.0,
        )


def largest(ax: Axes, profile: Profile) -> None:
    """Draw the largest |value| before the norm: of the worst feature and of the median one."""
    peaks = profile.peaks
    top = float(peaks["worst"].max())
    # Farther off, the limit would squeeze what is measured into the foot of the chart.
    near = top > FP16_LIMIT / 30
    low, high = log_limits(
        pd.concat(
            # float64 even if empty: with objects pandas 2 warns of the dtype of the whole.
            [peaks["worst"], peaks["typical"], pd.Series([FP16_LIMIT] if near else [], dtype="float64")]
        )
    )
    # Room on top, for the remark beside the largest.
    use_log(ax.yaxis, (low, high * 1.6))
    _join(ax, profile, {INPUT: peaks["worst"]})
    _bars(ax, profile, peaks["typical"], peaks["worst"], BEFORE)
    _series(ax, profile, peaks["worst"], INPUT, face=BEFORE)
    _series(ax, profile, peaks["typical"], INPUT, marker="_")
    if near:
        ax.axhline(FP16_LIMIT, color=ACCENT, linewidth=0.9, linestyle=(0, (4, 2)))
    title(ax, "Largest |value| before the norm: worst feature and median feature")
    ends = {"worst feature": _end(peaks["worst"]), "median feature": _end(peaks["typical"])}
    labels = [Label(text, at, BEFORE) for text, at in ends.items() if at is not None]
    label_ends(ax, labels + ([Label("fp16 limit 65,504", FP16_LIMIT, ACCENT)] if near else []))
    _name_worst(ax, profile)
    _finish(ax, profile, peaks["worst"])


def _ratios(
    ax: Axes, profile: Profile, column: str, heading: str, extra: pd.Series[float] | None = None
) -> None:
    """Draw one ratio per column and site, with a line where all are equal."""
    shown = profile.sites[column]
    low, high = log_limits(np.concatenate([shown, [1.0], [] if extra is None else extra]))
    # p95 ÷ p5 is never below 1: room there would be empty.
    use_log(ax.yaxis, (max(low, 0.8), high))
    ax.axhline(1, color=INK, linewidth=0.9)
    suffix = " (– with its scale)" if extra is not None and extra.notna().any() else ""
    labels = []
    series = {site: profile.site(site)[column] for site in profile.drawn}
    _join(ax, profile, series)
    for site, values in series.items():
        look = site_look(site)
        _series(ax, profile, values, site)
        if (at := _end(values)) is not None:
            labels.append(Label(look.label + (suffix if site == OUTPUT else ""), at, look.colour))
    label_ends(ax, labels)
    title(ax, f"{heading}: 95th ÷ 5th percentile (1 = all equal)")
    _finish(ax, profile, shown)


def _label_roles(ax: Axes, profile: Profile) -> None:
    """Write at each line's right end which role and site it is."""
    roles = _lines(profile) or ("",)
    names = profile.depth.labels(roles) if roles[0] else {}
    labels: dict[str, Label] = {}
    for site in profile.drawn:
        rows, look = profile.site(site), site_look(site)
        for role in roles:
            at = _end(rows.loc[rows["role"] == role, "p50"] if role else rows["p50"])
            text = f"{look.label} {names.get(role, '')}".strip()
            if at is not None:
                # By their texts: roles that nothing tells apart share one label a site.
                labels[text] = Label(text, at, look.colour)
    if (at := _end(profile.stream["value"])) is not None:
        labels["stream"] = Label("stream", at, INK)
    label_ends(ax, list(labels.values()))


def _name_worst(ax: Axes, profile: Profile) -> None:
    """Write the largest |value| of all and its feature beside its point, where it crosses nothing."""
    worst = profile.peaks["worst"]
    if not (worst > 0).any():
        return
    column = int(np.nanargmax(worst))
    feature = int(profile.peaks["feature"].iloc[column])
    beside(ax, f"{format_number(worst[column])} in feature {feature}", (column, float(worst[column])))


def _lines(profile: Profile) -> tuple[str, ...]:
    """The roles that get a line: those whose variance ranges widest over depth, at the first site drawn."""
    rows = profile.sites[(profile.sites["site"] == profile.drawn[0]) & (profile.sites["p50"] > 0)]
    # Logarithms, as the axis has: a role of large values does not range wide for that.
    medians = np.log(rows["p50"]).groupby(rows["role"])
    return profile.depth.lines(medians.max() - medians.min())


def _asides(ax: Axes, profile: Profile) -> dict[str, float]:
    """How far beside the column's middle each site is drawn, so that bars stand side by side."""
    column = size_in_points(ax)[0] / (len(profile.depth.layers) + 0.4)
    count = len(profile.drawn)
    reach = 0.0 if profile.depth.many or count < 2 else min(0.1 * count, 1.2 * count / column, 0.4)
    return dict(zip(profile.drawn, map(float, np.linspace(-reach, reach, count)), strict=True))


def _bars(
    ax: Axes,
    profile: Profile,
    low: pd.Series[float],
    high: pd.Series[float],
    colour: str,
    *,
    aside: float = 0,
) -> None:
    """Draw the range of each column: bars, or one band per line where there are many columns."""
    floor = ax.get_ylim()[0]
    # A bar from 0 has no foot on a logarithmic axis: it stands on the chart's.
    ok = low.notna() & high.notna() & (high > 0)
    if not profile.depth.many:
        ax.vlines(
            low.index[ok] + aside,
            low[ok].clip(lower=floor),
            high[ok],
            color=colour,
            alpha=_BAR_OPACITY,
            linewidth=2.0,
        )
        return
    roles = pd.Series(profile.depth.roles)
    for role in _lines(profile):
        mine = ok & (roles == role).to_numpy()
        ax.fill_between(
            low.index[mine], low[mine].clip(lower=floor), high[mine], color=colour, alpha=0.2, linewidth=0
        )


def _series(
    ax: Axes,
    profile: Profile,
    values: pd.Series[float],
    site: str,
    *,
    face: str | None = None,
    marker: str | None = None,
    aside: float = 0,
) -> None:
    """Draw one value per column: a marker each, zeros at the foot."""
    look, face = site_look(site), face or site_look(site).face
    given = values.to_numpy(dtype=float)
    shown = given > 0
    if profile.depth.many:
        # Markers would hide the line of their role; a role without a line has nothing else.
        shown &= ~np.isin(profile.depth.roles, _lines(profile))
    ax.plot(
        values.index.to_numpy()[shown] + aside,
        given[shown],
        linestyle="none",
        marker=marker or look.marker,
        markersize=5.5 if marker else 4.2,
        markerfacecolor=face,
        markeredgecolor=look.colour,
        markeredgewidth=1.0,
        zorder=4,
    )
    foot(ax, list(values.index[values == 0]), look.colour, fill=face)
    ax.set(xlabel="", ylabel="")


def _join(
    ax: Axes, profile: Profile, series: dict[str, pd.Series[float]], asides: dict[str, float] | None = None
) -> None:
    """Join the points of each site and role by a line, in the site's colour and the role's dashes."""
    roles, frames = _lines(profile), []
    for site, values in series.items():
        columns = {"x": values.index + (asides or {}).get(site, 0.0), "y": values.to_numpy()}
        frames.append(pd.DataFrame({**columns, "role": profile.depth.roles, "site": site}))
    points = pd.concat(frames, ignore_index=True)
    points = points[points["role"].isin(roles) & (points["y"] > 0)]
    if points.empty:
        return
    with without_ticks(ax):
        # All at once: seaborn takes as long for one line as for all. With an estimator it takes means of one
        # value each, and draws a band of no width round them.
        sns.lineplot(
            points.astype({"role": object, "site": object}),
            x="x",
            y="y",
            hue="site",
            hue_order=list(series),
            palette=[site_look(site).colour for site in series],
            style="role",
            style_order=roles,
            dashes=list(ROLE_DASHES[: len(roles)]),
            estimator=None,
            legend=False,
            ax=ax,
            linewidth=1.15,
        )


def _end(values: pd.Series[float]) -> float | None:
    """The last value a logarithmic axis can show, None where there is none."""
    shown = positive(values)
    return float(shown[-1]) if shown.size else None


def _finish(ax: Axes, profile: Profile, values: pd.Series[float] | pd.DataFrame) -> None:
    """Mark at the foot the layers that saw NaN or Inf; say why where these values leave nothing to show."""
    broken = profile.sites.loc[profile.sites["nonfinite"].fillna(0) > 0, "column"]
    foot(ax, sorted(set(broken)), ACCENT, marker="X", fill=SURFACE)
    if not positive(values).size:
        note(ax, "all are 0" if values.notna().to_numpy().any() else "no finite values")


CHARTS: tuple[tuple[Callable[[Axes, Profile], None], str | None], ...] = (
    (variances, None),
    (sample_ratios, "ratio"),
    (feature_ratios, "spread"),
    (largest, None),
)
