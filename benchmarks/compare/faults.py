"""Faults of one layer to put into a copy of a model, and the layer that a comparison must name first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Fault:
    """One fault.

    Attributes:
        model: The model it is put into.
        what: A few words.
        layer: The first layer that differs.
        site: ``output`` of that layer, or ``input`` where the fault lies before it.
        change: Changes a copy of the model in place.
    """

    model: str
    what: str
    layer: str
    site: str
    change: Callable[[nn.Module], None]


def quantized(name: str, bits: int) -> Callable[[nn.Module], None]:
    """Round a layer's weight to whole steps, one scale per output."""

    def change(model: nn.Module) -> None:
        weight = model.get_submodule(name).weight
        axis = 0 if type(model.get_submodule(name)).__name__ == "Conv1D" else 1
        step = weight.abs().amax(axis, keepdim=True) / (2 ** (bits - 1) - 1)
        weight.copy_((weight / step).round() * step)

    return change


def rounded(name: str) -> Callable[[nn.Module], None]:
    """Round a layer's parameters to bfloat16."""

    def change(model: nn.Module) -> None:
        for parameter in model.get_submodule(name).parameters():
            parameter.copy_(parameter.bfloat16().float())

    return change


def wrapped(
    name: str, around: Callable[[Callable[..., Tensor], Tensor], Tensor]
) -> Callable[[nn.Module], None]:
    """Replace a layer's forward by a function of it and its input."""

    def change(model: nn.Module) -> None:
        module = model.get_submodule(name)
        forward = module.forward
        module.forward = lambda x: around(forward, x)  # type: ignore[method-assign]

    return change


def noisy(forward: Callable[..., Tensor], x: Tensor) -> Tensor:
    """Add 5 % noise."""
    output = forward(x)
    draw = torch.Generator().manual_seed(0)
    return output + 0.05 * output.std() * torch.randn(output.shape, generator=draw)


def half(name: str) -> Callable[[nn.Module], None]:
    """Compute one Linear in bfloat16."""

    def change(model: nn.Module) -> None:
        module = model.get_submodule(name)
        module.forward = lambda x: nn.functional.linear(  # type: ignore[method-assign]
            x.bfloat16(), module.weight.bfloat16(), None if module.bias is None else module.bias.bfloat16()
        ).float()

    return change


def eps(name: str, value: float) -> Callable[[nn.Module], None]:
    """Set the eps of a norm."""

    def change(model: nn.Module) -> None:
        norm = model.get_submodule(name)
        setattr(norm, "variance_epsilon" if hasattr(norm, "variance_epsilon") else "eps", value)

    return change


def scaled(name: str, factor: float = 1.02) -> Callable[[nn.Module], None]:
    """Multiply what a layer gives."""

    def change(model: nn.Module) -> None:
        for parameter in model.get_submodule(name).parameters():
            parameter.mul_(factor)

    return change


def unbiased(name: str) -> Callable[[nn.Module], None]:
    """Take away a layer's bias."""

    def change(model: nn.Module) -> None:
        model.get_submodule(name).bias.zero_()

    return change


def swapped(blocks: str, first: int, second: int) -> Callable[[nn.Module], None]:
    """Exchange two blocks."""

    def change(model: nn.Module) -> None:
        every = model.get_submodule(blocks)
        every[first], every[second] = every[second], every[first]  # type: ignore[index, operator]

    return change


def replaced(path: str, build: Callable[[nn.Module], nn.Module]) -> Callable[[nn.Module], None]:
    """Put another module in the place of one."""

    def change(model: nn.Module) -> None:
        parent, _, name = path.rpartition(".")
        setattr(model.get_submodule(parent), name, build(model.get_submodule(path)))

    return change


def layer_norm(rms: nn.Module) -> nn.Module:
    """Return a LayerNorm with the weight of an RMSNorm."""
    norm = nn.LayerNorm(len(rms.weight), eps=rms.variance_epsilon, bias=False)
    norm.weight.data.copy_(rms.weight)
    return norm


def rms_norm(norm: nn.Module) -> nn.Module:
    """Return an RMSNorm with the weight of a LayerNorm."""
    rms = nn.RMSNorm(len(norm.weight), eps=norm.eps)
    rms.weight.data.copy_(norm.weight)
    return rms


def attribute(path: str, value: Any) -> Callable[[nn.Module], None]:
    """Set something of a module that is no layer."""

    def change(model: nn.Module) -> None:
        parent, _, name = path.rpartition(".")
        setattr(model.get_submodule(parent), name, value)

    return change


def _on_layers(model: str, linear: list[str], norms: list[str], *, biased: bool) -> list[Fault]:
    """Return the faults of a layer's own, spread over a model's layers."""
    made = [
        *((f"int{bits}", quantized(layer, bits), layer) for layer in linear[:3] for bits in (8, 4)),
        *(("bf16 weights", rounded(layer), layer) for layer in linear[3:6]),
        *(("noise 5 %", wrapped(layer, noisy), layer) for layer in (linear[1], linear[4], norms[1])),
        *(("eps 1e-2", eps(layer, 1e-2), layer) for layer in norms[:3]),
        *(("gain 1.02", scaled(layer), layer) for layer in (linear[0], linear[5], norms[2])),
    ]
    if biased:
        made += [("no bias", unbiased(layer), layer) for layer in (linear[2], linear[5], norms[0])]
    return [Fault(model, what, layer, "output", change) for what, change, layer in made]


MINILM = [
    *_on_layers(
        "minilm",
        [
            "encoder.layer.0.attention.self.query",
            "encoder.layer.2.attention.output.dense",
            "encoder.layer.4.intermediate.dense",
            "encoder.layer.5.output.dense",
            "encoder.layer.1.attention.self.value",
            "encoder.layer.3.attention.self.key",
        ],
        [
            "embeddings.LayerNorm",
            "encoder.layer.3.attention.output.LayerNorm",
            "encoder.layer.5.output.LayerNorm",
        ],
        biased=True,
    ),
    Fault(
        "minilm",
        "swapped 1, 3",
        "encoder.layer.1.attention.self.query",
        "output",
        swapped("encoder.layer", 1, 3),
    ),
    Fault(
        "minilm",
        "swapped 4, 5",
        "encoder.layer.4.attention.self.query",
        "output",
        swapped("encoder.layer", 4, 5),
    ),
    *(
        Fault(
            "minilm",
            f"{type(act).__name__} for GELU",
            f"encoder.layer.{block}.output.dense",
            "input",
            attribute(f"encoder.layer.{block}.intermediate.intermediate_act_fn", act),
        )
        for block, act in ((0, nn.ReLU()), (3, nn.GELU(approximate="tanh")), (5, nn.SiLU()))
    ),
    Fault(
        "minilm",
        "attention not scaled",
        "encoder.layer.2.attention.output.dense",
        "input",
        attribute("encoder.layer.2.attention.self.scaling", 1.0),
    ),
    Fault(
        "minilm",
        "RMSNorm for LayerNorm",
        "encoder.layer.1.output.LayerNorm",
        "output",
        replaced("encoder.layer.1.output.LayerNorm", rms_norm),
    ),
]

GPT2 = [
    *_on_layers(
        "gpt2",
        [
            "h.0.attn.c_attn",
            "h.2.attn.c_proj",
            "h.4.mlp.c_fc",
            "h.5.mlp.c_proj",
            "h.1.mlp.c_fc",
            "h.3.attn.c_attn",
        ],
        ["h.0.ln_1", "h.3.ln_2", "ln_f"],
        biased=True,
    ),
    Fault("gpt2", "swapped 1, 4", "h.1.ln_1", "output", swapped("h", 1, 4)),
    *(
        Fault(
            "gpt2",
            f"{type(act).__name__} for GELU",
            f"h.{block}.mlp.c_proj",
            "input",
            attribute(f"h.{block}.mlp.act", act),
        )
        for block, act in ((1, nn.ReLU()), (4, nn.GELU()))
    ),
    Fault("gpt2", "RMSNorm for LayerNorm", "h.2.ln_1", "output", replaced("h.2.ln_1", rms_norm)),
]

LLAMA = [
    *_on_layers(
        "llama",
        [
            "layers.0.self_attn.q_proj",
            "layers.2.self_attn.o_proj",
            "layers.4.mlp.gate_proj",
            "layers.5.mlp.down_proj",
            "layers.1.mlp.up_proj",
            "layers.3.self_attn.k_proj",
        ],
        ["layers.0.input_layernorm", "layers.3.post_attention_layernorm", "norm"],
        biased=False,
    ),
    Fault("llama", "bf16 compute", "layers.2.mlp.up_proj", "output", half("layers.2.mlp.up_proj")),
    Fault("llama", "bf16 compute", "layers.4.self_attn.v_proj", "output", half("layers.4.self_attn.v_proj")),
    Fault("llama", "swapped 2, 3", "layers.2.input_layernorm", "output", swapped("layers", 2, 3)),
    *(
        Fault(
            "llama",
            f"{type(act).__name__} for SiLU",
            f"layers.{block}.mlp.down_proj",
            "input",
            attribute(f"layers.{block}.mlp.act_fn", act),
        )
        for block, act in ((0, nn.ReLU()), (5, nn.GELU()))
    ),
    *(
        Fault("llama", "LayerNorm for RMSNorm", path, "output", replaced(path, layer_norm))
        for path in ("layers.0.input_layernorm", "layers.3.post_attention_layernorm", "norm")
    ),
]

FAULTS = [*MINILM, *GPT2, *LLAMA]
