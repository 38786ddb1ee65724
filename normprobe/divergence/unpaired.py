"""Other data: how far the moments moved, against what other examples of the same kind would give."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist
from typing import Any

import numpy as np

from normprobe.divergence.columns import decibels
from normprobe.divergence.error_bounds import errors
from normprobe.divergence.matched_sites import Place, Readers, moments_of
from normprobe.divergence.permutation_test import chances
from normprobe.kernels.moments import Moments


def other_columns(
    readers: Readers, places: Sequence[Place], level: float
) -> tuple[list[dict[str, Any]], tuple[int, int]]:
    """The columns of each place that rest on moments alone, and the examples that entered the test.

    Args:
        readers: both recordings.
        places: the places they share, in order of execution.
        level: how often a comparison of one model with itself may name any place.
    """
    tested = [at for at, place in enumerate(places) if place.aligned]
    chance = chances(*readers, [places[at].at for at in tested])
    likely = np.full(len(places), np.nan)
    likely[tested] = chance.likely
    rows = [_columns(readers, place, level) for place in places]
    for row, chanced in zip(rows, likely, strict=True):
        named = bool(chanced <= level)
        row |= {"likely": float(chanced), "beyond": named, "introduces": named}
    for at in range(1, len(rows)):
        # Without pairs nothing tells what is inherited: only the first place stands for itself.
        rows[at]["introduces"] &= not any(row["beyond"] for row in rows[:at])
    return rows, chance.examples


def _columns(readers: Readers, place: Place, level: float) -> dict[str, Any]:
    moments = moments_of(readers, place)
    examples = [int(reader.tables.facts["examples"]) for reader in readers]
    # An example's rows hang together: in the worst case they count as one.
    noise = np.sqrt(sum(1 / max(count, 1) for count in examples))
    with np.errstate(invalid="ignore"):
        found = errors(None, None, moments, 0.0)
    return {
        "pairs": 0,
        "error_db": decibels(found.known(0.0)),
        "error_of": "moments",
        "noise_db": decibels(float(noise * np.sqrt(1.5) * _unevenness(moments[0]))),
        "features_beyond": _share_beyond(moments, noise, level),
    }


def _unevenness(moments: Moments) -> float:
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
