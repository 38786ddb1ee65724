"""The marks of the depth profile: lines by role, a marker and a bar per norm, what lies at the foot."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes

from normprobe.figures.drawing.axes import foot, note, positive, size_in_points
from normprobe.figures.drawing.palette import ACCENT, ROLE_DASHES, SITES, SURFACE

if TYPE_CHECKING:
    from normprobe.figures.plots.depth_profile import Profile

BAR = 0.7  # opacity: 3 : 1 against the paper of both themes


def lines(profile: Profile) -> tuple[str, ...]:
    """Return the roles that get a line: those whose variance ranges widest over depth, before the norm."""
    rows = profile.sites[(profile.sites["site"] == "input") & (profile.sites["p50"] > 0)]
    medians = np.log(rows["p50"]).groupby(rows["role"])
    return profile.depth.lines(medians.max() - medians.min())


def shift(ax: Axes, profile: Profile, site: str) -> float:
    """Return how far beside the column's middle a site is drawn, so that two bars stand side by side."""
    column = size_in_points(ax)[0] / (len(profile.depth.layers) + 0.4)
    distance = 0.0 if profile.depth.many else min(0.2, 2.4 / column)
    return -distance if site == "input" else distance


def bars(
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
    ok = low.notna() & high.notna() & (high > 0)
    if not profile.depth.many:
        ax.vlines(
            low.index[ok] + aside, low[ok].clip(lower=floor), high[ok], color=colour, alpha=BAR, linewidth=2.0
        )
        return
    roles = pd.Series(profile.depth.roles)
    for role in lines(profile):
        mine = ok & (roles == role).to_numpy()
        ax.fill_between(
            low.index[mine], low[mine].clip(lower=floor), high[mine], color=colour, alpha=0.2, linewidth=0
        )


def series(
    ax: Axes,
    profile: Profile,
    values: pd.Series[float],
    site: str,
    *,
    fill: str | None = None,
    marker: str = "o",
    joined: bool = True,
    aside: float = 0,
) -> None:
    """Draw one value per column: a line per role, a marker per column, zeros at the foot."""
    colour = SITES[site]
    frame = pd.DataFrame(
        {"x": values.index + aside, "y": values.to_numpy(), "role": list(profile.depth.roles)}
    )
    frame.loc[~(frame["y"] > 0), "y"] = np.nan
    if joined:
        _join(ax, frame, lines(profile), colour)
    face = fill or (SURFACE if site == "input" else colour)
    points = frame if not profile.depth.many else frame[~frame["role"].isin(lines(profile))]
    ax.plot(
        points["x"],
        points["y"],
        linestyle="none",
        marker=marker,
        markersize=4.2 if marker == "o" else 5.5,
        markerfacecolor=face,
        markeredgecolor=colour,
        markeredgewidth=1.0,
        zorder=4,
    )
    foot(ax, list(values.index[values == 0]), colour, fill=face)
    ax.set(xlabel="", ylabel="")


def _join(ax: Axes, frame: pd.DataFrame, roles: tuple[str, ...], colour: str) -> None:
    """Join the points of each role by a line of its own dashes."""
    points = frame[frame["role"].isin(roles)].dropna()
    if points.empty:
        return
    sns.lineplot(
        points,
        x="x",
        y="y",
        style="role",
        style_order=roles,
        color=colour,
        dashes=list(ROLE_DASHES[: len(roles)]),
        estimator=None,
        legend=False,
        ax=ax,
        linewidth=1.15,
    )


def end(values: pd.Series[float]) -> float | None:
    """Return the last value a logarithmic axis can show, None where there is none."""
    shown = positive(values)
    return float(shown[-1]) if shown.size else None


def finish(ax: Axes, profile: Profile, values: pd.Series[float] | pd.DataFrame) -> None:
    """Mark at the foot the layers that saw NaN or Inf; say why where these values leave nothing to show."""
    broken = profile.sites.loc[profile.sites["nonfinite"].fillna(0) > 0, "column"]
    foot(ax, sorted(set(broken)), ACCENT, marker="X", fill=SURFACE)
    if not positive(values).size:
        note(ax, "all are 0" if values.notna().to_numpy().any() else "no finite values")
