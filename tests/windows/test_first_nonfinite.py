"""The first NaN or Inf of each site: its step, forward, example and feature, also after a merge."""

from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import normprobe

COLUMNS = [f"nonfinite_{name}" for name in ("step", "call", "example", "position", "feature")]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(8, 16), nn.LayerNorm(16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.norm(self.first(x)))


def run(window: int | None, out: Path | None = None, **options: object) -> normprobe.Recording:
    """60 steps numbered from 100, an evaluation behind each tenth; NaN at step 137, Inf at step 150."""
    torch.manual_seed(0)
    model = Net()
    with normprobe.Probe(model, window=window, out=out, part="run", **options) as probe:
        for step in range(60):
            x = torch.randn(32, 5, 8)
            if step in (37, 50):
                x[7, 3, 2] = torch.nan if step == 37 else torch.inf
            model.train()
            model(x)
            probe.step(100 + step)
            if step % 10 == 9:
                model.eval()
                model(torch.randn(4, 5, 8))
    return probe.recording


@pytest.mark.parametrize("window", [None, 7, 20])
def test_it_is_told_to_the_step_however_the_run_is_cut(window: int | None) -> None:
    layers = run(window).layers.set_index(["layer", "site"])
    # 37 forwards of training and 3 of evaluation lie before; example 7 of the batch behind theirs.
    expected = [137, 40, 37 * 32 + 3 * 4 + 7, 3]
    assert layers.loc[("first", "input"), COLUMNS].tolist() == [*expected, 2]
    assert layers.loc[("last", "output"), COLUMNS].tolist() == [*expected, 0]
    assert layers["nonfinite_part"].eq("run").all()


def test_each_window_has_its_own_and_healthy_ones_none() -> None:
    recording = run(10)
    layers = recording.over_time("layers", phase="train").query("layer == 'norm' and site == 'input'")
    assert layers["nonfinite_step"].tolist() == [pd.NA, pd.NA, pd.NA, 137, pd.NA, 150]
    assert recording.over_time("layers", phase="eval")["nonfinite_call"].isna().all()


def test_evaluation_is_of_the_step_before_it() -> None:
    model = Net().train()
    with normprobe.Probe(model) as probe:
        for step in range(4):
            model(torch.randn(2, 8))
            probe.step(step)
            with probe.phase("validation"), torch.no_grad():
                model.eval()
                model(torch.full((2, 8), torch.nan if step == 2 else 1.0))
                model.train()
    row = probe.recording.layers.iloc[0]
    assert row[["nonfinite_step", "nonfinite_call"]].tolist() == [2, 5]


@pytest.mark.parametrize("shape", [(2, 1, 8), (64, 3, 8)])
def test_the_finding_names_step_forward_example_and_position(shape: tuple[int, ...]) -> None:
    model = Net().eval()
    x = torch.randn(shape)
    x[1, -1, 5] = torch.inf
    with normprobe.Probe(model) as probe:
        model(torch.randn(shape))
        model(x)
    found = probe.recording.findings("nonfinite").iloc[0]
    example, position = shape[0] + 1, shape[1] - 1
    assert found[["step", "example", "position", "feature"]].tolist() == [1, example, position, 5]
    assert f"first in forward 1, example {example}, position {position}" in found["message"]


def test_padding_does_not_hold_the_first() -> None:
    model = Net().eval()
    x, mask = torch.randn(3, 4, 8), torch.ones(3, 4, dtype=torch.bool)
    x[0, 3], x[2, 1, 6], mask[0, 3] = torch.nan, torch.nan, False
    with normprobe.Probe(model, mask=mask) as probe:
        model(x)
    row = probe.recording.layers.query("layer == 'first' and site == 'input'")
    assert row[COLUMNS[2:]].to_numpy().tolist() == [[2, 1, 6]]


def test_channels_have_their_example_and_channel() -> None:
    model = nn.BatchNorm2d(6).eval()
    x = torch.randn(5, 6, 4, 4)
    x[3, 2, 1, 1] = torch.nan
    recording = normprobe.record(model, x)
    row = recording.layers.query("site == 'input'")
    assert row[["nonfinite_example", "nonfinite_feature"]].to_numpy().tolist() == [[3, 2]]


def test_it_is_saved_and_merged_with_that_of_another_part(tmp_path: Path) -> None:
    recording = run(20)
    loaded = normprobe.load(recording.save(tmp_path / "run.normprobe"))
    assert loaded.layers[COLUMNS].equals(recording.layers[COLUMNS])
    torch.manual_seed(0)
    model = Net().train()
    with normprobe.Probe(model, part="other") as probe:
        model(torch.full((2, 5, 8), torch.nan))
        probe.step(120)
    merged = normprobe.merge(recording, probe.recording).layers
    assert merged["nonfinite_part"].eq("other").all()
    assert merged["nonfinite_step"].eq(120).all()


def test_what_training_carries_into_other_weights_is_no_finding_of_its_own() -> None:
    """Inf in the bias of a middle layer: a step later the first layer holds NaN, too."""
    torch.manual_seed(0)
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with normprobe.Probe(model, window=4) as probe:
        for step in range(10):
            if step == 6:
                with torch.no_grad():
                    model.norm.bias[:2] = torch.inf
            model(torch.randn(3, 5, 8)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            probe.step(step)
    found = probe.recording.findings().query("check == 'nonfinite'")
    assert found[["layer", "site", "step"]].to_numpy().tolist() == [["norm", "output", 6]]
    assert "out of a finite input, first in forward 6" in found["message"].iloc[0]
