"""Torch's fused encoder layer and attention: where hooks and modes switch them off, and what that changes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from normprobe.layers.module_attributes import attribute, stored

SLOWED = "hooks switch off torch's fused encoder layer, so outputs equal the bare model's only to rounding"

PAST = (
    "hooks switch off torch's fused encoder layer, which reads weights past the {} that wraps one of them: "
    "the bare model's outputs differ"
)


def would_fuse(module: nn.Module) -> bool:
    """Whether torch would run this `nn.TransformerEncoderLayer` as one fused kernel, had it no hooks."""
    # The conditions of `nn.TransformerEncoderLayer.forward`, those on the input aside: torch has no function
    # that says them. Where one is missing here, the ledger has a word too many, and nothing else follows.
    # By attributes, as torch asks for them: an adapter round the attention or a Linear has these as well.
    attention = attribute(module, "self_attn")
    if module.training or attribute(attention, "batch_first") is not True:
        return False
    if not attribute(module, "activation_relu_or_gelu") or attribute(attention, "in_proj_bias") is None:
        return False
    weights = [stored(part, name) for part in _fused_parts(module) for name in _FUSED_WEIGHTS]
    trained = any(isinstance(weight, Tensor) and weight.requires_grad for weight in weights)
    even = attribute(attention, "num_heads", 1) % 2 == 0
    return even and not (trained and torch.is_grad_enabled()) and not torch.is_autocast_enabled()


def why_slowed(module: nn.Module) -> str:
    """What hooks change at an encoder layer that torch would fuse."""
    own = {nn.MultiheadAttention.forward, nn.Linear.forward, nn.LayerNorm.forward}
    others = [type(p).__name__ for p in _fused_parts(module) if attribute(type(p), "forward") not in own]
    return PAST.format(others[0]) if others else SLOWED


def _fused_parts(module: nn.Module) -> list[nn.Module]:
    """The parts of an encoder layer whose weights its fused kernel reads."""
    attention = attribute(module, "self_attn")
    parts = [attribute(module, name) for name in ("norm1", "norm2", "linear1", "linear2")]
    return [p for p in (attention, attribute(attention, "out_proj"), *parts) if isinstance(p, nn.Module)]


_FUSED_WEIGHTS = ("weight", "bias", "in_proj_weight", "in_proj_bias")


def decides_by_mode(
    module: nn.Module, parent: nn.Module | None, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> bool:
    """Whether a module computes otherwise under a mode of torch's functions.

    Attention leaves its fused kernel then, which alone reads NestedTensors; an encoder makes none of these.

    Args:
        module: the module that is called.
        parent: the module that holds layers and calls it. An encoder layer whose own fused kernel hooks have
            switched off may as well lose that of its attention.
        args: of the call.
        kwargs: of the call.
    """
    if isinstance(module, nn.MultiheadAttention):
        # Without its fused kernel attention refuses NestedTensors.
        given = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
        if any(value.is_nested for value in given):
            return True
        switched_off = isinstance(parent, nn.TransformerEncoderLayer) and would_fuse(parent)
        return not switched_off and _attends_fused(module)
    return isinstance(module, nn.TransformerEncoder)


def _attends_fused(attention: nn.MultiheadAttention) -> bool:
    """Whether torch may run this attention as one fused kernel; it looks at more than this before it does."""
    # Rather once too often: a module taken for fused is only not looked into.
    trained = torch.is_grad_enabled() and any(weight.requires_grad for weight in attention.parameters())
    even = attention.num_heads % 2 == 0 and attention.batch_first and not attention.training
    return even and not trained and not torch.is_autocast_enabled()
