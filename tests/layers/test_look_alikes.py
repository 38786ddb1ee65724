"""What looks like a norm or a Linear in one way: measured where its call shows one, else refused with why."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import normprobe
from normprobe.layers.find import find_layers
from normprobe.recording import Recording


def data(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 2 + 0.3


def recorded(module: nn.Module, *arguments: Tensor) -> Recording:
    with torch.no_grad(), normprobe.Probe(module) as probe:
        module(*arguments)
    return probe.recording


class _ScaledNormalization(nn.Module):
    """A base whose name alone says what its subclasses do."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma, self.beta = nn.Parameter(torch.rand(width) + 0.5), nn.Parameter(torch.rand(width))


class StepsOfExample(_ScaledNormalization):
    def forward(self, x: Tensor) -> Tensor:
        return functional.group_norm(x, 1, self.gamma, self.beta)


class ChannelLN(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma, self.beta = nn.Parameter(torch.rand(width) + 0.5), nn.Parameter(torch.rand(width))

    def forward(self, x: Tensor) -> Tensor:
        return functional.layer_norm(x.mT, x.shape[1:2], self.gamma, self.beta).mT


class KeptInADictionaryNorm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        tensors = {"norm/gamma": torch.rand(width) + 0.5, "norm/beta": torch.rand(width)}
        self._torch_params = nn.ParameterDict({name: nn.Parameter(t) for name, t in tensors.items()})

    def forward(self, x: Tensor) -> Tensor:
        scale, shift = self._torch_params["norm/gamma"], self._torch_params["norm/beta"]
        return functional.layer_norm(x.mT, x.shape[1:2], scale, shift).mT


@pytest.mark.parametrize(
    ("module", "kind", "sample"),
    [
        (StepsOfExample(8), "group_norm", "example"),
        (ChannelLN(8), "layer_norm", "position"),
        (KeptInADictionaryNorm(8), "layer_norm", "position"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_one_sign_of_a_norm_is_enough_where_its_call_agrees(
    module: nn.Module, kind: str, sample: str
) -> None:
    recording = recorded(module, data(3, 8, 20))
    row = recording.ledger.iloc[0]
    assert (row.status, row.kind, row.sample_unit, row.n_features) == ("fired", kind, sample, 8)
    output = recording.features[recording.features["site"] == "output"]
    # A ParameterDict sorts: by the end of the name, not by its place.
    stored = {name[-4:]: parameter.detach().double() for name, parameter in module.named_parameters()}
    scale, shift = stored["amma"], stored["beta"]
    torch.testing.assert_close(torch.tensor(output.weight.to_numpy()), scale)
    torch.testing.assert_close(torch.tensor(output.bias.to_numpy()), shift)


class FrozenStatistics(nn.Module):
    """All its numbers are buffers, and it has children."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.act = nn.Identity()
        for name in ("weight", "bias", "running_mean", "running_var"):
            self.register_buffer(name, torch.rand(width) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        mean, variance, weight, bias = (
            getattr(self, name).view(1, -1, 1, 1)
            for name in ("running_mean", "running_var", "weight", "bias")
        )
        return self.act((x - mean) * (variance + 1e-5).rsqrt() * weight + bias)


def test_a_frozen_batch_norm_with_children_is_found() -> None:
    module = FrozenStatistics(8)
    recording = recorded(module, data(3, 8, 5, 5))
    assert recording.ledger[["kind", "status", "n_features"]].values.tolist() == [["batch_norm", "fired", 8]]
    seen = recording.features.query("site == 'input'")["running_mean"]
    torch.testing.assert_close(torch.tensor(seen.to_numpy()), module.running_mean.double())


class AdaptiveNorm(nn.Module):
    """Scales by what a Linear makes of a condition, another for each example."""

    def __init__(self, width: int, *, shifts: bool) -> None:
        super().__init__()
        self.modulation, self.shifts = nn.Linear(4, 2 * width), shifts

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        scale, shift = self.modulation(condition)[:, None].chunk(2, dim=-1)
        return functional.rms_norm(x, x.shape[-1:]) * (1 + scale) + self.shifts * shift


class AdaptiveGroupNorm(AdaptiveNorm):
    num_groups = 2

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        scale, shift = self.modulation(condition)[..., None, None].chunk(2, dim=1)
        return functional.group_norm(x, 2) * (1 + scale) + shift


class AdaptiveRoundBareNorm(nn.Module):
    """The same round a norm without a scale, and with a gate for what comes behind."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear, self.bare = nn.Linear(4, 3 * width), nn.LayerNorm(width, elementwise_affine=False)

    def forward(self, x: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        scale, shift, gate = self.linear(condition)[:, None].chunk(3, dim=-1)
        return self.bare(x) * (1 + scale) + shift, gate


def test_a_scale_from_a_condition_round_a_bare_norm_is_a_norm_of_its_own() -> None:
    class AdaLayerNormZero(AdaptiveRoundBareNorm):
        pass

    torch.manual_seed(0)
    norm, x, condition = AdaLayerNormZero(8), torch.randn(3, 40, 8) * 2 + 1, torch.randn(3, 4)
    with torch.no_grad(), normprobe.Probe(norm) as probe:
        output, _ = norm(x, condition)
    recording = probe.recording
    assert recording.ledger[["layer", "kind", "status"]].to_numpy().tolist() == [
        ["", "layer_norm", "fired"],
        ["linear", "linear", "fired"],
        ["bare", "layer_norm", "fired"],
    ]
    own = recording.layers.query("layer == ''")["variance"].tolist()
    assert own == pytest.approx([float(t.var(unbiased=False)) for t in (x, output)], rel=1e-6)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        swapped = normprobe.swap_norms(norm, to="rms_norm")
    assert type(swapped.bare) is nn.RMSNorm


@pytest.mark.parametrize(
    ("module", "sizes", "kind"),
    [
        (AdaptiveNorm(8, shifts=False), (3, 5, 8), "rms_norm"),
        (AdaptiveNorm(8, shifts=True), (3, 40, 8), "rms_norm"),
        (AdaptiveGroupNorm(8, shifts=True), (3, 8, 6, 5), "group_norm"),
    ],
)
def test_a_norm_with_a_linear_for_its_scale_is_one_beside_it(
    module: nn.Module, sizes: tuple[int, ...], kind: str
) -> None:
    recording = recorded(module, data(*sizes), data(3, 4))
    ledger = recording.ledger.set_index("layer")
    assert ledger.loc["", ["kind", "status", "n_features"]].tolist() == [kind, "fired", 8]
    assert ledger.loc["modulation", "status"] == "fired"
    assert recording.features.query("layer == '' and site == 'output'")["weight"].isna().all()


class MlpNorm(nn.Module):
    """Named a norm, with a Linear, and an MLP."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.inner(x))


class Codebook(nn.Module):
    """Has an eps, and gives one of two vectors."""

    def __init__(self) -> None:
        super().__init__()
        self.eps = 1e-5
        self.register_buffer("codes", torch.rand(8) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x > 0, self.codes, -self.codes)


class ConvolutionNorm(nn.Module):
    """Named a norm, and holds a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv1d(20, 20, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.convolution(x)


class PooledLinear(nn.Module):
    """Named a Linear, but it gives one row for all of an example."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(64))

    def forward(self, x: Tensor) -> Tensor:
        return (x @ self.weight.view(8, 8)).mean(1, keepdim=True)


class Sized(PooledLinear):
    """Not named a Linear, but it says both sizes."""

    in_features = out_features = 8


@pytest.mark.parametrize(
    ("module", "kind", "why"),
    [
        (MlpNorm(), "norm", "its name, with a Linear inside for a scale, but its call shows none"),
        (Codebook(), "norm", "it looks like a norm by its eps, but its call shows none"),
        (ConvolutionNorm(), "norm", "holds a parameter of shape (20, 20, 1)"),
        (PooledLinear(), "linear", "its class name, but its call shows none"),
        (Sized(), "linear", "called no Linear"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_looks_like_a_layer_and_is_not_measured_says_why(module: nn.Module, kind: str, why: str) -> None:
    recording = recorded(nn.Sequential(module, nn.LayerNorm(8)), data(3, 20, 8))
    row = recording.ledger.set_index("layer").loc["0"]
    assert (row.kind, row.status) == (kind, "refused")
    assert why in row.reason
    assert "0" not in set(recording.layers["layer"])


def test_a_container_of_layers_is_no_look_alike() -> None:
    class ConvNormBlock(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(self.conv(x))

    assert [layer.name for layer in find_layers(ConvNormBlock()).layers] == ["norm"]
