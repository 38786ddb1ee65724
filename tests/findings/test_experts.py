"""The checks of experts: an injected fault is found, healthy models have none."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import normprobe
from normprobe.findings import explain
from tests.helpers.expert_models import ListOfExperts, batch, mixtral, qwen3_moe

BOTH = ["dead_expert", "too_few_tokens"]


def recorded(model: Any, batches: list[dict[str, Any]], *, train: bool = False) -> normprobe.Recording:
    with torch.no_grad(), normprobe.Probe(model.train(train), experts=True) as probe:
        for each in batches:
            model(**each)
    return probe.recording


def data(count: int = 8) -> list[dict[str, Any]]:
    return [batch(seed, examples=3, time=16) for seed in range(count)]


@pytest.mark.parametrize("make", [mixtral, qwen3_moe])
def test_healthy_experts_have_no_finding(make: Any) -> None:
    assert recorded(make(), data()).findings(BOTH).empty


def starved(make: Any = mixtral) -> Any:
    """A model whose second layer never chooses its first two experts."""
    model = make()

    def shun(module: Any, args: Any, output: Any) -> Any:
        logits, weights, index = output
        return logits, weights, index.clamp(min=2)

    model.get_submodule("model.layers.1.mlp.gate").register_forward_hook(shun)
    return model


@pytest.mark.parametrize("train", [True, False])
def test_an_expert_without_a_token_is_named_at_its_router(train: bool) -> None:
    found = recorded(starved(), data(), train=train).findings("dead_expert")
    row = found.iloc[0]
    assert len(found) == 1
    assert row["layer"] == "model.layers.1.mlp.gate"
    assert (row["value"], row["threshold"]) == (2, 0)
    assert row["severity"] == ("warning" if train else "info")
    assert "2 experts of 4 (0, 1) had none of" in row["message"]


def test_of_few_tokens_it_says_nothing() -> None:
    assert recorded(starved(), data(1)[:1]).findings("dead_expert").empty


def test_experts_of_a_list_die_as_others_do() -> None:
    torch.manual_seed(0)
    x = torch.randn(8, 30, 4)
    never = normprobe.record(ListOfExperts(3, lambda rows: torch.arange(len(rows)) % 2), [{"x": x}])
    found = never.findings("dead_expert")
    assert found["value"].tolist() == [1]
    assert found["layer"].tolist() == ["gate"]
    even = normprobe.record(ListOfExperts(3, lambda rows: torch.arange(len(rows)) % 3), [{"x": x}])
    assert even.findings("dead_expert").empty


def test_too_few_tokens_where_the_data_are_enough_for_others() -> None:
    model = qwen3_moe()

    def favour(module: Any, args: Any, output: Any) -> Any:
        logits, weights, index = output
        index = index.clone()
        index[10:] = index[10:].clamp(min=4)
        return logits, weights, index

    model.get_submodule("model.layers.0.mlp.gate").register_forward_hook(favour)
    recording = recorded(model, data())
    found = recording.findings("too_few_tokens")
    row, experts = found.iloc[0], recording.experts
    assert "model.layers.0.mlp.gate" in row["affected"]
    own = experts[(experts["site"] != "output") & (experts["tokens"] > 0)]
    least = (own["tokens"] / own["n_features"]).min()
    assert row["value"] / row["threshold"] == pytest.approx(least)
    assert row["severity"] == "info"
    # A look at a model is no calibration: too short for every layer is no finding.
    assert recorded(qwen3_moe(), [batch(1, examples=1, time=8)]).findings("too_few_tokens").empty


def test_a_linear_that_reads_a_part_of_the_data_has_too_few_rows() -> None:
    torch.manual_seed(0)
    choose = lambda rows: (torch.arange(len(rows)) < 3).long()  # noqa: E731 - three tokens for the second
    recording = normprobe.record(ListOfExperts(2, choose), [{"x": torch.randn(4, 10, 4)}])
    found = recording.findings("too_few_tokens")
    assert found["layer"].empty  # three rows are fewer than the examples: as those of a head
    recording = normprobe.record(ListOfExperts(2, choose), [{"x": torch.randn(2, 10, 4)}])
    found = recording.findings("too_few_tokens")
    assert found["layer"].tolist() == ["experts.1"]
    assert (found["value"].iloc[0], found["threshold"].iloc[0]) == (3, 4)


def test_their_pages_say_threshold_and_source() -> None:
    assert "arXiv:2101.03961" in explain("dead_expert")
    assert "at least 32" in explain("dead_expert")
    assert "arXiv:2210.17323" in explain("too_few_tokens")
