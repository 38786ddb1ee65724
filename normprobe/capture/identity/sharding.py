"""The samples of a tensor of which this process has a part, and what its site says of that."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from normprobe.capture.identity.observation import Observation
from normprobe.capture.identity.sample_numbers import Placement
from normprobe.capture.identity.tensor_parts import Sharding
from normprobe.layers.to_rows import Extent
from normprobe.tables.records import WHOLE


def place_part(observation: Observation) -> str:
    """Note which part of a whole tensor a site has, as its first call shows; why another one is left out."""
    site, sharding = observation.site, observation.sharding
    found = WHOLE if sharding is None else sharding.placement(observation.state.view)
    if isinstance(found, str):
        return found
    if site.counters.calls and site.placement != found:
        return f"a call at its {observation.name} that is spread over processes otherwise is left out"
    site.placement = found
    if sharding is not None:
        site.counters.plan_slot = None  # by which the extension would read a DTensor
    return ""


def samples_of_part(observation: Observation, placement: Placement, extent: Extent) -> Placement:
    """The samples of a part of a tensor, once for all sites that have this part in a forward."""
    sharding = observation.sharding
    assert sharding is not None
    if observation.site.placement.kind != "samples":
        return placement
    key = (placement, sharding)
    cached = observation.forward.placements
    if key not in cached:
        cached[key] = part_of(placement, extent.leading, sharding)
    part: Placement = cached[key]
    return part


def part_of(placed: Placement, leading: tuple[int, ...], sharding: Sharding) -> Placement:
    """The samples of a part among those of the whole tensor, whose leading sizes are given."""
    every = np.arange(int(np.prod(leading))).reshape(leading)
    for axis, start, stop in sharding.ranges:
        every = every.take(np.arange(start, stop), axis)
    index, old = every.ravel(), placed.assignment
    assignment = replace(
        old,
        example=old.example[index],
        position=old.position[index],
        real=None if old.real is None else old.real[index],
    )
    real = None if placed.real is None else placed.real[index]
    masked = 0 if real is None else int((~real).sum())
    return replace(placed, assignment=assignment, real=real, masked=masked, named=False)
