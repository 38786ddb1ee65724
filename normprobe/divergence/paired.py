"""The same data: errors sample by sample, what is rounding, and where each error comes from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from normprobe.divergence.attribution import PASSES, Attribution, attribute_norm, estimate_attribution, gain
from normprobe.divergence.columns import decibels
from normprobe.divergence.error_bounds import SiteErrors, feature_errors, measure_errors
from normprobe.divergence.matched_sites import MatchedSite, RecordingPair, median_sample_rms, moments_of
from normprobe.divergence.matching import Match
from normprobe.divergence.rounding import GROWTH, MEASURED, WITHIN, Precision, beyond_rounding
from normprobe.divergence.same_tensors import with_one_error
from normprobe.vocabulary import INPUT, OUTPUT

Numbers = NDArray[np.float64]

_SUBUNIT = 16.0
# Its square is still a float64 above 0.
_TINY = 1e-150


def paired_columns(
    readers: RecordingPair, places: Sequence[MatchedSite], precision: Precision
) -> list[dict[str, Any]]:
    """The columns of each place that rest on samples that pair.

    Args:
        readers: both recordings, parts known by the same numbers.
        places: the places they share, in order of execution.
        precision: the rounding to expect.
    """
    _, largest = _sizes(readers, places)
    # Of a signal this far below those before it nothing but rounding is left.
    tiny = precision.floors / _SUBUNIT * largest
    found = [_errors(readers, place, least) for place, least in zip(places, tiny, strict=True)]
    found = with_one_error(readers, places, found)
    # In float64 rounding is finer than moments are measured.
    bounds = np.maximum(precision.floors, MEASURED)
    known = np.array([e.known(bound) for e, bound in zip(found, bounds, strict=True)])
    splits = attribute_errors(
        places, known, [_of_norm(readers, *pair) for pair in zip(places, known, strict=True)]
    )
    rows = judge_errors(readers, places, precision, known, splits)
    for at, (place, row) in enumerate(zip(places, rows, strict=True)):
        limit = max(10 ** (row["noise_db"] / 20), MEASURED)
        row |= {
            "pairs": found[at].pairs,
            "sample_difference": found[at].typical,
            "cosine": found[at].cosine,
            "error_of": "rows" if known[at] == found[at].rows else "moments",
            "features_beyond": _share_beyond(readers, place, tiny[at], limit),
        }
    return rows


def _sizes(readers: RecordingPair, places: Sequence[MatchedSite]) -> tuple[Numbers, Numbers]:
    """The typical root mean square of a sample at each place, and the largest of all places up to it."""
    sizes = np.array([median_sample_rms(readers[0], place.at[0]) for place in places])
    return sizes, np.maximum(np.maximum.accumulate(sizes), _TINY)


def _errors(readers: RecordingPair, place: MatchedSite, tiny: float) -> SiteErrors:
    a, b = readers
    rows = (a.rows(place.at[0]), b.rows(place.at[1])) if place.aligned else None
    samples = (a.samples(place.at[0]), b.samples(place.at[1])) if place.aligned else None
    return measure_errors(rows, samples, moments_of(readers, place) if place.same_rows else None, tiny)


def _of_norm(readers: RecordingPair, place: MatchedSite, error: float) -> Attribution | None:
    """The error at an output, split by the norm's formula where that can be done."""
    if place.site != OUTPUT or not place.aligned or not np.isfinite(error):
        return None
    return attribute_norm(*readers, place.match)


def _share_beyond(readers: RecordingPair, place: MatchedSite, tiny: float, limit: float) -> float:
    """The share of features whose mean or standard deviation moved beyond rounding; NaN over other rows."""
    if not place.same_rows:
        return np.nan
    return float((feature_errors(*moments_of(readers, place), tiny) > limit).mean())


def attribute_errors(
    places: Sequence[MatchedSite], known: Numbers, measured: Sequence[Attribution | None]
) -> list[Attribution]:
    """Where each error comes from: at an output from the input, at an input from all that ran before.

    Args:
        places: the places, in order of execution.
        known: the error at each.
        measured: the split of each where it need not be estimated.
    """
    splits: list[Attribution] = []
    before, of_input = 0.0, dict[Match, float]()
    for place, error, split in zip(places, known, measured, strict=True):
        # An output inherits from its own layer's input, whatever other sites lie between the two.
        brought = of_input.get(place.match, before) if place.site == OUTPUT else before
        splits.append(split or estimate_attribution(error, brought))
        # What could not be compared hands nothing on.
        size = 0.0 if np.isnan(error) else float(error)
        if place.site == INPUT:
            of_input[place.match] = size
        before = max(before, size)
    return splits


def judge_errors(
    readers: RecordingPair,
    places: Sequence[MatchedSite],
    precision: Precision,
    known: Numbers,
    splits: Sequence[Attribution],
) -> list[dict[str, Any]]:
    """The columns that say how large each error is, where it comes from, and what of it is rounding.

    Args:
        readers: both recordings.
        places: the places, in order of execution.
        precision: the rounding to expect.
        known: the error at each place.
        splits: where each comes from.
    """
    sizes, largest = _sizes(readers, places)
    gains = np.array([gain(readers[0], p.match.a) if p.site == OUTPUT else 1.0 for p in places])
    # What is small beside the tensors before it may be their difference, and holds the rounding of both.
    gains *= np.maximum(largest / WITHIN / np.maximum(sizes, precision.floors / _SUBUNIT * largest), 1.0)
    levels, beyond = beyond_rounding(known, precision.floors, gains)
    own = precision.floors * gains
    return [
        {
            "error_db": decibels(known[at]),
            "noise_db": decibels(levels[at]),
            "inherited_db": decibels(splits[at].inherited),
            "introduced_db": decibels(splits[at].introduced),
            "split": "measured" if splits[at].exact else "estimated",
            "beyond": bool(beyond[at]),
            "introduces": bool(beyond[at]) and _arises(place, splits[at], known[at], own[at]),
        }
        for at, place in enumerate(places)
    ]


def _arises(place: MatchedSite, split: Attribution, error: float, own: float) -> bool:
    """Whether more arises at a place than its own rounding and what it inherits explain."""
    if split.exact:
        return split.introduced > own
    return error > max(own, (PASSES if place.site == OUTPUT else GROWTH) * split.inherited)
