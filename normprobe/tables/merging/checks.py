"""Whether recordings belong together: their weights should be those of one model, their data apart."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations, pairwise
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from normprobe.errors import RecordingError
from normprobe.tables.derive import starts
from normprobe.tables.frames import Tables
from normprobe.tables.window_facts import windows_of
from normprobe.vocabulary import OUTPUT

_MOST_NAMED = 3


def check_apart(parts: Sequence[Tables]) -> None:
    """Raise RecordingError if anything would count twice: a part, or a window of a part."""
    names = [name for part in parts for name in part.facts["parts"]]
    for name in sorted({name for name in names if names.count(name) > 1}):
        held = [part for part in parts if name in part.facts["parts"]]
        same = all(part.facts["parts"] == held[0].facts["parts"] and windows_of(part) for part in held)
        again = any(windows_of(part) == windows_of(other) for part, other in combinations(held, 2))
        if again or not same:
            raise RecordingError(
                f"part {name!r} occurs twice, so its data would count twice; merge each part once"
            )
    windows = sorted(
        (window["part"], window["phase"], window["first"], window["last"])
        for part in parts
        for window in windows_of(part)
    )
    for (*of, _, last), (*of_next, first, _) in pairwise(windows):
        if of == of_next and first <= last:
            raise RecordingError(
                f"window {first} of {of[1]!r} of part {of[0]!r} occurs twice, so its data would count twice; "
                "merge each window once"
            )


def different_weights(parts: Sequence[Tables]) -> str:
    """What is to be said of parts that different weights made, in a sentence; "" where none differ.

    Held against each other are what norms applied and a digest of the weight of each Linear, as far as both
    are known; not running statistics, which move with the data, and not weights of different dtypes.
    """
    first: dict[Any, dict[str, Any]] = {}
    layers: dict[str, None] = {}
    for part in parts:
        own = _weights(part)
        reference = first.setdefault(part.facts["dtype"], own)
        layers |= dict.fromkeys(
            name for name in own if name in reference and _differ(reference[name], own[name])
        )
        # What the first one lacks (a layer that did not fire there) another may have.
        first[part.facts["dtype"]] = {**own, **reference}
    if not layers:
        return ""
    names = ", ".join(repr(name) for name in [*layers][:_MOST_NAMED])
    more = f" and {len(layers) - _MOST_NAMED} more" if len(layers) > _MOST_NAMED else ""
    return (
        f"the weights of {_count(len(layers), 'layer')} differ between the recordings ({names}{more}): "
        "they are of different models, or of one that was trained in between, and what they hold together is "
        "of none of them"
    )


def _weights(tables: Tables) -> dict[str, Any]:
    """What is known of the weights of each layer: a digest, or what it applied."""
    ledger, sites = tables.ledger_base, tables.sites
    # Of a share of the features each process has other weights.
    shares = set(sites["layer"][sites["placement"] == "features"])
    digests = dict(zip(ledger["layer"], ledger["weights"], strict=True))
    known = {
        name: int(digest) for name, digest in digests.items() if not pd.isna(digest) and name not in shares
    }
    bounds = starts(sites["n_features"])
    vectors = tables.feature_moments[["weight", "bias"]].to_numpy()
    return known | {
        f"{layer}": vectors[bounds[place] : bounds[place + 1]]
        for place, (layer, site) in enumerate(zip(sites["layer"], sites["site"], strict=True))
        if site == OUTPUT and layer not in known and layer not in shares
    }


def _differ(a: int | NDArray[Any], b: int | NDArray[Any]) -> bool:
    """Whether two layers' weights are known to differ."""
    if isinstance(a, int) or isinstance(b, int):
        return isinstance(a, int) and isinstance(b, int) and a != b
    if a.shape != b.shape:  # which merging refuses itself
        return False
    return bool(((a != b) & ~np.isnan(a) & ~np.isnan(b)).any())


def nothing_measured(parts: Sequence[Tables]) -> str:
    """What is to be said of parts in which nothing was measured, in a sentence; "" where there is none."""
    empty = [part for part in parts if not part.facts["measured"] and not part.sites["n_samples"].sum()]
    if not empty:
        return ""
    names = ", ".join(repr(name) for part in empty for name in part.facts["parts"][:_MOST_NAMED])
    return (
        f"in {_count(len(empty), 'recording')} of {len(parts):,} nothing was measured (part {names}): "
        "what they were to add is missing from the whole"
    )


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
