"""Linears that are one by their own call: adapted, of several matrices, quantized; and what is none."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import normprobe
from normprobe.layers.find import find_layers
from normprobe.recording import Recording


def data(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)) + 0.3


def parameter(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.rand(shape, generator=torch.Generator().manual_seed(1)) - 0.4)


class BesideItsWeight(nn.Module):
    """Not named a Linear: the base has a name of its own, the product of low rank is two parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.lora_a, self.lora_b = nn.Linear(8, 6), parameter(2, 8), parameter(6, 2)
        self.drop = nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) + self.drop(x) @ self.lora_a.T @ self.lora_b.T


class LowRankLinear(nn.Module):
    """A weight of its own, and the product of low rank as modules."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = parameter(6, 8)
        self.down, self.up = nn.Linear(8, 2, bias=False), nn.Linear(2, 6, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight) + 4 * self.up(self.down(x))


class QueryValueLinear(nn.Module):
    """Named a Linear, with the adapted one inside and nothing that says the sizes; low rank in two parts."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.lora_a, self.lora_b = nn.Linear(8, 6), parameter(4, 8), parameter(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        first, second = (x @ self.lora_a.T).chunk(2, dim=-1)
        return self.linear(x) + torch.cat([first @ self.lora_b.T, second @ self.lora_b.T], -1)


class ScaledBase(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.base_layer = nn.Linear(8, 6)
        self.scales = nn.ParameterDict({"default": parameter(6)})

    def forward(self, x: Tensor) -> Tensor:
        return self.base_layer(x) * self.scales["default"]


class ShiftedByBias(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.base, self.delta = nn.Linear(8, 6), parameter(6)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.delta


class SparseDelta(nn.Module):
    """Its base is never called: the weight is used as a changed copy."""

    def __init__(self) -> None:
        super().__init__()
        self.base_layer, self.delta = nn.Linear(8, 6), parameter(6, 8)

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.base_layer.weight + self.delta, self.base_layer.bias)


class NormalizedLinear(nn.Module):
    """Normalizes what it reads; its packed weight says nothing of the sizes."""

    in_features, out_features = 8, 6

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weight", torch.randint(0, 3, (3, 8), dtype=torch.uint8))
        self.rms_norm = nn.RMSNorm(8)

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(self.rms_norm(x), self.weight.repeat(2, 1).to(x.dtype))


class HeadwiseLinear(nn.Module):
    """Block-diagonal: a matrix for each of two heads."""

    in_features, out_features = 8, 6

    def __init__(self) -> None:
        super().__init__()
        self.weight = parameter(2, 3, 4)

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("...hi,hoi->...ho", x.unflatten(-1, (2, 4)), self.weight).flatten(-2)


class LinearOfTypes(nn.Module):
    """A matrix for each type of row, which a second argument says."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = parameter(3, 8, 6), parameter(3, 6)

    def forward(self, x: Tensor, types: Tensor | None = None) -> Tensor:
        types = torch.arange(len(x)) % 3 if types is None else types
        return torch.einsum("n...i,nio->n...o", x, self.weight[types]) + self.bias[types][:, None]


class LinearEnsemble(nn.Module):
    """Scales its input ahead of the product, and its output behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = parameter(6, 8), parameter(5, 6)
        self.r, self.s = parameter(5, 8), parameter(5, 6)

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x * self.r, self.weight) * self.s + self.bias


class PathLinear(nn.Module):
    """Its weight is one vector."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = parameter(48)

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight.view(8, 6)


LINEARS = [
    BesideItsWeight,
    LowRankLinear,
    QueryValueLinear,
    ScaledBase,
    ShiftedByBias,
    SparseDelta,
    NormalizedLinear,
    HeadwiseLinear,
    LinearOfTypes,
    LinearEnsemble,
    PathLinear,
]


def recorded(module: nn.Module, x: Tensor) -> tuple[Recording, Tensor]:
    module.eval()
    with torch.no_grad(), normprobe.Probe(module) as probe:
        for _ in range(2):
            y = module(x)
    return probe.recording, y


@pytest.mark.parametrize("cls", LINEARS)
@pytest.mark.parametrize("name", ["", "0"])
def test_a_linear_by_its_call_is_one_row_of_what_it_reads_and_gives(cls: type[nn.Module], name: str) -> None:
    x = data(7, 5, 8)
    module = cls() if name == "" else nn.Sequential(cls())
    recording, y = recorded(module, x)
    row = recording.ledger.set_index("layer").loc[name]
    assert (row.kind, row.status, row.via, row.calls) == ("linear", "fired", "hook", 2)
    assert (row.n_features, row.type, row.aligned) == (8, cls.__name__, True)
    for site, tensor in (("input", x), ("output", y)):
        features = recording.features[(recording.features.layer == name) & (recording.features.site == site)]
        values = tensor.double().flatten(0, 1)
        assert features["mean"].to_numpy() == pytest.approx(values.mean(0).numpy(), rel=1e-6, abs=1e-6)
        assert features["variance"].to_numpy() == pytest.approx(values.var(0, correction=0).numpy(), rel=1e-6)
    assert recording.ledger["layer"].is_unique


def test_parts_of_an_adapted_linear_are_rows_of_their_own_and_none_counts_twice() -> None:
    ledger = recorded(nn.Sequential(LowRankLinear()), data(7, 5, 8))[0].ledger.set_index("layer")
    assert ledger["status"].to_dict() == {"0": "fired", "0.down": "fired", "0.up": "fired"}
    assert ledger["n_features"].to_dict() == {"0": 8, "0.down": 8, "0.up": 2}
    assert set(ledger["via"]) == {"hook"}
    ledger = recorded(nn.Sequential(SparseDelta()), data(7, 5, 8))[0].ledger.set_index("layer")
    assert ledger.loc["0.base_layer", "status"] == "bypassed"
    assert "its weight was read (add)" in ledger.loc["0.base_layer", "reason"]


class KeptAside(nn.Module):
    """Two copies of a layer, of which the second is used."""

    def __init__(self, layer: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.original_module, self.saved = layer(), nn.ModuleDict({"default": layer()})

    def forward(self, x: Tensor) -> Tensor:
        return self.saved["default"](x)


def test_an_adapter_round_a_norm_is_a_norm_and_its_unused_base_never_fired() -> None:
    x = data(7, 5, 8)
    recording, _ = recorded(nn.Sequential(KeptAside(lambda: nn.LayerNorm(8))), x)
    ledger = recording.ledger.set_index("layer")
    assert ledger.loc["0", ["kind", "status", "n_features"]].tolist() == ["layer_norm", "fired", 8]
    assert ledger.loc["0.original_module", ["status", "reason"]].tolist() == [
        "never fired",
        "its module was never called, though the one that holds it was",
    ]
    assert ledger.loc["0.saved.default", "status"] == "fired"


class Perceptron(nn.Module):
    in_features = out_features = 8

    def __init__(self) -> None:
        super().__init__()
        self.linear1, self.linear2 = nn.Linear(8, 32), nn.Linear(32, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear2(self.linear1(x).relu())


class SquarePerceptron(Perceptron):
    def __init__(self) -> None:
        super().__init__()
        self.linear1, self.linear2 = nn.Linear(8, 8), nn.Linear(8, 8)


class Attention(nn.Module):
    in_features = out_features = 8

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(8, 8) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        return self.out((self.q(x) @ self.k(x).mT).softmax(-1) @ self.v(x))


class LinearBlock(nn.Module):
    in_features = out_features = 8

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm, self.act = nn.Linear(8, 8), nn.LayerNorm(8), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(self.linear(x)))


class ActivatedLinear(nn.Module):
    in_features = out_features = 8

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.act = nn.Linear(8, 8), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.linear(x))


class ClassToken(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear, self.token = nn.Linear(8, 8), parameter(8)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.token.expand(len(x), 1, -1), self.linear(x)], 1)


class Pooled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear, self.query = nn.Linear(8, 8), parameter(8)

    def forward(self, x: Tensor) -> Tensor:
        return (self.linear(x) @ self.query).softmax(1)[..., None] * x.mean(1, keepdim=True)[:, :, :3]


class TwoLayers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.base_layer, self.head = nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.base_layer(x).relu())


class KimiLinearRMSNorm(nn.Module):
    """The word belongs to the name of a family of models."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.variance_epsilon = parameter(8), 1e-6

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * functional.rms_norm(x, (8,), eps=1e-6)


@pytest.mark.parametrize(
    "cls",
    [Perceptron, SquarePerceptron, Attention, LinearBlock, ActivatedLinear, ClassToken, Pooled, TwoLayers],
)
def test_what_merely_holds_linears_is_none(cls: type[nn.Module]) -> None:
    ledger = recorded(nn.Sequential(cls()), data(7, 5, 8))[0].ledger
    assert "0" not in set(ledger["layer"])
    assert set(ledger["status"]) == {"fired"}


def test_a_norm_of_a_family_named_linear_is_a_norm() -> None:
    ledger = recorded(nn.Sequential(KimiLinearRMSNorm()), data(7, 5, 8))[0].ledger
    assert ledger["kind"].tolist() == ["rms_norm"]


@pytest.mark.parametrize("train", [False, True])
def test_torchs_own_modules_that_hold_linears_are_none(train: bool) -> None:
    model = nn.Transformer(8, 2, 1, 1, 16, batch_first=True).train(train)
    names = {layer.name: layer.view.unconfirmed for layer in find_layers(model).layers}
    assert set(names.values()) == {""}
    assert "encoder.layers.0" not in names
    head = nn.AdaptiveLogSoftmaxWithLoss(64, 20, [4, 10])
    assert all(layer.view.certain for layer in find_layers(head).layers)
