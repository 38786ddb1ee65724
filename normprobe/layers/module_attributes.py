"""What a module stores and says of itself, read without computing anything."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

EPS_NAMES = ("eps", "epsilon", "variance_epsilon", "norm_eps", "layer_norm_eps", "rms_norm_eps")
"""The usual names of the constant in a norm's denominator."""

IN_FEATURES = ("in_features", "infeatures")  # HQQ and some GPTQ kernels write it without the underscore
OUT_FEATURES = ("out_features", "outfeatures")


def attribute(module: Any, name: str, default: Any = None) -> Any:
    """An attribute of a module, or the default: also where the module's own code raises, whatever it raises.

    Every attribute that a foreign module is asked for is read here: a property, or a `__getattr__`, may raise
    anything, and what cannot be read is not said.
    """
    try:
        return getattr(module, name, default)
    except Exception:
        return default


def eps_of(module: nn.Module) -> float | None:
    """The number that keeps the module from dividing by zero, under any of its usual names."""
    for name in EPS_NAMES:
        value = attribute(module, name)
        if isinstance(value, (float, int)) and not isinstance(value, bool):
            return float(value)
    return None


def stored(module: nn.Module, name: str) -> Any:
    """The attribute of this name, or None; of a parametrized tensor the first tensor it is computed from."""
    # Reading a parametrized tensor computes it: spectral norm in training mode would take another step of
    # its power iteration, so merely entering a probe would change what the model computes.
    if parametrize.is_parametrized(module, name):
        parts: Any = module.parametrizations
        return next(parts[name].parameters(recurse=False), None)
    return attribute(module, name)


def is_lazy(parameter: Any) -> bool:
    """Whether a parameter or buffer has no shape yet."""
    return isinstance(parameter, (nn.UninitializedParameter, nn.UninitializedBuffer))


def n_features_of(module: nn.Module) -> int | None:
    """How many features the module says its input has, or None where it says nothing."""
    for name in (*IN_FEATURES, "num_features", "num_channels"):
        value = attribute(module, name)
        if isinstance(value, int) and value > 0:
            return value
    shape = attribute(module, "normalized_shape")
    if isinstance(shape, (tuple, list, torch.Size)) and all(isinstance(size, int) for size in shape):
        return math.prod(shape)
    weight = stored(module, "weight")
    if isinstance(weight, Tensor) and not is_lazy(weight):
        # Conv1D of transformers stores (in, out); the other Linears store (out, in).
        return weight.shape[0] if weight.dim() == 1 or type(module).__name__ == "Conv1D" else weight.shape[-1]
    return None
