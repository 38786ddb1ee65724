"""Small models for the tests of comparisons: sound ones, faults of one layer, ports under other names."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import normprobe
from normprobe import Recording


class Block(nn.Module):
    """Attention-like and feed-forward halves, each behind a norm."""

    def __init__(self, width: int, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.first_norm, self.second_norm = norm(width), norm(width)
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.output = nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.act: nn.Module = nn.GELU()

    def mix(self, x: Tensor) -> Tensor:
        return nn.functional.scaled_dot_product_attention(self.query(x), self.key(x), self.value(x))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.output(self.mix(self.first_norm(x)))
        return x + self.down(self.act(self.up(self.second_norm(x))))


class Net(nn.Module):
    """Three blocks and a final norm."""

    def __init__(
        self, width: int = 16, norm: Callable[[int], nn.Module] = nn.LayerNorm, blocks: int = 3
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Block(width, norm) for _ in range(blocks))
        self.norm = norm(width)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return self.norm(x)


class FusedBlock(nn.Module):
    """A block of the port: other names, one projection for query, key and value."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.ln_1(x)).chunk(3, -1)
        x = x + self.proj(nn.functional.scaled_dot_product_attention(q, k, v))
        return x + self.fc2(nn.functional.gelu(self.fc1(self.ln_2(x))))


class Port(nn.Module):
    """The same network, written by somebody else."""

    def __init__(self, width: int = 16, blocks: int = 3) -> None:
        super().__init__()
        self.h = nn.ModuleList(FusedBlock(width) for _ in range(blocks))
        self.ln_f = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.h:
            x = block(x)
        return self.ln_f(x)


def net(**options: Any) -> Net:
    """Return a seeded net whose norms have scales and shifts."""
    torch.manual_seed(0)
    model = Net(**options)
    for name, parameter in model.named_parameters():
        if "norm" in name:
            parameter.data.uniform_(0.5, 1.5)
    return model.eval()


def port(model: Net) -> Port:
    """Return the port with the net's weights."""
    made = Port(16, len(model.layers)).eval()
    for mine, block in zip(made.h, model.layers, strict=True):
        mine.qkv.weight.data = torch.cat([block.query.weight, block.key.weight, block.value.weight]).data
        mine.qkv.bias.data = torch.cat([block.query.bias, block.key.bias, block.value.bias]).data
        names = {"ln_1": "first_norm", "ln_2": "second_norm", "proj": "output", "fc1": "up", "fc2": "down"}
        for name, other in names.items():
            getattr(mine, name).load_state_dict(getattr(block, other).state_dict())
    made.ln_f.load_state_dict(model.norm.state_dict())
    return made


def batches(count: int = 3, size: int = 8, *, seed: int = 0, width: int = 16) -> list[Tensor]:
    """Batches of examples of 5 positions that hang together."""
    draw = torch.Generator().manual_seed(seed)
    return [
        torch.randn(size, 5, width, generator=draw) + torch.randn(size, 1, width, generator=draw)
        for _ in range(count)
    ]


def record(model: nn.Module, data: list[Tensor] | None = None, **options: Any) -> Recording:
    """Record a model, on the same batches unless others are given."""
    return normprobe.record(model, batches() if data is None else data, **options)


def changed(model: nn.Module, change: Callable[[Any], Any]) -> nn.Module:
    """Return a copy with a fault."""
    twin = copy.deepcopy(model)
    with torch.no_grad():
        change(twin)
    return twin


def quantize(linear: nn.Linear, bits: int) -> None:
    """Round a weight to whole steps, one scale per output."""
    step = linear.weight.abs().amax(1, keepdim=True) / (2 ** (bits - 1) - 1)
    linear.weight.copy_((linear.weight / step).round() * step)


def noisy(module: nn.Module) -> None:
    """Let a module add 5 % noise to what it gives."""
    forward = module.forward

    def with_noise(x: Tensor) -> Tensor:
        draw = torch.Generator().manual_seed(0)
        output: Tensor = forward(x)
        return output + 0.05 * output.std() * torch.randn(output.shape, generator=draw)

    module.forward = with_noise  # type: ignore[method-assign]


class Rounding(nn.Module):
    """A Linear that computes in bfloat16 between two casts."""

    def __init__(self, inner: nn.Linear) -> None:
        super().__init__()
        self.inner = inner.bfloat16()

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.inner(x.bfloat16())
        return output.float()
