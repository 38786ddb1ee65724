"""Networks of the held-out set of healthy models."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.findings.models_fitted import mlp


class Basic(nn.Module):
    """A residual block of two convolutions with BatchNorm."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)
        self.short: nn.Module = nn.Identity()
        if stride > 1 or inputs != outputs:
            self.short = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Add the shortcut."""
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(y + self.short(x))


def resnet(blocks: int = 2) -> nn.Module:
    parts: list[nn.Module] = [nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16)]
    parts.append(nn.ReLU())
    for inputs, outputs, stride in ((16, 16, 1), (16, 32, 2), (32, 64, 2)):
        for block in range(blocks):
            first = block == 0
            parts.append(Basic(inputs if first else outputs, outputs, stride if first else 1))
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def started_at_zero() -> nn.Module:
    """A ResNet whose residual branches add nothing at first: the weight of their last norm is 0."""
    model = resnet(2)
    for module in model.modules():
        if isinstance(module, Basic):
            nn.init.zeros_(module.bn2.weight)
    return model


class PreAct(nn.Module):
    """A pre-activation block: norm, ReLU, convolution, twice."""

    def __init__(self, width: int, norm: Any) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(norm(width), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1)),
            *(norm(width), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1)),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Add to the stream."""
        return x + self.body(x)


def preact(norm: Any = nn.BatchNorm2d) -> nn.Module:
    blocks = [PreAct(24, norm) for _ in range(5)]
    stem = [nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 24, 3, padding=1)]
    return nn.Sequential(*stem, *blocks, norm(24), nn.ReLU(), nn.Flatten(), nn.Linear(24 * 64, 10))


class Vit(nn.Module):
    """A small ViT with a class token over the 16 patches of a digit."""

    def __init__(self, depth: int = 6, width: int = 48) -> None:
        super().__init__()
        self.patch = nn.Conv2d(1, width, 2, 2)
        self.cls = nn.Parameter(torch.zeros(1, 1, width))
        self.place = nn.Parameter(torch.randn(1, 17, width) * 0.02)
        layer = nn.TransformerEncoderLayer(
            width, 4, 2 * width, 0.0, nn.functional.gelu, batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (examples, 10)."""
        x = self.patch(x.view(-1, 1, 8, 8)).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(len(x), -1, -1), x], 1) + self.place
        return self.head(self.norm(self.encoder(x))[:, 0])


class Mixer(nn.Module):
    """One block of an MLP-Mixer: across the rows of an image, then across features."""

    def __init__(self, rows: int = 8, width: int = 32) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.rows = nn.Sequential(nn.Linear(rows, 16), nn.GELU(), nn.Linear(16, rows))
        self.features = nn.Sequential(nn.Linear(width, 64), nn.GELU(), nn.Linear(64, width))

    def forward(self, x: Tensor) -> Tensor:
        """Return (examples, rows, width)."""
        x = x + self.rows(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.features(self.norm2(x))


def mixer() -> nn.Module:
    blocks = [Mixer() for _ in range(4)]
    start = [nn.Unflatten(1, (8, 8)), nn.Linear(8, 32)]
    return nn.Sequential(*start, *blocks, nn.LayerNorm(32), nn.Flatten(), nn.Linear(256, 10))


class Gated(nn.Module):
    """A block of a gMLP, whose gate across the rows starts next to constant."""

    def __init__(self, rows: int = 8, width: int = 32) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.Linear(64, width)
        self.inner, self.gate = nn.LayerNorm(2 * width), nn.Linear(rows, rows)
        nn.init.normal_(self.gate.weight, std=1e-6)
        nn.init.ones_(self.gate.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return (examples, rows, width)."""
        u, v = nn.functional.gelu(self.up(self.norm(x))).chunk(2, -1)
        return x + self.down(u * self.gate(self.inner(v).transpose(1, 2)).transpose(1, 2))


def gated() -> nn.Module:
    start = [nn.Unflatten(1, (8, 8)), nn.Linear(8, 32)]
    return nn.Sequential(*start, *(Gated() for _ in range(4)), nn.Flatten(), nn.Linear(256, 10))


class Next(nn.Module):
    """A ConvNeXt block with a layer scale that starts at 1e-6."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(width, width, 3, padding=1, groups=width), nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.scale = nn.Parameter(torch.full((width,), 1e-6))

    def forward(self, x: Tensor) -> Tensor:
        """Return (examples, width, rows, columns)."""
        y = self.norm(self.conv(x).permute(0, 2, 3, 1))
        return x + (self.scale * self.down(nn.functional.gelu(self.up(y)))).permute(0, 3, 1, 2)


def convnext() -> nn.Module:
    stem = [nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 32, 2, 2)]
    end = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(32), nn.Linear(32, 10)]
    return nn.Sequential(*stem, *(Next() for _ in range(4)), *end)


class Moe(nn.Module):
    """Four experts, each token to the best."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.norm, self.router = nn.LayerNorm(width), nn.Linear(width, 4)
        self.experts = nn.ModuleList(mlp(width, depth=1, width=64, out=width) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        """Return (examples, width)."""
        gate, best = self.router(self.norm(x)).softmax(-1).max(-1)
        y = torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            y[best == number] = expert(self.norm(x)[best == number])
        return x + gate[:, None] * y


def plain_cnn(norm: Any = None) -> nn.Module:
    parts: list[nn.Module] = [nn.Unflatten(1, (1, 8, 8))]
    for inputs, outputs in ((1, 8), (8, 16), (16, 32)):
        parts += [nn.Conv2d(inputs, outputs, 3, padding=1), *([norm(outputs)] if norm else []), nn.ReLU()]
    return nn.Sequential(
        *parts, nn.MaxPool2d(2), nn.Flatten(), nn.Linear(512, 64), nn.ReLU(), nn.Linear(64, 10)
    )


def unet() -> nn.Module:
    group = lambda width: nn.GroupNorm(4, width)  # noqa: E731
    down = [nn.Conv2d(1, 16, 3, 1, 1), group(16), nn.SiLU(), nn.Conv2d(16, 32, 3, 2, 1), group(32), nn.SiLU()]
    up = [nn.ConvTranspose2d(32, 16, 2, 2), group(16), nn.SiLU(), nn.Conv2d(16, 1, 3, 1, 1), nn.Flatten()]
    return nn.Sequential(nn.Unflatten(1, (1, 8, 8)), *down, PreAct(32, group), *up)


def generator() -> nn.Module:
    return nn.Sequential(
        *(nn.Linear(26, 256), nn.BatchNorm1d(256), nn.ReLU(), nn.Unflatten(1, (64, 2, 2))),
        *(nn.ConvTranspose2d(64, 32, 2, 2), nn.BatchNorm2d(32), nn.ReLU()),
        *(nn.ConvTranspose2d(32, 1, 2, 2), nn.Sigmoid(), nn.Flatten()),
    )


class Sine(nn.Module):
    """The activation of a SIREN."""

    def forward(self, x: Tensor) -> Tensor:
        """Return sin(30 x)."""
        return torch.sin(30 * x)


def siren() -> nn.Module:
    model = nn.Sequential(
        *(nn.Linear(2, 64), Sine(), nn.Linear(64, 64), Sine(), nn.Linear(64, 64), Sine(), nn.Linear(64, 1))
    )
    with torch.no_grad():
        for number, bound in ((0, 1 / 2), (2, (6 / 64) ** 0.5 / 30), (4, (6 / 64) ** 0.5 / 30)):
            model[number].weight.uniform_(-bound, bound)
    return model


class CharGpt(nn.Module):
    """A pre-LN decoder over bytes."""

    def __init__(self, norm_first: bool = True, width: int = 64, depth: int = 4) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(128, width), nn.Embedding(64, width)
        layer = nn.TransformerEncoderLayer(
            width, 4, 4 * width, 0.0, nn.functional.gelu, batch_first=True, norm_first=norm_first
        )
        self.blocks = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 128, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        """Return logits (texts, bytes, 128)."""
        length = ids.shape[1]
        ahead = nn.Transformer.generate_square_subsequent_mask(length)
        x = self.embed(ids) + self.place.weight[:length]
        return self.head(self.norm(self.blocks(x, mask=ahead, is_causal=True)))


class CharRnn(nn.Module):
    """An LSTM or GRU over bytes."""

    def __init__(self, cell: Any, norm: bool) -> None:
        super().__init__()
        self.embed, self.rnn = nn.Embedding(128, 48), cell(48, 96, batch_first=True)
        self.norm = nn.LayerNorm(96) if norm else nn.Identity()
        self.head = nn.Linear(96, 128)

    def forward(self, ids: Tensor) -> Tensor:
        """Return logits (texts, bytes, 128)."""
        return self.head(self.norm(self.rnn(self.embed(ids))[0]))
