"""Channels whose numbers lie side by side or apart: each way in which the compiled kernel reads is exact."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from normprobe.kernels import dispatch
from normprobe.kernels.choice import Choice
from normprobe.kernels.types import AxisRoles, Totals

# Sizes about those at which it reads otherwise: of planes 64, of lanes 16, of spans 512, of tiles 512.
SHAPES = [
    (3, 5, 1, 2),
    (2, 7, 3, 5),
    (3, 6, 7, 9),
    (3, 6, 8, 8),
    (2, 5, 5, 13),
    (2, 3, 7, 75),
    (3, 4, 16, 33),
    (2, 600, 9, 9),
    (2, 16, 64, 64),
    (5, 515, 4, 4),
    (2, 3, 100, 103),
    (4, 1, 8, 30),
]
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


@pytest.fixture(autouse=True)
def _needs_the_extension() -> None:
    if dispatch.compiled() is None:
        pytest.skip("plain torch arranges every tensor alike")


def numbers_of(shape: tuple[int, ...], dtype: torch.dtype, *, zeros: bool = False) -> Tensor:
    """Channels of different means and scales, some numbers zero."""
    torch.manual_seed(sum(shape))
    channels = torch.arange(shape[1]).view(1, -1, 1, 1)
    values = torch.randn(shape) * (1 + channels % 3) + 5 * (channels % 4)
    return (values.relu() if zeros else values).to(dtype)


def added(tensors: list[Tensor], threads: int) -> tuple[Totals, list[object]]:
    """What the compiled kernel measures of them, by their own strides, and the extremes it reports."""
    kernel = dispatch.compiled()
    assert kernel is not None
    samples, features, rows = tensors[0].shape[0], tensors[0].shape[1], tensors[0][0, 0].numel()
    accumulator = kernel.CompiledAccumulator(features, AxisRoles(1, 1, None, by_example=True))
    extremes = []
    for step, tensor in enumerate(tensors):
        keep = np.arange(samples)
        choice = Choice(samples, rows, keep=keep, slots=keep + step * samples)
        prepared = kernel.compiled_choice(choice)
        extremes.append(accumulator.state.observe(tensor, prepared, None, kernel.RecentMoments(), threads, 0))
    return accumulator.totals(samples * len(tensors), 0), extremes


def check(tensors: list[Tensor], threads: int) -> None:
    """Compare with two passes of float64."""
    totals, extremes = added(tensors, threads)
    arrays = [tensor.to(torch.float64).numpy() for tensor in tensors]
    columns = np.concatenate([array.transpose(0, 2, 3, 1).reshape(-1, array.shape[1]) for array in arrays])
    finite = np.isfinite(columns)
    held = np.where(finite, columns, np.nan)
    features = totals.features
    with np.errstate(all="ignore"):
        mean, deviation = np.nanmean(held, 0), np.nanstd(held, 0)
    assert np.abs(features.mean - mean).max() <= 1e-6 * np.maximum(np.abs(mean), deviation).max()
    np.testing.assert_allclose(features.m2 / features.count, deviation**2, rtol=1e-6)
    np.testing.assert_allclose(features.abs_sum, np.nansum(np.abs(held), 0), rtol=1e-6)
    for found, expected in (
        (features.count, finite.sum(0)),
        (features.nonfinite, (~finite).sum(0)),
        (features.zeros, (columns == 0).sum(0)),
        (features.minimum, np.nanmin(held, 0)),
        (features.maximum, np.nanmax(held, 0)),
    ):
        np.testing.assert_array_equal(found, expected)
    own = np.concatenate([array.reshape(len(array), -1) for array in arrays])
    own = np.where(np.isfinite(own), own, np.nan)
    # Kept samples are rows of count, mean, m2, minimum and maximum.
    np.testing.assert_allclose(totals.kept[:, 1], np.nanmean(own, 1), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(totals.kept[:, 2] / totals.kept[:, 0], np.nanvar(own, 1), rtol=1e-6)
    assert totals.within_sum == pytest.approx(np.nanvar(own, 1).sum(), rel=1e-6)
    holder = min(
        (array[s, c].min(), step, s, c)
        for step, array in enumerate(np.where(np.isfinite(array), array, np.inf) for array in arrays)
        for s in range(array.shape[0])
        for c in range(array.shape[1])
    )
    reported = extremes[holder[1]]
    assert isinstance(reported, tuple)
    assert reported[0] == (holder[0], holder[2], holder[3])


@pytest.mark.parametrize("last", [False, True], ids=["side by side", "apart"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("zeros", [False, True])
def test_channels_in_either_order(
    shape: tuple[int, ...], dtype: torch.dtype, last: bool, zeros: bool
) -> None:
    tensors = [numbers_of(shape, dtype, zeros=zeros), 3 - numbers_of(shape, dtype)]
    if last:
        tensors = [tensor.contiguous(memory_format=torch.channels_last) for tensor in tensors]
    for threads in (1, 2, 3):
        check(tensors, threads)


@pytest.mark.parametrize("last", [False, True], ids=["side by side", "apart"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_channels_with_broken_numbers_far_from_zero_or_moving(shape: tuple[int, ...], last: bool) -> None:
    near = numbers_of(shape, torch.float32)
    broken = near.clone()
    broken[0, -1, 0, 0] = torch.nan
    broken[-1, 0, -1, -1] = -torch.inf
    far, moved = near + 1e5, torch.cat([near[:1], near[1:] + 1e4])
    for tensors in ([near, far, near], [moved, near], [near, broken], [broken, near], [0 * near + 3.1, near]):
        given = tensors
        if last:
            given = [tensor.contiguous(memory_format=torch.channels_last) for tensor in tensors]
        check(given, 2)


def test_a_tie_goes_to_the_first_example_and_the_lowest_channel() -> None:
    for last in (False, True):
        tensor = torch.zeros(3, 40, 64, 64)
        # The third channel holds it first in memory where channels lie apart.
        tensor[1, 2, 0, 0] = tensor[1, 1, 40, 3] = tensor[2, 0, 0, 0] = 7.0
        if last:
            tensor = tensor.contiguous(memory_format=torch.channels_last)
        _, extremes = added([tensor], 2)
        assert extremes[0][1] == (7.0, 1, 1)  # type: ignore[index]
