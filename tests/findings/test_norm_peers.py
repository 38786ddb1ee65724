"""A norm whose scale is not that of the same norm in other blocks; healthy and random models have none."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import normprobe
from normprobe.findings import find
from tests.helpers.findings_tables import FakeTables, Layer, normal, tables


def blocks(*scales: float, kind: str = "layer_norm", known: bool = True) -> FakeTables:
    """A norm a block, scaled by these; with or without a weight in the tables."""
    layers = []
    for block, scale in enumerate(scales):
        weight = {"weight": scale * (1 + 0.1 * np.linspace(-1, 1, 32))} if known else {}
        layers += [
            Layer(f"h.{block}.norm", kind, normal(), normal(scale), features=weight),
            Layer(f"h.{block}.up", "linear", normal(scale), normal()),
        ]
    return tables(Layer("first", "linear", normal(), normal()), *layers)


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("odd", [0.01, 60.0])
def test_one_norm_out_of_scale_is_named(odd: float, known: bool) -> None:
    found = find(blocks(1.0, 0.9, odd, 1.2, known=known), ["norm_unlike_peers"])
    assert found[["layer", "site", "severity"]].to_numpy().tolist() == [["h.2.norm", "output", "warning"]]
    row = found.iloc[0]
    assert (row["value"] < row["threshold"]) == (odd < 1)
    assert row["statistic"] == ("RMS of the weight" if known else "variance of the output")


@pytest.mark.parametrize(
    "scales",
    [
        (1.0, 1.0, 1.0, 1.0),
        (0.05, 0.1, 0.2, 0.4, 0.8, 1.6),  # grows from block to block
        (0.2, 1.0, 1.1, 0.9),  # a first block that differs somewhat
        (0.01, 1.0),  # two blocks: which of them is odd?
        (0.01, 0.012, 1.0, 1.1),  # two of a kind
    ],
)
def test_scales_that_differ_by_little_or_have_company_are_healthy(scales: tuple[float, ...]) -> None:
    assert find(blocks(*scales), ["norm_unlike_peers"]).empty


def test_layers_of_a_sequential_have_no_role() -> None:
    parts = [nn.Linear(8, 8), nn.LayerNorm(8)] * 1
    model = nn.Sequential(*parts, nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 8), nn.LayerNorm(8))
    model[1].weight.data.mul_(0.01)
    assert normprobe.record(model, torch.randn(32, 8)).findings(["norm_unlike_peers"]).empty


def test_a_norm_whose_input_lies_below_eps_has_that_finding_alone() -> None:
    layers = [Layer(f"h.{i}.norm", "layer_norm", normal(), normal()) for i in range(4)]
    layers[2] = Layer("h.2.norm", "layer_norm", normal(1e-5), normal(1e-3))
    found = find(tables(Layer("first", "linear", normal(), normal()), *layers))
    assert found.loc[found["severity"] == "warning", ["check", "layer"]].to_numpy().tolist() == [
        ["variance_below_eps", "h.2.norm"]
    ]
