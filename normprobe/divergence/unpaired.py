"""Other data: how far the moments moved, against what other examples of the same kind would give."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist
from typing import Any

import numpy as np

from normprobe.divergence.columns import decibels
from normprobe.divergence.error_bounds import measure_errors
from normprobe.divergence.matched_sites import MatchedSite, RecordingPair, moments_of
from normprobe.divergence.permutation_test import significance
from normprobe.kernels.moments import Moments


def unpaired_columns(
    readers: RecordingPair, places: Sequence[MatchedSite], level: float
) -> tuple[list[dict[str, Any]], tuple[int, int]]:
    """The columns of each place that rest on moments alone, and the examples that entered the test.

    Args:
        readers: both recordings.
        places: the places they share, in order of execution.
        level: how often a comparison of one model with itself may name any place.
    """
    tested = [at for at, place in enumerate(places) if place.aligned]
    found = significance(*readers, [places[at].at for at in tested])
    likely = np.full(len(places), np.nan)
    likely[tested] = found.p_values
    rows = [_columns(readers, place, level) for place in places]
    for row, p_value in zip(rows, likely, strict=True):
        beyond = bool(p_value <= level)
        row |= {"likely": float(p_value), "beyond": beyond, "introduces": beyond}
    for at in range(1, len(rows)):
        # Without pairs it is unknown what is inherited: only the first place is sure to introduce its error.
        rows[at]["introduces"] &= not any(row["beyond"] for row in rows[:at])
    return rows, found.examples


def _columns(readers: RecordingPair, place: MatchedSite, level: float) -> dict[str, Any]:
    moments = moments_of(readers, place)
    examples = [int(reader.tables.facts["examples"]) for reader in readers]
    # An example's rows hang together: in the worst case they count as one.
    noise = np.sqrt(sum(1 / max(count, 1) for count in examples))
    with np.errstate(invalid="ignore"):
        found = measure_errors(None, None, moments, 0.0)
    return {
        "pairs": 0,
        "error_db": decibels(found.known(0.0)),
        "error_of": "moments",
        # 1.5: sampling moves a mean by the variance ÷ n, a standard deviation by half of that.
        "noise_db": decibels(float(noise * np.sqrt(1.5) * _relative_deviation(moments[0]))),
        "features_beyond": _share_beyond(moments, noise, level),
    }


def _relative_deviation(moments: Moments) -> float:
    """Standard deviation of a feature over the root mean square of all values, in power over features."""
    variance = np.nan_to_num(moments.variance)
    square = (np.square(moments.mean) + variance).mean()
    return float(np.sqrt(variance.mean() / square)) if square > 0 else 0.0


def _share_beyond(moments: tuple[Moments, Moments], noise: float, level: float) -> float:
    """The share of features whose mean moved by more than ``level`` allows for one feature on its own."""
    a, b = moments
    deviation = np.sqrt((np.nan_to_num(a.variance) + np.nan_to_num(b.variance)) / 2)
    reach = NormalDist().inv_cdf(1 - level / 2) * noise
    return float((np.abs(b.mean - a.mean) > reach * deviation).mean())
