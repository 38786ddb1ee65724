"""The noise that rounding to a format adds, from what a recording holds.

From counts in bins: values of a bin are spread over it evenly. From the moments of a feature: its values are
normal. Some values of either are rounded as a cast rounds them: on the coarse grids of few bits the rule that
steps of size q add q² / 12 (Widrow and Kollár, "Quantization Noise", 2008) is off by decibels.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from normprobe.kernels.distributions.bins import bin_edges
from normprobe.tables.number_formats.formats import NumberFormat
from normprobe.tables.number_formats.rounding import Numbers, rounded, step_of

_POINTS = 64
"""How many values stand for those of a bin."""

_REACH, _NORMAL_POINTS = 4.5, 128
"""Values that stand for those of a feature lie so many standard deviations from its mean at most."""

_GOLDEN = (5**0.5 - 1) / 2


def noise_in_bins(
    bins: NDArray[np.int64],
    counts: NDArray[np.int64],
    extremes: tuple[float, float],
    form: NumberFormat,
    scale: float,
) -> tuple[float, float]:
    """The noise that rounding values under a scale adds, from counts in bins.

    Args:
        bins: those that hold values, ascending.
        counts: how many each holds.
        extremes: the smallest and the largest value, which are known exactly.
        form: the format.
        scale: what values are divided by.

    Returns:
        The sum of its squares, and the standard deviation of that sum, for where in its bin a value lies is
        unknown: of a few values that outweigh all others little can be said.
    """
    # A single value is the smallest and the largest at once, and counts once.
    known = np.array(extremes if counts.sum() > 1 else extremes[:1]) / scale
    # A scale that is made of the largest value rounds that one without an error.
    rest = counts.astype(np.float64)
    rest[0] -= 1
    rest[-1] -= len(known) - 1
    lower, upper = (edge.clip(*extremes)[:, None] for edge in bin_edges(bins))
    # Fractions of no period: evenly spaced points would lie on the format's own grid.
    inside = np.modf(np.arange(1, _POINTS + 1) * _GOLDEN + np.abs(bins[:, None]) * np.sqrt(2.0))[0]
    values = (lower + inside * (upper - lower)) / scale
    noise = (rounded(values, form) - values) ** 2
    total = float(noise.mean(1) @ rest + ((rounded(known, form) - known) ** 2).sum())
    return total * scale**2, float(np.sqrt(noise.var(1) @ rest)) * scale**2


def noise_of_features(mean: Numbers, variance: Numbers, form: NumberFormat, scale: Numbers) -> Numbers:
    """Mean square of the noise of each feature under a scale, taking its values for normal.

    Args:
        mean: of each feature.
        variance: of each.
        form: the format.
        scale: of each feature, or one for all.
    """
    points, weights = _normal_points()
    scale = np.broadcast_to(scale, mean.shape)[:, None]
    deviation = np.sqrt(variance)[:, None] / scale
    # Magnitudes alone, for formats are symmetric, and so is rounding to them.
    values = np.abs(mean[:, None] / scale + deviation * points)
    # No value is larger than that which the scale is of, though a normal distribution has some.
    values = np.minimum(values, form.largest)
    step, apart = step_of(values, form), deviation * (points[1] - points[0])
    # Points further apart than the format's numbers might all lie alike between these.
    noise = np.where(step < apart, step**2 / 12, (rounded(values, form) - values) ** 2)
    found: Numbers = (noise @ weights) * scale[:, 0] ** 2
    return found


@cache
def _normal_points() -> tuple[Numbers, Numbers]:
    """Evenly spaced values of a standard normal distribution, and their probabilities, which sum to 1."""
    points = (np.arange(_NORMAL_POINTS) + 0.5) / _NORMAL_POINTS * 2 * _REACH - _REACH
    weights = np.exp(-(points**2) / 2)
    return points, weights / weights.sum()
