"""Parameters that are layers: named by rule on entry, or because a function used them as one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from transformers.models.mixtral import MixtralConfig, MixtralForCausalLM

import normprobe
from normprobe.layers.find import find_layers
from normprobe.layers.parameter_layers import projection_part


class TopKRouter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 6))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        chosen = F.linear(x, self.weight).softmax(-1)
        return chosen, chosen.argmax(-1)


class Experts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up_proj, self.bias = nn.Parameter(torch.randn(4, 8, 6)), nn.Parameter(torch.zeros(4, 8))
        self.down_proj = nn.Parameter(torch.randn(4, 6, 8))

    def forward(self, x: Tensor, chosen: Tensor) -> Tensor:
        out = torch.zeros_like(x)
        for expert in range(4):
            rows = chosen == expert
            out[rows] = F.linear(F.linear(x[rows], self.up_proj[expert]), self.down_proj[expert])
        return out


class Mixture(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.gate, self.experts = nn.LayerNorm(6), TopKRouter(), Experts()
        self.positions = nn.Parameter(torch.zeros(1, 5, 6))

    def forward(self, x: Tensor, experts: bool = True) -> Tensor:
        x = self.norm(x + self.positions)
        _, chosen = self.gate(x)
        return self.experts(x, chosen) if experts else x


def test_routers_and_experts_are_named_on_entry() -> None:
    found = {layer.name: (layer.type, layer.n_features) for layer in find_layers(Mixture()).layers}
    assert found == {
        "norm": ("LayerNorm", 6),
        "gate": ("TopKRouter", 6),
        "experts.up_proj": ("Experts", 6),
        "experts.down_proj": ("Experts", 8),
    }


def test_a_router_is_measured_and_experts_are_declared() -> None:
    model, x = Mixture(), torch.randn(2, 5, 6)
    expected = model(x)
    with normprobe.Probe(model) as probe:
        for _ in range(3):
            assert torch.equal(model(x), expected)
    ledger = probe.recording.ledger.set_index("layer")
    assert ledger.loc["gate", ["status", "via", "calls"]].tolist() == ["fired", "functional", 3]
    held = "one tensor of shape (4, 8, 6) holds the weights of all experts"
    said = f"{held}; their products are not probed without experts=True"
    assert ledger.loc["experts.up_proj", ["status", "reason"]].tolist() == ["bypassed", said]
    features = probe.recording.features.query("layer == 'gate' and site == 'output'")
    logits = F.linear(model.norm(x), model.gate.weight).detach().double().reshape(-1, 4).numpy()
    np.testing.assert_allclose(features["mean"], logits.mean(0), rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(features["variance"], logits.var(0), rtol=1e-5)


def test_experts_that_were_not_called_never_fired() -> None:
    with normprobe.Probe(Mixture()) as probe:
        probe.model(torch.randn(2, 5, 6), experts=False)
    row = probe.recording.ledger.set_index("layer").loc["experts.down_proj"]
    assert row["status"] == "never fired"
    assert row["reason"] == "the Experts that holds it was never called"


class GraphConvolution(nn.Module):
    """Says both sizes; its matrix lies (in, out)."""

    def __init__(self) -> None:
        super().__init__()
        self.in_features, self.out_features = 6, 4
        self.weight = nn.Parameter(torch.randn(6, 4))

    def forward(self, x: Tensor, neighbours: Tensor) -> Tensor:
        return neighbours @ torch.mm(x, self.weight)


class CosineHead(GraphConvolution):
    """Uses its matrix normalized, so no function is given it as it is."""

    def forward(self, x: Tensor, neighbours: Tensor) -> Tensor:
        return F.linear(F.normalize(x), F.normalize(self.weight, dim=0).T)


@pytest.mark.parametrize("cls", [GraphConvolution, CosineHead])
def test_what_says_both_sizes_without_the_name_of_a_linear_is_never_absent(cls: type[nn.Module]) -> None:
    torch.manual_seed(0)
    model, x, neighbours = cls(), torch.randn(7, 6), torch.rand(7, 7)
    with torch.no_grad(), normprobe.Probe(nn.ModuleList([model, nn.LayerNorm(6)])) as probe:
        model(x, neighbours)
    row = probe.recording.ledger.set_index("layer").loc["0"]
    assert (row["kind"], row["n_features"]) == ("linear", 6)
    if cls is CosineHead:
        assert row["status"] == "bypassed"
        assert row["reason"].startswith("its weight was read (normalize), but not as that of a Linear")
        return
    assert (row["status"], row["via"]) == ("fired", "functional")
    output = probe.recording.features.query("layer == '0' and site == 'output'")
    product = (x @ model.weight).detach().double()
    np.testing.assert_allclose(output["variance"], product.var(0, correction=0), rtol=1e-5)


@pytest.mark.skipif(transformers.__version__ < "5", reason="experts were modules, the router a Linear")
def test_of_transformers() -> None:
    torch.manual_seed(0)
    shape = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "vocab_size": 20}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "num_local_experts": 3}
    model = MixtralForCausalLM(MixtralConfig(**shape, **heads)).eval()
    recording = normprobe.record(model, [torch.randint(0, 20, (2, 5))])
    ledger = recording.ledger.set_index("layer")
    mlp = "model.layers.0.mlp"
    assert ledger.loc[f"{mlp}.gate", ["status", "via"]].tolist() == ["fired", "functional"]
    assert ledger.loc[f"{mlp}.experts.gate_up_proj", "status"] == "bypassed"
    assert set(ledger["status"]) == {"fired", "bypassed"}


def test_a_weight_under_two_names_is_measured_under_one_and_the_other_says_so() -> None:
    class Head(nn.Module):
        def __init__(self, weight: nn.Parameter) -> None:
            super().__init__()
            self.dense, self.weight = nn.Linear(6, 6), weight

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(self.dense(x), self.weight)

    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(9, 6)
            self.head = Head(self.embedding.weight)

        def forward(self, ids: Tensor) -> Tensor:
            return self.head(self.embedding(ids))

    ledger = normprobe.record(Tied(), [torch.randint(0, 9, (2, 5))]).ledger.set_index("layer")
    assert ledger.loc["embedding", ["status", "via", "calls"]].tolist() == ["fired", "functional", 1]
    assert ledger.loc["head", "status"] == "bypassed"
    assert (
        ledger.loc["head", "reason"] == "its weight is that of 'embedding', under which its use is measured"
    )


@pytest.mark.parametrize("kinds", ["layer_norm", "linear"])
def test_filters_hold(kinds: str) -> None:
    names = [layer.name for layer in find_layers(Mixture(), kinds=kinds).layers]
    assert names == (["norm"] if kinds == "layer_norm" else ["gate", "experts.up_proj", "experts.down_proj"])
    assert [layer.name for layer in find_layers(Mixture(), layers="experts.*").layers] == [
        "experts.up_proj",
        "experts.down_proj",
    ]


def test_a_class_that_is_registered_as_no_layer_has_none() -> None:
    class Router(TopKRouter):
        pass

    class Mine(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.router = nn.LayerNorm(6), Router()

        def forward(self, x: Tensor) -> Tensor:
            return self.router(self.norm(x))[0]

    normprobe.register_view(Router, kind=None)
    with normprobe.Probe(Mine()) as probe:
        probe.model(torch.randn(2, 6))
    assert probe.recording.ledger["layer"].tolist() == ["norm"]


@pytest.mark.parametrize(
    "module",
    [nn.Embedding(4, 6), nn.Conv1d(3, 4, 5), nn.LSTM(3, 4), nn.Conv2d(2, 2, 2)],
    ids=lambda module: type(module).__name__,
)
def test_what_torch_computes_otherwise_is_no_layer(module: nn.Module) -> None:
    assert [layer.name for layer in find_layers(nn.Sequential(nn.LayerNorm(2), module)).layers] == ["0"]


def test_the_names_of_attention_and_its_aliases() -> None:
    attention = nn.MultiheadAttention(4, 2)
    model = nn.ModuleDict({"a": attention, "b": nn.DataParallel(attention)})
    layers = {layer.name: layer.aliases for layer in find_layers(model).layers}
    assert layers == {"a.in_proj": ("b.in_proj",), "a.out_proj": ("b.out_proj",)}
    assert [layer.name for layer in find_layers(attention).layers] == ["in_proj", "out_proj"]


def test_parts_of_a_projection() -> None:
    attention = nn.MultiheadAttention(4, 2)
    layer = find_layers(attention).layers[0]
    weight = attention.in_proj_weight
    slices = {"q": weight[:4], "kv": weight[4:], "k": weight[4:8], "v": weight[8:]}
    for name, part in slices.items():
        found = projection_part(layer, weight, part)
        assert found is not None
        assert (found.name, found.by_use) == (f"in_proj.{name}", True)
        assert found.key != layer.key
    for other in (weight[:8], weight[1:5], weight[:, :2], weight[:4].clone()[:, :4].t()):
        assert projection_part(layer, weight, other) is None
