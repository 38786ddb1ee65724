"""What a norm's first call shows of it: whether it centres, and which scale it applies.

Names lie (`T5LayerNorm` does not centre, Gemma scales by 1 + weight), so input and output decide: of the
few formulas in use, the one that reproduces the output.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor, nn

from normprobe.views import eps_of

_ROWS = 256
_AGREES = 0.02
"""Largest relative error of a formula that counts as reproducing a call; bfloat16 rounds by 0.004."""


@dataclass(frozen=True)
class Behaviour:
    """How a norm over its last axis computes.

    Attributes:
        centred: it subtracts the mean of the features.
        offset: what it adds to its stored weight before scaling, 0 or 1.
    """

    centred: bool
    offset: float


def observe(module: nn.Module, before: Tensor, after: Tensor, *, centred: bool) -> Behaviour | None:
    """Find the formula that turns ``before`` into ``after``, both (..., features); None if none does.

    Where the data cannot tell (their mean is zero), what the name says, ``centred``, decides.
    """
    if before.shape != after.shape or before.numel() == 0 or before.shape[-1] < 2:
        return None
    x, y = _rows(before, after)
    if len(x) == 0:
        return None
    errors = [
        (float((formula - y).norm() / y.norm().clip(1e-30)), behaviour)
        for behaviour, formula in _formulas(module, x)
    ]
    best = min(error for error, _ in errors)
    if not best <= _AGREES:
        return None
    ties = [behaviour for error, behaviour in errors if error <= 3 * best + 1e-6]
    return min(ties, key=lambda behaviour: behaviour.centred is not centred)


def _rows(*tensors: Tensor) -> list[Tensor]:
    """The same rows of each tensor in float64: up to 256 spread over it, those that are finite."""
    flat = [values.detach().reshape(-1, values.shape[-1]) for values in tensors]
    rows = [values[:: -(-len(values) // _ROWS)].to(torch.float64) for values in flat]
    finite = torch.stack([values.isfinite().all(1) for values in rows]).all(0)
    return [values[finite] for values in rows]


def _formulas(module: nn.Module, x: Tensor) -> Iterator[tuple[Behaviour, Tensor]]:
    width = x.shape[1]
    weight, bias = vector(module, "weight", width), vector(module, "bias", width)
    shift = 0.0 if bias is None else bias
    given = eps_of(module)
    eps = 1e-6 if given is None else given
    for centred, offset in product((False, True), (0.0,) if weight is None else (0.0, 1.0)):
        d = x - x.mean(1, keepdim=True) if centred else x
        normalized = d / (d.square().mean(1, keepdim=True) + eps).sqrt()
        scale = 1.0 if weight is None else weight + offset
        yield Behaviour(centred, offset), normalized * scale + shift


def vector(module: nn.Module, name: str, width: int) -> Tensor | None:
    """A module's tensor of this name as float64 of shape (width,), if it has one of that many numbers."""
    value = getattr(module, name, None)
    if not isinstance(value, Tensor) or value.is_meta or value.numel() != width:
        return None
    return value.detach().to(torch.float64).reshape(-1)
