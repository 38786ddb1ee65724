"""Whether a difference is gone behind a later layer: folded scales, rotations, channels in another order.

Two models may hold other numbers inside and compute the same: a norm's scale folded into the Linear after
it, a rotation before one Linear and its inverse in the next, channels in another order. Between the two the
tensors differ; the layer that undoes it reads what differs, and what it gives agrees again.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd

from normprobe.vocabulary import INPUT, OUTPUT

_LESS_DB = 20.0
"""By how much a layer that undoes a difference lessens it: one near the noise is no difference undone."""


class Undone(NamedTuple):
    """Where the first difference ends.

    Attributes:
        behind: the layer that reads it and whose output agrees again; "" where none of those compared does.
        agrees_after: the last place, layer and site, that differs; None if the last of all does.
        goes_on_at: the place where begins what differs at the end; None if nothing does.
    """

    behind: str
    agrees_after: tuple[str, str] | None
    goes_on_at: tuple[str, str] | None


def undone(layers: pd.DataFrame) -> Undone | None:
    """Where the first difference is gone again; None where there is none, or where it goes on to the end.

    Args:
        layers: the table of differences, in order of execution.
    """
    sites = layers[layers["site"].isin((INPUT, OUTPUT))].reset_index(drop=True)
    beyond = sites["beyond"].to_numpy(bool)
    if not beyond.any():
        return None
    places = list(zip(sites["layer"].astype(str), sites["site"].astype(str), strict=True))
    ends = _ends(sites, places)
    last = int(np.flatnonzero(beyond)[-1])
    if last + 1 < len(places):
        # What nobody is seen to read may be a result of the model: then it is not gone.
        read = all(
            beyond[at + 1 :][_inputs(places)[at + 1 :]].any() for at in _outputs_beyond(places, beyond)
        )
        return Undone(ends[0] if ends and read else "", places[last], None)
    if not ends:
        return None
    agreeing = np.flatnonzero(~beyond & _inputs(places))
    # After the last input that agrees: from there on the difference has come for good.
    again = int(agreeing[-1]) + 1 if len(agreeing) else 0
    begins = again + int(np.argmax(beyond[again:]))
    gone = places.index((ends[0], OUTPUT))
    return Undone(ends[0], None, places[begins]) if begins > gone else None


def _ends(sites: pd.DataFrame, places: list[tuple[str, str]]) -> list[str]:
    """The layers that read a difference and give what agrees, in order of execution."""
    at = {place: number for number, place in enumerate(places)}
    error, beyond = sites["error_db"].to_numpy(float), sites["beyond"].to_numpy(bool)
    found = []
    for layer in dict.fromkeys(name for name, _ in places):
        read, given = at.get((layer, INPUT)), at.get((layer, OUTPUT))
        if read is None or given is None or not beyond[read] or beyond[given]:
            continue
        # Besides agreeing: a difference that was near the noise may drop below it by itself.
        if error[given] <= error[read] - _LESS_DB:
            found.append(layer)
    return found


def _inputs(places: list[tuple[str, str]]) -> np.ndarray:
    return np.array([site == INPUT for _, site in places])


def _outputs_beyond(places: list[tuple[str, str]], beyond: np.ndarray) -> list[int]:
    return [at for at, (_, site) in enumerate(places) if site == OUTPUT and beyond[at]]
