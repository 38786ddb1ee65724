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

from normprobe.layers.module_attributes import NAMES, attribute, is_lazy, own_tensors
from normprobe.layers.view import View


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
    yield from affines_of(vector(module, "weight", width), vector(module, "bias", width))


def affines_of(weight: Tensor | None, bias: Tensor | None) -> Iterator[Affine]:
    """The ways in which this weight and bias, as float64, may be applied."""
    if weight is None:
        yield Affine(None, bias, 0.0)
        return
    for offset in (0.0, 1.0):
        yield Affine(weight + offset, bias, offset)


def applied_weight(
    module: nn.Module, view: View, offset: float | None, width: int, factor: float = 1.0
) -> Tensor | None:
    """The scale as applied, float64 of shape (width,) on the CPU; None where it is unknown.

    Args:
        module: the norm.
        view: how it is read; its ``weight`` decides where it has one.
        offset: what the norm adds to its stored weight; None where its calls do not show it.
        width: the number of its features.
        factor: what all of that is multiplied by: an L2 norm has 1 / sqrt(width) to a root mean square's 1.
    """
    declared = view.weight(module) if view.weight is not None else None
    if declared is not None:
        weight: Tensor | None = declared.detach().cpu().to(torch.float64).reshape(-1)
    else:
        weight = vector(module, "weight", width)
    if weight is not None:
        return (weight + (offset or 0.0)) * factor
    # A weight of another size is there and not understood: then the scale is unknown, not 1.
    bare = offset is not None and next(tensors_named(module, "weight"), None) is None
    return torch.full((width,), factor, dtype=torch.float64) if bare else None


def applied_bias(module: nn.Module, width: int, *, known: bool) -> Tensor | None:
    """The shift as applied, float64 of shape (width,) on the CPU; None where it is unknown.

    Args:
        module: the norm.
        width: the number of its features.
        known: its scale as applied is known, so what it stores says whether it has a shift at all.
    """
    bias = vector(module, "bias", width)
    if bias is None and known and next(tensors_named(module, "bias"), None) is None:
        return torch.zeros(width, dtype=torch.float64)
    return bias


def several_per_feature(module: nn.Module, width: int) -> bool:
    """Whether a norm stores more than one scale or shift a feature, one for each head, say."""
    return any(
        vector(module, name, width) is None and any(t.numel() > width for t in tensors_named(module, name))
        for name in ("weight", "bias")
    )


def ones(module: nn.Module) -> Tensor | None:
    """The scale of a norm that scales its input, not what is normalized: 1 for each of its weights."""
    weight = attribute(module, "weight")
    return torch.ones_like(weight) if isinstance(weight, Tensor) else None


def vector(module: nn.Module, name: str, width: int) -> Tensor | None:
    """A module's tensor of this name as float64 of shape (width,) on the CPU, if it has that many numbers.

    A ``weight`` may also be called gamma, scale, gain or g, a ``bias`` beta, shift or b; a single number
    counts for all features.
    """
    for value in tensors_named(module, name):
        if value.numel() == width:
            return value.detach().cpu().to(torch.float64).reshape(-1)
    if name in ("weight", "bias"):
        # One number for all features (ScaleNorm; Nguyen, Salazar 2019, arXiv:1910.05895).
        for value in tensors_named(module, name):
            if value.numel() == 1 and value.is_floating_point():
                return value.detach().cpu().to(torch.float64).reshape(1).repeat(width)
    return None


def tensors_named(module: nn.Module, name: str) -> Iterator[Tensor]:
    """The tensors that a module has under this name or another of the same meaning."""
    own = own_tensors(module)
    for alias in NAMES.get(name, (name,)):
        # The attribute first: under a parametrization it is what is applied, the stored tensor is not.
        value = attribute(module, alias, own.get(alias))
        value = value if isinstance(value, Tensor) else own.get(alias)
        if isinstance(value, Tensor) and value.is_meta:
            value = _offloaded(module, alias)
        # Of one that is spread over processes, what this one has.
        if isinstance(value, Tensor) and type(value).__name__ == "DTensor":
            value = value.to_local()  # type: ignore[attr-defined]
        if isinstance(value, Tensor) and not value.is_meta and not is_lazy(value):
            yield value


def _offloaded(module: nn.Module, name: str) -> Tensor | None:
    """A tensor that accelerate keeps elsewhere and puts in place only while the module computes."""
    # Private to accelerate (`AlignDevicesHook.weights_map`); where it is missing the tensor is unknown.
    weights = attribute(attribute(module, "_hf_hook"), "weights_map")
    return weights[name] if weights is not None and name in weights else None
