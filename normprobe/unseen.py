"""Why a layer's hook never fired: status and reason for the ledger."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from normprobe.layers import Layer


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
