"""The models of the overhead benchmark: the shapes that people run, with random weights."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForCausalLM, BertConfig, GPT2Config, LlamaConfig, ResNetConfig


@dataclass(frozen=True)
class Case:
    """A model and how it is called.

    Attributes:
        model: the model.
        run: calls it once, or what is given in its place.
        repeats: how often it is called in a round.
    """

    model: nn.Module
    run: Callable[[Callable[..., object]], object]
    repeats: int = 1


def _text(model: nn.Module, batch: int, time: int, *, repeats: int = 1) -> Case:
    tokens = torch.randint(0, 1000, (batch, time))
    given = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
    return Case(model.eval(), lambda call: _quietly(call, **given), repeats)


def _quietly(call: Callable[..., object], **given: Tensor) -> object:
    with torch.no_grad():
        return call(**given)


def _minilm() -> nn.Module:
    wide = BertConfig(
        hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536, vocab_size=2000
    )
    return AutoModel.from_config(wide)


def _llama(layers: int) -> nn.Module:
    shape = LlamaConfig(
        hidden_size=576,
        num_hidden_layers=layers,
        num_attention_heads=9,
        num_key_value_heads=3,
        intermediate_size=1536,
        vocab_size=2000,
    )
    return AutoModelForCausalLM.from_config(shape)


def _resnet(size: int = 224, *, repeats: int = 1, channels_last: bool = False) -> Case:
    model = AutoModel.from_config(ResNetConfig(depths=[2, 2, 2, 2], layer_type="basic", embedding_size=64))
    pixels = torch.randn(8, 3, size, size)
    if channels_last:
        model, pixels = (
            model.to(memory_format=torch.channels_last),
            pixels.contiguous(memory_format=torch.channels_last),
        )
    return Case(model.eval(), lambda call: _quietly(call, pixel_values=pixels), repeats)


def _images(model: nn.Module, size: int, *, repeats: int = 1, channels_last: bool = False) -> Case:
    pixels = torch.randn(8, 3, size, size)
    if channels_last:
        model = model.to(memory_format=torch.channels_last)
        pixels = pixels.contiguous(memory_format=torch.channels_last)

    def run(call: Callable[..., object]) -> object:
        with torch.no_grad():
            return call(pixels)

    return Case(model.eval(), run, repeats)


def _group_norm(channels: int) -> nn.Module:
    return nn.GroupNorm(8, channels)


def _small_cnn(norm: Callable[[int], nn.Module]) -> nn.Module:
    """A classifier whose norms read and write 13.7 million numbers of 8 images of 128 x 128."""
    layers: list[nn.Module] = []
    for before, after, stride in ((3, 16, 1), (16, 16, 1), (16, 32, 2), (32, 32, 1), (32, 64, 2)):
        layers += [nn.Conv2d(before, after, 3, stride, padding=1), norm(after), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


class _Block(nn.Module):
    """Two convolutions ahead of whose inputs a GroupNorm and a SiLU stand, beside a shortcut."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.first = nn.Sequential(_group_norm(before), nn.SiLU(), nn.Conv2d(before, after, 3, padding=1))
        self.second = nn.Sequential(_group_norm(after), nn.SiLU(), nn.Conv2d(after, after, 3, padding=1))
        self.shortcut = nn.Conv2d(before, after, 1)

    def forward(self, x: Tensor) -> Tensor:
        shortcut: Tensor = self.shortcut(x)
        return shortcut + self.second(self.first(x))


class _UNet(nn.Module):
    """The shape of a diffusion model's UNet, without attention."""

    def __init__(self, widths: tuple[int, ...] = (64, 128, 256)) -> None:
        super().__init__()
        pairs = list(itertools.pairwise(widths))
        self.first = nn.Conv2d(3, widths[0], 3, padding=1)
        self.down = nn.ModuleList(_Block(before, after) for before, after in pairs)
        self.middle = _Block(widths[-1], widths[-1])
        self.up = nn.ModuleList(_Block(2 * after, before) for before, after in reversed(pairs))
        self.last = nn.Sequential(_group_norm(widths[0]), nn.SiLU(), nn.Conv2d(widths[0], 3, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        x, skipped = self.first(x), []
        for block in self.down:
            x = block(x)
            skipped.append(x)
            x = nn.functional.avg_pool2d(x, 2)
        x = self.middle(x)
        for block in self.up:
            x = nn.functional.interpolate(x, scale_factor=2.0)
            x = block(torch.cat([x, skipped.pop()], 1))
        last: Tensor = self.last(x)
        return last


def _ragged(model: nn.Module, batch: int, longest: int, *, repeats: int) -> Case:
    """Batches of texts of any length, padded right and left in turn; hardly one has the shape of another."""
    batches = []
    for number in range(64):
        lengths = torch.randint(longest // 4, longest + 1, (batch - number % 2,))
        place = torch.arange(int(lengths.max()))
        right = (place < lengths[:, None]).long()
        mask = right if number % 4 < 2 else right.flip(1)
        batches.append({"input_ids": torch.randint(0, 1000, mask.shape), "attention_mask": mask})
    coming = itertools.cycle(batches)
    # Bare and probed alike go round the same batches, so each round is over all of them.
    return Case(model.eval(), lambda call: [_quietly(call, **next(coming)) for _ in batches], repeats)


def _streams(model: nn.Module, streams: int) -> Case:
    tokens = torch.randint(0, 1000, (streams, 1))
    return Case(model.eval(), lambda call: _quietly(call, input_ids=tokens), 5)


def _resnet_training() -> Case:
    case = _resnet(112)
    model, pixels = case.model.train(), torch.randn(8, 3, 112, 112)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)

    def step(call: Callable[..., Any]) -> None:
        call(pixel_values=pixels).pooler_output.square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    return Case(model, step)


def _training() -> Case:
    model = _minilm().train()
    optimizer = torch.optim.AdamW(model.parameters())
    tokens = torch.randint(0, 1000, (16, 128))

    def step(call: Callable[..., Any]) -> None:
        found = call(input_ids=tokens, attention_mask=torch.ones_like(tokens))
        found.last_hidden_state.square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    return Case(model, step)


MODELS: dict[str, Callable[[], Case]] = {
    "minilm": lambda: _text(_minilm(), 16, 128),
    "minilm-small": lambda: _text(_minilm(), 4, 128),
    "bert": lambda: _text(AutoModel.from_config(BertConfig(num_hidden_layers=4, vocab_size=2000)), 8, 128),
    "gpt2": lambda: _text(AutoModel.from_config(GPT2Config(n_layer=4)), 8, 128),
    "llama": lambda: _text(_llama(6), 8, 128),
    "resnet": _resnet,
    "resnet-64": lambda: _resnet(64),
    "resnet-112": lambda: _resnet(112, repeats=2),
    "resnet-last": lambda: _resnet(112, repeats=2, channels_last=True),
    "groupnorm": lambda: _images(_small_cnn(_group_norm), 128, repeats=5),
    "groupnorm-last": lambda: _images(_small_cnn(_group_norm), 128, repeats=5, channels_last=True),
    "instancenorm": lambda: _images(_small_cnn(nn.InstanceNorm2d), 128, repeats=5),
    "batchnorm": lambda: _images(_small_cnn(nn.BatchNorm2d), 128, repeats=5),
    "unet": lambda: _images(_UNet(), 32),
    "training": _training,
    "resnet-training": _resnet_training,
    "ragged": lambda: _ragged(_minilm(), 16, 128, repeats=1),
    "ragged-small": lambda: _ragged(_minilm(), 8, 40, repeats=1),
    "minilm-streams": lambda: _streams(_minilm(), 32),
    "llama-streams": lambda: _streams(_llama(30), 32),
    "minilm-token": lambda: _text(_minilm(), 1, 1, repeats=20),
    "llama-token": lambda: _text(_llama(30), 1, 1, repeats=5),
}
