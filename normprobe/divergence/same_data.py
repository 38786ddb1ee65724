"""Whether two recordings saw the same data, and which part of the one is which of the other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from normprobe.divergence.kept_samples import RecordingArrays, pair_samples
from normprobe.errors import RecordingError
from normprobe.tables.frames import Tables
from normprobe.vocabulary import INPUT

_CLOSE = 0.05
"""Data that differ by their dtype alone agree to 2**-8 and better; other data do not agree at all."""


@dataclass(frozen=True)
class Pairing:
    """Whether samples pair.

    Attributes:
        same: whether both recordings saw the same data.
        how: `digests` (equal fingerprints), `values` (equal up to rounding), `asked` (the caller says so),
            or `no`.
        parts: for each part of the second recording, the index of the first one's that it is.
    """

    same: bool
    how: str
    parts: dict[str, int]


def pair_data(a: Tables, b: Tables, same_data: bool | None, first: list[tuple[str, str]]) -> Pairing:
    """Decide whether two recordings saw the same data.

    Args:
        a: tables of the first recording.
        b: tables of the second.
        same_data: what the caller knows of it; None asks the fingerprints.
        first: matched layers in order of execution.

    Raises:
        RecordingError: the data are said to be the same, but the numbers of parts or examples differ.
    """
    if same_data is False:
        return Pairing(False, "asked", {})
    by_digest = _by(a, b, whole=True)
    if by_digest is not None:
        return Pairing(True, "digests", by_digest)
    by_size = _by(a, b, whole=False)
    if same_data:
        if by_size is None and _total(a) != _total(b):
            raise RecordingError(
                f"these recordings cannot be of the same data: {_sizes(a)} examples against {_sizes(b)}; "
                "record both on the same batches, or compare them as other data"
            )
        # Cut into other parts, samples do not pair: only the moments of all the data compare.
        sure = by_size is not None and (len(by_size) == 1 or _agreeing(a, b, by_size, first))
        return Pairing(True, "asked", by_size if sure and by_size else {})
    # The fingerprint is of bits: the same images in another dtype have another.
    if by_size is not None and _agreeing(a, b, by_size, first):
        return Pairing(True, "values", by_size)
    return Pairing(False, "no", {})


def _by(a: Tables, b: Tables, *, whole: bool) -> dict[str, int] | None:
    """Parts with equal fingerprints (or, not whole, of equally many examples), or None."""
    of_a, of_b = (
        sorted((*found[: 2 if whole else 1], part) for part, found in t.facts.get("digests", {}).items())
        for t in (a, b)
    )
    # A fingerprint of 0 stands for data that have none.
    if whole and any(entry[1] == 0 for entry in of_a):
        return None
    if not of_a or [entry[:-1] for entry in of_a] != [entry[:-1] for entry in of_b]:
        return None
    index = {part: at for at, part in enumerate(a.facts["parts"])}
    return {y[-1]: index[x[-1]] for x, y in zip(of_a, of_b, strict=True)}


def _sizes(tables: Tables) -> str:
    return " + ".join(str(found[0]) for found in tables.facts.get("digests", {}).values()) or "no"


def _agreeing(a: Tables, b: Tables, parts: dict[str, int], first: list[tuple[str, str]]) -> bool:
    return bool(first) and _agree(RecordingArrays(a), RecordingArrays(b, parts), first[0])


def _total(tables: Tables) -> int:
    return sum(int(found[0]) for found in tables.facts.get("digests", {}).values())


def _agree(a: RecordingArrays, b: RecordingArrays, layers: tuple[str, str]) -> bool:
    """Whether the kept raw rows of the first layer's input pair and agree up to rounding."""
    places = a.places.get((layers[0], INPUT)), b.places.get((layers[1], INPUT))
    if places[0] is None or places[1] is None or a.widths[places[0]] != b.widths[places[1]]:
        return False
    x, y = pair_samples(a.rows(places[0]), b.rows(places[1]))
    power = np.square(x).sum()
    # Zeros agree with zeros of any data, and one row may agree by chance.
    return bool(len(x) > 1 and power > 0 and np.square(y - x).sum() < _CLOSE**2 * power)
