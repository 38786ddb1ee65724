"""Norm and activation in one module, and the axis where no formula fits."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import normprobe
from normprobe.layers.norms.identify import ACTIVATED, BY_LENGTH, UNKNOWN
from normprobe.recording import Recording


def data(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 2 + 0.3


def random_affine(norm: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(1)
    for parameter in norm.parameters():
        nn.init.uniform_(parameter, 0.5, 1.5, generator=generator)
    return norm


def recorded(module: nn.Module, x: Tensor) -> Recording:
    with torch.no_grad(), normprobe.Probe(module) as probe:
        module(x)
    return probe.recording


class ActivatedBatchNorm(nn.BatchNorm2d):
    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.drop, self.act = nn.Identity(), nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.drop(super().forward(x)))


class ActivatedChannelNorm(nn.LayerNorm):
    """Over channels, though a LayerNorm by its class."""

    act = staticmethod(functional.silu)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(super().forward(x.movedim(1, -1)).movedim(-1, 1))


class ActivatedGroupNorm(nn.GroupNorm):
    """Its activation is no attribute of it."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.leaky_relu(super().forward(x))


@pytest.mark.parametrize("width", [5, 8], ids=["another width", "as wide as channels"])
@pytest.mark.parametrize(
    ("norm", "kind", "activation"),
    [
        (ActivatedBatchNorm(8).eval(), "batch_norm", "ReLU"),
        (ActivatedBatchNorm(8).train(), "batch_norm", "ReLU"),
        (ActivatedChannelNorm(8), "layer_norm", "silu"),
        (ActivatedGroupNorm(2, 8), "group_norm", "LeakyReLU"),
    ],
    ids=["running", "batch", "channels", "groups"],
)
def test_a_norm_is_known_through_the_activation_of_its_module(
    norm: nn.Module, kind: str, activation: str, width: int
) -> None:
    norm = random_affine(norm)
    recording = recorded(norm, data(16, 8, 6, width))
    row = recording.ledger.iloc[0]
    assert (row.kind, row.n_features, row.status) == (kind, 8, "fired")
    assert ACTIVATED.format(activation) in row.reason
    output = recording.features[recording.features["site"] == "output"]
    for name in ("weight", "bias"):
        stored = norm.get_parameter(name).detach().double()
        torch.testing.assert_close(torch.tensor(output[name].to_numpy()), stored)


def test_hooks_on_the_activation_see_the_users_calls_alone() -> None:
    norm, seen = ActivatedBatchNorm(8), []
    norm.act.register_forward_hook(lambda module, given, output: seen.append(output.dtype))
    recorded(norm, data(16, 8, 6, 5))
    assert seen == [torch.float32]


class ResponseNorm(nn.Module):
    """Divides each channel by its root mean square over the pixels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.rand(width) + 0.5), 1e-6

    def forward(self, x: Tensor) -> Tensor:
        normalized = x * (x.square().mean((2, 3), keepdim=True) + self.eps).rsqrt()
        return normalized * self.weight.view(1, -1, 1, 1)


def test_the_filter_response_is_a_norm_of_channels() -> None:
    norm = ResponseNorm(8)
    recording = recorded(norm, data(4, 8, 6, 8))
    row = recording.ledger.iloc[0]
    assert (row.kind, row.n_features, row.sample_unit) == ("instance_norm", 8, "example")
    weight = recording.features.query("site == 'output'")["weight"]
    torch.testing.assert_close(torch.tensor(weight.to_numpy()), norm.weight.detach().double())


def test_where_no_formula_fits_the_stored_length_is_the_axis() -> None:
    class ThresholdedNorm(ResponseNorm):
        def forward(self, x: Tensor) -> Tensor:
            return torch.maximum(super().forward(x) ** 3, self.weight.view(1, -1, 1, 1))

    row = recorded(ThresholdedNorm(8), data(4, 8, 6, 5)).ledger.iloc[0]
    assert (row.n_features, row.sample_unit) == (8, "example")
    assert UNKNOWN in row.reason
    assert BY_LENGTH.format("axis 1") in row.reason


def test_what_is_called_a_layer_norm_works_position_by_position_where_nothing_shows_otherwise() -> None:
    class CubedLayerNorm2d(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.rand(width) + 0.5)

        def forward(self, x: Tensor) -> Tensor:
            normalized = (x - x.mean(1, keepdim=True)) / x.std(1, keepdim=True)
            return torch.maximum(normalized**3, self.weight.view(1, -1, 1, 1))

    row = recorded(CubedLayerNorm2d(8), data(4, 8, 6, 5)).ledger.iloc[0]
    assert (row.n_features, row.sample_unit) == (8, "position")
