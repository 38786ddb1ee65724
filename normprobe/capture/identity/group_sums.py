"""Tensors whose samples are of groups: each group added to sums of its own; twin of ``csrc/hooks/groups.h``.

A site itself holds of such tensors the kept samples and raw rows alone; the sums of all are merged from those
of its groups when it is frozen (`capture.states.group_state`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from normprobe.capture.identity.group_choices import GroupChoice
from normprobe.capture.identity.sample_numbers import record_extremes
from normprobe.capture.identity.selection import Selection
from normprobe.capture.states.group_state import GroupState
from normprobe.capture.states.site_state import SiteState
from normprobe.kernels.choice import Choice
from normprobe.kernels.first_nonfinite import first_nonfinite
from normprobe.kernels.types import Accumulator, Extremes

Observe = Callable[[Any, Choice], Any]
Measure = Callable[[Tensor, Choice, Accumulator], Any]


def add_strided_groups(site: SiteState, selection: Selection, forward: Any, observe: Observe) -> bool:
    """Let the compiled kernel read the groups of a tensor by its own strides; False if it cannot.

    Args:
        site: where it is measured.
        selection: what of it counts.
        forward: the forward.
        observe: calls the extension with its state and a choice; gives new extremes, False where it cannot.
    """
    for group in selection.groups or ():
        held = _held(site, selection, group)
        extremes = observe(held.accumulator.state, group.choice)
        # Of the first group, or of none: all are of one tensor.
        if extremes is False:
            return False
        held.count(group.n_samples, group.masked)
        if extremes is not None:
            record_extremes(held, Extremes(*extremes), selection.placement, forward)
    return True


def add_arranged_groups(
    site: SiteState, values: Tensor, selection: Selection, forward: Any, measure: Measure
) -> None:
    """Add the groups of a tensor that was arranged as (samples, rows, features).

    Args:
        site: where it is measured.
        values: the tensor.
        selection: what of it counts.
        forward: the forward.
        measure: gives the tensor's moments by a choice, for an accumulator.
    """
    for group in selection.groups or ():
        held = _held(site, selection, group)
        extremes = held.accumulator.merge(measure(values, group.choice, held.accumulator), group.choice)
        if extremes.nonfinite is not None:
            counted = group.choice.counted
            found = first_nonfinite(values, None if counted is None else counted == 1)
            extremes = extremes._replace(nonfinite=found)
        held.count(group.n_samples, group.masked)
        record_extremes(held, extremes, selection.placement, forward)


def _held(site: SiteState, selection: Selection, group: GroupChoice) -> GroupState:
    """What the site holds of a group; from now on, if it had no sample of it."""
    placed = selection.placement.groups
    assert placed is not None
    return site.group(group.code, placed.names[group.code])
