"""The same data: errors sample by sample, what is rounding, and where each error comes from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from normprobe.comparison.errors import Errors, errors, feature_errors
from normprobe.comparison.inheritance import PASSES, Split, estimated, gain, of_norm
from normprobe.comparison.noise import GROWTH, MEASURED, Precision, beyond_rounding
from normprobe.comparison.places import Place, Readers, moments_of, rms
from normprobe.comparison.schema import decibels

Numbers = NDArray[np.float64]

_SUBUNIT = 16.0


def same_columns(readers: Readers, places: Sequence[Place], precision: Precision) -> list[dict[str, Any]]:
    """The columns of each place that rest on samples that pair.

    Args:
        readers: both recordings, parts known by the same numbers.
        places: the places they share, in order of execution.
        precision: the rounding to expect.
    """
    sizes = np.array([rms(readers[0].features(place.at[0])) for place in places])
    # A signal this far below those before it is what rounding leaves of their differences.
    tiny = precision.floors / _SUBUNIT * np.maximum.accumulate(sizes)
    found = [_errors(readers, place, least) for place, least in zip(places, tiny, strict=True)]
    bounds = np.maximum(precision.floors, MEASURED)
    largest = np.array([e.known(bound) for e, bound in zip(found, bounds, strict=True)])
    gains = np.array([_gain(readers, place) for place in places])
    levels, beyond = beyond_rounding(largest, precision.floors, gains)
    splits = _splits(readers, places, largest)
    rows = []
    for at, place in enumerate(places):
        limit = max(levels[at], MEASURED)
        split, own = splits[at], precision.floors[at] * gains[at]
        rows.append(
            {
                "pairs": found[at].pairs,
                "sample_difference": found[at].typical,
                "cosine": found[at].cosine,
                "error_db": decibels(largest[at]),
                "error_of": "rows" if largest[at] == found[at].rows else "moments",
                "noise_db": decibels(levels[at]),
                "inherited_db": decibels(split.inherited),
                "introduced_db": decibels(split.introduced),
                "split": "measured" if split.exact else "estimated",
                "features_beyond": _share_beyond(readers, place, tiny[at], limit),
                "beyond": bool(beyond[at]),
                "introduces": bool(beyond[at]) and _arises(place, split, largest[at], own),
            }
        )
    return rows


def _errors(readers: Readers, place: Place, tiny: float) -> Errors:
    a, b = readers
    rows = (a.rows(place.at[0]), b.rows(place.at[1])) if place.aligned else None
    samples = (a.samples(place.at[0]), b.samples(place.at[1])) if place.aligned else None
    return errors(rows, samples, moments_of(readers, place) if place.alike else None, tiny)


def _gain(readers: Readers, place: Place) -> float:
    return gain(readers[0], place.match.a) if place.site == "output" else 1.0


def _share_beyond(readers: Readers, place: Place, tiny: float, limit: float) -> float:
    """The share of features whose mean or standard deviation moved beyond rounding; NaN over other rows."""
    if not place.alike:
        return np.nan
    return float((feature_errors(*moments_of(readers, place), tiny) > limit).mean())


def _splits(readers: Readers, places: Sequence[Place], largest: Numbers) -> list[Split]:
    """Where each error comes from: at an output from the input, at an input from all that ran before."""
    splits: list[Split] = []
    before = read = 0.0
    for place, error in zip(places, largest, strict=True):
        if place.site == "input":
            split, read = estimated(error, before), _known(error)
        else:
            measured = of_norm(*readers, place.match) if place.aligned and np.isfinite(error) else None
            split = measured or estimated(error, read)
        splits.append(split)
        before = max(before, _known(error))
    return splits


def _known(error: float) -> float:
    """An error, 0 where nothing could be compared."""
    return 0.0 if np.isnan(error) else float(error)


def _arises(place: Place, split: Split, error: float, own: float) -> bool:
    """Whether more arises at a place than its own rounding and what it inherits explain."""
    if split.exact:
        return split.introduced > own
    return error > max(own, (GROWTH if place.site == "input" else PASSES) * split.inherited)
