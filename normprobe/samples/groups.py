"""Which group each sample of a tensor is of: by its example, or by its position in it."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from normprobe.samples.layout import Grid, Layout, by_example, spread, table_axes
from normprobe.samples.masks import Padding

Codes = NDArray[np.int64]
UNTOLD, UNLABELLED = 0, 1
"""The codes of samples of no group: which is which cannot be told, or they are said to be of none."""

MOST_GROUPS = 1024
"""Of so many groups each site holds sums of their own; more are a mistake, or tell all samples apart."""


@dataclass(eq=False)
class GroupNames:
    """The names of the groups that a probe found, by their codes; the same code all along.

    Attributes:
        none: the name of what is of no group.
        names: all of them.
    """

    none: str
    names: list[str] = field(init=False)
    _codes: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        # Two codes of one name: the ledger tells why a sample is of no group, tables do not.
        self.names, self._codes = [self.none, self.none], {self.none: UNLABELLED}

    def code_of(self, name: str) -> int:
        """The code of a name, a new one where it is new.

        Raises:
            OverflowError: there are too many.
        """
        if name not in self._codes:
            # Beside these there are the two codes of no group.
            if len(self.names) == MOST_GROUPS + 2:
                raise OverflowError(name)
            self._codes[name] = len(self.names)
            self.names.append(name)
        return self._codes[name]


@dataclass(frozen=True, eq=False)
class SampleGroups:
    """The groups of the samples of one sequence of a forward.

    Attributes:
        names: the names of all codes.
        of_examples: the code of each example, shape (batch,); None where positions are told apart.
        of_positions: the code of each position, shape (batch, positions), or (1, positions) for all examples.
        first: the codes of the first real position and of the others, where these are the groups.
    """

    names: GroupNames
    of_examples: Codes | None = None
    of_positions: Codes | None = None
    first: tuple[int, int] | None = None

    def table(
        self, layout: Layout, leading: tuple[int, ...], grid: Grid, padding: Padding | None
    ) -> Codes | None:
        """The code of each position of a tensor of these leading sizes; None where only examples have one."""
        if self.first is None:
            return self.of_positions
        first, rest = self.first
        sized = padding is not None and bool(table_axes(layout, leading, grid, padding.real.shape))
        if padding is not None and sized and not padding.full:
            real = padding.real
            # argmax gives 0 for an example of padding alone, hence `at & real`.
            at = real.argmax(1)[:, None] == np.arange(real.shape[1])
            return np.where(at & real, first, rest).astype(np.int64)
        count = _positions(layout, leading, grid)
        return None if count is None else np.where(np.arange(count) == 0, first, rest).astype(np.int64)[None]


def _positions(layout: Layout, leading: tuple[int, ...], grid: Grid) -> int | None:
    """How many positions a tensor has: as the forward says, or its only axis behind the batch."""
    if layout is Layout.PACKED and grid.packed is not None:
        return int(grid.packed[1].max(initial=0)) + 1
    sizes, order = by_example(layout, leading, grid)
    shape = tuple(sizes[axis] for axis in order)
    if grid.time is not None and table_axes(layout, leading, grid, (1, grid.time)):
        return grid.time
    return shape[1] if len(shape) == 2 and layout is not Layout.UNALIGNED else None


def group_codes(
    groups: SampleGroups,
    layout: Layout,
    leading: tuple[int, ...],
    grid: Grid,
    *,
    table: Codes | None,
    axis: int | None,
    example: Codes,
) -> Codes:
    """The group of each sample of a tensor, shape (samples,); UNTOLD where nothing tells.

    Args:
        groups: of the sequence that the layer works on.
        layout: how the leading sizes read.
        leading: the sizes of the axes that number the samples.
        grid: the forward's batch.
        table: what `SampleGroups.table` gave.
        axis: which axis of (example, ...) its positions run along; None for none.
        example: which example each sample is, counted from 0.
    """
    if layout is not Layout.UNALIGNED:
        if groups.of_examples is not None and len(groups.of_examples) == grid.batch:
            return groups.of_examples[example]
        if table is not None and layout is Layout.PACKED and grid.packed is not None:
            return packed_codes(table, grid.packed, len(example))
        if table is not None and axis is not None:
            return spread(layout, leading, grid, axis, table)
    return np.full(len(example), UNTOLD, np.int64)


def ragged_codes(groups: SampleGroups, example: Codes, position: Codes) -> Codes:
    """The group of each sample by its example and its position in it; UNTOLD where nothing tells."""
    if groups.first is not None:
        return np.where(position == 0, *groups.first).astype(np.int64)
    if groups.of_examples is not None and len(groups.of_examples) > int(example.max(initial=0)):
        return groups.of_examples[example]
    if groups.of_positions is not None:
        return packed_codes(groups.of_positions, np.stack([example, position]), len(example))
    return np.full(len(example), UNTOLD, np.int64)


def packed_codes(table: Codes, places: NDArray[np.int64], samples: int) -> Codes:
    """The codes of the rows of a packed sequence, each of several samples.

    Args:
        table: shape (batch or 1, positions).
        places: the example and the position of each row, shape (2, rows).
        samples: how many samples there are, as many of each row.
    """
    rows, columns = table.shape
    known = (places[1] < columns) & ((places[0] < rows) | (rows == 1))
    # A table of one row is that of every example.
    example = np.where(known, places[0], 0) % rows
    codes = np.where(known, table[example, np.where(known, places[1], 0)], UNTOLD)
    # A batch without rows has no codes to divide by.
    return np.repeat(codes, samples // max(1, len(codes)))
