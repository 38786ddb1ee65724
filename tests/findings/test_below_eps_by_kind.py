"""variance_below_eps at every kind of norm: of a sample, a group, a channel of an example, a channel."""

from __future__ import annotations

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import normprobe

CHECK = ["variance_below_eps"]


def below(norm: nn.Module, x: Tensor, *, train: bool = False) -> pd.DataFrame:
    model = nn.Sequential(norm)
    if not train:
        return normprobe.record(model, [x]).findings(CHECK)
    with normprobe.Probe(model.train()) as probe:
        model(x)
    return probe.recording.findings(CHECK)


def batch_norm(variance: float) -> nn.Module:
    norm = nn.BatchNorm2d(16)
    norm.running_var.fill_(variance)
    return norm


def images(scale: float, seed: int = 0) -> Tensor:
    return scale * torch.randn(16, 16, 8, 8, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    "norm", [nn.GroupNorm(16, 16), nn.GroupNorm(1, 16), nn.InstanceNorm2d(16), batch_norm(9e-8)]
)
def test_a_variance_of_9e_8_is_below_an_eps_of_1e_5(norm: nn.Module) -> None:
    row = below(norm, images(3e-4)).iloc[0]
    assert row["value"] == pytest.approx(9e-8, rel=0.05)
    assert row["threshold"] == 1e-5
    assert below(norm, images(1.0)).empty


def test_a_batch_norm_in_train_mode_divides_by_what_it_sees() -> None:
    assert len(below(batch_norm(1.0), images(3e-4), train=True)) == 1
    assert below(batch_norm(9e-8), images(1.0), train=True).empty


def test_a_running_variance_alone_below_eps_is_stale_not_small() -> None:
    recording = normprobe.record(nn.Sequential(batch_norm(9e-8)), [images(1.0)])
    assert recording.findings(["variance_below_eps"]).empty
    assert len(recording.findings(["stale_running_statistics"])) == 1


LEVELS = torch.tensor([0.0, 3.0, -2.0, 5.0]).repeat_interleave(4)[:, None, None]


def test_groups_at_levels_of_their_own_are_judged_within() -> None:
    row = below(nn.GroupNorm(4, 16), images(1e-4) + LEVELS).iloc[0]
    assert row["value"] == pytest.approx(1e-8, rel=0.05)
    assert "The median group of features" in row["message"]


def test_most_groups_below_eps_are_enough_and_one_is_not() -> None:
    x = images(1.0)
    x[:, 4:] *= 1e-4
    assert len(below(nn.GroupNorm(4, 16), x)) == 1
    x = images(1.0)
    x[:, :4] *= 1e-4
    assert below(nn.GroupNorm(4, 16), x).empty


def test_examples_at_levels_of_their_own_are_judged_by_what_the_norm_writes() -> None:
    x = images(1e-4) + torch.arange(16.0)[:, None, None, None]
    norm = nn.InstanceNorm2d(16, affine=True)
    nn.init.constant_(norm.weight, 3.0)
    assert below(norm, x)["value"].item() == pytest.approx(1e-8, rel=0.05)
    assert below(norm, 1e3 * images(1e-4) + torch.arange(16.0)[:, None, None, None]).empty


def test_constant_channels_are_left_out() -> None:
    x = images(1.0)
    x[:, :12] = 0.0
    for norm in (nn.InstanceNorm2d(16), nn.GroupNorm(4, 16), batch_norm(1.0)):
        assert below(norm, x).empty


class GroupedRms(nn.Module):
    """Mamba 2's: the features of a position in groups."""

    def __init__(self, groups: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight, self.groups, self.eps = nn.Parameter(torch.ones(16)), groups, eps

    def forward(self, x: Tensor) -> Tensor:
        each = x.unflatten(-1, (self.groups, -1))
        each = each * (each.square().mean(-1, keepdim=True) + self.eps).rsqrt()
        return each.flatten(-2) * self.weight


def test_a_grouped_rms_norm_is_judged_within_its_groups() -> None:
    x = torch.randn(64, 16, generator=torch.Generator().manual_seed(0))
    x[:, 4:] *= 1e-4
    norm = GroupedRms(4)
    recording = normprobe.record(nn.Sequential(nn.Identity(), norm), [x])
    assert recording.ledger["groups"].tolist() == [4]
    assert recording.findings(CHECK)["value"].item() == pytest.approx(1e-8, rel=0.3)
    assert below(GroupedRms(4), torch.randn(64, 16)).empty


class NormReLU(nn.GroupNorm):
    """A GroupNorm with an activation behind: half of what it writes is 0."""

    def __init__(self) -> None:
        super().__init__(4, 16)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(super().forward(x))


def test_zeros_of_an_activation_inside_are_no_small_variance() -> None:
    assert below(NormReLU(), images(1.0)).empty
    assert len(below(NormReLU(), images(1e-4))) == 1
