"""The models of the overhead benchmark: the shapes that people run, with random weights."""

from __future__ import annotations

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


def _resnet() -> Case:
    model = AutoModel.from_config(ResNetConfig(depths=[2, 2, 2, 2], layer_type="basic", embedding_size=64))
    pixels = torch.randn(8, 3, 224, 224)
    return Case(model.eval(), lambda call: _quietly(call, pixel_values=pixels))


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
    "bert": lambda: _text(AutoModel.from_config(BertConfig(num_hidden_layers=4, vocab_size=2000)), 8, 128),
    "gpt2": lambda: _text(AutoModel.from_config(GPT2Config(n_layer=4)), 8, 128),
    "llama": lambda: _text(_llama(6), 8, 128),
    "resnet": _resnet,
    "training": _training,
    "minilm-token": lambda: _text(_minilm(), 1, 1, repeats=20),
    "llama-token": lambda: _text(_llama(30), 1, 1, repeats=5),
}
