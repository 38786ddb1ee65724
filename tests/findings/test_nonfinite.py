"""NaN and Inf: where they begin, why, and when; each cause with the words that name it."""

from __future__ import annotations

import copy

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import normprobe


def net() -> nn.Sequential:
    torch.manual_seed(0)
    parts = [nn.Linear(12, 16), nn.BatchNorm1d(16), nn.Linear(16, 16), nn.LayerNorm(16), nn.Linear(16, 3)]
    return nn.Sequential(*parts).eval()


DATA = torch.randn(64, 12, generator=torch.Generator().manual_seed(1))


def found(model: nn.Module, *batches: Tensor) -> pd.DataFrame:
    return normprobe.record(model, list(batches) or [DATA]).findings(["nonfinite"])


@pytest.mark.parametrize(
    ("tensor", "where", "value", "layer", "words"),
    [
        ("0.weight", (5, 7), float("nan"), "0", "1 in weight"),
        ("2.bias", slice(3, 6), float("inf"), "2", "3 in bias"),
        ("1.running_var", slice(None), float("nan"), "1", "16 in running_var"),
        ("1.running_mean", slice(0, 2), float("-inf"), "1", "2 in running_mean"),
        ("3.weight", 4, float("nan"), "3", "1 in weight"),
    ],
)
def test_a_stored_nan_or_inf_is_named_with_its_tensor_and_count(
    tensor: str, where: object, value: float, layer: str, words: str
) -> None:
    model = net()
    model.state_dict()[tensor][where] = value
    first = found(model).iloc[0]
    assert (first["layer"], first["site"], first["severity"]) == (layer, "output", "error")
    assert f"it stores NaN or Inf itself ({words})" in first["message"]
    assert ("recalibrate" in first["advice"]) == ("running" in tensor)


def test_further_layers_that_store_nan_are_named_behind_the_first() -> None:
    model = net()
    with torch.no_grad():
        model[0].weight[1, 1] = float("nan")
        model[2].weight[2] = float("inf")
        model[4].bias[0] = float("nan")
    first = found(model).iloc[0]
    assert first["layer"] == "0"
    assert "2 further layers store NaN or Inf" in first["message"]
    assert "16 in 2.weight, 1 in 4.bias" in first["message"]


def test_a_module_that_is_not_measured_may_store_them() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(64, 2)).eval()
    with torch.no_grad():
        model[0].weight[2, 1, 0, 0] = float("nan")
    first = found(model, torch.randn(8, 3, 6, 6)).iloc[0]
    assert (first["layer"], first["site"]) == ("1", "input")
    assert "1 in 0.weight" in first["message"]


def test_an_overflow_of_fp16_is_called_so_and_counted() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 16)).half()
    with torch.no_grad():
        model[1].weight.mul_(1e4)
    x = 40 * torch.randn(64, 16).half()
    recording = normprobe.record(model, [x])
    first = recording.findings(["nonfinite"]).iloc[0]
    lost = int((~model(x).isfinite()).sum())
    assert lost > 0
    assert (first["layer"], first["value"]) == ("1", lost)
    assert "an overflow of float16, which ends at 65,504" in first["message"]
    assert "bf16" in first["advice"]
    reach = recording.findings(["fp16_overflow"])
    assert f"{lost} further values there are NaN or Inf" in reach["message"].item()


class Amplified(nn.Module):
    """An operation in fp16 ahead of a GroupNorm whose values come near the end of the range, and beyond."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(2, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x * 200)


def test_an_operation_whose_neighbours_come_near_the_range_of_fp16_overflows() -> None:
    x = torch.linspace(-400, 400, 8 * 4 * 9).reshape(8, 4, 3, 3).half()
    first = found(Amplified().half(), x).iloc[0]
    assert (first["layer"], first["site"]) == ("norm", "input")
    assert "an overflow of float16" in first["message"]
    assert "float32" in first["advice"]


class Float16Norm(nn.Module):
    """A LayerNorm that computes in the dtype of its input."""

    def __init__(self, eps: float) -> None:
        super().__init__()
        self.eps, self.weight = eps, nn.Parameter(torch.ones(8))

    def forward(self, x: Tensor) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        variance = centred.square().mean(-1, keepdim=True)
        return centred / (variance + self.eps).sqrt() * self.weight


def test_an_eps_that_rounds_to_0_in_fp16() -> None:
    x = torch.randn(32, 8)
    x[5:8] = 1.5
    first = found(Float16Norm(1e-12).half(), x.half()).iloc[0]
    assert (first["layer"], first["value"], first["example"]) == ("", 24, 5)
    assert "3 samples of variance 0 and its eps of 1 × 10⁻¹² is 0 in float16" in first["message"]
    assert "Raise eps" in first["advice"]
    assert found(Float16Norm(1e-5).half(), x.half()).empty


def test_a_negative_running_variance_and_one_of_0_without_eps() -> None:
    model = net()
    model[1].running_var[:3] = -1.0
    assert "its running variance is negative in 3 channels" in found(model)["message"].iloc[0]
    model[1].running_var[:3] = 0.0
    model[1].eps = 0.0
    assert "its running variance is 0 in 3 channels, and its eps is 0" in found(model)["message"].iloc[0]


def test_when_the_first_came_is_said() -> None:
    torch.manual_seed(0)
    model, batches = net(), [torch.randn(8, 12) for _ in range(6)]
    broken = copy.deepcopy(batches)
    broken[4][3, 2] = float("nan")
    first = found(model, *broken).iloc[0]
    assert (first["layer"], first["site"], first["example"]) == ("0", "input", 4 * 8 + 3)
    assert "first in forward 4, example 35" in first["message"]
    assert found(model, *batches).empty


def test_nan_is_never_a_dash_inside_a_sentence() -> None:
    model = net()
    model[1].running_var.fill_(float("nan"))
    messages = normprobe.record(model, [DATA]).findings()["message"]
    assert any("The running variance is NaN in 16 channels." in message for message in messages)
    assert not any("–" in message for message in messages)
