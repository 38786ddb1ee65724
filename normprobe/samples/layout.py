"""How the leading sizes of a tensor at a layer read as (example, position) of the forward.

The caller decides once, on a site's first call, keeps the layout and checks that later sizes fit it. What
cannot be recognised is numbered within the layer.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from normprobe.samples.hashing import Hashes, Whole, hashes, smallest
from normprobe.samples.masks import Padding


class Layout(Enum):
    """The ways leading sizes are recognised, in the order they are tried."""

    BATCH = "(batch, ...)"
    TIME = "(time, batch, ...)"
    FLAT = "(batch x time, ...)"
    HEADS = "(batch x heads, time, ...)"
    PACKED = "(rows of a packed sequence, ...)"
    UNALIGNED = "not recognised"


@dataclass(frozen=True, eq=False)
class Grid:
    """The batch of one forward as a layer sees it.

    Attributes:
        batch: how many examples.
        time: how many positions each, where known.
        time_first: whether the model's input is (time, batch, ...).
        own: sizes of the layer's mask if it has a batch of its own.
        packed: of a packed sequence the example and the position of each row, shape (2, rows).
        packed_real: which of its rows are no padding, shape (rows,); None if none is.
        packed_by: name of the mask that says it, or "".
    """

    batch: int
    time: int | None
    time_first: bool = False
    own: tuple[int, ...] | None = None
    packed: NDArray[np.int64] | None = None
    packed_real: NDArray[np.bool_] | None = None
    packed_by: str = ""


@dataclass(frozen=True, eq=False)
class Assignment:
    """Which example and position each sample of a tensor is.

    Attributes:
        example: running numbers, int64, shape (samples,).
        position: indices among the real samples of the example, int64, shape (samples,).
        real: which samples are not padding, shape (samples,); None if all are or nothing is known.
        masked_by: name of the mask, or "".
        seed: the probe's seed.
        k: how many samples are kept; None for all.
    """

    example: Whole
    position: Whole
    real: NDArray[np.bool_] | None
    masked_by: str
    seed: int
    k: int | None

    @cached_property
    def n_samples(self) -> int:
        """How many samples are not padding."""
        return len(self.example) if self.real is None else int(self.real.sum())

    @cached_property
    def _drawn(self) -> tuple[NDArray[np.intp] | None, Hashes]:
        """Indices of the real samples, None for all, and their hashes."""
        if self.real is None:
            return None, hashes(self.seed, self.example, self.position)
        rows = np.flatnonzero(self.real)
        return rows, hashes(self.seed, self.example[rows], self.position[rows])

    @property
    def kept(self) -> tuple[NDArray[np.intp], Hashes]:
        """Indices of the kept samples and their hashes, in ascending order of hash."""
        return self.kept_below(None)

    def kept_below(self, limit: np.uint64 | None) -> tuple[NDArray[np.intp], Hashes]:
        """`kept` among those whose hash is at most ``limit``: of most forwards a few."""
        rows, drawn = self._drawn
        few = np.arange(len(drawn)) if limit is None else np.flatnonzero(drawn <= limit)
        if not len(few):
            return few, drawn[:0]
        order = few[smallest(drawn[few], self.k)]
        return order if rows is None else rows[order], drawn[order]


def fits(layout: Layout, leading: tuple[int, ...], grid: Grid) -> bool:
    """Whether the leading sizes can be read in this layout."""
    batch, time = grid.batch, grid.time
    match layout:
        case Layout.BATCH:
            # One vector alone has no leading axis: it is the one example.
            return leading == () or leading[0] == batch
        case Layout.TIME:
            return len(leading) > 1 and leading[0] == time and leading[1] == batch
        case Layout.FLAT:
            return bool(leading) and time is not None and leading[0] == batch * time
        case Layout.HEADS:
            heads = len(leading) > 1 and leading[1] == time and batch > 0 and leading[0] % batch == 0
            # A mask of these sizes has a batch of its own: those are examples, not heads.
            return heads and leading[:2] != grid.own
        case Layout.PACKED:
            return grid.packed is not None and leading[:1] == grid.packed.shape[1:]
        case Layout.UNALIGNED:
            return True


def decide(leading: tuple[int, ...], grid: Grid) -> Layout:
    """The first layout that the leading sizes fit; what the model's input says goes first."""
    # A packed sequence has no other reading; with time first (time, batch) goes before (batch, time).
    known = _TIME_FIRST if grid.time_first else _PACKED_FIRST if grid.packed is not None else _LAYOUTS
    return next(layout for layout in known if fits(layout, leading, grid))


_LAYOUTS = tuple(Layout)
_TIME_FIRST, _PACKED_FIRST = (Layout.TIME, *_LAYOUTS), (Layout.PACKED, *_LAYOUTS)


def by_example(
    layout: Layout, leading: tuple[int, ...], grid: Grid
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Sizes to reshape the samples to, and the order of axes that puts the example first."""
    batch, time = grid.batch, grid.time or 1
    rest = leading[1:]
    if layout is Layout.TIME:
        return leading, (1, 0, *range(2, len(leading)))
    if layout is Layout.FLAT:
        sizes: tuple[int, ...] = (batch, time, *rest)
    elif layout is Layout.HEADS:
        sizes = (batch, leading[0] // max(batch, 1), *rest)
    else:
        sizes = leading or (1,)
    return sizes, tuple(range(len(sizes)))


def assign(
    layout: Layout,
    leading: tuple[int, ...],
    grid: Grid,
    *,
    first: int,
    padding: Padding | None,
    axis: int | None,
    seed: int,
    k: int | None,
) -> Assignment:
    """Number the samples of a tensor.

    Args:
        layout: how the leading sizes read.
        leading: the sizes of the axes that number the samples.
        grid: the forward's batch.
        first: running number of its first example.
        padding: the mask of this layer, if it has one.
        axis: which axis of (example, ...) the mask runs along, one of `time_axes`; None for none.
        seed: the probe's seed.
        k: how many samples are kept; None for all.
    """
    if layout is Layout.PACKED and grid.packed is not None:
        return _packed(leading, grid, grid.packed, first=first, seed=seed, k=k)
    sizes, order = by_example(layout, leading, grid)
    masked = padding is not None and axis is not None
    if padding is None or axis is None or padding.full:
        example, position = _unmasked(sizes, order)
        real = None
    else:
        example, position, real = _masked(sizes, order, axis, padding)
    name = padding.name if padding is not None and masked else ""
    return Assignment(example + first, position, real, masked_by=name, seed=seed, k=k)


@lru_cache(maxsize=64)
def _unmasked(sizes: tuple[int, ...], order: tuple[int, ...]) -> tuple[Whole, Whole]:
    """Example, counted from 0, and position of each sample where all are real.

    Cached for all probes, for it follows from the arguments alone; read-only, since every caller gets the
    same arrays.
    """
    shape = tuple(sizes[axis] for axis in order)
    within = np.arange(int(np.prod(shape[1:])), dtype=np.int64)
    position = np.broadcast_to(within, (shape[0], len(within))).reshape(shape)
    found = _examples(shape, order), _flat(position, order)
    for array in found:
        array.setflags(write=False)
    return found


def _masked(
    sizes: tuple[int, ...], order: tuple[int, ...], axis: int, padding: Padding
) -> tuple[Whole, Whole, NDArray[np.bool_]]:
    """Example, position among the real samples, and whether it is real, of each sample."""
    shape = tuple(sizes[axis] for axis in order)
    real = _spread(shape, axis, padding.real)
    flat = real.reshape(shape[0], -1)
    position = (np.cumsum(flat, axis=1, dtype=np.int64) - 1).reshape(shape)
    return _examples(shape, order), _flat(position, order), _flat(real, order)


def _examples(shape: tuple[int, ...], order: tuple[int, ...]) -> Whole:
    """The example of each sample, counted from 0, in the order of the tensor."""
    example = np.arange(shape[0], dtype=np.int64).reshape(-1, *([1] * (len(shape) - 1)))
    return _flat(np.broadcast_to(example, shape), order)


def _flat(array: NDArray[Any], order: tuple[int, ...]) -> NDArray[Any]:
    """An array whose axes are in this order, flat in the order of the tensor's axes."""
    # argsort of a permutation is its inverse.
    back = tuple(int(axis) for axis in np.argsort(order))
    return np.ascontiguousarray(array.transpose(back)).ravel()


def time_axes(layout: Layout, leading: tuple[int, ...], grid: Grid, padding: Padding | None) -> list[int]:
    """The axes of (example, ...) along which the mask may run, the likeliest first."""
    return [] if padding is None else table_axes(layout, leading, grid, padding.real.shape)


def table_axes(layout: Layout, leading: tuple[int, ...], grid: Grid, table: tuple[int, ...]) -> list[int]:
    """The axes of (example, ...) that the positions of a table of these sizes (batch, positions) may be."""
    if layout is Layout.PACKED:
        return []
    sizes, order = by_example(layout, leading, grid)
    shape = tuple(sizes[axis] for axis in order)
    batch, time = table
    # One row of a mask serves every example of the forward, but not samples numbered within the layer.
    if shape[0] != batch and (batch != 1 or layout is Layout.UNALIGNED):
        return []
    axes = (
        [2]
        if layout is Layout.HEADS
        else [1]
        if layout in (Layout.TIME, Layout.FLAT)
        else range(1, len(shape))
    )
    return [axis for axis in axes if shape[axis] == time]


def spread(
    layout: Layout, leading: tuple[int, ...], grid: Grid, axis: int, table: NDArray[Any]
) -> NDArray[Any]:
    """A table (batch, positions) spread over the samples of a tensor, in its order, along an axis."""
    sizes, order = by_example(layout, leading, grid)
    return _flat(_spread(tuple(sizes[axis] for axis in order), axis, table), order)


def _spread(shape: tuple[int, ...], axis: int, table: NDArray[Any]) -> NDArray[Any]:
    """A table spread over (example, ...) along an axis; one row of it serves every example."""
    batch, time = table.shape
    sizes = [batch] + [time if other == axis else 1 for other in range(1, len(shape))]
    return np.broadcast_to(table.reshape(sizes), shape)


def _packed(
    leading: tuple[int, ...], grid: Grid, places: NDArray[np.int64], *, first: int, seed: int, k: int | None
) -> Assignment:
    """Number the rows of a packed sequence, whose padding is mostly already out."""
    each = int(np.prod(leading[1:]))
    example, position = np.repeat(places, each, axis=1)
    within = np.tile(np.arange(each, dtype=np.int64), places.shape[1])
    real = None if grid.packed_real is None else np.repeat(grid.packed_real, each)
    return Assignment(example + first, position * each + within, real, grid.packed_by, seed, k)


def ragged(lengths: list[int], *, first: int, seed: int, k: int | None) -> Assignment:
    """Number the rows of a NestedTensor: its components are the examples, their rows the positions."""
    counts = np.asarray(lengths, np.int64)
    starts = np.repeat(np.cumsum(counts) - counts, counts)
    example = np.repeat(np.arange(first, first + len(counts), dtype=np.int64), counts)
    position = np.arange(len(starts), dtype=np.int64) - starts
    return Assignment(example, position, None, "", seed, k)
