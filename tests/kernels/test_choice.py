"""A choice of some samples measures these as if there were no others, in each kernel and layout."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from normprobe.kernels import dispatch
from normprobe.kernels.accumulator import TorchAccumulator
from normprobe.kernels.choice import Choice
from normprobe.kernels.numpy_accumulator import NumpyAccumulator
from normprobe.kernels.types import AxisRoles
from tests.helpers.oracle import RELATIVE, two_pass, worst

SHAPES = [(3, 1, 5), (40, 1, 70), (600, 1, 520), (6, 90, 7), (5, 3, 600)]


def accumulators(features: int, *, by_example: bool) -> list[Any]:
    roles = AxisRoles(-1, 1, None, by_example)
    made: list[Any] = [NumpyAccumulator(features), TorchAccumulator(features, torch.device("cpu"))]
    return (
        made
        if dispatch.compiled() is None
        else [*made, dispatch.accumulator(features, roles, torch.device("cpu"))]
    )


def data(shape: tuple[int, ...]) -> tuple[Tensor, np.ndarray, np.ndarray]:
    """Numbers with NaN here and there, which samples are asked for, and a mask of rows."""
    rng = np.random.default_rng(0)
    values = rng.standard_normal(shape).astype(np.float32) * 3 + 1
    values[rng.random(shape) < 0.001] = np.nan
    values[0] = np.inf
    among = np.flatnonzero(rng.random(shape[0]) < 0.5)
    among = np.union1d(among[among > 0], [shape[0] - 1]).astype(np.int64)
    real = rng.random(shape[:2]) < 0.7
    real[among, 0] = True
    return torch.from_numpy(values), among, real


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_only_the_samples_of_a_choice_are_looked_at(shape: tuple[int, int, int], masked: bool) -> None:
    values, among, real = data(shape)
    keep = among[:2]
    choice = Choice(
        *shape[:2],
        real=real if masked else None,
        keep=keep,
        slots=np.arange(len(keep)),
        example=np.arange(shape[0]),
        position=np.zeros(shape[0], np.int64),
        among=among,
    )
    picked = values.numpy().astype(np.float64)[among]
    inside = np.where(real[among][:, :, None], picked, np.nan) if masked else picked
    for held in accumulators(shape[2], by_example=shape[1] > 1):
        extremes = held.add(values, choice)
        totals = held.totals(len(keep), 0)
        truth = two_pass(inside.reshape(-1, shape[2]))
        found = totals.features
        known = truth["count"] > 0
        assert found.count.tolist() == truth["count"].tolist()
        mean = np.where(known, found.mean, np.nan)
        assert worst(mean, found.variance, truth["mean"], truth["variance"]) < RELATIVE
        assert found.maximum[known].tolist() == truth["max"][known].tolist()
        outside = 0 if not masked else int((~np.isfinite(picked[~real[among]])).sum())
        assert totals.nonfinite_masked == outside
        assert totals.kept[:, 0].tolist() == np.isfinite(inside[:2]).sum((1, 2)).tolist()
        high = totals.holders[1][:2] if totals.holders is not None else extremes.high[:2]
        rows = np.nanmax(np.where(np.isfinite(inside), inside, -np.inf), (1, 2))
        assert high == (rows.max(), among[rows.argmax()])


@pytest.mark.skipif(dispatch.compiled() is None, reason="the C kernel is not built here, or not asked for")
@pytest.mark.parametrize("shape", [(6, 5, 12, 12), (6, 70, 9), (6, 600, 10, 10)])
def test_channels_are_read_as_they_lie(shape: tuple[int, ...]) -> None:
    from normprobe.kernels.cpu import RecentMoments, compiled_choice

    values = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    values[1] = torch.nan
    rows, among = int(np.prod(shape[2:])), np.array([0, 3, 5])
    for threads in (1, 2):
        held = dispatch.accumulator(shape[1], AxisRoles(1, 1, None, True), torch.device("cpu"))
        choice = compiled_choice(Choice(shape[0], rows, among=among))
        extremes = held.state.observe(values, choice, None, RecentMoments(), threads, 0)
        truth = two_pass(values[among].movedim(1, -1).reshape(-1, shape[1]).double().numpy())
        found = held.totals(0, 0)
        assert (
            worst(found.features.mean, found.features.variance, truth["mean"], truth["variance"]) < RELATIVE
        )
        assert found.features.count.tolist() == truth["count"].tolist()
        assert (found.within_count, found.nonfinite_masked) == (3, 0)
        assert extremes[1][1] in among


def test_few_rows_wait_for_others() -> None:
    """As where single tokens are decoded: the extension queues them, and skips those of other groups."""
    rows = torch.randn(30, 3, 8, generator=torch.Generator().manual_seed(0))
    choice = Choice(3, 1, among=np.array([1]), example=np.arange(3), position=np.zeros(3, np.int64))
    truth = two_pass(rows[:, 1].double().numpy())
    for held in accumulators(8, by_example=False):
        for row in rows:
            if held.state is None:
                held.add(row[:, None], choice)
            else:
                from normprobe.kernels.cpu import RecentMoments, compiled_choice

                held.state.observe(row, compiled_choice(choice), None, RecentMoments(), 1, 0)
        found = held.totals(0, 0)
        assert (
            worst(found.features.mean, found.features.variance, truth["mean"], truth["variance"]) < RELATIVE
        )
        assert found.within_count == 30
