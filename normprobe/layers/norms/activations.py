"""The activations that a norm's module may apply behind its scale and shift: its own, else the usual ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from normprobe.layers.module_attributes import attribute

_ATTRIBUTES = ("act", "activation", "act_fn", "act_layer")

_USUAL: dict[str, Callable[[Tensor], Tensor]] = {
    "ReLU": functional.relu,
    "SiLU": functional.silu,
    "GELU": functional.gelu,
    "LeakyReLU": functional.leaky_relu,
    "Hardswish": functional.hardswish,
    "ELU": functional.elu,
    "Tanh": torch.tanh,
}


def activations_of(module: nn.Module) -> Iterator[tuple[str, Callable[[Tensor], Tensor]]]:
    """What a module may apply to its normalized values, with names, its own before the usual ones."""
    for child in module.children():
        # A dropout is random, an identity nothing; one with parameters would need their axis.
        nothing = isinstance(child, (nn.Identity, nn.modules.dropout._DropoutNd))
        if not nothing and next(child.parameters(), None) is None and next(child.buffers(), None) is None:
            # Not a call: the user's hooks on it would see numbers of ours.
            yield type(child).__name__, child.forward
    for name in _ATTRIBUTES:
        own = attribute(module, name)
        if callable(own) and not isinstance(own, nn.Module):
            yield getattr(own, "__name__", name), own
    yield from _USUAL.items()


def activated(activation: Callable[[Tensor], Tensor], values: Tensor) -> Tensor | None:
    """What an activation makes of values; None where it takes no such tensor.

    A copy is given, as it may work in place.
    """
    try:
        result = activation(values.clone())
    # A stranger's function, asked on a guess: whatever it raises says that it is no such activation.
    except Exception:
        return None
    return result if isinstance(result, Tensor) and result.shape == values.shape else None
