"""Scales of one number, stored or fixed by the formula; eps, affine and bias as they are applied."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import normprobe
from normprobe.layers.norms.identify import FEWER, NO_NORM
from normprobe.recording import Recording

WIDTH = 16


def data(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 2 + 0.3


def recorded(module: nn.Module, x: Tensor) -> Recording:
    with torch.no_grad(), normprobe.Probe(module) as probe:
        module(x)
    return probe.recording


class UnitNorm(nn.Module):
    """Divides by the Euclidean length."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.normalize(x, dim=-1)


class OneScaleNorm(nn.Module):
    """The same times sqrt(d), or not, and one learned number."""

    def __init__(self, number: float, *, root: bool) -> None:
        super().__init__()
        self.g, self.root = nn.Parameter(torch.tensor([number])), root

    def forward(self, x: Tensor) -> Tensor:
        return functional.normalize(x, dim=-1) * self.g * (WIDTH**0.5 if self.root else 1)


class UnbiasedNorm(nn.Module):
    """Centres, and divides by the standard deviation with divisor d - 1."""

    def forward(self, x: Tensor) -> Tensor:
        return (x - x.mean(-1, keepdim=True)) / x.std(-1, keepdim=True)


class LengthNorm(UnitNorm):
    """Divides by the length, then scales feature by feature."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.linspace(0.5, 2, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.gain


@pytest.mark.parametrize(
    ("module", "kind", "weight", "affine"),
    [
        (UnitNorm(), "rms_norm", [WIDTH**-0.5] * WIDTH, False),
        (OneScaleNorm(1.3, root=True), "rms_norm", [1.3] * WIDTH, True),
        (OneScaleNorm(4.0, root=False), "rms_norm", [1.0] * WIDTH, True),
        (UnbiasedNorm(), "layer_norm", [math.sqrt(1 - 1 / WIDTH)] * WIDTH, False),
        (LengthNorm(), "rms_norm", (torch.linspace(0.5, 2, WIDTH) / WIDTH**0.5).tolist(), True),
    ],
    ids=["length", "one number", "one number of the length", "unbiased", "gain of the length"],
)
def test_a_scale_of_one_number_is_the_weight_as_applied(
    module: nn.Module, kind: str, weight: list[float], affine: bool
) -> None:
    recording = recorded(module, data(50, WIDTH))
    row = recording.ledger.iloc[0]
    said = FEWER if isinstance(module, UnbiasedNorm) else ""
    assert (row.kind, row.affine, row.reason) == (kind, affine, said)
    output = recording.features[recording.features["site"] == "output"]
    assert output.weight.tolist() == pytest.approx(weight, rel=1e-3)
    assert output.bias.tolist() == [0] * WIDTH


def test_rows_of_nearly_one_length_are_still_normalized() -> None:
    x = functional.normalize(data(64, WIDTH), dim=-1) * (1 + 0.01 * data(64, 1))
    row = recorded(UnitNorm(), x).ledger.iloc[0]
    assert (row.kind, row.reason) == ("rms_norm", "")


def test_what_leaves_rows_of_nearly_one_length_is_no_norm() -> None:
    class IdleNorm(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + 0

    x = functional.normalize(data(64, WIDTH), dim=-1) * (1 + 0.01 * data(64, 1))
    assert recorded(IdleNorm(), x).ledger["reason"].tolist() == [NO_NORM]


@pytest.mark.parametrize(
    ("dtype", "eps"), [(torch.float32, 2.0**-23), (torch.bfloat16, 2.0**-23), (torch.float64, 2.0**-52)]
)
def test_an_eps_of_none_is_the_machine_epsilon(dtype: torch.dtype, eps: float) -> None:
    recording = recorded(nn.RMSNorm(WIDTH, eps=None, dtype=dtype), data(64, WIDTH).to(dtype) * 1e-4)
    assert recording.ledger["eps"].tolist() == [eps]


def test_small_inputs_of_a_norm_with_an_eps_of_none_are_found() -> None:
    recording = recorded(nn.Sequential(nn.Identity(), nn.RMSNorm(WIDTH)), data(64, WIDTH) * 5e-5)
    assert "variance_below_eps" in set(recording.findings()["check"])


@pytest.mark.parametrize("name", ["g", "gamma", "scale", "gain", "weight", "temperature"])
def test_a_parameter_under_any_name_is_an_affine(name: str) -> None:
    class AnyNorm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            setattr(self, name, nn.Parameter(torch.linspace(0.5, 2, WIDTH)))

        def forward(self, x: Tensor) -> Tensor:
            return functional.rms_norm(x, (WIDTH,)) * getattr(self, name)

    assert recorded(AnyNorm(), data(50, WIDTH)).ledger["affine"].tolist() == [True]


def test_a_bias_is_missing_where_the_weight_is_unknown() -> None:
    class SineNorm(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.sin().flip(-1)

    recording = recorded(SineNorm(), data(50, WIDTH))
    assert recording.features.query("site == 'output'")[["weight", "bias"]].isna().all(axis=None)
