"""Corruptions of 8 x 8 images in [0, 1], three strengths each: photometric ones, and others."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, conv2d, grid_sample, interpolate

Corruption = Callable[[Tensor], Tensor]
"""From images (examples, 64) to images (examples, 64)."""


def square(x: Tensor) -> Tensor:
    return x.view(-1, 1, 8, 8)


def normal(x: Tensor) -> Tensor:
    return torch.randn(x.shape, generator=torch.Generator().manual_seed(0))


def uniform(x: Tensor) -> Tensor:
    return torch.rand(x.shape, generator=torch.Generator().manual_seed(1))


def moved(matrix: list[list[float]], x: Tensor) -> Tensor:
    """Apply an affine map of the plane."""
    theta = torch.tensor(matrix, dtype=torch.float32).expand(len(x), 2, 3)
    grid = affine_grid(theta, [len(x), 1, 8, 8], align_corners=False)
    return grid_sample(square(x), grid, align_corners=False).flatten(1)


def rotated(degrees: float, x: Tensor) -> Tensor:
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return moved([[cosine, -sine, 0], [sine, cosine, 0]], x)


def convolved(kernel: list[list[float]], x: Tensor) -> Tensor:
    weights = torch.tensor(kernel, dtype=torch.float32)
    weights = weights / weights.sum()
    return conv2d(square(x), weights[None, None], padding="same").flatten(1)


def pixelated(side: int, x: Tensor) -> Tensor:
    small = interpolate(square(x), size=side, mode="area")
    return interpolate(small, size=8).flatten(1)


def occluded(rows: int, x: Tensor) -> Tensor:
    hidden = square(x).clone()
    hidden[:, :, :rows] = 0
    return hidden.flatten(1)


def flipped(every: int, x: Tensor) -> Tensor:
    chosen = (torch.arange(len(x)) % every == 0)[:, None]
    return torch.where(chosen, square(x).flip(3).flatten(1), x)


def salted(share: float, x: Tensor) -> Tensor:
    return torch.where(uniform(x) < share, (normal(x) > 0).float(), x)


def three(change: Callable[..., Tensor], *strengths: object) -> list[Corruption]:
    return [partial(change, strength) for strength in strengths]


PHOTOMETRIC: dict[str, list[Corruption]] = {
    "brighter": three(lambda a, x: x + a, 0.2, 0.5, 1.0),
    "darker": three(lambda a, x: x - a, 0.2, 0.5, 1.0),
    "less contrast": three(lambda a, x: x * a, 0.6, 0.3, 0.15),
    "more contrast": three(lambda a, x: x * a, 1.7, 3.0, 6.0),
    "contrast about grey": three(lambda a, x: (x - 0.5) * a + 0.5, 0.6, 0.3, 0.15),
    "gamma up": three(lambda a, x: x**a, 1.7, 3.0, 6.0),
    "gamma down": three(lambda a, x: x**a, 0.6, 0.3, 0.1),
    "inverted": three(lambda a, x: x * (1 - a) + (1 - x) * a, 0.3, 0.6, 1.0),
    "fog": three(lambda a, x: x + a * torch.linspace(0, 1, 8).repeat(8), 0.3, 0.7, 1.2),
    "clipped": three(lambda a, x: x.clamp(max=a), 0.6, 0.3, 0.15),
    "fewer greys": three(lambda a, x: (x * a).round() / a, 3, 2, 1),
}
OTHER: dict[str, list[Corruption]] = {
    "noise": three(lambda a, x: x + a * normal(x), 0.1, 0.3, 0.6),
    "speckle": three(lambda a, x: x * (1 + a * normal(x)), 0.3, 0.7, 1.5),
    "salt and pepper": three(salted, 0.05, 0.15, 0.4),
    "lost pixels": three(lambda a, x: x * (uniform(x) > a), 0.1, 0.3, 0.6),
    "blur": three(convolved, [[1, 2, 1], [2, 8, 2], [1, 2, 1]], [[1] * 3] * 3, [[1] * 5] * 5),
    "motion": three(convolved, [[1, 2, 1]], [[1] * 3], [[1] * 5]),
    "pixels": three(pixelated, 6, 4, 2),
    "rotation": three(rotated, 15, 35, 90),
    "shift": three(lambda a, x: square(x).roll(a, 3).flatten(1), 1, 2, 3),
    "closer": three(lambda a, x: moved([[a, 0, 0], [0, a, 0]], x), 0.85, 0.7, 0.5),
    "farther": three(lambda a, x: moved([[a, 0, 0], [0, a, 0]], x), 1.2, 1.5, 2.0),
    "shear": three(lambda a, x: moved([[1, a, 0], [0, 1, 0]], x), 0.2, 0.5, 1.0),
    "occlusion": three(occluded, 2, 3, 5),
    "stripes": three(lambda a, x: x + a * torch.tensor([0.0, 1.0] * 4).repeat(8), 0.2, 0.5, 1.0),
    "mirrored": three(flipped, 3, 2, 1),
}
