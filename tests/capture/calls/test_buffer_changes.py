"""What the ledger's base frame says of running statistics that move."""

from __future__ import annotations

import pandas as pd
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import normprobe


class Checkpointed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = checkpoint(self.inner, x, use_reentrant=False)
        return result


def row(recording: normprobe.Recording, layer: str) -> pd.Series:
    return recording.tables.ledger_base.set_index("layer").loc[layer]


def test_evaluation_moves_nothing_and_training_does() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)).eval()
    with normprobe.Probe(model) as probe:
        model(torch.randn(8, 4))
    still = row(probe.recording, "1")
    assert (still["moved"], still["updates"], still["firings"]) == (False, 0, 1)
    model.train()
    with probe:
        model(torch.randn(8, 4))
        assert row(probe.recording, "1")["updates"] == 1
    model(torch.randn(8, 4))  # outside the block: not the probe's affair
    moved = row(probe.recording, "1")
    assert (moved["moved"], moved["updates"], moved["firings"], moved["trainable"]) == (True, 1, 2, True)
    assert pd.isna(row(probe.recording, "0")["moved"])


def test_forwards_that_are_not_measured_count_as_firings() -> None:
    model = nn.Sequential(nn.BatchNorm1d(4))
    with normprobe.Probe(model, every=3) as probe:
        for _ in range(4):
            model(torch.randn(8, 4))
    found = row(probe.recording, "0")
    assert (found["calls"], found["updates"], found["firings"]) == (2, 4, 4)


def test_checkpointing_updates_twice_and_is_found() -> None:
    model = Checkpointed()
    with normprobe.Probe(model) as probe:
        for _ in range(3):
            model(torch.randn(8, 4, requires_grad=True)).sum().backward()
    found = row(probe.recording, "inner.1")
    assert (found["updates"], found["firings"]) == (6, 3)
    findings = probe.recording.findings().set_index("check")
    assert findings.loc["updated_twice", "layer"] == "inner.1"
    assert findings.loc["updated_twice", "value"] == pytest.approx(2)


def test_a_frozen_norm_that_goes_on_updating_is_found() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    model[1].requires_grad_(False)
    with normprobe.Probe(model) as probe:
        for _ in range(3):
            model(torch.randn(64, 4)).sum().backward()
    checks = probe.recording.findings().set_index("check")["layer"]
    assert checks["frozen_but_updating"] == "1"


def test_merging_adds_updates_up() -> None:
    model = nn.Sequential(nn.BatchNorm1d(4))
    parts = []
    for _ in range(2):
        with normprobe.Probe(model) as probe:
            model(torch.randn(8, 4))
        parts.append(probe.recording)
    found = row(normprobe.merge(*parts), "0")
    assert (found["updates"], found["firings"], bool(found["moved"])) == (2, 2, True)


class _DictNorm(nn.Module):
    """An RMS norm that keeps its scale in a ParameterDict."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.eps, self.held = 1e-6, nn.ParameterDict({"weight": nn.Parameter(torch.ones(width))})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * (x.square().mean(-1, keepdim=True) + self.eps).rsqrt() * self.held["weight"]


def test_a_scale_in_a_child_is_that_of_the_last_call() -> None:
    model = nn.Sequential(nn.Linear(8, 8), _DictNorm(8))
    with torch.no_grad(), normprobe.Probe(model) as probe:
        for scale in range(1, 13):
            model[1].held["weight"].fill_(scale)
            model(torch.randn(5, 8))
    features = probe.recording.features
    assert set(features.loc[(features["layer"] == "1") & (features["site"] == "output"), "weight"]) == {12.0}
