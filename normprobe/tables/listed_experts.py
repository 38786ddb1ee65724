"""Experts that are modules of a list: what each reads and gives, from the Linear layers inside it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd

from normprobe.kernels.moments import MOMENT_FIELDS, Moments
from normprobe.tables.columns.tables import based
from normprobe.tables.derive import moments_of, starts
from normprobe.tables.expert_frames import ExpertFrames
from normprobe.vocabulary import INPUT, INTERMEDIATE, OUTPUT


class _Source(NamedTuple):
    """Where a site of an expert is measured: at which site of which layer; ``width`` if that never fired."""

    layer: str
    at: str
    width: int


def listed_experts(sites: pd.DataFrame, moments: pd.DataFrame, ledger: pd.DataFrame) -> ExpertFrames:
    """The same frames as of experts of one weight; of lists of which no expert ran there is no row.

    An expert reads what its first Linear reads, and gives what its last one gives, in order of execution.

    Args:
        sites: a row per place of layers.
        moments: the moments of their features.
        ledger: a row per layer.
    """
    inside = ledger[(ledger["expert_of"] != "") & (ledger["kind"] == "linear")]
    if inside.empty:
        return ExpertFrames.none()
    at = {key: place for place, key in enumerate(zip(sites["layer"], sites["site"], strict=True))}
    widths, edges, every = sites["n_features"].to_numpy(), starts(sites["n_features"]), moments_of(moments)
    rows, features = [], []
    for holder, of_list in inside.groupby("expert_of", sort=False):
        for site, expert, source in _sources(of_list, at, widths):
            place = at.get((source.layer, source.at))
            rows.append(
                {
                    "layer": holder,
                    # A list has no call of its own in the ledger: it ran when its first layer did.
                    "depth": int(of_list["depth"].min()),
                    "expert": expert,
                    "site": site,
                    "n_features": source.width,
                    "rows": 0 if place is None else int(sites["n_samples"].iloc[place]),
                    # What is known of a list comes from its layers, which see no routing weights.
                    **{"weight_sum": 0.0, "weighted": 0},
                }
            )
            part = slice(0, 0) if place is None else slice(edges[place], edges[place + 1])
            held = every.map(lambda field, part=part: field[part])
            features.append(Moments.empty(source.width) if place is None else held)
    if not rows:
        return ExpertFrames.none()
    columns = {
        field.column: np.concatenate([getattr(each, name) for each in features])
        for name, field in MOMENT_FIELDS.items()
    }
    frame = pd.DataFrame(rows)
    return ExpertFrames(based("expert_places", frame), based("expert_moments", pd.DataFrame(columns)))


def _sources(
    of_list: pd.DataFrame, at: dict[tuple[str, str], int], widths: np.ndarray
) -> Iterator[tuple[str, int, _Source]]:
    """Each site and expert of a list, site by site, and where it is measured."""
    ran = of_list[of_list["depth"].notna()]
    # A layer that ran may still have been left out at either site.
    ran = ran[[(layer, INPUT) in at and (layer, OUTPUT) in at for layer in ran["layer"]]]
    if ran.empty:
        return
    named = {
        (int(expert), _inside(layer, holder)): layer
        for layer, holder, expert in zip(
            of_list["layer"], of_list["expert_of"], of_list["expert"], strict=True
        )
    }
    # Of one expert alone: all are built alike, and the depths of several would mix their orders.
    one = ran[ran["expert"] == ran["expert"].iloc[0]].sort_values("depth")
    first, last = (str(one["layer"].iloc[end]) for end in (0, -1))
    holder = str(one["expert_of"].iloc[0])
    chosen = [(INPUT, first, INPUT), (OUTPUT, last, OUTPUT)]
    if first != last:
        chosen.insert(1, (INTERMEDIATE, last, INPUT))
    for site, layer, layer_site in chosen:
        width = int(widths[at[layer, layer_site]])
        for expert in sorted({number for number, _ in named}):
            # Those that never ran have no order of their own: the same parts as of one that ran.
            same = named.get((expert, _inside(layer, holder)), "")
            yield site, expert, _Source(same, layer_site, width)


def _inside(layer: str, holder: str) -> str:
    """The name of a layer inside its expert."""
    return layer.removeprefix(f"{holder}.").partition(".")[2]
