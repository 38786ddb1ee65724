"""What the ledger says of norms beside how they are read: statistics, momentum, dtype, groups, activation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import normprobe
from normprobe.findings import find


class Frozen(nn.Module):
    """The four numbers a channel as buffers: running statistics in either mode."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.eps = 1e-5
        for name, value in (("weight", 1.0), ("bias", 0.0), ("running_mean", 0.5), ("running_var", 2.0)):
            self.register_buffer(name, torch.full((channels,), value))

    def forward(self, x: Tensor) -> Tensor:
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        return (x - self.running_mean.view(1, -1, 1, 1)) * scale.view(1, -1, 1, 1) + self.bias.view(
            1, -1, 1, 1
        )


class OwnBatchNorm(nn.Module):
    """A batch norm in no subclass of torch's, which takes the batch's moments in train mode."""

    def __init__(self, channels: int, momentum: float = 0.2) -> None:
        super().__init__()
        self.eps, self.momentum = 1e-5, momentum
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        mean, variance = self.running_mean, self.running_var
        if self.training:
            mean, variance = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
            with torch.no_grad():
                self.running_mean.lerp_(mean, self.momentum)
                self.running_var.lerp_(variance, self.momentum)
        x = (x - mean.view(1, -1, 1, 1)) * (variance + self.eps).rsqrt().view(1, -1, 1, 1)
        return x * self.weight.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)


def ledger(norm: nn.Module, *modes: bool, examples: int = 16) -> pd.Series:
    """The ledger of a norm behind a convolution, run in these modes (True: train)."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), norm)
    with torch.no_grad(), normprobe.Probe(model) as probe:
        for train in modes:
            model.train(train)(torch.randn(examples, 3, 8, 8))
    return probe.recording.tables.ledger_base.set_index("layer").loc["1"]


@pytest.mark.parametrize(
    ("norm", "modes", "statistics"),
    [
        (nn.BatchNorm2d(8), (True,), "batch"),
        (nn.BatchNorm2d(8), (False,), "running"),
        (nn.BatchNorm2d(8), (True, False), "batch; running"),
        (nn.BatchNorm2d(8, track_running_stats=False), (False,), "batch"),
        (nn.BatchNorm2d(8, momentum=0.0), (True,), "batch"),
        (Frozen(8), (True,), "running"),
        (Frozen(8), (True, False), "running"),
        (Frozen(8), (False, True), "running"),
        (OwnBatchNorm(8), (True,), "batch"),
        (OwnBatchNorm(8), (False, True), "running; batch"),
        (OwnBatchNorm(8), (True, False), "batch; running"),
    ],
)
def test_whether_a_batch_norm_took_the_batch_or_its_running_statistics(
    norm: nn.Module, modes: tuple[bool, ...], statistics: str
) -> None:
    row = ledger(norm, *modes)
    assert (row["kind"], row["statistics"]) == ("batch_norm", statistics)


def test_a_frozen_batch_norm_of_too_few_values_to_read_is_frozen_all_the_same() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), Frozen(8)).train()
    with torch.no_grad(), normprobe.Probe(model) as probe:
        model(torch.randn(2, 3, 4, 4))
    assert probe.recording.ledger["statistics"].tolist() == ["running"]
    assert probe.recording.findings().empty


def test_momentum_and_the_dtype_of_the_buffers() -> None:
    row = ledger(nn.BatchNorm2d(8, momentum=0.999), True)
    assert (row["momentum"], row["running_dtype"]) == (0.999, "float32")
    row = ledger(OwnBatchNorm(8), True)
    assert (row["momentum"], row["running_dtype"]) == (0.2, "float32")
    assert pd.isna(ledger(nn.BatchNorm2d(8, momentum=None), True)["momentum"])
    row = ledger(nn.GroupNorm(2, 8), True)
    assert pd.isna(row["momentum"])
    assert row["running_dtype"] == ""


def test_groups_and_an_activation_inside() -> None:
    class NormAct(nn.GroupNorm):
        def __init__(self) -> None:
            super().__init__(4, 8)
            self.act = nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            return self.act(super().forward(x))

    assert ledger(nn.GroupNorm(2, 8), False)["groups"] == 2
    row = ledger(NormAct(), False)
    assert row["groups"] == 4
    assert row["activation"] == "ReLU"
    assert pd.isna(ledger(nn.BatchNorm2d(8), False)["groups"])


def test_nothing_to_train_is_neither_trainable_nor_frozen() -> None:
    assert pd.isna(ledger(nn.BatchNorm2d(8, affine=False), True)["trainable"])
    frozen = nn.BatchNorm2d(8).requires_grad_(False)
    assert ledger(frozen, True)["trainable"] is False or not ledger(frozen, True)["trainable"]
    assert ledger(nn.BatchNorm2d(8), True)["trainable"]


def mixed(model: nn.Sequential, steps: int = 6) -> Iterator[bool]:
    """Train and evaluate in turn; yields whether each step trains."""
    for step in range(steps):
        model.train(step % 3 != 2)
        yield model.training


def test_train_mode_counts_in_forwards_of_a_model_in_evaluation_mode() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Linear(16, 2))
    with normprobe.Probe(model) as probe:
        for train in mixed(model):
            with nullcontext() if train else torch.no_grad():
                model(torch.randn(32, 8))
    assert probe.recording.findings(["batchnorm_train_mode"]).empty
    with normprobe.Probe(model) as probe:
        for train in mixed(model):
            model[1].train()
            with nullcontext() if train else torch.no_grad():
                model(torch.randn(32, 8))
    base = probe.recording.tables.ledger_base.set_index("layer")
    assert base.loc["1", "train_in_eval"] == 2
    found = probe.recording.findings(["batchnorm_train_mode"])
    assert found[["layer", "severity"]].to_numpy().tolist() == [["1", "warning"]]


@pytest.mark.parametrize(("trainable", "noted"), [(True, False), (False, True)])
def test_a_training_forward_with_every_parameter_frozen_is_noted(trainable: bool, noted: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)).train().requires_grad_(trainable)
    with normprobe.Probe(model) as probe:
        model(torch.randn(16, 3, 8, 8))
    found = probe.recording.findings(["batchnorm_train_mode"])
    assert (found["severity"].tolist() == ["info"]) is noted
    assert found["message"].str.contains("moves the running statistics").all()


def test_a_batch_norm_without_parameters_is_not_frozen() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16, affine=False), nn.Linear(16, 2)).train()
    with normprobe.Probe(model) as probe:
        for _ in range(3):
            model(torch.randn(64, 8))
    assert probe.recording.findings().empty
    model[1] = nn.BatchNorm1d(16).requires_grad_(False)
    with normprobe.Probe(model.train()) as probe:
        model(torch.randn(64, 8))
    assert probe.recording.findings()["check"].tolist() == ["frozen_but_updating"]


class SyncBatchNorm(nn.BatchNorm1d):
    """Stands for a batch norm over several processes, which needs more than one to run."""


def test_a_batch_norm_over_several_processes_is_said_to_be_one() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), SyncBatchNorm(16)).train()
    with normprobe.Probe(model) as probe:
        model(torch.randn(6, 8))
    found = probe.recording.findings(["small_batch_statistics"])
    assert found["severity"].tolist() == ["info"]
    assert "beside those of other processes" in found["message"].item()
    tables = probe.recording.tables
    together = tables.ledger_base.assign(processes=pd.array([pd.NA, 4], dtype="Int64"))
    assert find(replace(tables, ledger_base=together), ["small_batch_statistics"]).empty
