"""What a norm applies after normalizing: the scale and shift that it stores, and its scale as applied.

A norm scales by its weight w, or by 1 + w (Gemma, Nemotron), and no attribute says which. `affines` lists
the ways; `identify` takes the one that makes the output of a call, as the ``offset`` 0 or 1; `applied_weight`
is the scale that results. A registered layer type may say its scale itself (``View.weight``).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from normprobe.layers.module_attributes import attribute
from normprobe.layers.view import View

_NAMES = {
    "weight": ("weight", "gamma", "scale", "gain", "g"),
    "bias": ("bias", "beta", "shift", "b"),
}


@dataclass(frozen=True, eq=False)
class Affine:
    """A scale and a shift that a norm may apply.

    Attributes:
        scale: shape (features,), or one that broadcasts against the values; None for 1.
        shift: the same; None for 0.
        offset: what is added to the stored weight, 0 or 1.
    """

    scale: Tensor | None
    shift: Tensor | None
    offset: float

    def scaled(self, values: Tensor) -> Tensor:
        """Values of shape (..., features) times the scale.

        Without the shift: errors are taken relative to the output less the shift, which a large shift would
        otherwise hide.
        """
        return values if self.scale is None else values * self.scale

    def of_heads(self, heads: int, index: Tensor) -> Affine:
        """The same for vectors of one head each, shape (samples, 1, features of a head).

        Args:
            heads: how many heads it stores a row of features for; heads run fastest among the vectors.
            index: which of all vectors the samples are, shape (samples,).
        """
        scale, shift = (
            None if vectors is None else vectors.reshape(heads, -1)[index % heads][:, None]
            for vectors in (self.scale, self.shift)
        )
        return Affine(scale, shift, self.offset)


def affines(module: nn.Module, width: int) -> Iterator[Affine]:
    """The ways in which a norm may apply what it stores: the weight as it stands, or 1 + weight."""
    weight, bias = vector(module, "weight", width), vector(module, "bias", width)
    if weight is None:
        yield Affine(None, bias, 0.0)
        return
    for offset in (0.0, 1.0):
        yield Affine(weight + offset, bias, offset)


def applied_weight(module: nn.Module, view: View, offset: float | None, width: int) -> Tensor | None:
    """The scale as applied, float64 of shape (width,) on the CPU; None where it is unknown.

    Args:
        module: the norm.
        view: how it is read; its ``weight`` decides where it has one.
        offset: what the norm adds to its stored weight; None where its calls do not show it.
        width: the number of its features.
    """
    declared = view.weight(module) if view.weight is not None else None
    if declared is not None:
        weight: Tensor | None = declared.detach().cpu().to(torch.float64).reshape(-1)
    else:
        weight = vector(module, "weight", width)
    if weight is not None:
        return weight + (offset or 0.0)
    bare = offset is not None and attribute(module, "weight") is None
    return torch.ones(width, dtype=torch.float64) if bare else None


def ones(module: nn.Module) -> Tensor | None:
    """The scale of a norm that scales its input, not what is normalized: 1 for each of its weights."""
    weight = attribute(module, "weight")
    return torch.ones_like(weight) if isinstance(weight, Tensor) else None


def vector(module: nn.Module, name: str, width: int) -> Tensor | None:
    """A module's tensor of this name as float64 of shape (width,) on the CPU, if it has that many numbers.

    A ``weight`` may also be called gamma, scale, gain or g, a ``bias`` beta, shift or b.
    """
    for alias in _NAMES.get(name, (name,)):
        value = attribute(module, alias)
        if isinstance(value, Tensor) and value.is_meta:
            value = _offloaded(module, alias)
        if isinstance(value, Tensor) and not value.is_meta and value.numel() == width:
            return value.detach().cpu().to(torch.float64).reshape(-1)
    return None


def _offloaded(module: nn.Module, name: str) -> Tensor | None:
    """A tensor that accelerate keeps elsewhere and puts in place only while the module computes."""
    # Private to accelerate (`AlignDevicesHook.weights_map`); where it is missing the tensor is unknown.
    weights = attribute(attribute(module, "_hf_hook"), "weights_map")
    return weights[name] if weights is not None and name in weights else None
