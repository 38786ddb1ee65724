"""A mask carried through strides, pools and stacked positions says what the lengths behind them are."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from normprobe.samples.strides import MaskBySize, Stride, strides_of, through


def _of(lengths: list[int], positions: int) -> np.ndarray:
    return np.arange(positions) < np.array(lengths)[:, None]


def _carried(module: nn.Module, real: np.ndarray, *axes: int) -> tuple[MaskBySize, tuple[int, ...]]:
    """A mask by size, after a tensor of these last sizes went through a module."""
    found, given_ = MaskBySize(real), torch.randn(len(real), 4, *axes)
    sizes = tuple(module(given_).shape[2:])
    found.carry(strides_of(module), axes, sizes)
    return found, sizes


class TestThrough:
    @given(
        st.integers(1, 7),
        st.integers(1, 4),
        st.integers(0, 3),
        st.integers(1, 3),
        st.lists(st.integers(0, 40), min_size=1, max_size=4),
    )
    def test_real_positions_behind_a_convolution_are_as_many_as_its_formula_gives(
        self, kernel: int, step: int, padding: int, dilation: int, lengths: list[int]
    ) -> None:
        reach = dilation * (kernel - 1)
        if 2 * padding > reach:
            return  # its padding alone makes positions: how many are of the data no formula says
        size = (40 + 2 * padding - reach - 1) // step + 1
        if size < 1:
            return
        behind = through(_of(lengths, 40), Stride(step, reach, 2 * padding), 40, size)
        expected = [
            max(0, (length + 2 * padding - reach - 1) // step + 1) if length else 0 for length in lengths
        ]
        assert behind.sum(1).tolist() == expected
        assert np.array_equal(behind, _of(expected, size))

    def test_padding_on_the_left_stays_there(self) -> None:
        real = ~_of([6, 0], 12)
        behind = through(real, Stride(2, 2, 2), 12, 6)
        assert behind.tolist() == [[False] * 3 + [True] * 3, [True] * 6]

    def test_more_positions_come_from_the_nearest(self) -> None:
        assert through(_of([2, 3], 3), Stride(0, 0, 0), 3, 6).sum(1).tolist() == [4, 6]


class TestModules:
    @pytest.mark.parametrize(
        "module",
        [
            nn.Conv1d(4, 4, 3, padding=1),
            nn.Conv1d(4, 4, 5, dilation=2, padding="same"),
            nn.Conv2d(4, 4, 1),
            nn.Linear(4, 4),
            nn.AdaptiveAvgPool1d(3),
        ],
    )
    def test_those_that_keep_sizes_or_say_nothing_are_passed_over(self, module: nn.Module) -> None:
        assert strides_of(module) == ()

    @pytest.mark.parametrize(
        ("module", "lengths"),
        [
            (nn.Conv1d(4, 4, 10, 5), [7, 2]),
            (nn.Conv1d(4, 4, 3, 2, padding=1), [20, 10]),
            (nn.Conv1d(4, 4, 5, dilation=2), [32, 11]),
            (nn.AvgPool1d(2), [20, 9]),
            (nn.MaxPool1d(3, 2), [19, 9]),
            (nn.ConvTranspose1d(4, 4, 2, 2), [80, 38]),
            (nn.Upsample(scale_factor=3), [120, 57]),
        ],
    )
    def test_what_is_real_behind_each(self, module: nn.Module, lengths: list[int]) -> None:
        found, (size,) = _carried(module, _of([40, 19], 40), 40)
        behind = found.at(size)
        assert behind is not None
        assert behind.shape == (2, size)
        assert behind.sum(1).tolist() == lengths

    def test_of_two_axes_the_one_that_the_mask_is_of(self) -> None:
        found, sizes = _carried(nn.Conv2d(4, 4, 3, 2, padding=1), _of([40, 19], 40), 40, 16)
        assert sizes == (20, 8)
        assert found.at(20) is not None
        assert found.at(8) is None


class TestBySize:
    def test_a_chain(self) -> None:
        found = MaskBySize(_of([3200, 1600, 800], 3200))
        for kernel, step, given_, made in ((10, 5, 3200, 639), (3, 2, 639, 319), (3, 2, 319, 159)):
            found.carry([Stride(step, kernel - 1, 0)], [given_], [made])
        behind = found.at(159)
        assert behind is not None
        assert behind.sum() == 277

    def test_what_the_model_pads_itself_before_a_causal_convolution(self) -> None:
        found = MaskBySize(_of([12, 7], 12))
        found.carry([Stride(2, 3, 0)], [15], [6])
        behind = found.at(6)
        assert behind is not None
        assert behind.sum(1).tolist() == [6, 4]

    def test_two_ways_to_as_many_positions_are_not_certain(self) -> None:
        found = MaskBySize(_of([12, 7], 12))
        found.carry([Stride(2, 0, 0)], [12], [6])
        found.carry([Stride(2, 1, 0)], [12], [6])
        assert found.knows(6)
        assert found.at(6) is None

    def test_stacked_positions_where_each_group_is_whole(self) -> None:
        behind = MaskBySize(_of([12, 9, 3], 13)).find(4, ())
        assert behind is not None
        assert behind.sum(1).tolist() == [4, 3, 1]
        assert MaskBySize(_of([12, 8, 3], 12)).find(4, ()) is None
        assert MaskBySize(_of([12, 9, 3], 12)).find(7, ()) is None

    def test_a_models_own_function_counts_where_it_gives_this_size(self) -> None:
        def halved(lengths: torch.Tensor) -> torch.Tensor:
            return (lengths - 1) // 2 + 1

        behind = MaskBySize(_of([12, 7], 12)).find(6, [lambda lengths: lengths // 0.0, halved])
        assert behind is not None
        assert behind.sum(1).tolist() == [6, 4]
        assert MaskBySize(_of([12, 7], 12)).find(5, [halved]) is None
