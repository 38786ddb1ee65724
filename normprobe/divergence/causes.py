"""What of a layer's own differs from its counterpart's: eps, scale, shift, statistics, mode, dtype, class.

The recordings hold what a norm applied, and what each layer says of itself. Of a Linear they hold no weight:
that only its shift differs shows in its kept rows, and `compare_live` has both weights at hand.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from normprobe.divergence.kept_samples import RecordingArrays, pair_samples
from normprobe.divergence.matching import Match
from normprobe.divergence.rounding import unit
from normprobe.divergence.stored_differences import StoredDifference
from normprobe.formatting import format_count, format_number
from normprobe.vocabulary import INPUT, OUTPUT, QUANTIZED

RecordingPair = tuple[RecordingArrays, RecordingArrays]
Numbers = NDArray[np.float64]

_VECTORS = {
    "scale": ("weight", OUTPUT, "scale (weight)"),
    "shift": ("bias", OUTPUT, "shift (bias)"),
    "running mean": ("running_mean", INPUT, "running mean"),
    "running variance": ("running_var", INPUT, "running variance"),
}
# As torch initializes them: where one side still is so, it was not loaded.
_FRESH = {"scale": 1.0, "shift": 0.0, "running mean": 0.0, "running variance": 1.0}
_TINY = 1e-30

SHIFT_OF_ROWS = "shift of all rows"
"""What differs at a Linear whose kept rows all moved alike."""

_SAME_SHIFT = 0.02
"""Rows that moved by one vector, to this share of it, moved by a shift."""


class Cause(NamedTuple):
    """One thing of a layer's own that differs.

    Attributes:
        layer: its name in the first model.
        layer_b: its name in the second.
        what: eps, scale, shift, running mean, running variance, unit offset, mode, kind, class, dtype, bias,
            weight, a shift of all rows, or the name of one of its settings.
        a: what it is in the first.
        b: what it is in the second.
        said: both in words, which follow the layer's name.
    """

    layer: str
    layer_b: str
    what: str
    a: str
    b: str
    said: str


class Difference(NamedTuple):
    """A cause without its layer: what differs, what it is in either, and both in words."""

    what: str
    a: str
    b: str
    said: str


def find_causes(readers: RecordingPair, matches: Iterable[Match]) -> tuple[Cause, ...]:
    """Everything of its own in which a layer differs from its counterpart, the likeliest to matter first."""
    return tuple(
        Cause(match.a, match.b, *found) for match in matches for found in _differences(readers, match)
    )


def with_weights(
    causes: Sequence[Cause],
    stored: Iterable[StoredDifference],
    readers: RecordingPair,
    matches: Sequence[Match],
) -> list[Cause]:
    """The causes with what Linear layers store differently, in place of what kept rows only suggest of it.

    Args:
        causes: what the recordings say.
        stored: what the models do.
        readers: both recordings.
        matches: the layers compared.
    """
    pairs = {match.a: match for match in matches if readers[0].ledger.loc[match.a, "kind"] == "linear"}
    own = [
        Cause(found.module, pairs[found.module].b, *of_tensor(found.tensor, found.share))
        for found in stored
        if found.module in pairs and np.isfinite(found.share)
    ]
    known = {cause.layer for cause in own}
    kept = [cause for cause in causes if not (cause.what == SHIFT_OF_ROWS and cause.layer in known)]
    order = {match.a: at for at, match in enumerate(matches)}
    return sorted([*kept, *own], key=lambda cause: order[cause.layer])


def of_tensor(name: str, share: float) -> Difference:
    """What differs where two Linear layers store a tensor of this name that is not alike.

    Args:
        name: weight or bias.
        share: root mean square of the difference over that of the first model's; NaN if one has none.
    """
    if np.isnan(share):
        return Difference(name, "", "", f"it has a {name} in one of the two only")
    far = "where the first has 0" if share == np.inf else f"by {format_number(100 * share)} %"
    return Difference(name, "", format_number(share), f"its {name} differs {far}")


def in_words(said: Sequence[str]) -> str:
    """Clauses as one: "its eps is 1e-05 against 0.1, and it ran in eval mode against train mode"."""
    return f"{'; '.join(said[:-1])}; and {said[-1]}" if len(said) > 2 else ", and ".join(said)


def _differences(readers: RecordingPair, match: Match) -> Iterator[Difference]:
    rows = [reader.ledger.loc[name] for reader, name in zip(readers, match[:2], strict=True)]
    yield from _plain("kind", [str(row["kind"]) for row in rows], "it is {} against {}")
    yield from _plain("mode", [str(row["training"]) for row in rows], "it ran in {} mode against {} mode")
    yield from _eps(rows)
    # Of a norm against a Linear no vector means the same.
    if len({row["kind"] != "linear" for row in rows}) == 1:
        yield from _vectors(readers, match, rows)
    settings = list(_settings(rows))
    yield from settings
    if all(row["kind"] == "linear" for row in rows) and "bias" not in (found.what for found in settings):
        yield from _moved_by_one_vector(readers, match)
    dtypes = [_dtype(reader, name) for reader, name in zip(readers, match[:2], strict=True)]
    yield from _plain("dtype", dtypes, "it computes in {} against {}")
    if rows[0]["kind"] == rows[1]["kind"]:
        yield from _plain("class", [_class(row) for row in rows], "its class is {} against {}")


def _plain(what: str, values: Sequence[str], words: str) -> Iterator[Difference]:
    if values[0] != values[1] and all(values):
        yield Difference(what, values[0], values[1], words.format(*values))


def _class(row: Any) -> str:
    """A layer's class; torch calls its quantized ones as those they replace."""
    quantized = f"{QUANTIZED}=True" in str(row["settings"]).split("; ")
    return f"quantized {row['type']}" if quantized else str(row["type"])


def _eps(rows: Sequence[Any]) -> Iterator[Difference]:
    eps = [float(row["eps"]) if pd.notna(row["eps"]) else np.nan for row in rows]
    # An eps that went through float32 is no other one.
    if np.isfinite(eps).all() and abs(eps[0] - eps[1]) > 1e-6 * max(map(abs, eps)):
        yield from _plain("eps", [f"{value:g}" for value in eps], "its eps is {} against {}")


def _dtype(reader: RecordingArrays, layer: str, site: str = OUTPUT) -> str:
    place = reader.places.get((layer, site))
    return "" if place is None else str(reader.tables.sites["dtype"].iloc[place])


def _settings(rows: Sequence[Any]) -> Iterator[Difference]:
    """What the layers say of themselves under one name, and differently."""
    own = [
        dict(pair.split("=", 1) for pair in str(row["settings"]).split("; ") if "=" in pair) for row in rows
    ]
    for name in own[0]:
        if name in own[1] and own[0][name] != own[1][name]:
            values = own[0][name], own[1][name]
            if name == "bias" and set(values) == {"True", "False"}:
                has = "first" if values[0] == "True" else "second"
                yield Difference(name, *values, f"it has a bias in the {has} only")
            else:
                yield Difference(name, *values, f"its {name} is {values[0]} against {values[1]}")


def _vectors(readers: RecordingPair, match: Match, rows: Sequence[Any]) -> Iterator[Difference]:
    """Scale, shift and running statistics as applied, beyond what storing them in another dtype changes."""
    for what, (name, site, words) in _VECTORS.items():
        places = _places(readers, match, site)
        if places is None:
            continue
        a, b = (reader.vector(name, place) for reader, place in zip(readers, places, strict=True))
        known = [bool(np.isfinite(vector).any()) for vector in (a, b)]
        if all(known) and a.shape == b.shape:
            dtypes = [_dtype(reader, layer, site) for reader, layer in zip(readers, match[:2], strict=True)]
            yield from _vector(what, words, a, b, max(map(unit, dtypes)))
        elif what in ("running mean", "running variance") and any(known):
            has = "first" if known[0] else "second"
            yield Difference(what, str(known[0]), str(known[1]), f"it has a {words} in the {has} only")


def _vector(what: str, words: str, a: Numbers, b: Numbers, rounding: float) -> Iterator[Difference]:
    # Stored in a coarser dtype a vector moves by its rounding.
    # Each side was rounded once, so up to two roundings apart are the same number.
    least = 2 * rounding * np.maximum(np.abs(a), np.abs(b)) + _TINY
    moved = ~(np.abs(b - a) <= least) & ~(np.isnan(a) & np.isnan(b))
    if not moved.any():
        return
    at = int(np.argmax(np.where(moved, np.nan_to_num(np.abs(b - a), nan=np.inf), -1.0)))
    shown = format_number(a[at]), format_number(b[at])
    # Wider than above: adding 1 rounds again, and on a larger number.
    steps = 4 * rounding * (1 + np.abs(a))
    for step, other in ((1.0, "second"), (-1.0, "first")):
        if what == "scale" and (np.abs(b - a - step) <= steps).all():
            text = f"its scale is larger by 1 in the {other}: a unit offset (1 + weight) on one side only"
            yield Difference("unit offset", *shown, text)
            return
    fresh = [bool((vector == _FRESH[what]).all()) for vector in (a, b)]
    if fresh[0] != fresh[1]:
        which = "first" if fresh[0] else "second"
        said = f"its {words} is {_FRESH[what]:g} throughout in the {which} only"
    # Then channels stand in another order, and no number is wrong.
    elif (np.sort(a) == np.sort(b)).all():
        said = f"its {words} has the same numbers in another order"
    elif len(a) == 1:
        said = f"its {words} is {shown[0]} against {shown[1]}"
    else:
        share = f"in {moved.sum():,} of {format_count(len(a), 'feature')}"
        said = f"its {words} differs {share}, most in feature {at}: {shown[0]} against {shown[1]}"
    yield Difference(what, *shown, said)


def _places(readers: RecordingPair, match: Match, site: str) -> tuple[int, int] | None:
    """The places of two layers at a site, if both have it."""
    first, second = (
        reader.places.get((layer, site)) for reader, layer in zip(readers, match[:2], strict=True)
    )
    return None if first is None or second is None else (first, second)


def _paired_rows(readers: RecordingPair, match: Match, site: str) -> tuple[Numbers, Numbers] | None:
    """The raw rows that both kept at a site, of one width; None without any."""
    places = _places(readers, match, site)
    if places is None or readers[0].widths[places[0]] != readers[1].widths[places[1]]:
        return None
    a, b = pair_samples(readers[0].rows(places[0]), readers[1].rows(places[1]))
    return (a, b) if len(a) and np.isfinite([a, b]).all() else None


def _moved_by_one_vector(readers: RecordingPair, match: Match) -> Iterator[Difference]:
    """Whether all that a Linear's kept rows differ by is one vector: another bias."""
    read, given = (_paired_rows(readers, match, site) for site in (INPUT, OUTPUT))
    # Two rows may move alike by chance.
    if read is None or given is None or len(given[0]) < 3:
        return
    # Only where both read the same is it the layer that moved them.
    (x, y), (a, b) = read, given
    if not np.allclose(x, y, rtol=1e-3, atol=1e-5 * np.abs(x).max()):
        return
    moved = b - a
    size, left = np.abs(moved.mean(0)).max(), np.abs(moved - moved.mean(0)).max()
    varies = np.abs(a - a.mean(0)).max()
    if size > 1e-4 * varies and left <= _SAME_SHIFT * size:
        at = int(np.argmax(np.abs(moved.mean(0))))
        shown = "0", format_number(moved.mean(0)[at])
        said = f"every row moves by one vector, as another bias gives ({shown[1]} in feature {at})"
        yield Difference(SHIFT_OF_ROWS, *shown, said)
