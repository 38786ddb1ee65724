"""Places that hold one tensor: what one layer gives and the next reads has one error, however sampled.

More raw rows are kept at norms than at Linear layers. Where the moments of every feature are the same numbers
at two places, in both recordings, both were measured on the same tensor, and the one of more pairs knows its
error better.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

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
    best: dict[bytes, SiteErrors] = {}
    keys = [_key(readers, place) for place in places]
    for key, errors in zip(keys, found, strict=True):
        held = best.setdefault(key, errors)
        if errors.pairs > held.pairs:
            best[key] = errors
    return [best[key] for key in keys]


def _key(readers: RecordingPair, place: MatchedSite) -> bytes:
    """Equal for places that were measured on one tensor in either recording."""
    # What pairs at one place need not pair at another: then its error is not the other's.
    key = blake2b(bytes([place.aligned, place.same_rows]), digest_size=16)
    for moments in moments_of(readers, place):
        for values in (moments.count, moments.mean, moments.m2, moments.minimum, moments.maximum):
            key.update(values.tobytes())
    return key.digest()
