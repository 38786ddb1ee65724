"""Norms of others that are swapped: with an activation in one module, scaled otherwise than torch's own."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import normprobe


def learned(norm: nn.Module) -> nn.Module:
    """A norm whose scale and shift are no longer 1 and 0."""
    for number, parameter in enumerate(norm.parameters()):
        parameter.data = torch.linspace(0.5 - number, 1.5, parameter.numel()).reshape(parameter.shape)
    return norm.eval()


class NormAct(nn.Module):
    """A norm and an activation in one module."""

    act: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        return self.act(super().forward(x))


class BatchNormAct(NormAct, nn.BatchNorm2d):
    def __init__(self) -> None:
        super().__init__(8)
        self.drop, self.act = nn.Identity(), nn.ReLU(inplace=True)


class GroupNormAct(NormAct, nn.GroupNorm):
    def __init__(self) -> None:
        super().__init__(2, 8)
        self.act = nn.SiLU()


class LayerNormAct(nn.LayerNorm):
    """Over the channels of each pixel."""

    def __init__(self) -> None:
        super().__init__(8)
        self.act = nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(super().forward(x.movedim(1, -1)).movedim(-1, 1))


class RMSNormAct(nn.Module):
    """Its activation is a function in its code."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(8)), 1e-6

    def forward(self, x: Tensor) -> Tensor:
        return functional.silu(functional.rms_norm(x, (8,), self.weight, self.eps))


ACTIVATED: dict[type[nn.Module], tuple[str, type[nn.Module], tuple[int, ...]]] = {
    BatchNormAct: ("batch_norm", nn.ReLU, (16, 8, 4, 4)),
    GroupNormAct: ("group_norm", nn.SiLU, (16, 8, 4, 4)),
    LayerNormAct: ("layer_norm", nn.GELU, (16, 8, 4, 4)),
    RMSNormAct: ("rms_norm", nn.SiLU, (16, 8)),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("to", ["batch_norm", "layer_norm", "group_norm", "rms_norm"])
@pytest.mark.parametrize("cls", ACTIVATED)
def test_a_norm_in_one_module_with_its_activation_is_exchanged_and_that_stays(
    cls: type[nn.Module], to: Any
) -> None:
    kind, activation, sizes = ACTIVATED[cls]
    torch.manual_seed(0)
    model = nn.Sequential(nn.Identity(), learned(cls()))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    swapped = normprobe.swap_norms(model, to=to, groups=2)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    if to == kind:
        assert type(swapped[1]) is cls
        return
    new = swapped[1].train()
    assert [type(part) for part in (new[0], new[-1])] == [type(new.norm), activation]
    # The new norm is that of torch's own in the old one's place, and the activation stands behind it.
    bare = normprobe.swap_norms(torch_norm(cls, model[1]), to=to, groups=2).train()
    assert type(bare) is type(new.norm)
    assert {name: t.tolist() for name, t in new.norm.named_parameters()} == {
        name: t.tolist() for name, t in bare.named_parameters()
    }
    x = torch.randn(sizes, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.allclose(new(x.clone()), activation()(bare(x)), atol=1e-6)
    assert normprobe.record(swapped, x).ledger.set_index("layer").loc["1.norm", "kind"] == to


def torch_norm(cls: type[nn.Module], old: nn.Module) -> nn.Module:
    """Torch's own norm with the scale and shift of one that has an activation behind it."""
    made: dict[type[nn.Module], Callable[[], nn.Module]] = {
        BatchNormAct: lambda: nn.BatchNorm2d(8),
        GroupNormAct: lambda: nn.GroupNorm(2, 8),
        LayerNormAct: lambda: nn.InstanceNorm2d(8, affine=True),
        RMSNormAct: lambda: nn.RMSNorm(8, eps=1e-6),
    }
    norm = made[cls]()
    norm.load_state_dict({name: old.state_dict()[name] for name in norm.state_dict()})
    return norm


class OffsetScaleOfInput(nn.Module):
    """Scales what it normalizes, not what it gives, by 1 + w."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(0.2 * torch.randn(8, generator=torch.Generator().manual_seed(2)))

    def forward(self, x: Tensor) -> Tensor:
        return functional.rms_norm(x * (1 + self.weight), (8,), eps=1e-6)


class InputScaledRMSNorm(OffsetScaleOfInput):
    pass


def test_a_norm_that_scales_its_input_stays_unless_it_is_of_the_kind() -> None:
    model = nn.Sequential(InputScaledRMSNorm())
    for to in ("layer_norm", "batch_norm"):
        with pytest.warns(UserWarning, match="its weight scales its input, not what it normalizes"):
            assert type(normprobe.swap_norms(model, to=to)[0]) is InputScaledRMSNorm  # type: ignore[arg-type]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert type(normprobe.swap_norms(model, to="rms_norm")[0]) is InputScaledRMSNorm


class UncentredStdNorm(nn.Module):
    """Divides by the standard deviation and keeps the mean."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(8)), 1e-5

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight / (x.var(-1, keepdim=True) + self.eps).sqrt()


@pytest.mark.parametrize("to", ["layer_norm", "rms_norm"])
def test_a_norm_that_divides_by_the_deviation_and_keeps_the_mean_is_of_no_kind(to: Any) -> None:
    with pytest.warns(UserWarning, match="UncentredStdNorm"):
        assert type(normprobe.swap_norms(nn.Sequential(UncentredStdNorm()), to=to)[0]) is UncentredStdNorm


class OneScaleNorm(nn.Module):
    """One number scales all features of unit length (ScaleNorm); it says how many there are."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.num_features, self.g = width, nn.Parameter(torch.tensor([3.0]))

    def forward(self, x: Tensor) -> Tensor:
        return functional.normalize(x, dim=-1) * self.g


def test_one_number_for_all_features_is_taken_over_as_applied() -> None:
    new = normprobe.swap_norms(nn.Sequential(OneScaleNorm(16)), to="layer_norm")[0]
    # Unit length is a root mean square of 1 / sqrt(16).
    assert torch.allclose(new.weight, torch.full((16,), 3.0 / 4))


def test_an_eps_of_none_is_the_machine_epsilon_that_torch_takes() -> None:
    new = normprobe.swap_norms(nn.RMSNorm(8), to="layer_norm")
    assert new.eps == torch.finfo(torch.float32).eps
    new = normprobe.swap_norms(nn.RMSNorm(8, dtype=torch.float64), to="layer_norm")
    assert new.eps == torch.finfo(torch.float64).eps
