"""Training runs that no threshold over time was fitted on: healthy ones, and faults put into them."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from sklearn.datasets import load_wine
from torch import Tensor, nn

from benchmarks.findings.runs import (
    DIED,
    DRIFT,
    EXPLODE,
    INF,
    LAG,
    NAN,
    SPIKE,
    STEPS,
    UPDATE,
    VANISH,
    Recipe,
    RunFault,
    adam,
    always,
    holding,
    nothing,
    of_batch,
    put,
    rate,
    sgd,
    times,
    warm_up,
    when,
)


class Recurrent(nn.Module):
    """A GRU cell over the eight rows of a digit, a norm on its state."""

    def __init__(self, norm: Callable[[int], nn.Module] = nn.LayerNorm) -> None:
        super().__init__()
        self.embed, self.cell = nn.Linear(8, 24), nn.GRUCell(24, 24)
        self.norm, self.head = norm(24), nn.Linear(24, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Read images of shape (examples, 64)."""
        state = torch.zeros(len(x), 24)
        for row in x.reshape(-1, 8, 8).unbind(1):
            state = self.cell(self.embed(row), state)
        out: Tensor = self.head(self.norm(state))
        return out


class Encoder(nn.Module):
    """torch's transformer encoder over the eight rows of a digit."""

    def __init__(self, pre: bool, layers: int = 3) -> None:
        super().__init__()
        self.embed = nn.Linear(8, 32)
        layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, norm_first=pre, dropout=0.1)
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.norm, self.head = nn.LayerNorm(32), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Read images of shape (examples, 64)."""
        out: Tensor = self.head(self.norm(self.encoder(self.embed(x.reshape(-1, 8, 8)))).mean(1))
        return out


def wine() -> tuple[Tensor, Tensor]:
    """178 wines of 13 measures each, standardized."""
    x, y = load_wine(return_X_y=True)
    standardized = (x - x.mean(0)) / x.std(0)
    return torch.tensor(standardized, dtype=torch.float32), torch.tensor(y)


def selu(
    depth: int = 12, width: int = 48, inputs: int = 64, outputs: int = 10, gain: float = 1.0
) -> nn.Module:
    """A self-normalizing network (Klambauer et al., arXiv:1706.02515): weights of variance 1 / inputs."""
    widths = [inputs, *[width] * depth]
    layers: list[nn.Module] = []
    for a, b in pairwise(widths):
        layers += [nn.Linear(a, b), nn.SELU()]
    model = nn.Sequential(*layers, nn.Linear(width, outputs))
    for module in model:
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=gain * module.in_features**-0.5)
            nn.init.zeros_(module.bias)
    return model


def convolutions(norm: Callable[[int], nn.Module], momentum: float | None = None) -> nn.Module:
    """Three convolutions over an image of a digit, each with a norm."""
    widths = [1, 8, 16, 24]
    layers: list[nn.Module] = [nn.Unflatten(1, (1, 8, 8))]
    for a, b in pairwise(widths):
        layers += [nn.Conv2d(a, b, 3, padding=1), norm(b), nn.GELU()]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(96, 10))
    for module in model:
        if isinstance(module, nn.BatchNorm2d) and momentum is not None:
            module.momentum = momentum
    return model


def gelu(norm: Callable[[int], nn.Module] = nn.Identity, depth: int = 5, act: Any = nn.GELU) -> nn.Module:
    """A plain network of another width and activation than those fitted on."""
    widths = [64, *[40] * depth]
    layers: list[nn.Module] = []
    for a, b in pairwise(widths):
        layers += [nn.Linear(a, b), norm(b), act()]
    return nn.Sequential(*layers, nn.Linear(40, 10))


def rmsprop(rate: float) -> Callable[[Any], torch.optim.Optimizer]:
    return lambda parameters: torch.optim.RMSprop(parameters, rate)


HELD_OUT_RUNS: dict[str, Recipe] = {
    "gru": Recipe(Recurrent, adam(3e-3)),
    "gru_rms": Recipe(lambda: Recurrent(nn.RMSNorm), rmsprop(1e-3)),
    "encoder_pre": Recipe(lambda: Encoder(True), adam(), schedule=warm_up),
    "encoder_post": Recipe(lambda: Encoder(False), adam(), schedule=warm_up),
    "selu": Recipe(selu, sgd(0.01)),
    "selu_wine": Recipe(lambda: selu(6, 32, 13, 3), adam(), wine),
    "conv_in": Recipe(lambda: convolutions(lambda width: nn.InstanceNorm2d(width, affine=True)), adam()),
    "conv_bn": Recipe(lambda: convolutions(nn.BatchNorm2d), rmsprop(1e-3)),
    "gelu": Recipe(gelu, adam()),
    "gelu_ln": Recipe(lambda: gelu(nn.LayerNorm), adam(3e-3), schedule=warm_up),
    "gelu_bn": Recipe(lambda: gelu(nn.BatchNorm1d), sgd(0.02)),
    "leaky": Recipe(lambda: gelu(act=nn.LeakyReLU), sgd(0.05, 0.0)),
}

HELD_OUT_RUN_FAULTS = (
    RunFault(VANISH, "gelu", (), nothing, "14 sigmoids", None, lambda: gelu(depth=14, act=nn.Sigmoid)),
    RunFault(VANISH, "selu", (), nothing, "16 layers, weights / 2", None, lambda: selu(16, gain=0.5)),
    RunFault(VANISH, "leaky", (), nothing, "18 layers, torch's default", None, lambda: gelu(depth=18)),
    RunFault(EXPLODE, "selu", (), nothing, "16 layers, weights x 2", None, lambda: selu(16, gain=2.0)),
    RunFault(EXPLODE, "selu", (), nothing, "10 layers, weights x 3", None, lambda: selu(10, gain=3.0)),
    RunFault(UPDATE, "encoder_pre", (), always(lambda run, step, x: rate(200)(run, x)), "rate x 200"),
    RunFault(UPDATE, "gru", (), always(lambda run, step, x: rate(100)(run, x)), "rate x 100"),
    RunFault(UPDATE, "conv_bn", (), always(lambda run, step, x: rate(1e-6)(run, x)), "rate / 10^6"),
    RunFault(SPIKE, "gru", ("embed",), when(140, of_batch(lambda x: 25 * x)), "one batch x 25", 140),
    RunFault(SPIKE, "selu", ("0",), when(170, of_batch(lambda x: 40 * x)), "one batch x 40", 170),
    RunFault(SPIKE, "encoder_post", (), when(150, rate(200), 153), "rate x 200 for 4 steps", 150),
    RunFault(SPIKE, "gelu_ln", ("3", "4"), when(160, times("3.weight", 5)), "weights x 5", 160),
    RunFault(SPIKE, "conv_in", ("4", "5"), when(150, times("4.weight", 8)), "a convolution x 8", 150),
    RunFault(DRIFT, "gelu", ("0",), lambda run, step, x: x * 100 ** (step / STEPS), "data x 100"),
    RunFault(
        DRIFT,
        "gelu_ln",
        ("6", "7"),
        always(lambda run, step, x: times("6.weight", 1.015)(run, x)),
        "weights grow",
    ),
    RunFault(
        DRIFT,
        "encoder_pre",
        ("norm",),
        always(lambda run, step, x: times("norm.weight", 1.015)(run, x)),
        "a norm's",
    ),
    RunFault(
        LAG, "conv_bn", ("2",), nothing, "momentum 0.0005", None, lambda: convolutions(nn.BatchNorm2d, 5e-4)
    ),
    RunFault(
        LAG,
        "conv_bn",
        ("2",),
        when(120, of_batch(lambda x: 3 * x + 1), STEPS),
        "data change, 0.002",
        None,
        lambda: convolutions(nn.BatchNorm2d, 2e-3),
    ),
    RunFault(
        DIED, "leaky", ("3", "6"), when(120, put("3.bias", -50)), "bias -50", 120, lambda: gelu(act=nn.ReLU)
    ),
    RunFault(
        DIED,
        "gelu_bn",
        ("3", "6"),
        when(110, put("4.bias", -40, 0.7)),
        "shift -40",
        110,
        lambda: gelu(nn.BatchNorm1d, act=nn.ReLU),
    ),
    RunFault("nonfinite", "gru", ("embed",), when(131, of_batch(holding(NAN))), "NaN in the data", 131),
    RunFault(
        "nonfinite", "encoder_pre", ("norm",), when(99, put("norm.bias", INF, 0.1)), "Inf in a bias", 99
    ),
    RunFault("nonfinite", "conv_in", ("8",), when(180, put("7.weight", NAN, 0.1)), "NaN in a weight", 180),
)
