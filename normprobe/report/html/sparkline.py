"""The evidence of a finding as a small line over depth, written by hand as SVG."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from normprobe.report.log_scale import LogScale

WIDTH, HEIGHT = 150, 34
_LEFT, _RIGHT, _TOP, _FOOT = 4.0, 146.0, 5.0, 29.0
# One a pixel between left and right.
_MOST_POINTS = 142


@dataclass(frozen=True)
class Sparkline:
    """What the template draws; lengths in pixels of 150 x 34.

    Attributes:
        path: the line as an SVG path; a gap where a value is missing.
        foot: ticks at the foot for values that a log scale cannot show (zero).
        threshold: height of the dashed line, or None where there is no threshold above zero.
        dot: position of the worst layer, or None.
        low: smallest shown value.
        high: largest shown value.
    """

    path: str
    foot: str
    threshold: float | None
    dot: tuple[float, float] | None
    low: float
    high: float


def sparkline(series: pd.DataFrame, threshold: float, worst: str) -> Sparkline | None:
    """Draw a statistic over depth on a log scale.

    Args:
        series: columns layer, depth, value; any order.
        threshold: the finding's threshold in the unit of the values, or NaN.
        worst: the layer to mark; the largest value where the series does not hold it.

    Returns:
        The line, or None where fewer than two layers have a value other than zero.
    """
    ordered = series.sort_values("depth", kind="stable").reset_index(drop=True)
    values = np.abs(ordered["value"].to_numpy(dtype="float64"))
    shown = np.isfinite(values) & (values > 0)
    if shown.sum() < 2:
        return None
    low, high = float(values[shown].min()), float(values[shown].max())
    # NaN, no threshold, is not above 0 either.
    ends = [low, high] + ([threshold] if threshold > 0 else [])
    # Foot first, as y grows downwards.
    scale = LogScale(min(ends), max(ends), _FOOT, _TOP)
    x = np.linspace(_LEFT, _RIGHT, len(values))
    # Below all that is shown: zeros and NaN are never marked.
    index = _worst(ordered, np.where(shown, values, -1.0), worst)
    dot = (round(float(x[index]), 1), scale.place(values[index])) if shown[index] else None
    kept = _thin(values, shown)
    line = scale.place(threshold) if threshold > 0 else None
    zeros = [i for i in kept if values[i] == 0]
    foot = "".join(f"M{x[i]:.1f} {_FOOT:g}v4" for i in zeros)
    return Sparkline(_path(x, values, shown, kept, scale), foot, line, dot, low, high)


def _worst(ordered: pd.DataFrame, values: NDArray[np.float64], worst: str) -> int:
    """The index of the layer to mark: the worst one, or the largest value where that has none."""
    found = ordered.index[ordered["layer"] == worst]
    return int(found[0]) if len(found) and values[found[0]] > 0 else int(values.argmax())


def _thin(values: NDArray[np.float64], shown: NDArray[np.bool_]) -> list[int]:
    """Indices to draw: all, or the smallest and largest of each of 71 stretches."""
    if len(values) <= _MOST_POINTS:
        return list(range(len(values)))
    # Every k-th would pass over the one layer that stands out.
    kept: set[int] = set()
    for part in np.array_split(np.arange(len(values)), _MOST_POINTS // 2):
        inside = part[shown[part]]
        if len(inside):
            kept |= {int(inside[values[inside].argmin()]), int(inside[values[inside].argmax()])}
        else:
            kept.add(int(part[0]))
    return sorted(kept)


def _path(
    x: NDArray[np.float64],
    values: NDArray[np.float64],
    shown: NDArray[np.bool_],
    kept: list[int],
    scale: LogScale,
) -> str:
    """The line through the kept values, with a gap wherever one cannot be shown."""
    pieces, pen = [], "M"
    for i in kept:
        if shown[i]:
            pieces.append(f"{pen}{x[i]:.1f} {scale.place(values[i]):g}")
        pen = "L" if shown[i] else "M"
    return "".join(pieces)
