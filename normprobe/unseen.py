"""What the ledger says of layers that no hook sees, or that hooks change."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from normprobe.layers import Layer

SLOWED = "hooks switch off torch's fused encoder layer, so outputs equal the bare model's only to rounding"


def would_fuse(module: nn.Module) -> bool:
    """Whether torch would run this `nn.TransformerEncoderLayer` as one fused kernel, had it no hooks."""
    attention = getattr(module, "self_attn", None)
    if not isinstance(attention, nn.MultiheadAttention) or module.training or not attention.batch_first:
        return False
    trained = torch.is_grad_enabled() and any(weight.requires_grad for weight in module.parameters())
    even = attention.num_heads % 2 == 0 and attention.in_proj_bias is not None
    return even and not trained and not torch.is_autocast_enabled()


def why_unseen(
    model: nn.Module, parents: Mapping[int, nn.Module], entered: set[int], measured: int, layer: Layer
) -> tuple[str, str]:
    """The status (never fired or bypassed) and reason of a layer, should it not have fired.

    Args:
        model: the probed model.
        parents: for each module (by id) the one that holds it.
        entered: ids of the modules that were called.
        measured: how many forwards were measured.
        layer: the layer.
    """
    if measured == 0:
        return "never fired", "no forward was measured: call the model inside the block"
    parent = parents.get(id(layer.module))
    if isinstance(parent, nn.MultiheadAttention) and id(parent) in entered:
        return "bypassed", "torch's attention reads its weight in a fused kernel and never calls the module"
    if _compiled(model):
        return (
            "never fired",
            "the model was compiled before the probe was entered; probe it before torch.compile",
        )
    if parent is not None and id(parent) not in entered and parent is not model:
        return "never fired", f"the {type(parent).__name__} that holds it was never called"
    return "never fired", "its module was never called, though the one that holds it was"


def _compiled(model: nn.Module) -> bool:
    compiled_call = getattr(model, "_compiled_call_impl", None) is not None
    return compiled_call or isinstance(model, torch._dynamo.eval_frame.OptimizedModule)
