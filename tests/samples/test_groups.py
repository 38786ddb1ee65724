"""Which group each sample is of, however a tensor's leading sizes read."""

from __future__ import annotations

import numpy as np
import pytest

from normprobe.samples.groups import (
    UNLABELLED,
    UNTOLD,
    GroupNames,
    SampleGroups,
    group_codes,
    ragged_codes,
)
from normprobe.samples.layout import Grid, Layout, table_axes
from normprobe.samples.masks import Padding

NAMES = GroupNames("(none)")
TABLE = np.arange(2, 8).reshape(2, 3)  # of two examples and three positions


def codes(
    groups: SampleGroups,
    layout: Layout,
    leading: tuple[int, ...],
    example: list[int],
    padding: Padding | None = None,
) -> list[int]:
    grid = Grid(2, 3)
    table = groups.table(layout, leading, grid, padding)
    axes = [] if table is None else table_axes(layout, leading, grid, table.shape)
    axis = axes[0] if axes else None
    given = groups, layout, leading, grid
    return group_codes(*given, table=table, axis=axis, example=np.array(example)).tolist()


@pytest.mark.parametrize(
    ("layout", "leading", "expected"),
    [
        (Layout.BATCH, (2, 3), [2, 3, 4, 5, 6, 7]),
        (Layout.BATCH, (2, 3, 2), [2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7]),
        (Layout.TIME, (3, 2), [2, 5, 3, 6, 4, 7]),
        (Layout.FLAT, (6,), [2, 3, 4, 5, 6, 7]),
        (Layout.HEADS, (4, 3), [2, 3, 4, 2, 3, 4, 5, 6, 7, 5, 6, 7]),
        (Layout.BATCH, (2,), [UNTOLD, UNTOLD]),
        (Layout.BATCH, (2, 4), [UNTOLD] * 8),
        (Layout.UNALIGNED, (6,), [UNTOLD] * 6),
    ],
)
def test_positions_are_those_of_the_table(
    layout: Layout, leading: tuple[int, ...], expected: list[int]
) -> None:
    groups = SampleGroups(NAMES, of_positions=TABLE)
    assert codes(groups, layout, leading, [0] * len(expected)) == expected


def test_examples_are_known_wherever_samples_are_aligned() -> None:
    groups = SampleGroups(NAMES, of_examples=np.array([4, 9]))
    assert codes(groups, Layout.BATCH, (2, 2), [0, 0, 1, 1]) == [4, 4, 9, 9]
    assert codes(groups, Layout.UNALIGNED, (2,), [0, 1]) == [UNTOLD, UNTOLD]
    other = SampleGroups(NAMES, of_examples=np.array([4, 9, 5]))  # of another number of examples
    assert codes(other, Layout.BATCH, (2,), [0, 1]) == [UNTOLD, UNTOLD]


def test_the_first_is_the_first_real_position() -> None:
    groups = SampleGroups(NAMES, first=(8, 9))
    padding = Padding("attention_mask", np.array([[False, True, True], [True, True, False]]))
    assert codes(groups, Layout.BATCH, (2, 3), [0] * 6, padding) == [9, 8, 9, 8, 9, 9]
    nothing = Padding("attention_mask", np.array([[False] * 3, [True] * 3]))
    assert codes(groups, Layout.BATCH, (2, 3), [0] * 6, nothing) == [9, 9, 9, 8, 9, 9]
    assert codes(groups, Layout.BATCH, (2, 3), [0] * 6) == [8, 9, 9, 8, 9, 9]
    assert codes(groups, Layout.BATCH, (2, 5), [0] * 10) == [8, 9, 9, 9, 9] * 2  # patches of an image
    assert codes(groups, Layout.BATCH, (2, 2, 5), [0] * 20) == [UNTOLD] * 20


def test_packed_and_ragged_samples_are_looked_up() -> None:
    grid = Grid(2, 3, packed=np.array([[1, 0, 1, 0, 1], [0, 0, 1, 1, 2]]))
    for groups, expected in (
        (SampleGroups(NAMES, of_positions=TABLE), [5, 2, 6, 3, 7]),
        (SampleGroups(NAMES, first=(8, 9)), [8, 8, 9, 9, 9]),
        (SampleGroups(NAMES, of_examples=np.array([4, 5])), [5, 4, 5, 4, 5]),
    ):
        table = groups.table(Layout.PACKED, (5,), grid, None)
        found = group_codes(
            groups, Layout.PACKED, (5,), grid, table=table, axis=None, example=np.array([1, 0, 1, 0, 1])
        )
        assert found.tolist() == expected
        assert ragged_codes(groups, *grid.packed).tolist() == expected
    assert ragged_codes(SampleGroups(NAMES), *grid.packed).tolist() == [UNTOLD] * 5


def test_a_name_keeps_its_code() -> None:
    names = GroupNames("(none)")
    assert [names.code_of(name) for name in ("a", "b", "a", "(none)")] == [2, 3, 2, UNLABELLED]
    assert names.names == ["(none)", "(none)", "a", "b"]
