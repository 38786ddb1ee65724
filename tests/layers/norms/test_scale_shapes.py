"""Norms whose scale is no vector: shaped for channels, a row for each head, a row for each type."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import normprobe
from normprobe.layers.norms.identify import ROWS
from normprobe.recording import Recording


def random(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(sum(shape))) + 0.5


class ShapedRMSNorm(nn.Module):
    """Root mean square 1 along one axis, then a scale of any shape."""

    def __init__(self, shape: tuple[int, ...], axis: int) -> None:
        super().__init__()
        self.g, self.axis = nn.Parameter(random(*shape)), axis

    def forward(self, x: Tensor) -> Tensor:
        return x * x.square().mean(self.axis, keepdim=True).rsqrt() * self.g


class ShapedLayerNorm(ShapedRMSNorm):
    """The same with the mean subtracted, and a shift."""

    def __init__(self, shape: tuple[int, ...], axis: int) -> None:
        super().__init__(shape, axis)
        self.b, self.eps = nn.Parameter(random(*shape) - 2), 1e-5

    def forward(self, x: Tensor) -> Tensor:
        centred = x - x.mean(self.axis, keepdim=True)
        variance = centred.square().mean(self.axis, keepdim=True)
        return centred * (variance + self.eps).rsqrt() * self.g + self.b


class ExampleNorm(ShapedLayerNorm):
    """Over channels and steps of an example together."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__(shape, 1)
        self.axis = (1, 2)  # type: ignore[assignment]


class TypedLayerNorm(nn.Module):
    """A row of scales and shifts for each type, chosen by an index."""

    def __init__(self, types: int, width: int) -> None:
        super().__init__()
        self.eps = 1e-5
        self.weight, self.bias = nn.Parameter(random(types, width)), nn.Parameter(random(types, width) - 3)

    def forward(self, x: Tensor, types: Tensor) -> Tensor:
        return nn.functional.layer_norm(x, x.shape[-1:]) * self.weight[types] + self.bias[types]


def recorded(norm: nn.Module, *arguments: Tensor) -> Recording:
    with torch.no_grad(), normprobe.Probe(norm) as probe:
        norm(*arguments)
    return probe.recording


def data(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 2 + 0.3


@pytest.mark.parametrize(
    ("shape", "axis", "sizes"),
    [
        ((1, 8, 1, 1), 1, (4, 8, 5, 6)),
        ((1, 8, 1, 1), 1, (4, 8, 8, 8)),
        ((8, 1, 1), 1, (4, 8, 5, 6)),
        ((8, 1, 1), 1, (4, 8, 8, 8)),
        ((8, 1, 1, 1), 1, (2, 8, 3, 4, 5)),
        ((1, 8, 1), 1, (4, 8, 9)),
        ((8, 1), 1, (4, 8, 8)),
        ((1, 1, 8), -1, (4, 8, 8)),
        ((1, 8), -1, (40, 8)),
        ((1, 1, 1, 8), -1, (4, 8, 8, 8)),
    ],
)
@pytest.mark.parametrize("cls", [ShapedRMSNorm, ShapedLayerNorm])
def test_a_scale_shaped_for_broadcasting_lies_along_its_long_axis(
    cls: type[ShapedRMSNorm], shape: tuple[int, ...], axis: int, sizes: tuple[int, ...]
) -> None:
    norm, x = cls(shape, axis), data(*sizes)
    recording = recorded(norm, x)
    row = recording.ledger.iloc[0]
    assert (row.kind, row.n_features) == ("layer_norm" if cls is ShapedLayerNorm else "rms_norm", 8)
    assert (row.sample_unit, row.reason, row.status) == ("position", "", "fired")
    output = recording.features[recording.features["site"] == "output"]
    torch.testing.assert_close(torch.tensor(output.weight.to_numpy()), norm.g.detach().double().flatten())
    shift = (
        norm.b.detach().double().flatten() if isinstance(norm, ShapedLayerNorm) else torch.zeros(8).double()
    )
    torch.testing.assert_close(torch.tensor(output.bias.to_numpy()), shift.detach().double())
    variances = norm(x).detach().double().movedim(axis, 0).flatten(1).var(1, unbiased=False)
    torch.testing.assert_close(torch.tensor(output.variance.to_numpy()), variances, rtol=1e-5, atol=1e-8)


def test_a_scale_of_channels_over_the_whole_example() -> None:
    row = recorded(ExampleNorm((1, 8, 1)), data(4, 8, 8)).ledger.iloc[0]
    assert (row.kind, row.sample_unit, row.n_features) == ("group_norm", "example", 8)


@pytest.mark.parametrize(
    ("shape", "sizes"), [((3, 1, 8), (4, 3, 7, 8)), ((3, 8), (4, 7, 3, 8)), ((1, 3, 1, 8), (4, 3, 8, 8))]
)
@pytest.mark.parametrize("cls", [ShapedRMSNorm, ShapedLayerNorm])
def test_of_a_row_for_each_head_weight_and_bias_are_missing(
    cls: type[ShapedRMSNorm], shape: tuple[int, ...], sizes: tuple[int, ...]
) -> None:
    recording = recorded(cls(shape, -1), data(*sizes))
    row = recording.ledger.iloc[0]
    assert (row.kind, row.n_features) == ("layer_norm" if cls is ShapedLayerNorm else "rms_norm", 8)
    assert ROWS in row.reason
    output = recording.features[recording.features["site"] == "output"]
    assert output[["weight", "bias"]].isna().all(axis=None)


def test_a_row_for_each_type_is_chosen_by_an_index_among_the_arguments() -> None:
    types = torch.arange(60) % 3
    recording = recorded(TypedLayerNorm(3, 8), data(60, 8), types)
    row = recording.ledger.iloc[0]
    assert (row.kind, row.n_features, row.status, row.reason) == ("layer_norm", 8, "fired", ROWS)
    assert recording.features.query("site == 'output'")[["weight", "bias"]].isna().all(axis=None)


def test_a_matrix_that_is_no_scale_shows_at_the_first_call() -> None:
    class MixingNorm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mix = nn.Parameter(random(8, 8))

        def forward(self, x: Tensor) -> Tensor:
            return torch.tanh(x) @ self.mix

    row = recorded(nn.Sequential(nn.Linear(8, 8), MixingNorm()), data(40, 8)).ledger.iloc[1]
    assert (row.layer, row.status) == ("1", "refused")
    assert row.reason.startswith("it looks like a norm by its name, but its call shows none")
