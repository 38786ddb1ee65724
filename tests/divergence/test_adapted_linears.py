"""An adapted Linear against the plain or merged one: equal, or named itself, as what its call gives."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import normprobe
from normprobe.comparison import Comparison
from normprobe.divergence.fused_linears import LayerShape
from normprobe.divergence.matching import FiredLayers, match_layers

WIDTH, RANK = 16, 2


class LowRank(nn.Module):
    """The Linear that it adapts under a name of its own, and a product of low rank beside it."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base_layer, self.scale = base, 2.0
        self.down = nn.Linear(base.in_features, RANK, bias=False)
        self.up = nn.Linear(RANK, base.out_features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.base_layer(x) + self.scale * self.up(self.down(x))

    def merged(self, scale: float | None = None) -> nn.Linear:
        linear = copy.deepcopy(self.base_layer)
        linear.weight.data += (self.scale if scale is None else scale) * self.up.weight @ self.down.weight
        return linear


class Shifted(nn.Module):
    """A Linear and a shift of its output."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base, self.shift = base, nn.Parameter(torch.rand(base.out_features) + 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.shift

    def merged(self, scale: float = 1.0) -> nn.Linear:
        linear = copy.deepcopy(self.base)
        linear.bias.data += scale * self.shift
        return linear


class Rotated(nn.Module):
    """The Linear's weight times an orthogonal matrix: the Linear inside is never called."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base_layer = base
        self.rotation = nn.Parameter(torch.linalg.qr(torch.randn(base.in_features, base.in_features))[0])

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.base_layer.weight @ self.rotation, self.base_layer.bias)

    def merged(self, scale: float = 1.0) -> nn.Linear:
        linear = copy.deepcopy(self.base_layer)
        linear.weight.data = scale * self.base_layer.weight.data @ self.rotation.data
        return linear


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.up, self.down = (
            nn.LayerNorm(WIDTH),
            nn.Linear(WIDTH, 2 * WIDTH),
            nn.Linear(2 * WIDTH, WIDTH),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(functional.gelu(self.up(self.norm(x))))


Adapter = Callable[[nn.Linear], nn.Module]
ADAPTERS = [LowRank, Shifted, Rotated]


def models(adapter: Adapter) -> tuple[nn.Module, nn.Module, nn.Module]:
    """A model of three blocks, the same with adapters round `down`, and the same with these merged."""
    torch.manual_seed(0)
    base = nn.Sequential(*(Block() for _ in range(3)))
    adapted = copy.deepcopy(base)
    for block in adapted:
        block.down = adapter(block.down)
    merged = copy.deepcopy(adapted)
    for block in merged:
        block.down = block.down.merged()
    return base, adapted, merged


def data() -> Tensor:
    return torch.randn(6, 5, WIDTH, generator=torch.Generator().manual_seed(1))


def recorded(a: nn.Module, b: nn.Module) -> Comparison:
    return normprobe.compare(normprobe.record(a, data()), normprobe.record(b, data()))


def live(a: nn.Module, b: nn.Module) -> Comparison:
    return normprobe.compare_live(a, b, data())


@pytest.mark.parametrize("compare", [recorded, live])
@pytest.mark.parametrize("adapter", ADAPTERS)
def test_an_adapted_model_equals_the_merged_one(adapter: Adapter, compare: Callable[..., Comparison]) -> None:
    _, adapted, merged = models(adapter)
    for a, b in ((adapted, merged), (merged, adapted)):
        found = compare(a, b)
        assert found.first_divergence is None
        assert found.verdict_code in ("equal", "within_rounding")
        assert set(found.layers["layer"]) == {f"{n}.{p}" for n in range(3) for p in ("norm", "up", "down")}


@pytest.mark.parametrize("compare", [recorded, live])
@pytest.mark.parametrize("adapter", ADAPTERS)
def test_an_adapter_is_named_against_the_bare_layer(
    adapter: Adapter, compare: Callable[..., Comparison]
) -> None:
    base, adapted, _ = models(adapter)
    first = compare(base, adapted).first_divergence
    assert first is not None
    assert (first.layer, first.layer_b, first.site) == ("0.down", "0.down", "output")


@pytest.mark.parametrize("compare", [recorded, live])
@pytest.mark.parametrize("adapter", ADAPTERS)
def test_a_merge_with_the_wrong_scale_is_named(adapter: Adapter, compare: Callable[..., Comparison]) -> None:
    _, adapted, merged = models(adapter)
    merged[1].down = adapted[1].down.merged(0.25)
    first = compare(adapted, merged).first_divergence
    assert first is not None
    assert (first.layer, first.site) == ("1.down", "output")


def test_two_adapted_models_are_compared_call_by_call() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shared = LowRank(nn.Linear(WIDTH, WIDTH))

        def forward(self, x: Tensor) -> Tensor:
            return self.shared(torch.tanh(self.shared(x)))

    torch.manual_seed(0)
    a = Twice()
    b = copy.deepcopy(a)
    b.shared.scale = 1.0
    layers = live(a, b).layers.set_index(["layer", "site"])
    assert layers.loc[("shared.down", "input"), "pairs"] == layers.loc[("shared", "input"), "pairs"] == 60
    x = data().reshape(-1, WIDTH)
    with torch.no_grad():
        second_a, second_b = (torch.tanh(model.shared(x)) for model in (a, b))
        signal = torch.cat([x, second_a]).double().square().sum()
        error = (second_b - second_a).double().square().sum()
    # Of the layer inside, too, each call is paired with its own.
    expected = 10 * torch.log10(error / signal).item()
    assert layers.loc[("shared.base_layer", "input"), "error_db"] == pytest.approx(expected, abs=1e-4)


def test_what_only_its_use_makes_a_layer_does_not_end_a_live_comparison() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.mix = nn.Embedding(20, 8), nn.Linear(8, 8)

        def forward(self, ids: Tensor) -> Tensor:
            return self.mix(self.table(ids)) @ self.table.weight.T

    torch.manual_seed(0)
    a = Tied()
    b = copy.deepcopy(a)
    b.mix.weight.data *= 1.1
    found = normprobe.compare_live(a, b, torch.arange(20).reshape(4, 5))
    assert found.first_divergence is not None
    assert found.first_divergence.layer == "mix"
    assert "table" in set(found.unmatched["layer"])


def test_a_layer_inside_an_adapter_stands_for_it_only_where_that_is_no_layer() -> None:
    square = LayerShape(False, 8, 8)

    def fired(*names: str) -> FiredLayers:
        return FiredLayers({n: square for n in names}, {n: n.encode() for n in names}, {})

    def matched(a: FiredLayers, b: FiredLayers) -> dict[str, tuple[str, str]]:
        return {pair.a: (pair.b, pair.by) for pair in match_layers(a, b).pairs}

    inner = fired("model.x.q.base_layer", "model.x.k", "model.x.v.base_layer")
    plain = fired("x.v", "x.k", "x.q")
    assert matched(inner, plain) == {
        "model.x.q.base_layer": ("x.q", "name"),
        "model.x.k": ("x.k", "name"),
        "model.x.v.base_layer": ("x.v", "name"),
    }
    both = fired("x.q", "x.q.base_layer", "x.k", "x.v")
    assert matched(both, plain)["x.q"] == ("x.q", "name")
    assert "x.q.base_layer" not in matched(both, plain)


def test_names_that_differ_by_the_part_of_a_wrapper_alone_stay_apart() -> None:
    shapes = {"x": LayerShape(False, 8, 8), "x.module": LayerShape(False, 8, 8), "y": LayerShape(False, 8, 4)}
    layers = FiredLayers(shapes, {name: name.encode() for name in shapes}, {})
    assert {pair.a: pair.b for pair in match_layers(layers, layers).pairs} == {name: name for name in shapes}
