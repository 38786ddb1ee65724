"""Attention as its softmax shows it: of each query and head the largest logit, and the weights' entropy.

An implementation that computes the weights (transformers' `eager`) gives its logits to a softmax over the
keys, with scale, biases and mask in them. Fused kernels (`sdpa`, flash, flex) hand out neither: of a call
without one the ledger says so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from normprobe.layers.module_attributes import attribute

FUSED_CALL = (
    "scaled_dot_product_attention shows neither logits nor weights; transformers shows them with "
    "attn_implementation='eager'"
)
OTHER_SHAPE = "a softmax over a tensor of shape {} is not read as (batch, heads, queries, keys)"

SOFTMAX: frozenset[Callable[..., Any]] = frozenset(
    (functional.softmax, torch.softmax, Tensor.softmax, torch.special.softmax)
)
FUSED: frozenset[Callable[..., Any]] = frozenset((functional.scaled_dot_product_attention,))

_HEADS = ("num_heads", "num_attention_heads", "n_heads", "n_head")


def logits_of(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor | None:
    """What a softmax reads, if it is over the last axis."""
    logits = args[0] if args else kwargs.get("input", kwargs.get("self"))
    dim = args[1] if len(args) > 1 else kwargs.get("dim", kwargs.get("axis"))
    if not isinstance(logits, Tensor) or not logits.is_floating_point() or logits.is_nested:
        return None
    return logits if dim in (-1, logits.dim() - 1) else None


def by_query(logits: Tensor, weights: Tensor, module: nn.Module, batch: int) -> tuple[Tensor, Tensor] | None:
    """The largest logit and the entropy of the weights in nats, both of shape (batch, queries, heads).

    Args:
        logits: what the softmax read, over the keys along the last axis.
        weights: what it gave.
        module: the attention.
        batch: how many examples the forward has, of which 3-D logits have one row a head each.

    Returns:
        None where the axes do not read as batch, heads and queries. Entropy is - sum p ln p, with 0 ln 0 = 0
        (Shannon 1948).
    """
    logits, weights = logits.detach(), weights.detach()
    if logits.dim() == 3 and batch > 0 and logits.shape[0] % batch == 0:
        sizes = (batch, -1, *logits.shape[1:])
        logits, weights = logits.reshape(sizes), weights.reshape(sizes)
    elif logits.dim() == 5:  # heads in groups that share keys
        logits, weights = (t.flatten(1, 2) for t in (logits, weights))
    if logits.dim() != 4 or weights.shape != logits.shape or not logits.shape[-1]:
        return None
    # Half types have too few digits for a sum over thousands of keys.
    dtype = torch.promote_types(weights.dtype, torch.float32)
    largest = logits.amax(-1).to(dtype)
    # entr is 0 at the weights of 0 that masked keys have, where w * log(w) would be NaN.
    entropy = torch.special.entr(weights.to(dtype)).sum(-1)
    # Where both axes are as long as there are heads, the usual order is taken.
    heads = next((attribute(module, name) for name in _HEADS if attribute(module, name)), None)
    if heads == logits.shape[2] != logits.shape[1]:  # (batch, queries, heads, keys)
        return largest, entropy
    return largest.transpose(1, 2), entropy.transpose(1, 2)
