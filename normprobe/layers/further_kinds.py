"""Which modules are a convolution, an activation, an embedding or attention, and how their tensors read."""

from __future__ import annotations

import re
from collections.abc import Iterable

import torch
from torch import nn

from normprobe.layers.module_attributes import is_per_feature, modules_in, own_tensors
from normprobe.layers.view import AXES, View

# Private bases of torch's, of all convolutions and norms over channels; there are no public ones.
_CONV = nn.modules.conv._ConvNd
_CHANNELS = (_CONV, nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.modules.instancenorm._InstanceNorm)
_POSITIONS = (nn.Linear, nn.LayerNorm, nn.RMSNorm)

_NOT_ELEMENTWISE = (nn.GLU, nn.Softmax, nn.Softmin, nn.LogSoftmax, nn.Softmax2d, nn.MultiheadAttention)
_LIBRARIES = ("torch.nn.modules.activation", "transformers.activations")
_ACTIVATION = re.compile(
    r"(re|ge|si|[csx]?i?e)lu\d*|mish|swish|sigmoid|tanh|softplus|softsign|activation", re.IGNORECASE
)
_ATTENTION = re.compile(r"attention|attn", re.IGNORECASE)


def further_view(module: nn.Module, beside: nn.Module | None, kinds: Iterable[str]) -> View | None:
    """The view of a module of one of these kinds; None if it is of none.

    Args:
        module: the module.
        beside: the one defined before it in what holds it, else behind it, of those that say their axis.
        kinds: of `vocabulary.FURTHER_KINDS`.
    """
    # A scripted module takes no hooks.
    if isinstance(module, torch.jit.ScriptModule):
        return None
    view = None
    if isinstance(module, _CONV):
        # Torch's take an example without a batch axis, too.
        view = View("conv", 1, "example", unbatched=len(module.kernel_size) + 1, certain=True)
    elif isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
        view = View("embedding", certain=True)
    elif _is_attention(module):
        view = View("attention", certain=True)
    elif _is_activation(module):
        view = _of_activation(beside)
    return view if view is not None and view.kind in kinds else None


def says_axis(module: nn.Module) -> bool:
    """Whether a module tells along which axis its neighbours' features lie."""
    return isinstance(module, _CHANNELS + _POSITIONS)


def channels_of(module: nn.Module) -> int | None:
    """How many channels a module reads that works along axis 1; None of any other."""
    if isinstance(module, _CONV):
        return module.in_channels
    if isinstance(module, _CHANNELS):
        return getattr(module, "num_features", None) or getattr(module, "num_channels", None)
    return None


def channel_axis(module: nn.Module, shape: tuple[int, ...]) -> bool:
    """Whether a tensor that a block reads has its features along axis 1, as the convolutions inside say.

    Args:
        module: the block.
        shape: of the tensor; of three axes it is the last if a Linear or norm inside is as wide.
    """
    if len(shape) < 3:
        return False
    # With three axes both may fit: (batch, positions, features) and (batch, channels, length).
    if len(shape) == 3 and any(_width(part) == shape[-1] for part in modules_in(module)):
        return False
    return any(channels_of(part) == shape[1] and _fits(part, len(shape)) for part in modules_in(module))


def width_beside(beside: nn.Module, *, behind: bool) -> int | None:
    """How many features an elementwise function has behind, or ahead of, a module that says its axis."""
    if isinstance(beside, _CONV):
        return beside.out_channels if behind else beside.in_channels
    if isinstance(beside, nn.Linear):
        return beside.out_features if behind else beside.in_features
    return channels_of(beside) or _width(beside)


def _width(module: nn.Module) -> int | None:
    """How many features a Linear or norm reads along the last axis."""
    if isinstance(module, nn.Linear):
        return module.in_features
    shape = getattr(module, "normalized_shape", None) if isinstance(module, _POSITIONS) else None
    return shape[-1] if shape else None


def _fits(module: nn.Module, axes: int) -> bool:
    """Whether a channel layer takes tensors of so many axes."""
    if isinstance(module, _CONV):
        return len(module.kernel_size) + 2 == axes
    # torch says in the name of the class alone how many axes a norm over channels takes.
    of = re.search(r"(\d)d$", type(module).__name__)
    return of is None or int(of[1]) + 2 == axes


def _of_activation(beside: nn.Module | None) -> View:
    """An elementwise function has no axis of its own: its neighbour's, else what its first tensor tells."""
    if isinstance(beside, _CHANNELS):
        return View("activation", 1, "example")
    return View("activation", unconfirmed="" if beside is not None else AXES)


def _is_activation(module: nn.Module) -> bool:
    """Whether a module is an elementwise function by its class: its first call shows whether it is one."""
    if isinstance(module, _NOT_ELEMENTWISE) or any(True for _ in module.children()):
        return False
    # A slope for each feature is elementwise, a matrix is not.
    if not all(is_per_feature(tensor) for tensor in own_tensors(module).values()):
        return False
    cls = type(module)
    known = any(base.__module__ in _LIBRARIES for base in cls.__mro__)
    return known or bool(_ACTIVATION.search(cls.__name__) and cls.forward is not nn.Module.forward)


def _is_attention(module: nn.Module) -> bool:
    """Whether a module is called attention, is called itself, and holds no other one that is."""
    named = _ATTENTION.search(type(module).__name__)
    if not named or type(module).forward is nn.Module.forward:
        return False
    inside = (part for part in modules_in(module) if part is not module)
    # The innermost one computes the weights; those around it would measure the same again.
    return not any(_ATTENTION.search(type(part).__name__) for part in inside)
