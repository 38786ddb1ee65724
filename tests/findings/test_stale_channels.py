"""A few BatchNorm channels whose running statistics are not theirs: named where they are, nobody behind."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import normprobe


class Frozen(nn.Module):
    """The four numbers a channel as buffers, in no subclass of BatchNorm."""

    def __init__(self, norm: nn.BatchNorm2d, eps: float) -> None:
        super().__init__()
        self.eps = eps
        for name in ("weight", "bias", "running_mean", "running_var"):
            self.register_buffer(name, getattr(norm, name).detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        shift = self.bias - self.running_mean * scale
        return x * scale.view(1, -1, 1, 1) + shift.view(1, -1, 1, 1)


def images(count: int) -> Tensor:
    return torch.randn(count, 3, 10, 10) + torch.tensor([0.8, -0.5, 1.5]).view(3, 1, 1)


def trained(eps: float | None = None) -> nn.Sequential:
    """Two convolutions with norms whose running statistics fit `images`; plain modules with an ``eps``."""
    torch.manual_seed(0)
    first = [nn.Conv2d(3, 12, 3), nn.BatchNorm2d(12), nn.ReLU()]
    net = nn.Sequential(*first, nn.Conv2d(12, 12, 3), nn.BatchNorm2d(12))
    with torch.no_grad():
        for _ in range(60):
            net(images(16))
    if eps is not None:
        net[1], net[4] = Frozen(net[1], eps), Frozen(net[4], eps)
    return net.eval()


def found(net: nn.Module) -> pd.DataFrame:
    torch.manual_seed(1)
    checks = ["stale_channels", "stale_running_statistics"]
    return normprobe.record(net, [images(64)]).findings(checks)


def spliced(norm: nn.Module, channel: int) -> None:
    """Give a channel the running mean of the one whose mean lies farthest."""
    mean = norm.running_mean
    mean[channel] = mean[(mean - mean[channel]).abs().argmax()]


def squeezed(value: float) -> Callable[[nn.Module, int], None]:
    def change(norm: nn.Module, channel: int) -> None:
        norm.running_var[channel] = value

    return change


@pytest.mark.parametrize("eps", [None, 0.0, 1e-14, 1e-5])
@pytest.mark.parametrize("change", [squeezed(1e-4), squeezed(1e-14), spliced])
def test_a_bad_channel_is_named_at_its_own_layer(
    change: Callable[[nn.Module, int], None], eps: float | None
) -> None:
    net = trained(eps)
    change(net[1], 3)
    rows = found(net)
    assert rows[["check", "layer", "feature", "affected"]].to_numpy().tolist() == [
        ["stale_channels", "1", 3, "1"]
    ]
    assert "Channel 3: the running" in rows["message"].item()


def test_what_it_says_of_a_running_variance_near_0() -> None:
    net = trained()
    with torch.no_grad():
        variance = net[0](images(512)).var((0, 2, 3))[3]
    net[1].running_var[3] = 1e-4
    row = found(net).iloc[0]
    assert row["value"] == pytest.approx(float(variance) / 1.1e-4, rel=0.1)
    assert "its output has variance" in row["message"]


@pytest.mark.parametrize("times", [1.0, 0.25, 4.0])
def test_a_channel_four_times_off_is_noise(times: float) -> None:
    net = trained()
    net[1].running_var[3] *= times
    assert found(net).empty


def test_channels_that_are_off_in_the_last_norm_too_are_named_there() -> None:
    net = trained()
    net[4].running_var[[2, 7]] = 1e-6
    row = found(net).iloc[0]
    assert (row["check"], row["layer"]) == ("stale_channels", "4")
    assert row["feature"] in (2, 7)
    assert "2 channels of this layer are off" in row["message"]


def test_a_layer_that_is_stale_as_a_whole_is_no_single_channel() -> None:
    net = trained()
    net[1].running_var /= 8
    assert found(net)["check"].tolist() == ["stale_running_statistics"]


def test_a_dead_channel_is_no_fault() -> None:
    net = trained()
    with torch.no_grad():
        net[0].weight[3], net[0].bias[3] = 0.0, 0.0
        net[1].running_var[3], net[1].running_mean[3] = 1e-14, 0.0
    assert found(net).empty
