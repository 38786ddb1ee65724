"""How leading sizes read as (example, position): the layouts in order, ambiguities, masks along them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from normprobe.samples.hashing import hashes
from normprobe.samples.layout import Grid, Layout, assign, decide, fits, ragged, time_axes
from normprobe.samples.masks import Padding

REAL = np.array([[1, 1, 0], [0, 1, 1]], bool)


def _assign(layout: Layout, leading: tuple[int, ...], grid: Grid, **options: Any) -> Any:
    padding = options.pop("padding", None)
    axes = time_axes(layout, leading, grid, padding)
    axis = axes[0] if axes else None
    settings = {"first": 0, "seed": 0, "k": None, **options}
    return assign(layout, leading, grid, padding=padding, axis=axis, **settings)


def _pairs(assignment: Any) -> list[tuple[int, int]]:
    return list(zip(assignment.example.tolist(), assignment.position.tolist(), strict=True))


@pytest.mark.parametrize(
    ("leading", "grid", "layout"),
    [
        ((), Grid(1, None), Layout.BATCH),
        ((2,), Grid(2, 3), Layout.BATCH),
        ((2, 3), Grid(2, 3), Layout.BATCH),
        ((2, 5, 7), Grid(2, 3), Layout.BATCH),
        ((3, 2), Grid(2, 3), Layout.TIME),
        ((3, 2, 4), Grid(2, 3), Layout.TIME),
        ((6,), Grid(2, 3), Layout.FLAT),
        ((6, 4), Grid(2, 3), Layout.FLAT),
        ((8, 3), Grid(2, 3), Layout.HEADS),
        ((8, 3, 3), Grid(2, 3), Layout.HEADS),
        ((7, 3), Grid(2, 3), Layout.UNALIGNED),
        ((3,), Grid(2, 3), Layout.UNALIGNED),
        ((5, 9), Grid(2, 3), Layout.UNALIGNED),
        ((6,), Grid(2, None), Layout.UNALIGNED),
        ((), Grid(4, 3), Layout.BATCH),
        # A batch of one: whatever has the time second reads as heads, what has it first as flattened.
        ((1, 3), Grid(1, 3), Layout.BATCH),
        ((3,), Grid(1, 3), Layout.FLAT),
        ((3, 1), Grid(1, 3), Layout.TIME),
        ((12, 3), Grid(1, 3), Layout.HEADS),
        # As many positions as examples: the batch goes first, unless the input is known to be time-first.
        ((3, 3), Grid(3, 3), Layout.BATCH),
        ((3, 3), Grid(3, 3, time_first=True), Layout.TIME),
        ((3,), Grid(3, 1), Layout.BATCH),
        # Six is 2 x 3 positions, so (6, 3) could be heads; flattened is tried first.
        ((6, 3), Grid(2, 3), Layout.FLAT),
        # The sizes of a mask that has a batch of its own are no heads of this one.
        ((8, 3), Grid(2, 3, own=(8, 3)), Layout.UNALIGNED),
        ((4,), Grid(2, 3, packed=np.zeros((2, 4), np.int64)), Layout.PACKED),
        ((2,), Grid(2, 3, packed=np.zeros((2, 4), np.int64)), Layout.BATCH),
        ((2,), Grid(2, 1, packed=np.zeros((2, 2), np.int64)), Layout.PACKED),
    ],
)
def test_layouts_in_the_order_tried(leading: tuple[int, ...], grid: Grid, layout: Layout) -> None:
    assert decide(leading, grid) is layout


@pytest.mark.parametrize(
    ("layout", "leading", "later"),
    [
        (Layout.BATCH, (4, 9), True),
        (Layout.BATCH, (5, 9), False),
        (Layout.TIME, (6, 4), True),
        (Layout.TIME, (4, 6), False),
        (Layout.FLAT, (24,), True),
        (Layout.FLAT, (23,), False),
        (Layout.HEADS, (8, 6), True),
        (Layout.HEADS, (9, 6), False),
        (Layout.UNALIGNED, (1, 2, 3), True),
    ],
)
def test_what_was_decided_is_only_checked_later(
    layout: Layout, leading: tuple[int, ...], later: bool
) -> None:
    assert fits(layout, leading, Grid(4, 6)) is later


class TestNumbers:
    def test_batch(self) -> None:
        assert _pairs(_assign(Layout.BATCH, (2, 3), Grid(2, 3), first=5)) == [
            (5, 0), (5, 1), (5, 2), (6, 0), (6, 1), (6, 2)
        ]  # fmt: skip

    def test_one_example_without_an_axis(self) -> None:
        assert _pairs(_assign(Layout.BATCH, (), Grid(1, None), first=9)) == [(9, 0)]

    def test_several_axes_count_row_major(self) -> None:
        found = _assign(Layout.BATCH, (2, 2, 2), Grid(2, 4))
        assert found.position.tolist() == [0, 1, 2, 3] * 2

    def test_time_first(self) -> None:
        found = _assign(Layout.TIME, (3, 2), Grid(2, 3), first=4)
        assert _pairs(found) == [(4, 0), (5, 0), (4, 1), (5, 1), (4, 2), (5, 2)]

    def test_flat(self) -> None:
        assert _pairs(_assign(Layout.FLAT, (6,), Grid(2, 3))) == _pairs(
            _assign(Layout.BATCH, (2, 3), Grid(2, 3))
        )

    def test_heads(self) -> None:
        found = _assign(Layout.HEADS, (4, 3), Grid(2, 3))
        assert found.example.tolist() == [0] * 6 + [1] * 6
        assert found.position.tolist() == [0, 1, 2, 3, 4, 5] * 2

    def test_loose_counts_its_leading_axis(self) -> None:
        found = _assign(Layout.UNALIGNED, (3, 2), Grid(2, 7), first=10)
        assert _pairs(found) == [(10, 0), (10, 1), (11, 0), (11, 1), (12, 0), (12, 1)]

    def test_ragged(self) -> None:
        found = ragged([2, 0, 3], first=7, seed=0, k=None)
        assert _pairs(found) == [(7, 0), (7, 1), (9, 0), (9, 1), (9, 2)]
        assert found.real is None
        assert found.n_samples == 5

    def test_packed(self) -> None:
        # Lengths 1, 3, 2: longest first, one position after the other.
        places = np.array([[1, 2, 0, 1, 2, 1], [0, 0, 0, 1, 1, 2]])
        grid = Grid(3, 3, packed=places)
        assert _pairs(_assign(Layout.PACKED, (6,), grid, first=2)) == [
            (3, 0), (4, 0), (2, 0), (3, 1), (4, 1), (3, 2)
        ]  # fmt: skip
        heads = _assign(Layout.PACKED, (6, 2), grid)
        assert _pairs(heads)[:4] == [(1, 0), (1, 1), (2, 0), (2, 1)]
        assert _pairs(heads)[-2:] == [(1, 4), (1, 5)]

    def test_an_empty_batch(self) -> None:
        found = _assign(Layout.BATCH, (0, 3), Grid(0, 3))
        assert _pairs(found) == []
        assert len(found.kept[0]) == found.n_samples == 0


class TestPadding:
    padding = Padding("attention_mask", REAL)

    @pytest.mark.parametrize(
        ("layout", "leading", "axes"),
        [
            (Layout.BATCH, (2, 3), [1]),
            (Layout.BATCH, (2, 4, 3), [2]),
            (Layout.BATCH, (2, 3, 4), [1]),
            (Layout.BATCH, (2, 3, 3), [1, 2]),
            (Layout.TIME, (3, 2), [1]),
            (Layout.FLAT, (6, 3), [1]),
            (Layout.HEADS, (8, 3), [2]),
            (Layout.HEADS, (6, 3), [2]),
            (Layout.UNALIGNED, (2, 3), [1]),
            (Layout.BATCH, (2,), []),
            (Layout.BATCH, (2, 1), []),
            (Layout.BATCH, (2, 2), []),
            (Layout.UNALIGNED, (5, 3), []),
        ],
    )
    def test_runs_along(self, layout: Layout, leading: tuple[int, ...], axes: list[int]) -> None:
        assert time_axes(layout, leading, Grid(2, 3), self.padding) == axes

    def test_one_row_serves_every_example(self) -> None:
        one = Padding("attention_mask", REAL[:1])
        found = _assign(Layout.BATCH, (4, 3), Grid(4, 3), padding=one)
        assert found.real.tolist() == [True, True, False] * 4
        assert time_axes(Layout.UNALIGNED, (4, 3), Grid(2, 3), one) == []

    @pytest.mark.parametrize(
        ("layout", "leading"),
        [
            (Layout.BATCH, (2, 3)),
            (Layout.TIME, (3, 2)),
            (Layout.FLAT, (6,)),
            (Layout.BATCH, (2, 3, 4)),
            (Layout.BATCH, (2, 4, 3)),
            (Layout.HEADS, (8, 3)),
            (Layout.TIME, (3, 2, 4)),
            (Layout.FLAT, (6, 4)),
        ],
    )
    def test_positions_count_the_real_ones(self, layout: Layout, leading: tuple[int, ...]) -> None:
        found = _assign(layout, leading, Grid(2, 3), padding=self.padding, first=1)
        each = found.real.size // 6 * 2
        real = [pair for pair, held in zip(_pairs(found), found.real, strict=True) if held]
        assert sorted(real) == [(example, position) for example in (1, 2) for position in range(each)]
        assert found.masked_by == "attention_mask"
        assert found.n_samples == 2 * each

    def test_which_are_real_in_each_layout(self) -> None:
        grid = Grid(2, 3)
        flat = REAL.ravel().tolist()
        assert _assign(Layout.BATCH, (2, 3), grid, padding=self.padding).real.tolist() == flat
        assert _assign(Layout.FLAT, (6,), grid, padding=self.padding).real.tolist() == flat
        assert (
            _assign(Layout.TIME, (3, 2), grid, padding=self.padding).real.tolist() == REAL.T.ravel().tolist()
        )
        heads = _assign(Layout.HEADS, (4, 3), grid, padding=self.padding).real
        assert heads.reshape(2, 2, 3).tolist() == np.repeat(REAL[:, None], 2, 1).tolist()

    def test_padding_before_or_behind_gives_the_same_numbers(self) -> None:
        left = Padding("attention_mask", np.array([[0, 0, 1, 1], [1, 1, 1, 1]], bool))
        right = Padding("attention_mask", np.array([[1, 1, 0, 0, 0], [1, 1, 1, 1, 0]], bool))
        found = [
            _assign(Layout.BATCH, padding.real.shape, Grid(2, padding.real.shape[1]), padding=padding, k=4)
            for padding in (left, right)
        ]
        kept = [[_pairs(one)[index] for index in one.kept[0]] for one in found]
        assert kept[0] == kept[1]
        assert found[0].kept[1].tolist() == found[1].kept[1].tolist()


@given(st.integers(1, 5), st.integers(1, 5), st.integers(1, 3), st.data())
def test_every_real_sample_gets_one_number(batch: int, time: int, heads: int, data: st.DataObject) -> None:
    shapes = [(batch, time), (batch, time, heads), (time, batch), (batch * time,), (batch * heads, time)]
    leading = data.draw(st.sampled_from(shapes))
    real = np.array(data.draw(st.lists(st.booleans(), min_size=batch * time, max_size=batch * time)))
    grid = Grid(batch, time)
    layout = decide(leading, grid)
    assert layout is not Layout.UNALIGNED
    padding = data.draw(st.sampled_from([None, Padding("mask", real.reshape(batch, time))]))
    found = _assign(layout, leading, grid, padding=padding)
    kept = [pair for pair, held in zip(_pairs(found), _held(found), strict=True) if held]
    assert len(set(kept)) == len(kept) == found.n_samples
    for example in range(batch):
        positions = sorted(position for e, position in kept if e == example)
        assert positions == list(range(len(positions)))


def _held(assignment: Any) -> Any:
    return np.ones(len(assignment.example), bool) if assignment.real is None else assignment.real


def test_kept_are_the_real_ones_of_the_smallest_hash() -> None:
    padding = Padding("mask", REAL)
    found = _assign(Layout.BATCH, (2, 3), Grid(2, 3), padding=padding, k=3, seed=4)
    pairs = [pair for pair, held in zip(_pairs(found), REAL.ravel(), strict=True) if held]
    drawn = {pair: int(hashes(4, np.array([pair[0]]), np.array([pair[1]]))[0]) for pair in pairs}
    assert [_pairs(found)[index] for index in found.kept[0]] == sorted(pairs, key=drawn.__getitem__)[:3]
    assert found.kept[1].tolist() == sorted(drawn.values())[:3]
