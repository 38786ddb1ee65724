"""Linears that are no plain `nn.Linear`: which are found, and what is measured of them."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize
from transformers.pytorch_utils import Conv1D

import normprobe
from normprobe.layers.find import find_layers
from tests.helpers.oracle import rows, tensors, two_pass, worst


class Holder(nn.Module):
    """A model of one layer."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


def data(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0)) + 0.3


def held(model: nn.Module, x: Tensor) -> normprobe.Recording:
    """A recording whose every layer agrees with the oracle, of a model left as it was."""
    names = [layer.name for layer in find_layers(model.eval()).layers]
    with torch.no_grad():
        seen = tensors(model, names, lambda: model(x))
        bare = model(x)
        with normprobe.Probe(model) as probe:
            assert torch.equal(model(x), bare)
    features = dict(list(probe.recording.features.groupby(["layer", "site"])))
    assert set(features) == {key for key, values in seen.items() if values}
    for key, frame in features.items():
        expected = two_pass(rows(torch.cat([value.flatten(0, -2) for value in seen[key]])))
        assert worst(frame["mean"], frame["variance"], expected["mean"], expected["variance"]) < 1e-6
    return probe.recording


class LowRank(nn.Module):
    """A LoRA as a parametrization."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(data(2, 6)), nn.Parameter(data(5, 2))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.b @ self.a


def parametrized(kind: str) -> nn.Module:
    linear = nn.Linear(6, 5)
    if kind == "lora":
        parametrize.register_parametrization(linear, "weight", LowRank())
        return linear
    made: nn.Module = getattr(parametrizations, kind)(linear)
    return made


@pytest.mark.parametrize("kind", ["weight_norm", "spectral_norm", "orthogonal", "lora"])
def test_a_parametrized_linear_is_one_linear(kind: str) -> None:
    ledger = held(Holder(parametrized(kind)), data(4, 7, 6)).ledger
    assert ledger[["layer", "kind", "type", "n_features", "affine", "status"]].values.tolist() == [
        ["layer", "linear", "ParametrizedLinear", 6, True, "fired"]
    ]


def test_a_spectral_norm_in_training_is_not_moved_on_by_looking() -> None:
    def after(probed: bool) -> dict[str, Tensor]:
        torch.manual_seed(0)
        model = Holder(parametrized("spectral_norm")).train()
        if probed:
            with normprobe.Probe(model):
                model(data(4, 6))
        else:
            model(data(4, 6))
        return model.state_dict()

    bare, probed = after(False), after(True)
    assert all(torch.equal(bare[name], probed[name]) for name in bare)


def test_the_old_weight_norm_too() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        layer = nn.utils.weight_norm(nn.Linear(6, 5))
    assert held(Holder(layer), data(4, 6)).ledger["type"].tolist() == ["Linear"]


def test_conv1d_stores_its_weight_the_other_way_round() -> None:
    recording = held(Holder(Conv1D(5, 6)), data(4, 7, 6))
    assert recording.ledger[["kind", "type", "n_features"]].values.tolist() == [["linear", "Conv1D", 6]]
    assert recording.layers["n_features"].tolist() == [6, 5]


def test_a_lazy_linear_gets_its_size_inside_the_block() -> None:
    model = Holder(nn.LazyLinear(5))
    with normprobe.Probe(model) as probe, torch.no_grad():
        model(data(4, 6))
    row = probe.recording.ledger.iloc[0]
    assert (row["kind"], row["n_features"], row["status"]) == ("linear", 6, "fired")
    assert type(model.layer) is nn.Linear


def test_a_dynamically_quantized_linear() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = torch.ao.quantization.quantize_dynamic(Holder(nn.Linear(6, 5)), {nn.Linear})
    row = held(model, data(4, 7, 6)).ledger.iloc[0]
    assert type(model.layer).__module__.startswith("torch.ao.nn.quantized")
    assert (row["kind"], row["n_features"], row["status"]) == ("linear", 6, "fired")


class Linear4bit(nn.Linear):
    """bitsandbytes': by base class; its weight is one packed column."""

    def __init__(self) -> None:
        super().__init__(6, 5, bias=False)
        self.dense = self.weight.detach().clone()
        self.weight = nn.Parameter(torch.zeros(15, 1, dtype=torch.uint8), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.dense.T


class Int8Weight(Tensor):
    """torchao's: a Linear of torch whose weight is a tensor subclass."""


class Packed(nn.Module):
    """GPTQ, AWQ and HQQ: no weight, whole numbers under a name of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("qweight", torch.randint(-9, 9, (5, 6), dtype=torch.int32))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.qweight.T.to(x.dtype) / 8


class QuantLinear(Packed):
    infeatures, outfeatures = 6, 5


class WQLinear_GEMM(Packed):  # noqa: N801
    in_features, out_features = 6, 5


class BitLinear(Packed):
    """BitNet's: a plain module whose weight is a buffer of packed numbers, of two axes."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weight", torch.zeros(2, 6, dtype=torch.uint8))


@pytest.mark.parametrize("cls", [Linear4bit, QuantLinear, WQLinear_GEMM, BitLinear])
def test_quantized_linears_by_base_class_or_shape(cls: type[nn.Module]) -> None:
    recording = held(Holder(cls()), data(4, 7, 6))
    row = recording.ledger.iloc[0]
    assert (row["kind"], row["type"], row["n_features"]) == ("linear", cls.__name__, 6)
    assert recording.layers["n_features"].tolist() == [6, 5]


def test_a_weight_that_is_a_subclass_of_tensor() -> None:
    layer = nn.Linear(6, 5)
    layer.weight = nn.Parameter(layer.weight.detach().as_subclass(Int8Weight))
    assert held(Holder(layer), data(4, 6)).ledger["status"].tolist() == ["fired"]


class LoraLinear(nn.Module):
    """PEFT's: the layer it adapts, and two small ones per adapter."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base_layer = base
        self.lora_A = nn.ModuleDict({"default": nn.Linear(base.in_features, 2, bias=False)})
        self.lora_B = nn.ModuleDict({"default": nn.Linear(2, base.out_features, bias=False)})

    @property
    def weight(self) -> Tensor:
        return self.base_layer.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.base_layer(x) + self.lora_B["default"](self.lora_A["default"](x))


def test_a_lora_and_its_parts_are_linears_under_their_own_names() -> None:
    ledger = held(Holder(LoraLinear(nn.Linear(6, 5))), data(4, 7, 6)).ledger
    assert ledger[["layer", "kind", "n_features", "status"]].values.tolist() == [
        ["layer", "linear", 6, "fired"],
        ["layer.base_layer", "linear", 6, "fired"],
        ["layer.lora_A.default", "linear", 6, "fired"],
        ["layer.lora_B.default", "linear", 2, "fired"],
    ]


class BilinearModel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.pair, self.head = nn.Bilinear(6, 6, 3), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.pair(x, x))


def test_a_bilinear_is_declared() -> None:
    model = BilinearModel()
    ledger = normprobe.record(model, data(4, 6)).ledger.set_index("layer")
    assert ledger.loc["pair", "status"] == "refused"
    assert "two inputs" in ledger.loc["pair", "reason"]
    assert ledger.loc["head", "status"] == "fired"


class LinearAttention(nn.Module):
    """Has the word in its name and is none."""

    in_features = out_features = 6

    def forward(self, x: Tensor) -> Tensor:
        return x.softmax(-1)


class ExpertLinears(nn.Module):
    """A weight of three axes: experts, not a Linear."""

    in_features, out_features = 6, 5

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(data(2, 5, 6))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight[0].T


@pytest.mark.parametrize("cls", [LinearAttention, ExpertLinears])
def test_what_is_no_linear(cls: type[nn.Module]) -> None:
    model = nn.Sequential(cls(), nn.Linear(6 if cls is LinearAttention else 5, 2))
    found = find_layers(model).layers
    assert "0" not in {layer.name for layer in found if not layer.parameter}
