"""Norms that divide by something else than most: by n - 1, without centring, by clipped numbers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import normprobe
from normprobe.layers.norms.identify import FEWER, OTHERWISE, STD_ONLY

WIDTH = 64


def data(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 2 + 5


class Own(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.linspace(0.5, 2, WIDTH)), nn.Parameter(torch.ones(WIDTH))
        self.eps = 1e-6


class AnnotatedLayerNorm(Own):
    """With torch's standard deviation as it is by default."""

    def forward(self, x: Tensor) -> Tensor:
        d = x - x.mean(-1, keepdim=True)
        return self.weight * d / (x.std(-1, keepdim=True) + self.eps) + self.bias


class SimpleNorm(Own):
    """Keeps the mean, and has no shift."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = None

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.var(-1, keepdim=True) + self.eps) * self.weight


class UsualLayerNorm(Own):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.layer_norm(x, (WIDTH,), self.weight, self.bias, self.eps)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("cls", "kind", "said"),
    [
        (AnnotatedLayerNorm, "layer_norm", FEWER),
        (SimpleNorm, "norm", STD_ONLY),
        (UsualLayerNorm, "layer_norm", ""),
    ],
)
def test_a_divisor_is_said(cls: Any, kind: str, said: str, dtype: torch.dtype) -> None:
    norm = cls().to(dtype)
    recording = normprobe.record(norm, [data(40, WIDTH).to(dtype)] * 2)
    row = recording.ledger.iloc[0]
    assert (row["kind"], row["reason"], row["normalizes"]) == (kind, said, "input")
    weights = recording.features.query("site == 'output'")["weight"]
    assert weights.tolist() == pytest.approx(norm.weight.tolist())


def test_rounding_hides_a_divisor_and_nothing_is_said() -> None:
    recording = normprobe.record(AnnotatedLayerNorm().bfloat16(), [data(40, WIDTH).bfloat16()] * 2)
    assert recording.ledger["reason"].item() == ""


class BatchRenorm2d(nn.Module):
    """Scales and shifts a batch towards the running numbers, which hold a standard deviation."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.linspace(0.5, 2, 8)), nn.Parameter(torch.zeros(8))
        self.register_buffer("running_mean", torch.linspace(3, 5, 8))
        self.register_buffer("running_std", torch.linspace(1, 3, 8))

    def forward(self, x: Tensor) -> Tensor:
        def shaped(vector: Tensor) -> Tensor:
            return vector.reshape(1, -1, 1, 1)

        mean, std = shaped(self.running_mean), shaped(self.running_std)
        if self.training:
            own = x.std((0, 2, 3), keepdim=True), x.mean((0, 2, 3), keepdim=True)
            r, d = (own[0] / std).clip(0.9, 1.1), ((own[1] - mean) / std).clip(-0.1, 0.1)
            x = (x - own[1]) / own[0] * r + d
        else:
            x = (x - mean) / std
        return x * shaped(self.weight) + shaped(self.bias)


@pytest.mark.parametrize("training", [False, True])
def test_batch_renormalization(training: bool) -> None:
    norm = BatchRenorm2d().train(training)
    with torch.no_grad(), normprobe.Probe(norm) as probe:
        norm(data(6, 8, 5, 5))
    row = probe.recording.ledger.iloc[0]
    assert (row["kind"], row["sample_unit"], row["n_features"]) == ("batch_norm", "example", 8)
    # In train mode it clips what it scales by feature by feature.
    assert row["reason"] == (OTHERWISE if training else "")


def test_a_shared_divisor_of_two_kinds_is_said() -> None:
    class EvoNorm2dB0(nn.Module):
        """Divides by the larger of a batch's deviation and what a line of the input says."""

        def __init__(self) -> None:
            super().__init__()
            self.weight, self.v = nn.Parameter(torch.ones(8)), nn.Parameter(torch.ones(8))
            self.eps = 1e-5

        def forward(self, x: Tensor) -> Tensor:
            shape = (1, -1, 1, 1)
            batch = (x.var((0, 2, 3), keepdim=True) + self.eps).sqrt()
            instance = self.v.reshape(shape) * x + (x.var((2, 3), keepdim=True) + self.eps).sqrt()
            return x / torch.maximum(batch, instance) * self.weight.reshape(shape)

    row = normprobe.record(EvoNorm2dB0(), [data(6, 8, 5, 5)] * 2).ledger.iloc[0]
    assert (row["kind"], row["n_features"], row["normalizes"]) == ("norm", 8, "unknown")
    assert "no known normalization" in row["reason"]


def test_few_rows_of_an_unknown_norm_are_no_silent_one() -> None:
    class OddLayerNorm(Own):
        def forward(self, x: Tensor) -> Tensor:
            return x / (x.abs().amax(-1, keepdim=True) + self.eps) * self.weight + self.bias

    row = normprobe.record(OddLayerNorm(), [data(3, WIDTH)]).ledger.iloc[0]
    assert "read as its class says" in row["reason"]
