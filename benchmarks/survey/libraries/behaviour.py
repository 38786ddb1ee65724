"""What a norm computes, by one call of it in float64: independent of how normprobe decides."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

FITS = 2e-3
"""A reading fits a call if what it leaves unexplained has at most this share of the output's norm."""
LEAST_ROWS = 4


@dataclass(frozen=True)
class Reading:
    """One way in which a norm may work.

    Attributes:
        kind: the word of the ledger.
        axis: the feature axis.
        trailing: how many axes, from there to the last, are the features.
        unit: what it treats on its own.
        groups: of a group norm.
        stored: a batch norm that applies running statistics.
    """

    kind: str
    axis: int
    trailing: int = 1
    unit: str = "position"
    groups: int = 1
    stored: bool = False


@dataclass(frozen=True)
class Fit:
    """A reading that reproduces a call, with the scale and shift that it needs for that.

    Attributes:
        reading: the reading.
        rest: what it leaves unexplained, as a share of the output.
        weight: the scale of each feature; NaN where the call does not tell it.
    """

    reading: Reading
    rest: float
    weight: Tensor


def fits(module: nn.Module, x: Tensor, y: Tensor) -> list[Fit]:
    """Every reading that reproduces a call, the best first.

    Args:
        module: the norm; its eps and running statistics are read.
        x: its input.
        y: its output, of the same shape.
    """
    if x.shape != y.shape or x.dim() < 2:
        return []
    found, (x, y) = [], (x.double(), y.double())
    for reading in _readings(module, x):
        normalized = _normalized(module, reading, x)
        if normalized is not None:
            rest, weight = _affine(reading, normalized, y)
            if rest < FITS and (reading.kind != "batch_norm" or _is_stored(module, weight)):
                found.append(Fit(reading, rest, weight))
    return sorted(found, key=lambda fit: fit.rest)


def _readings(module: nn.Module, x: Tensor) -> Iterator[Reading]:
    """Every reading that is tried: features last or along axis 1."""
    for axis in dict.fromkeys((-1, 1)):
        if axis == 1 and x.dim() < 3:
            continue
        yield Reading("layer_norm", axis)
        yield Reading("rms_norm", axis)
    for axis in (1,) if x.dim() > 2 else (-1,):
        for stored in (True, False):
            yield Reading("batch_norm", axis, unit="example", stored=stored)
        yield Reading("group_norm", axis, unit="example", groups=int(getattr(module, "num_groups", 1) or 1))
        if x.dim() > 2:
            yield Reading("instance_norm", axis, unit="example")
    shape = getattr(module, "normalized_shape", ())
    if isinstance(shape, (tuple, list, torch.Size)) and len(shape) > 1:
        yield Reading("layer_norm", -1, len(shape))


def _normalized(module: nn.Module, reading: Reading, x: Tensor) -> Tensor | None:
    """The input, normalized in one way, before any scale and shift."""
    eps = _eps(module)
    if reading.kind in ("layer_norm", "rms_norm"):
        axes = tuple(range(-reading.trailing, 0)) if reading.axis == -1 else (1,)
        return _standard(x, axes, eps, centred=reading.kind == "layer_norm")
    if reading.kind == "instance_norm":
        return _standard(x, tuple(range(2, x.dim())), eps)
    if reading.kind == "batch_norm":
        return _running(module, x, eps) if reading.stored else _batch(x, eps)
    if x.shape[1] % reading.groups:
        return None
    grouped = x.reshape(x.shape[0], reading.groups, -1)
    return _standard(grouped, (2,), eps).reshape(x.shape)


def _batch(x: Tensor, eps: float) -> Tensor | None:
    """By the moments of the batch."""
    return _standard(x, (0, *range(2, x.dim())), eps) if len(x) > 1 or x.dim() > 2 else None


def _running(module: nn.Module, x: Tensor, eps: float) -> Tensor | None:
    """By running statistics."""
    mean, variance = (_vector(module, x, name) for name in ("running_mean", "running_var"))
    return None if mean is None or variance is None else (x - mean) / (variance + eps).sqrt()


def _is_stored(module: nn.Module, weight: Tensor) -> bool:
    """Whether a scale is one that the module stores, or 1.

    Whatever only scales and shifts each feature is a batch norm with some scale.
    """
    own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
    vectors = [tensor.detach().double().flatten() for tensor in own if tensor.numel() == len(weight)]
    known = ~weight.isnan()
    candidates = (torch.ones_like(weight), *vectors)
    return any(torch.allclose(weight[known], one[known], rtol=1e-2) for one in candidates)


def _vector(module: nn.Module, x: Tensor, name: str) -> Tensor | None:
    value = getattr(module, name, None)
    if not isinstance(value, Tensor) or value.numel() != x.shape[1]:
        return None
    return value.detach().double().reshape(1, -1, *[1] * (x.dim() - 2))


def _standard(x: Tensor, axes: tuple[int, ...], eps: float, centred: bool = True) -> Tensor:
    d = x - x.mean(axes, keepdim=True) if centred else x
    return d / (d.square().mean(axes, keepdim=True) + eps).sqrt()


def _eps(module: nn.Module) -> float:
    for name in ("eps", "epsilon", "variance_epsilon", "norm_eps"):
        value: Any = getattr(module, name, None)
        if isinstance(value, float):
            return value
    return 1e-5


def _affine(reading: Reading, normalized: Tensor, y: Tensor) -> tuple[float, Tensor]:
    """How far the output is from the nearest scaled and shifted form; the scale of each feature."""
    a, b = (_rows(reading, tensor) for tensor in (normalized, y))
    if len(a) < LEAST_ROWS:
        return float("inf"), a
    centred, target = a - a.mean(0), b - b.mean(0)
    spread = centred.square().sum(0)
    weight = torch.where(spread > 1e-12, (centred * target).sum(0) / spread.clamp(min=1e-30), torch.nan)
    scale = weight.nan_to_num()
    rest = target - centred * scale
    size = float(target.square().sum().sqrt())
    return (float(rest.square().sum().sqrt()) / size if size else float("inf")), weight


def _rows(reading: Reading, x: Tensor) -> Tensor:
    if reading.axis == 1:
        return x.movedim(1, -1).reshape(-1, x.shape[1])
    return x.reshape(-1, int(torch.tensor(x.shape[-reading.trailing :]).prod()))
