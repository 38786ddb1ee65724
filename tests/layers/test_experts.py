"""Modules that hold experts, and what routes to them, from the modules alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from normprobe.layers.find import find_layers
from tests.helpers.expert_models import (
    DECORATED,
    OTHERS,
    ListOfExperts,
    dbrx,
    deepseek_v3,
    gpt_oss,
    jetmoe,
    llama4,
    switch,
)

WIDTHS = {
    "mixtral": (4, 32, 48),
    "qwen3_moe": (8, 32, 24),
    "deepseek_v3": (8, 32, 24),
    "gpt_oss": (4, 32, 48),
    "llama4": (4, 32, 48),
    "dbrx": (4, 32, 48),
}


@pytest.mark.parametrize("name", WIDTHS)
def test_each_says_how_many_experts_and_what_they_read(name: str) -> None:
    found = find_layers({**DECORATED, **OTHERS}[name]()).experts
    assert found
    for holder in found:
        assert (holder.count, holder.width, holder.inner_width) == WIDTHS[name]
        assert holder.name.endswith(".experts")


@pytest.mark.parametrize("make", [gpt_oss, llama4])
def test_a_weight_that_is_stored_the_other_way_round_reads_its_middle_axis(make: object) -> None:
    layers = {layer.name: layer.n_features for layer in find_layers(make()).layers}  # type: ignore[operator]
    widths = {name.rpartition(".")[2]: width for name, width in layers.items() if ".experts." in name}
    assert widths == {"gate_up_proj": 32, "down_proj": 48}


def test_one_matrix_of_all_experts_is_a_layer() -> None:
    layers = {layer.name: layer.n_features for layer in find_layers(dbrx()).layers}
    stem = "transformer.blocks.0.ffn.experts.mlp"
    assert [layers[f"{stem}.{name}"] for name in ("w1", "v1", "w2")] == [32, 32, 48]


def test_jetmoe_has_two_modules_of_experts_with_one_router() -> None:
    found = find_layers(jetmoe())
    assert [holder.width for holder in found.experts[:2]] == [32, 48]
    routers = {layer.name: layer.router_of for layer in found.layers if layer.router_of}
    stem = "model.layers.0.mlp"
    assert routers[f"{stem}.router.layer"] == f"{stem}.input_linear; {stem}.output_linear"


def test_dense_layers_have_no_experts_and_shared_experts_are_none() -> None:
    found = find_layers(deepseek_v3())
    assert [holder.name for holder in found.experts] == ["model.layers.1.mlp.experts"]
    assert not [layer for layer in found.layers if layer.expert is not None]
    assert [layer.name for layer in found.layers if layer.router_of] == ["model.layers.1.mlp.gate"]


def test_layers_inside_a_list_say_of_which_expert_they_are() -> None:
    found = find_layers(switch())
    stem = "encoder.block.1.layer.1.mlp.experts"
    inside = {layer.name: (layer.expert_of, layer.expert) for layer in found.layers if layer.expert_of}
    assert inside[f"{stem}.expert_2.wo"] == (stem, 2)
    assert [name for name, _ in found.expert_lists] == [stem, "decoder.block.1.layer.2.mlp.experts"]
    assert find_layers(ListOfExperts()).expert_lists == ()


class SharedExperts(nn.Module):
    """One expert in weights of three dimensions, as for several."""

    def __init__(self, count: int = 1) -> None:
        super().__init__()
        self.up_proj = nn.Parameter(torch.randn(count, 6, 4))
        self.down_proj = nn.Parameter(torch.randn(count, 4, 6))

    def forward(self, x: Tensor) -> Tensor:
        return (x @ self.up_proj[0].T) @ self.down_proj[0].T


class MixtureOfPositions(nn.Module):
    """A table that is added is no expert, whatever its module is called."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.positions = nn.LayerNorm(4), nn.Parameter(torch.zeros(1, 5, 4))


def test_a_single_shared_expert_is_named_and_a_table_is_not() -> None:
    found = find_layers(SharedExperts()).layers
    assert {layer.name: layer.n_features for layer in found} == {"up_proj": 4, "down_proj": 6}
    assert [layer.name for layer in find_layers(MixtureOfPositions()).layers] == ["norm"]
