"""Tensors of any shape, memory order and axes of features are measured, by either kernel, never left out."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import normprobe
from normprobe.kernels import dispatch
from normprobe.kernels.choice import Choice
from normprobe.kernels.types import AxisRoles
from normprobe.layers.to_rows import arrange
from normprobe.layers.view import View

SHAPES = [(5, 4, 3), (2, 3, 4, 5), (3, 1, 4), (6, 1, 1), (2, 1, 3, 1), (1, 4, 3, 2)]


def layouts(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """The same numbers in every order in memory, expanded, stepped over and turned round."""
    numbers = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    found = []
    orders = list(itertools.permutations(range(len(shape))))
    for order in orders[:: -(-len(orders) // 8)]:
        back = tuple(int(at) for at in np.argsort(order))
        found.append(numbers.permute(order).contiguous().permute(back))
    wide = torch.randn(*shape[:-1], 2 * shape[-1], dtype=torch.float64).to(dtype)
    return [*found, wide[..., ::2], numbers[:1].expand(shape), numbers.flip(-1)]


def measured(model: nn.Module, x: Tensor) -> normprobe.Recording:
    with torch.no_grad(), normprobe.Probe(model, values=3) as probe:
        model(x)
    return probe.recording


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_norm_over_any_last_axes_is_measured_in_any_order_of_memory(shape: tuple[int, ...]) -> None:
    for trailing in range(1, len(shape)):
        model = nn.Sequential(nn.LayerNorm(shape[-trailing:]))
        for x in layouts(shape):
            recording = measured(model, x)
            rows = x.double().reshape(-1, int(np.prod(shape[-trailing:]))).numpy()
            assert recording.ledger["reason"].tolist() == [""]
            assert recording.layers["n_samples"].tolist() == [len(rows)] * 2
            found = recording.features.query("site == 'input'")
            np.testing.assert_allclose(found["mean"], rows.mean(0), rtol=1e-5, atol=1e-7)
            np.testing.assert_allclose(found["variance"], rows.var(0), rtol=1e-5, atol=1e-12)
            kept = recording.values("0", "input")
            assert len(kept) == min(3, len(rows))
            assert all(any(np.array_equal(row, known) for known in rows) for row in kept)


CHANNELS = [
    (lambda: nn.BatchNorm1d(4), (5, 4, 3)),
    (lambda: nn.BatchNorm2d(3), (2, 3, 4, 5)),
    (lambda: nn.GroupNorm(2, 4), (3, 4, 5)),
    (lambda: nn.InstanceNorm1d(4), (4, 6)),
    (lambda: nn.InstanceNorm2d(2), (2, 3, 5)),
]


@pytest.mark.parametrize(
    ("make", "shape"), CHANNELS, ids=lambda value: str(value) if isinstance(value, tuple) else ""
)
def test_channels_are_measured_in_any_order_of_memory(make: Any, shape: tuple[int, ...]) -> None:
    model = nn.Sequential(make())
    unbatched = isinstance(model[0], nn.InstanceNorm1d | nn.InstanceNorm2d)
    for x in layouts(shape):
        recording = measured(model, x)
        assert "left out" not in recording.ledger["reason"][0]
        rows = x.double().movedim(0 if unbatched else 1, -1).flatten(0, -2).numpy()
        found = recording.features.query("site == 'input'")
        np.testing.assert_allclose(found["mean"], rows.mean(0), rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(found["variance"], rows.var(0), rtol=1e-5, atol=1e-12)
        assert len(recording.values("0", "input"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("axis", [-3, -2, -1, 0, 1, 2])
@pytest.mark.parametrize("by_example", [False, True])
def test_rows_that_are_kept_are_those_chosen_whatever_numbers_the_features(
    dtype: torch.dtype, axis: int, by_example: bool
) -> None:
    view = View("norm", axis, "example" if by_example else "position")
    for x in layouts((4, 3, 5), dtype):
        values = arrange(view, x).values
        raw = np.arange(min(3, values.shape[0] * values.shape[1]))
        choice = Choice(values.shape[0], values.shape[1], raw=raw, raw_slots=raw)
        accumulator = dispatch.accumulator(
            values.shape[2], AxisRoles(axis, 1, None, by_example), torch.device("cpu")
        )
        accumulator.keep(values, choice)
        kept = accumulator.totals(0, len(raw)).raw
        np.testing.assert_array_equal(kept, values.flatten(0, 1)[: len(raw)].double().numpy())
