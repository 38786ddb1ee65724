"""The layers that somebody may have meant by a name that none has."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches

_MOST = 3


def close_names(name: str, layers: Sequence[str]) -> list[str]:
    """At most three layers whose names hold the one given, or are like it; none where none is.

    Args:
        name: as it was given.
        layers: the names that there are.
    """
    # The end of a name is how people speak of a layer, and no near miss of the whole.
    holding = [layer for layer in layers if name and name in layer]
    return (holding or get_close_matches(name, layers, n=_MOST, cutoff=0.6))[:_MOST]
