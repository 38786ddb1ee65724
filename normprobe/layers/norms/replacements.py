"""The norms that `swap_norms` puts in: each kind over the last axis, and over axis 1 (channels).

A pickled model names the module of each class in it. Those below name `normprobe.counterparts`, where
normprobe 0.1 defined them: that path stays, wherever this file moves, and versions read one another's models.
So a class here is never renamed or taken away, a new one is handed on by `normprobe.counterparts`, too, and
what a class stores keeps its name.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from normprobe.layers.view_registry import register_view

_LEAST_IN_A_GROUP = 4
"""Of fewer features a mean and a variance say little: two would become +1 and -1."""

_HOME = "normprobe.counterparts"


@dataclass(frozen=True)
class NormShape:
    """What a new norm takes over from the one it replaces.

    Attributes:
        sizes: sizes of the axes that make up its features: `(features,)`, or several.
        channels: the features lie on axis 1, not on the last.
        eps: the constant in the denominator.
        weight: the scale as applied, float64 of shape (features,), or None.
        bias: the shift as applied, likewise.
        groups: for group normalization, how many.
    """

    sizes: tuple[int, ...]
    channels: bool
    eps: float
    weight: Tensor | None
    bias: Tensor | None
    groups: int = 1

    @property
    def width(self) -> int:
        """How many features there are."""
        return math.prod(self.sizes)

    @property
    def affine(self) -> bool:
        """Whether there is a scale or a shift."""
        return self.weight is not None or self.bias is not None


class FeatureBatchNorm(nn.BatchNorm1d):
    """Batch normalization of (..., features): mean and variance over all leading axes."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalize each feature over every row."""
        return super().forward(x.reshape(-1, x.shape[-1])).reshape(x.shape)


class FeatureGroupNorm(nn.GroupNorm):
    """Group normalization of (..., features): each row on its own."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalize each row over each group of its features."""
        return super().forward(x.reshape(-1, x.shape[-1])).reshape(x.shape)


class FeatureRMSNorm(nn.RMSNorm):
    """Root-mean-square normalization of (..., features) with a shift, which torch's own has not."""

    def __init__(self, sizes: tuple[int, ...], eps: float) -> None:
        super().__init__(sizes, eps=eps)
        self.bias = nn.Parameter(torch.zeros(sizes))

    def forward(self, x: Tensor) -> Tensor:
        """Scale each row to root mean square 1; then the layer's own scale and shift."""
        return super().forward(x) + self.bias


class ChannelBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch normalization of (examples, channels, ...) with any number of axes behind."""

    def _check_input_dim(self, x: Tensor) -> None:
        if x.dim() < 2:
            raise ValueError(f"ChannelBatchNorm needs (examples, channels, ...), got {tuple(x.shape)}")


class ChannelLayerNorm(nn.GroupNorm):
    """Layer normalization of (examples, channels, ...) over all but the first axis: one group."""

    def __init__(self, channels: int, eps: float, affine: bool) -> None:
        super().__init__(1, channels, eps=eps, affine=affine)


class ChannelRMSNorm(nn.Module):
    """Root-mean-square normalization of (examples, channels, ...) over all but the first axis."""

    def __init__(self, channels: int, eps: float, affine: bool) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels)) if affine else None
        self.bias = nn.Parameter(torch.zeros(channels)) if affine else None

    def forward(self, x: Tensor) -> Tensor:
        """Scale each example to root mean square 1; then each channel's scale and shift."""
        # As torch's own norms do: the squares of half precision would overflow at 256.
        values = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        square = values.square().mean(dim=tuple(range(1, x.dim())), keepdim=True)
        normalized = (values * torch.rsqrt(square + self.eps)).to(x.dtype)
        if self.weight is None or self.bias is None:
            return normalized
        across = (-1,) + (1,) * (x.dim() - 2)
        return normalized * self.weight.view(across) + self.bias.view(across)


for _cls in (
    FeatureBatchNorm,
    FeatureGroupNorm,
    FeatureRMSNorm,
    ChannelBatchNorm,
    ChannelLayerNorm,
    ChannelRMSNorm,
):
    _cls.__module__ = _HOME

# The others are read as the torch class they derive from.
register_view(FeatureBatchNorm, kind="batch_norm", axis=-1, sample="example")
register_view(FeatureGroupNorm, kind="group_norm", axis=-1)
register_view(ChannelLayerNorm, kind="layer_norm", axis=1, sample="example")
register_view(ChannelRMSNorm, kind="rms_norm", axis=1, sample="example")


def new_norm(kind: str, shape: NormShape) -> nn.Module:
    """A norm of a kind with the shape, scale and shift of another, in torch's default dtype.

    Args:
        kind: `layer_norm`, `batch_norm`, `group_norm` or `rms_norm`.
        shape: what it takes over.
    """
    norm = _untrained(kind, shape)
    with torch.no_grad():
        for name, value in (("weight", shape.weight), ("bias", shape.bias)):
            parameter = getattr(norm, name, None)
            if parameter is not None and value is not None:
                parameter.copy_(value.reshape(parameter.shape))
    return norm


def _untrained(kind: str, shape: NormShape) -> nn.Module:
    """A norm of this kind with a scale of 1 and a shift of 0."""
    width, eps, affine = shape.width, shape.eps, shape.affine
    settings: dict[str, Any] = {"eps": eps, "affine": affine}
    if kind == "batch_norm":
        return (ChannelBatchNorm if shape.channels else FeatureBatchNorm)(width, **settings)
    if kind == "group_norm":
        return (nn.GroupNorm if shape.channels else FeatureGroupNorm)(shape.groups, width, **settings)
    if shape.channels:
        return (ChannelLayerNorm if kind == "layer_norm" else ChannelRMSNorm)(width, **settings)
    if kind == "layer_norm":
        return nn.LayerNorm(shape.sizes, eps=eps, elementwise_affine=affine)
    # Torch's own where it will do, so that a reader of the copy meets a class known to them.
    if shape.bias is None:
        return nn.RMSNorm(shape.sizes, eps=eps, elementwise_affine=affine)
    return FeatureRMSNorm(shape.sizes, eps)


def groups_for(features: int, most: int) -> int:
    """The largest divisor of the number of features up to `most` that leaves at least 4 to a group.

    >>> groups_for(384, 32), groups_for(50, 32), groups_for(7, 32)
    (32, 10, 1)
    """
    return max(
        (n for n in range(1, min(most, features // _LEAST_IN_A_GROUP) + 1) if features % n == 0), default=1
    )
