"""The samples of one tensor: their numbers in the forward, which of them are real, and their labels."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from normprobe.capture.forwards.forward import Forward, Sequence
from normprobe.capture.forwards.label_options import LabelsOf, ListedLabels, name_examples
from normprobe.capture.identity.group_choices import PlacedGroups
from normprobe.capture.states.layer_state import LayerState
from normprobe.capture.states.site_state import SiteState
from normprobe.kernels.types import Extremes
from normprobe.layers.to_rows import Extent, extent_of
from normprobe.samples.dealing import Deal
from normprobe.samples.groups import UNTOLD, Codes, SampleGroups, group_codes, ragged_codes
from normprobe.samples.layout import (
    Assignment,
    Grid,
    Layout,
    assign,
    decide,
    fits,
    ragged,
    table_axes,
    time_axes,
)
from normprobe.samples.masks import Padding
from normprobe.tables.records import FirstNonfinite, Holder
from normprobe.vocabulary import INPUT


class NumberedForward(Protocol):
    """What samples are numbered and named by: a forward, or one that is planned.

    Attributes:
        call: its running number.
        first: running number of its first example, in this process.
        deal: the numbers of its examples over all processes.
        labels: the text of each sample, if it has one.
        sequences: what its layers work on, by what they read.
        placements: the samples of its tensors, by sequence, `Sizes` and first number.
    """

    call: int
    first: int
    deal: Deal
    labels: Any
    sequences: dict[Any, Sequence]
    placements: dict[Any, Any]


class Sizes(NamedTuple):
    """What the numbers of a tensor's samples follow from, beside the sequence and the first number.

    Attributes:
        layout: how the leading sizes read.
        leading: the sizes of the axes that number the samples.
        inner: the sizes of the axes that number the rows within a sample.
        axis: the axis the mask runs along.
        sample: what a sample is.
        group_axis: the axis that the positions run along by which samples are of groups.
    """

    layout: Layout
    leading: tuple[int, ...]
    inner: tuple[int, ...]
    axis: int | None
    sample: str
    group_axis: int | None = None


@dataclass(frozen=True, eq=False)
class Placement:
    """The samples of one tensor: who they are, and which are padding.

    Attributes:
        assignment: which example and position each sample is.
        real: shape (samples, rows), True where a row is not padding; None if all are.
        masked: how many rows are padding.
        named: whether the forward's labels fit the samples one to one.
        aligned: whether the samples are numbered as the forward's.
        sizes: what of the tensor and its site they follow from.
        groups: which groups they are of; None where none were asked for.
    """

    assignment: Assignment
    real: NDArray[np.bool_] | None
    masked: int
    named: bool
    aligned: bool
    sizes: Sizes
    groups: PlacedGroups | None = None

    def text_of(self, forward: NumberedForward, sample: int) -> str:
        """The label of a sample, or ""."""
        if not self.named or forward.labels is None:
            return ""
        example = int(forward.deal.own(self.assignment.example[sample])) - forward.first
        position = int(self.assignment.position[sample])
        known = 0 <= example < len(forward.labels) and 0 <= position < len(forward.labels[example])
        return forward.labels[example][position] if known else ""


def place(
    state: LayerState,
    name: str,
    extent: Extent,
    forward: Forward,
    sequence: Sequence,
    *,
    strides: tuple[int, ...],
    seed: int,
    k: int | None,
) -> Placement:
    """Number the samples of a tensor whose sizes and strides are given, and say which are padding."""
    site, leading, inner, first = state.sites[name], extent.leading, extent.inner, forward.first
    grid, padding = sequence.grid, sequence.padding
    # Decided once: a batch that happens to equal another size must not be read otherwise than those before.
    if site.layout is None:
        site.layout = _decided(state, leading, grid)
    aligned = fits(site.layout, leading, grid) and not _is_routed(state, leading, grid)
    layout = site.layout if aligned else Layout.UNALIGNED
    if layout is Layout.UNALIGNED:
        first = site.unaligned  # a count of its own, so that no two samples have one number
        site.unaligned += leading[0] if leading else 1
    axis = _time_axis(time_axes(layout, leading, grid, padding), state, name, strides)
    table = None if sequence.groups is None else _table_of(sequence, state, layout, leading)
    axes = [] if table is None else table_axes(layout, leading, grid, table.shape)
    group_axis = _group_axis(axes, axis, state, name, strides) if axes else None
    sizes = Sizes(layout, leading, inner, axis, state.view.sample, group_axis)
    # The sequence stands in the key by identity; it lives in `forward.sequences` as long as the key does.
    placement: Placement | None = forward.placements.get((sequence, sizes, first))
    if placement is None:
        assignment = assign(layout, leading, grid, first=first, padding=padding, axis=axis, seed=seed, k=k)
        placement = _placed(sizes, assignment, padding, labelled=sequence.labelled, alone=sequence.alone)
        # A text of a whole example is that of each of its samples, also where pixels or heads share them.
        if sequence.labelled and placement.aligned and name_examples(forward.labels):
            placement = replace(placement, named=True)
        if sequence.groups is not None:
            groups = _groups_at(sequence.groups, sizes, grid, table, assignment.example - first)
            placement = replace(placement, groups=groups)
        placement = forward.placements[sequence, sizes, first] = _dealt(placement, forward)
    return placement


def _dealt(placement: Placement, forward: NumberedForward) -> Placement:
    """The placement with the numbers that its examples have over all processes."""
    if forward.deal.size == 1:
        return placement
    assignment = replace(placement.assignment, example=forward.deal.number(placement.assignment.example))
    return replace(placement, assignment=assignment)


def _table_of(
    sequence: Sequence, state: LayerState, layout: Layout, leading: tuple[int, ...]
) -> Codes | None:
    """The group of each position of what a layer works on; None where its samples are no positions."""
    groups = sequence.groups
    if groups is None or state.view.sample != "position":
        return None
    return groups.table(layout, leading, sequence.grid, sequence.padding)


def _group_axis(
    axes: list[int], axis: int | None, state: LayerState, name: str, strides: tuple[int, ...]
) -> int | None:
    # That of the mask, if it may be: both are of positions.
    return axis if axis in axes else _time_axis(axes, state, name, strides)


def _groups_at(
    groups: SampleGroups, sizes: Sizes, grid: Grid, table: Codes | None, example: Codes
) -> PlacedGroups:
    codes = group_codes(
        groups, sizes.layout, sizes.leading, grid, table=table, axis=sizes.group_axis, example=example
    )
    return PlacedGroups(codes, groups.names.names)


def _decided(state: LayerState, leading: tuple[int, ...], grid: Grid) -> Layout:
    return Layout.UNALIGNED if _is_routed(state, leading, grid) else decide(leading, grid)


def _is_routed(state: LayerState, leading: tuple[int, ...], grid: Grid) -> bool:
    """Whether rows are those that an expert was given, and nothing says which: any number may be as many."""
    return state.layer.expert is not None and len(leading) == 1 and grid.packed is None


def place_shifted(placement: Placement, forward: NumberedForward, examples: int) -> Placement:
    """The placement in a forward of the same sizes that begins so many examples later."""
    key = (forward.sequences["own", None], placement.sizes, forward.first)
    shifted: Placement | None = forward.placements.get(key)
    if shifted is None:
        old = placement.assignment
        # A new assignment, whose hashes are drawn from the new numbers when they are asked for.
        again = replace(old, example=old.example + examples * forward.deal.size)
        groups = None if placement.groups is None else placement.groups.shifted(again)
        shifted = forward.placements[key] = replace(placement, assignment=again, groups=groups)
    return shifted


def _time_axis(axes: list[int], state: LayerState, name: str, strides: tuple[int, ...]) -> int | None:
    """The axis the mask runs along.

    As many heads as positions read as on a call that told them apart, and until then by their strides: what a
    position was split into lies closer together in memory, though the axes were swapped since.
    """
    site = state.sites[name]
    if len(axes) == 1:
        site.time_axis, site.time_axis_certain = axes[0], True
    elif axes and not (site.time_axis_certain and site.time_axis in axes):
        before = state.sites[INPUT].time_axis if name != INPUT else None
        steps = extent_of(state.view, strides).leading
        site.time_axis = before if before in axes else max(axes, key=lambda axis: steps[axis])
    return site.time_axis if site.time_axis in axes else None


def _placed(
    sizes: Sizes, assignment: Assignment, padding: Padding | None, *, labelled: bool, alone: bool
) -> Placement:
    """The placement of samples that are numbered: with which rows are padding, and whether labels fit."""
    layout, leading, inner = sizes.layout, sizes.leading, sizes.inner
    aligned = layout is not Layout.UNALIGNED
    rows = _row_mask(leading, inner, padding, alone=alone)
    # Of a mask that leaves nothing out only the name is kept: without one a kernel asks no row.
    if rows is not None and padding is not None and padding.full:
        return Placement(replace(assignment, masked_by=padding.name), None, 0, False, aligned, sizes)
    if rows is not None and padding is not None:
        assignment = replace(assignment, real=np.asarray(rows.any(axis=1)), masked_by=padding.name)
        return Placement(assignment, rows, int((~rows).sum()), False, aligned, sizes)
    # One label a sample, in the order of positions: not where heads or pixels share them.
    one_axis = len(leading) == (1 if layout in (Layout.FLAT, Layout.PACKED) else 2)
    named = labelled and aligned and one_axis and layout is not Layout.HEADS and not inner
    if assignment.real is None:
        return Placement(assignment, None, 0, named, aligned, sizes)
    spread = np.repeat(assignment.real[:, None], int(np.prod(inner)), axis=1)
    return Placement(assignment, spread, int((~spread).sum()), named, aligned, sizes)


def _row_mask(
    leading: tuple[int, ...], inner: tuple[int, ...], padding: Padding | None, *, alone: bool
) -> NDArray[np.bool_] | None:
    """The mask of a channel layer's rows: (batch, channels, time) has one row per position.

    Along which of several axes (time and frequency, say) is certain where one alone has its size, and
    nothing but the masked argument came in.
    """
    if padding is None or len(leading) != 1 or not (len(inner) == 1 or alone):
        return None
    batch, time = padding.real.shape
    if inner.count(time) != 1 or batch not in (1, leading[0]):
        return None
    sizes = (batch, *(time if count == time else 1 for count in inner))
    return np.broadcast_to(padding.real.reshape(sizes), (leading[0], *inner)).reshape(leading[0], -1).copy()


def place_nested(lengths: list[int], forward: Forward, *, seed: int, k: int | None) -> Placement:
    """The placement of a NestedTensor's rows: its components are the examples."""
    assignment = ragged(lengths, first=forward.first, seed=seed, k=k)
    sizes, groups = Sizes(Layout.BATCH, (len(lengths),), (), None, "position"), None
    if forward.groups is not None:
        own = forward.groups.of("own", forward.batch, two_sided=False)
        codes = ragged_codes(own, assignment.example - forward.first, assignment.position)
        groups = PlacedGroups(codes, own.names.names)
    return _dealt(Placement(assignment, None, 0, True, True, sizes, groups), forward)


def place_graphs(
    site: SiteState, real: NDArray[np.bool_], forward: Forward, *, seed: int, k: int | None
) -> Placement:
    """The placement of graphs: they are numbered within the layer, for no argument of the forward is theirs.

    Args:
        site: where they are measured.
        real: shape (graphs, most nodes), True where a graph has so many nodes.
        forward: the forward.
        seed: the probe's seed.
        k: how many samples are kept.
    """
    count = len(real)
    first, site.unaligned = site.unaligned, site.unaligned + count
    site.layout = Layout.UNALIGNED
    example, position = np.arange(first, first + count, dtype=np.int64), np.zeros(count, np.int64)
    assignment = Assignment(example, position, None, "", seed, k)
    sizes = Sizes(Layout.UNALIGNED, (count,), real.shape[1:], None, "example")
    groups = None
    if forward.groups is not None:
        groups = PlacedGroups(np.full(count, UNTOLD, np.int64), forward.groups.names.names)
    placement = Placement(assignment, None if real.all() else real, 0, False, False, sizes, groups)
    return _dealt(placement, forward)


def named_labels(labels: LabelsOf | ListedLabels | None, forward: Forward, args: Any, kwargs: Any) -> Any:
    """The text of each real sample of a forward, as the user's list or callable gives it."""
    if labels is None:
        return None
    texts_of: Any
    if isinstance(labels, ListedLabels):
        texts_of = labels.of(forward.first, forward.batch.size)
    else:
        texts_of = labels(args, kwargs)
    mask = forward.masks.own
    if mask is None:
        return texts_of
    # Positions count real samples only, so labels of padding are dropped.
    return [
        [text for text, real in zip(texts, row, strict=True) if real] if len(texts) == len(row) else texts
        for texts, row in zip(texts_of, mask.real, strict=False)
    ]


def unfit(extent: Extent, sequence: Sequence, placement: Placement) -> str:
    """Why a mask was not applied, or "": also at a pooler or a head, which read one position of each text."""
    padding, leading, inner = sequence.padding, extent.leading, extent.inner
    if placement.assignment.masked_by or padding is None or padding.full:
        return ""
    if (
        placement.aligned
        and not (inner and sequence.alone)
        and len(inner) != 1
        and leading[1:2] in ((), (1,))
    ):
        return ""
    return f"its samples {leading + inner} do not fit {padding.name} {padding.real.shape}: unmasked"


def record_extremes(site: Any, extremes: Extremes, placement: Placement, forward: Forward) -> None:
    """Record the sample and feature of a new minimum or maximum, or of the first NaN or Inf, on a site."""
    if extremes.nonfinite is not None:
        _, sample, feature = extremes.nonfinite
        example, position = (
            int(numbers[sample]) for numbers in (placement.assignment.example, placement.assignment.position)
        )
        site.nonfinite = FirstNonfinite(forward.call, example, position, feature)
    for end, held in (("minimum", extremes.low), ("maximum", extremes.high)):
        if held is not None and math.isfinite(held[0]):  # an empty site holds infinities
            value, sample, feature = held
            assignment = placement.assignment
            example, position = int(assignment.example[sample]), int(assignment.position[sample])
            setattr(site, end, Holder(value, example, position, feature, placement.text_of(forward, sample)))
