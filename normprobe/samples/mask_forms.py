"""Masks in every form that models take, as one boolean grid.

1 and 0, booleans, additive floats; two, three or four axes; torch's inverted ``key_padding_mask``: each
becomes a boolean array (batch, positions), True where a position is real.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_BLOCKED = -9000.0
"""Additive masks block with -10,000 (-9,984 in bfloat16), the dtype's minimum or -inf."""


def to_real(mask: Tensor, *, inverted: bool = False) -> NDArray[np.bool_] | None:
    """A mask of any form as a boolean array (batch, positions), True = real; None if it is no such mask.

    Args:
        mask: shape (batch, positions), (batch, queries, keys) or (batch, heads, queries, keys), or
            (positions,) for a batch of one; bool, integer (0 = padding), or floating: 1 and 0, or additive
            (0 = real).
        inverted: True = padding, as torch's ``key_padding_mask`` has it.
    """
    if mask.is_nested or mask.is_meta or not 1 <= mask.dim() <= 4 or mask.is_complex() or mask.numel() == 0:
        return None
    # The usual mask, without operations of torch, which take a third longer for it.
    if type(mask) is Tensor and mask.is_cpu and mask.dim() == 2 and not mask.is_floating_point():
        numbers = mask.detach().numpy()
        return np.asarray(numbers == 0 if inverted else numbers != 0)
    allowed = _allowed(mask.detach(), inverted)
    if allowed.dim() == 1:
        allowed = allowed.unsqueeze(0)
    if allowed.dim() > 2:
        allowed = _keys(allowed.flatten(1, -3).any(1) if allowed.dim() == 4 else allowed)
    return np.asarray(allowed.cpu().numpy(), np.bool_)


def _allowed(mask: Tensor, inverted: bool) -> Tensor:
    """Elementwise, whether the mask lets a position be read."""
    if mask.is_floating_point():
        # 1 and 0 differ from an additive mask without padding, all 0, only by having a 1.
        multiplied = not inverted and bool((mask > 0).any())
        return mask > 0 if multiplied else mask > _BLOCKED
    nonzero = mask if mask.dtype == torch.bool else mask != 0
    return ~nonzero if inverted else nonzero


def _keys(allowed: Tensor) -> Tensor:
    """Which keys are real, (batch, keys), given (batch, queries, keys): those that a query reads.

    Queries in padding are often opened wholly to keep the softmax finite, so a query that reads everything
    says nothing, unless it is the last of a causal mask or no query is kept from anything.
    """
    queries, keys = allowed.shape[1:]
    full = allowed.all(-1)
    future = torch.ones_like(allowed[0]).triu(keys - queries + 1)
    reads_future = (allowed & future & ~full.unsqueeze(-1)).flatten(1).any(1)
    counts = ~full | full.all(1, keepdim=True)
    counts[:, -1] |= (full.sum(1) == 1) & ~reads_future
    return (allowed & counts.unsqueeze(-1)).any(1)
