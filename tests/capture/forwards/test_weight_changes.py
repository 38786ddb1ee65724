"""Weights that change between measured forwards are counted and said; changes before or after are not."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim.optimizer import _global_optimizer_post_hooks

import normprobe

X = torch.randn(12, 6, generator=torch.Generator().manual_seed(0))


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 3))


OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "plain": lambda parameters: torch.optim.SGD(parameters, lr=0.1),
    "foreach": lambda parameters: torch.optim.AdamW(parameters, lr=0.1, foreach=True),
    "fused": lambda parameters: torch.optim.AdamW(parameters, lr=0.1, fused=True),
}


def step(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor = X) -> None:
    optimizer.zero_grad()
    model(x).square().mean().backward()
    optimizer.step()


def said(recording: normprobe.Recording) -> list[str]:
    return [text for text in recording.meta["warnings"] if "weights changed" in text]


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_a_probe_around_training_says_that_it_pools_its_steps(kind: str) -> None:
    model = net()
    optimizer = OPTIMIZERS[kind](model.parameters())
    with normprobe.Probe(model) as probe:
        for _ in range(5):
            step(model, optimizer)
    assert probe.recording.meta["weight_changes"] == 4
    assert len(said(probe.recording)) == 1
    assert "between measured forwards (4 times), as in training" in said(probe.recording)[0]
    assert str(probe.recording.summary()).count("Note: the weights changed between measured forwards") == 1


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_the_scale_in_the_tables_is_that_of_the_last_forward(kind: str) -> None:
    model = net()
    optimizer = OPTIMIZERS[kind](model.parameters())
    with normprobe.Probe(model) as probe:
        for _ in range(4):
            applied = model[1].weight.detach().clone()
            step(model, optimizer)
    features = probe.recording.features
    recorded = features[(features["layer"] == "1") & (features["site"] == "output")]["weight"]
    np.testing.assert_array_equal(recorded.to_numpy(), applied.double().numpy())


def test_one_state_of_a_model_says_nothing() -> None:
    model, other = net(), net()
    optimizer = OPTIMIZERS["plain"](model.parameters())
    with normprobe.Probe(model) as probe:
        model.load_state_dict(other.state_dict())  # before the first forward
        step(model, optimizer)  # the step comes after the only one
    assert probe.recording.meta["weight_changes"] == 0
    assert said(probe.recording) == []
    recording = normprobe.record(model, [X, X, X])
    assert recording.meta["weight_changes"] == 0
    assert said(recording) == []


def test_what_others_train_is_no_matter() -> None:
    model, other = net(), net()
    with normprobe.Probe(model) as probe:
        for _ in range(3):
            model(X)
            step(other, OPTIMIZERS["fused"](other.parameters()))
    assert probe.recording.meta["weight_changes"] == 0


@pytest.mark.parametrize(
    "change",
    [
        lambda model: model.load_state_dict({name: 2 * value for name, value in model.state_dict().items()}),
        lambda model: nn.init.normal_(model[2].weight),
        lambda model: model[1].bias.requires_grad_(False).add_(1),
    ],
    ids=["loaded", "initialized", "by hand"],
)
def test_writes_without_an_optimizer_are_seen(change: Callable[[nn.Module], Any]) -> None:
    model = net()
    with normprobe.Probe(model) as probe:
        model(X)
        change(model)
        model(X)
        model(X)
    assert probe.recording.meta["weight_changes"] == 1


def test_of_forwards_that_are_not_measured_nothing_is_said() -> None:
    model = net()
    optimizer = OPTIMIZERS["fused"](model.parameters())
    with normprobe.Probe(model, every=4) as probe:
        for _ in range(4):
            step(model, optimizer)
    assert probe.recording.meta["weight_changes"] == 0
    with normprobe.Probe(model, every=4) as probe:
        for _ in range(9):
            step(model, optimizer)
    assert probe.recording.meta["weight_changes"] == 2


def test_no_hook_of_optimizers_is_left() -> None:
    before = dict(_global_optimizer_post_hooks)
    with normprobe.Probe(net()) as probe:
        probe.model(X)
        assert len(_global_optimizer_post_hooks) == len(before) + 1
    assert _global_optimizer_post_hooks == before
    with pytest.raises(KeyboardInterrupt), probe:
        raise KeyboardInterrupt
    assert _global_optimizer_post_hooks == before


def test_a_probe_that_is_dropped_in_its_block_leaves_no_hook_of_optimizers() -> None:
    before = dict(_global_optimizer_post_hooks)
    probe = normprobe.Probe(net())
    probe.__enter__()
    del probe
    gc.collect()
    assert _global_optimizer_post_hooks == before


def test_parameters_without_a_version_or_a_shape_are_left_out() -> None:
    with torch.inference_mode():
        made = net()
    assert normprobe.record(made, [X, X]).meta["weight_changes"] == 0
    lazy = nn.Sequential(nn.LazyLinear(4), nn.LayerNorm(4))
    assert normprobe.record(lazy, [X, X]).meta["weight_changes"] == 0


def test_merging_adds_the_changes_up() -> None:
    parts = []
    for seed in range(2):
        model, generator = net(), torch.Generator().manual_seed(seed)
        optimizer = OPTIMIZERS["plain"](model.parameters())
        with normprobe.Probe(model) as probe:
            for _ in range(3):
                step(model, optimizer, torch.randn(5, 6, generator=generator))
        parts.append(probe.recording)
    with pytest.warns(normprobe.NormprobeWarning, match="the weights of 3 layers differ"):
        merged = normprobe.merge(*parts, on_different_weights="warn")
    assert merged.meta["weight_changes"] == 4
    assert len(said(merged)) == 1
