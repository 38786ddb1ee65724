"""Places that hold one tensor: what one layer gives and the next reads has one error, however sampled.

More raw rows are kept at norms than at Linear layers. Where the moments of every feature are the same numbers
at two places, in both recordings, both were measured on the same tensor, and the one of more pairs knows its
error better.
"""

from __future__ import annotations

from collections.abc import Sequence

from normprobe.divergence.error_bounds import SiteErrors
from normprobe.divergence.matched_sites import MatchedSite, RecordingPair, moments_of


def with_one_error(
    readers: RecordingPair, places: Sequence[MatchedSite], found: Sequence[SiteErrors]
) -> list[SiteErrors]:
    """The errors of each place, those of the same tensor from where most samples pair.

    Args:
        readers: both recordings.
        places: the places they share.
        found: what was measured at each.
    """
    best: dict[tuple[bytes, ...], SiteErrors] = {}
    keys = [_key(readers, place) for place in places]
    for key, errors in zip(keys, found, strict=True):
        held = best.setdefault(key, errors)
        if errors.pairs > held.pairs:
            best[key] = errors
    return [best[key] for key in keys]


def _key(readers: RecordingPair, place: MatchedSite) -> tuple[bytes, ...]:
    """Equal for places that were measured on one tensor in either recording."""
    moments = moments_of(readers, place)
    # What pairs at one place need not pair at another: then its error is not the other's.
    how = bytes([place.aligned, place.same_rows])
    return how, *(
        values.tobytes() for of in moments for values in (of.count, of.mean, of.m2, of.minimum, of.maximum)
    )
