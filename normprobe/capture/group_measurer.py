"""Measures tensors whose samples are of groups, each by sums of its own; twin of ``csrc/hooks/groups.h``.

A site itself holds of such tensors the kept samples and raw rows alone; the sums of all are merged from those
of its groups when it is frozen (`capture.states.group_state`).
"""

from __future__ import annotations

from functools import partial

from torch import Tensor

from normprobe.capture.identity.group_choices import GroupChoice
from normprobe.capture.identity.observation import Observation
from normprobe.capture.identity.sample_numbers import record_extremes
from normprobe.capture.identity.selection import RawSelection, Selection
from normprobe.capture.measure import Measurer, axis_roles, measured_moments
from normprobe.capture.states.group_state import GroupState
from normprobe.kernels import dispatch
from normprobe.kernels.first_nonfinite import first_nonfinite
from normprobe.kernels.types import Extremes


class GroupMeasurer(Measurer):
    """Adds each tensor whose samples are of groups to the sums of these."""

    def _add_strided(self, observation: Observation, selection: Selection, raw: RawSelection) -> bool:
        if selection.groups is None:
            return super()._add_strided(observation, selection, raw)
        site, compiled = observation.site, self._compiled
        if site.counters.state is None or compiled is None:
            return False
        # Sums of the site's own are not asked for: its groups have them.
        kept = selection.kept or (None if raw.choice is None else selection.choice)
        if kept is not None and self._observed(observation, site.counters.state, kept, raw.choice) is False:
            return False
        for group in selection.groups:
            held = _held(observation, selection, group)
            extremes = self._observed(observation, held.accumulator.state, group.choice, None)
            # Of the first of all, or of none: each reads one and the same tensor.
            if extremes is False:
                return False
            held.count(group.n_samples, group.masked)
            if extremes is not None:
                record_extremes(held, Extremes(*extremes), selection.placement, observation.forward)
        return True

    def _add_arranged(
        self, observation: Observation, values: Tensor, selection: Selection, raw: RawSelection
    ) -> None:
        if selection.groups is None:
            super()._add_arranged(observation, values, selection, raw)
            return
        site, moments = observation.site, partial(measured_moments, observation, values)
        assert site.accumulator is not None
        if raw.choice is not None:
            site.accumulator.keep(values, raw.choice)
        if selection.kept is not None:
            site.accumulator.merge(moments(selection.kept, site.accumulator), selection.kept)
        for group in selection.groups:
            held = _held(observation, selection, group)
            extremes = held.accumulator.merge(moments(group.choice, held.accumulator), group.choice)
            if extremes.nonfinite is not None:
                counted = group.choice.counted
                # Samples of other groups are marked by a 2: what is not finite there is none of this group's.
                found = first_nonfinite(values, None if counted is None else counted == 1)
                extremes = extremes._replace(nonfinite=found)
            held.count(group.n_samples, group.masked)
            record_extremes(held, extremes, selection.placement, observation.forward)


def _held(observation: Observation, selection: Selection, group: GroupChoice) -> GroupState:
    """What the site holds of a group; from now on, if it had no sample of it."""
    site, view, placed = observation.site, observation.state.view, selection.placement.groups
    held = site.group(group.code)
    if held is None:
        # The width was set by `_fits`, and the groups by `place`, before anything is measured.
        assert site.width is not None
        assert placed is not None
        made = dispatch.accumulator(site.width, axis_roles(view), observation.tensor.device)
        held = site.open_group(GroupState.of(group.code, placed.names[group.code], made))
    return held
