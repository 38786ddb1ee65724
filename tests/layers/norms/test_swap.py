"""Swapped norms compute what their kind says, keep what the old ones learned; what stays is declared."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.t5.modeling_t5 import T5LayerNorm

import normprobe
from normprobe.layers.norms import replacements

KINDS = ("layer_norm", "batch_norm", "group_norm", "rms_norm")
EPS = 1e-3


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0)) * 3 + 2


def learned(norm: nn.Module) -> nn.Module:
    """A norm whose scale and shift, where it has them, are no longer 1 and 0."""
    for number, parameter in enumerate(norm.parameters()):
        parameter.data = torch.linspace(0.5 - number, 1.5, parameter.numel()).reshape(parameter.shape)
    return norm.eval()


def by_hand(kind: str, x: np.ndarray, axis: int, groups: int) -> np.ndarray:
    """The normalization alone, float64; x is (batch, ..., features) or (batch, channels, ...)."""
    if kind == "batch_norm":
        over = tuple(i for i in range(x.ndim) if i != axis % x.ndim)
    else:
        over = tuple(range(1, x.ndim)) if axis == 1 else (x.ndim - 1,)
    if kind == "group_norm":
        cut = np.split(x, groups, axis=axis)
        return np.concatenate([by_hand("layer_norm", part, axis, 1) for part in cut], axis=axis)
    mean = 0.0 if kind == "rms_norm" else x.mean(over, keepdims=True)
    return (x - mean) / np.sqrt(np.square(x - mean).mean(over, keepdims=True) + EPS)


@pytest.mark.parametrize("to", KINDS)
@pytest.mark.parametrize(
    ("old", "shape", "axis"),
    [
        (nn.LayerNorm(12, eps=EPS), (6, 5, 12), -1),
        (nn.LayerNorm(12, eps=EPS, elementwise_affine=False), (6, 12), -1),
        (nn.BatchNorm1d(12, eps=EPS), (6, 12), 1),
        (nn.BatchNorm2d(12, eps=EPS), (6, 12, 4, 3), 1),
        (nn.BatchNorm3d(12, eps=EPS, affine=False), (6, 12, 4, 3, 2), 1),
        (nn.GroupNorm(1, 12, eps=EPS), (6, 12, 7), 1),
        (nn.InstanceNorm2d(12, eps=EPS), (6, 12, 4, 3), 1),
        (T5LayerNorm(12, eps=EPS), (6, 5, 12), -1),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else None,
)
def test_a_new_norm_computes_what_its_kind_says(old: nn.Module, shape: Any, axis: int, to: Any) -> None:
    learned(old)
    if to == "group_norm" and isinstance(old, nn.GroupNorm):
        pytest.skip("a group norm stays")
    if to == "rms_norm" and isinstance(old, T5LayerNorm):
        pytest.skip("a root-mean-square norm stays")
    new = normprobe.swap_norms(old, to=to).train()
    x = normal(*shape)
    weight, bias = (getattr(old, name, None) for name in ("weight", "bias"))
    across = (-1,) + (1,) * (len(shape) - 2) if axis == 1 else (-1,)
    expected = by_hand(to, x.double().numpy(), axis, groups=3)
    expected = expected * (1 if weight is None else weight.detach().double().numpy().reshape(across))
    expected = expected + (0 if bias is None else bias.detach().double().numpy().reshape(across))
    assert new(x).detach().numpy() == pytest.approx(expected, abs=2e-5)


def test_a_probe_reads_each_new_norm_as_its_kind() -> None:
    cnn = nn.Sequential(nn.Conv2d(1, 16, 3), nn.BatchNorm2d(16))
    text = nn.Sequential(nn.Linear(8, 16), nn.LayerNorm(16))
    for to in KINDS:
        for model, x in ((cnn, normal(4, 1, 6, 6)), (text, normal(4, 3, 8))):
            swapped = normprobe.swap_norms(model, to=to).train()
            with normprobe.Probe(swapped) as probe:
                swapped(x)
            layers = probe.recording.layers.query("layer == '1' and site == 'output'").iloc[0]
            assert layers["kind"] == to
            split = "within_feature_variance" if to == "batch_norm" else "within_sample_variance"
            assert layers[split] == pytest.approx(1, abs=0.01 if to != "rms_norm" else 0.5)
            assert layers["n_features"] == 16


def test_the_running_statistics_of_a_norm_over_features_are_recorded() -> None:
    model = normprobe.swap_norms(nn.Sequential(nn.Linear(8, 16), nn.LayerNorm(16)), to="batch_norm").train()
    with normprobe.Probe(model) as probe:
        model(normal(40, 5, 8))
    rows = probe.recording.features.query("site == 'input' and layer == '1'")
    assert rows["running_mean"].to_numpy() == pytest.approx(model[1].running_mean.numpy())
    assert rows["seen_variance"].to_numpy() == pytest.approx(rows["variance"].to_numpy())


def test_the_model_itself_is_left_as_it_is() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 2))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    norm, attributes = model[1], set(vars(model[1]))
    swapped = normprobe.swap_norms(model, to="batch_norm")
    swapped.train()(normal(4, 8))
    assert model[1] is norm
    assert set(vars(norm)) == attributes
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert swapped[0].weight is not model[0].weight


def test_a_new_norm_has_the_dtype_mode_and_gradients_of_the_old() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), nn.LayerNorm(8)).to(torch.bfloat16)
    model[1].requires_grad_(False).eval()
    for to in ("batch_norm", "rms_norm"):
        first, second = normprobe.swap_norms(model, to=to)[1:]
        assert {p.dtype for p in first.parameters()} == {torch.bfloat16}
        assert not any(p.requires_grad for p in first.parameters())
        assert not first.training
        assert all(p.requires_grad for p in second.parameters())
        assert second.training


def test_swapping_there_and_back_changes_no_output() -> None:
    x = normal(4, 5, 12)
    model = nn.Sequential(nn.Linear(12, 12), learned(nn.LayerNorm(12)))
    for by in ("batch_norm", "group_norm", "rms_norm"):
        back = normprobe.swap_norms(normprobe.swap_norms(model, to=by), to="layer_norm")  # type: ignore[arg-type]
        assert torch.equal(back(x), model(x))


@pytest.mark.parametrize(("cls", "offset"), [(GemmaRMSNorm, 1.0), (LlamaRMSNorm, 0.0)])
def test_the_scale_is_taken_over_as_applied(cls: Any, offset: float) -> None:
    old = learned(cls(8))
    new = normprobe.swap_norms(old, to="layer_norm")
    assert isinstance(new, nn.LayerNorm)
    assert new.weight.detach() == pytest.approx(old.weight.detach() + offset)
    x = normal(3, 8)
    x = x - x.mean(-1, keepdim=True)
    assert new(x).detach() == pytest.approx(old(x).detach(), abs=1e-5)


def test_a_norm_with_two_names_is_swapped_under_both() -> None:
    norm = nn.LayerNorm(8)
    swapped = normprobe.swap_norms(nn.Sequential(norm, nn.Linear(8, 8), norm), to="rms_norm")
    assert isinstance(swapped[0], nn.RMSNorm)
    assert swapped[0] is swapped[2]


def test_only_the_chosen_layers_are_swapped() -> None:
    swapped = normprobe.swap_norms(
        nn.Sequential(*(nn.LayerNorm(8) for _ in range(3))), "rms_norm", layers="1"
    )
    assert [type(module) for module in swapped] == [nn.LayerNorm, replacements.FeatureRMSNorm, nn.LayerNorm]


class GatedNorm(nn.RMSNorm):
    """A norm that takes a second tensor, as those of Mamba do."""

    def forward(self, x: Tensor, gate: Tensor | None = None) -> Tensor:
        return super().forward(x if gate is None else x * gate)


class Gated(nn.Module):
    """Two norms, one of which takes a gate."""

    def __init__(self) -> None:
        super().__init__()
        self.plain, self.gated = nn.LayerNorm(8), GatedNorm(8)

    def forward(self, x: Tensor) -> Tensor:
        return self.gated(self.plain(x), x)


class CosineNorm(nn.Module):
    """Called a norm, and computes something else."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(8))

    def forward(self, x: Tensor) -> Tensor:
        return x / x.abs().sum(-1, keepdim=True) * self.weight


@pytest.mark.parametrize(
    ("model", "to", "message"),
    [
        (nn.LayerNorm(7), "group_norm", "LayerNorm.*its 7 features do not divide"),
        (nn.LayerNorm((4, 3)), "batch_norm", "its last 2 axes together, which batch_norm cannot"),
        (nn.LocalResponseNorm(2), "layer_norm", "number of features cannot be told"),
        (Gated(), "layer_norm", r"1 of 2 norms stay.* gated \(GatedNorm\).*takes 2 arguments"),
        (CosineNorm(), "layer_norm", "is no normalization of a sample's features"),
    ],
)
def test_what_stays_is_declared(model: nn.Module, to: Any, message: str) -> None:
    with pytest.warns(UserWarning, match=message):
        swapped = normprobe.swap_norms(model, to=to)
    stays = dict(swapped.named_modules()).get("gated", swapped)
    assert type(stays) in (type(model), GatedNorm)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")
def test_a_scripted_norm_stays() -> None:
    with pytest.warns(UserWarning, match="a scripted module takes no hooks"):
        normprobe.swap_norms(nn.Sequential(torch.jit.script(nn.LayerNorm(8))), to="rms_norm")


def test_a_norm_over_several_axes_becomes_root_mean_square() -> None:
    new = normprobe.swap_norms(learned(nn.LayerNorm((4, 3), bias=False)), to="rms_norm")
    assert isinstance(new, nn.RMSNorm)
    assert new.weight.shape == (4, 3)


def test_torchs_fused_encoder_does_not_pass_the_new_norms_by() -> None:
    """It would compute LayerNorm from their weights; in the copy it is left."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=True).eval()
    x, padding = normal(4, 5, 16), torch.zeros(4, 5, dtype=torch.bool)
    padding[0, 3:] = True
    for to in ("batch_norm", "group_norm", "rms_norm"):
        swapped = normprobe.swap_norms(encoder, to=to)  # type: ignore[arg-type]
        with torch.no_grad():
            fused = swapped(x, src_key_padding_mask=padding)
        assert torch.equal(fused, swapped(x, src_key_padding_mask=padding).detach())
    same = normprobe.swap_norms(encoder, to="layer_norm")
    assert same.use_nested_tensor
    assert same.layers[0].activation_relu_or_gelu == encoder.layers[0].activation_relu_or_gelu


def test_no_random_state_is_touched_and_no_warning_given() -> None:
    state = torch.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        normprobe.swap_norms(T5LayerNorm(8), to="batch_norm")
    assert torch.equal(torch.get_rng_state(), state)


def test_what_is_asked_wrongly_is_said() -> None:
    with pytest.raises(normprobe.NormprobeError, match=r"to='instance_norm' .* choose from layer_norm"):
        normprobe.swap_norms(nn.LayerNorm(8), to="instance_norm")  # type: ignore[arg-type]
    with pytest.raises(normprobe.NormprobeError, match="groups=0"):
        normprobe.swap_norms(nn.LayerNorm(8), to="group_norm", groups=0)
    with pytest.raises(normprobe.NoLayersError):
        normprobe.swap_norms(nn.Linear(8, 8), to="layer_norm")


@pytest.mark.parametrize(
    ("features", "most", "groups"), [(384, 32, 32), (50, 32, 10), (7, 32, 1), (16, 2, 2)]
)
def test_groups_divide_the_features(features: int, most: int, groups: int) -> None:
    assert replacements.groups_for(features, most) == groups


def test_a_channel_batch_norm_wants_a_channel_axis() -> None:
    new = normprobe.swap_norms(nn.GroupNorm(2, 8), to="batch_norm")
    with pytest.raises(ValueError, match=r"needs \(examples, channels, ...\), got \(8,\)"):
        new(torch.ones(8))
