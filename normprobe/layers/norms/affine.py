"""The scale and shift that a norm stores, under any of their usual names, and how it may apply them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

_NAMES = {
    "weight": ("weight", "gamma", "scale", "gain", "g"),
    "bias": ("bias", "beta", "shift", "b"),
}


@dataclass(frozen=True, eq=False)
class Affine:
    """A scale and a shift that a norm may apply.

    Attributes:
        scale: shape (features,), or one that fits the values; None for 1.
        shift: the same; None for 0.
        offset: what is added to the stored weight, 0 or 1.
    """

    scale: Tensor | None
    shift: Tensor | None
    offset: float

    def apply(self, values: Tensor) -> Tensor:
        """Scale values of shape (..., features); the shift is left to the caller."""
        return values if self.scale is None else values * self.scale

    def of_heads(self, heads: int, index: Tensor) -> Affine:
        """The same for vectors of one head each, shape (samples, 1, features of a head).

        Args:
            heads: how many rows of features it stores; heads run fastest among the vectors.
            index: which of all vectors the samples are, shape (samples,).
        """
        scale, shift = (
            None if numbers is None else numbers.reshape(heads, -1)[index % heads][:, None]
            for numbers in (self.scale, self.shift)
        )
        return Affine(scale, shift, self.offset)


def affines(module: nn.Module, width: int) -> Iterator[Affine]:
    """The ways a norm may apply what it stores: as it stands, or 1 + weight."""
    weight, bias = vector(module, "weight", width), vector(module, "bias", width)
    if weight is None:
        yield Affine(None, bias, 0.0)
        return
    for offset in (0.0, 1.0):
        yield Affine(weight + offset, bias, offset)


def _offloaded(module: nn.Module, name: str) -> Tensor | None:
    """A tensor that accelerate keeps elsewhere and puts in place only while the module computes."""
    held = getattr(getattr(module, "_hf_hook", None), "weights_map", None)
    return held[name] if held is not None and name in held else None


def vector(module: nn.Module, name: str, width: int) -> Tensor | None:
    """A module's tensor of this name as float64 of shape (width,) on the CPU, if it has that many numbers.

    A ``weight`` may also be called gamma, scale, gain or g, a ``bias`` beta, shift or b.
    """
    for alias in _NAMES.get(name, (name,)):
        value = getattr(module, alias, None)
        if isinstance(value, Tensor) and value.is_meta:
            value = _offloaded(module, alias)
        if isinstance(value, Tensor) and not value.is_meta and value.numel() == width:
            return value.detach().cpu().to(torch.float64).reshape(-1)
    return None
