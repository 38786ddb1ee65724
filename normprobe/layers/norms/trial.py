"""A norm of an unknown class tried on random numbers: what it computes, and which activation is behind it.

Only a copy is run, so what the norm stores (running statistics above all) stays as it is.
"""

from __future__ import annotations

import copy
import inspect
import math
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from normprobe.layers.norms.affine import ones
from normprobe.layers.norms.identify import Identification, identify
from normprobe.layers.view import View

_SAMPLES, _FEWEST, _NUMBERS = 64, 8, 2**16
"""More examples than `identify` needs to fit a scale and shift; of a wide norm fewer, so that it is quick."""

_KINDS = ("layer_norm", "rms_norm", "group_norm", "instance_norm", "batch_norm")

# What a reason may say of a norm that is exchanged like any other: its kind, its axis, its activation.
_HARMLESS = ("its class says", "what it computes shows", "its output is ", "it divides by the variance of")
_NO_NORM = "what it computes is no normalization of a sample's features, scaled and shifted"
_SCALES_INPUT = "its weight scales its input, not what it normalizes"

_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
    "leakyrelu": nn.LeakyReLU,
    "hardswish": nn.Hardswish,
    "elu": nn.ELU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
}
"""Modules of the activations that a norm may apply without having one, by their names in small letters."""


class CannotSwapError(Exception):
    """The reason why a norm stays as it is."""


@dataclass(frozen=True)
class Trial:
    """What a norm computes.

    Attributes:
        kind: one of `vocabulary.NORM_KINDS`.
        channels: whether its features lie on axis 1, not on the last.
        offset: what it adds to its stored weight before scaling.
        factor: what it scales by beside its stored weight.
        activation: what its output goes through, or "".
        obstacle: why no new norm could do what it does, or "".
    """

    kind: str
    channels: bool
    offset: float = 0.0
    factor: float = 1.0
    activation: str = ""
    obstacle: str = ""


def try_norm(module: nn.Module, view: View, width: int) -> Trial:
    """Run a copy of a norm on random numbers and see what it computes.

    Args:
        module: the norm.
        view: how it is read by its class.
        width: how many features it has.

    Raises:
        CannotSwapError: it cannot be run, or what it computes is not known.
    """
    arguments = inspect.signature(module.forward).parameters
    if len(arguments) != 1:
        raise CannotSwapError(f"its forward takes {len(arguments)} arguments, a norm's one")
    failure: Exception | None = None
    for before in _inputs(module, view, width):
        try:
            after = _output(module, view, before)
        except Exception as error:
            failure = error
            continue
        if not isinstance(after, Tensor) or after.shape != before.shape:
            raise CannotSwapError(_NO_NORM)
        found = identify(module, view, before, after)
        # Its class says the last axis: an image shows whether it is axis 1 after all, and nothing more.
        if before.dim() > 3 and view.axis != 1 and found.view.axis != 1:
            continue
        return _judged(found)
    raise CannotSwapError(
        f"it cannot be tried on random numbers ({type(failure).__name__}: {failure})"
    ) from failure


def with_activation(new: nn.Module, old: nn.Module, activation: str) -> nn.Module:
    """A new norm and, behind it, the activation that was in the module of the old one.

    Raises:
        CannotSwapError: there is no module of that activation.
    """
    parts = OrderedDict(old.named_children())
    if activation not in {type(part).__name__ for part in parts.values()}:
        made = _ACTIVATIONS.get(activation.lower().replace("_", ""))
        if made is None:
            raise CannotSwapError(f"its activation {activation} is no module that could be kept")
        parts = OrderedDict(act=made())
    return nn.Sequential(OrderedDict(norm=new, **parts)).train(old.training)


def _inputs(module: nn.Module, view: View, width: int) -> Iterator[Tensor]:
    """Random numbers in the shapes that a norm may take: images first, which show the axis."""
    like = next(module.parameters(), torch.empty(0))
    # A generator of its own: torch's random state is the user's.
    generator = torch.Generator().manual_seed(0)
    channels = [(width, 3, 2), (width, 4), (width, 2, 2, 2)]
    rows: list[tuple[int, ...]] = [(width,), (5, width)]
    for sizes in [*channels, *rows] if view.axis == 1 else [channels[0], *rows]:
        samples = min(_SAMPLES, max(_FEWEST, _NUMBERS // math.prod(sizes)))
        values = torch.randn(samples, *sizes, generator=generator)
        # Now one feature is the largest by far, now another: what a scale of the input does depends on which.
        values = values * (2 * torch.randn(values.shape, generator=generator)).exp()
        # Channels, or rows, of different means: a norm that subtracts none shows it, and channels normalized
        # one by one come out unlike those normalized together.
        by_channel = sizes in channels
        levels = (
            torch.arange(width).reshape(-1, *[1] * (len(sizes) - 1)) if by_channel else values[..., :1] * 3
        )
        yield (values + levels).to(like)


def _output(module: nn.Module, view: View, before: Tensor) -> Any:
    """What a copy of the norm makes of a tensor, by the batch's own statistics where it has any."""
    tried = copy.deepcopy(module).eval()
    # Its own mode alone: a dropout inside must stay off.
    tried.training = view.kind == "batch_norm"
    with torch.no_grad():
        return tried(before.clone())


def _judged(found: Identification) -> Trial:
    """What an identification says that a norm computes.

    Raises:
        CannotSwapError: that is not known, or not what its kind says.
    """
    if found.offset is None or not found.decided or found.view.kind not in _KINDS:
        raise CannotSwapError(_NO_NORM)
    scales_input = found.view.weight is ones
    odd = [part for part in found.reason.split("; ") if part and not part.startswith(_HARMLESS)]
    if odd and not scales_input:
        raise CannotSwapError(odd[0])
    obstacle = _SCALES_INPUT if scales_input else ""
    channels = found.view.axis == 1
    return Trial(found.view.kind, channels, found.offset, found.factor, found.activation, obstacle)
