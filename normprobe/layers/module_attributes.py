"""What a module stores, read without computing anything."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.utils import parametrize

EPS_NAMES = ("eps", "epsilon", "variance_epsilon", "norm_eps", "layer_norm_eps", "rms_norm_eps")


def eps_of(module: nn.Module) -> float | None:
    """The number that keeps the module from dividing by zero, under any of its usual names."""
    for name in EPS_NAMES:
        value = getattr(module, name, None)
        if isinstance(value, (float, int)) and not isinstance(value, bool):
            return float(value)
    return None


def stored(module: nn.Module, name: str) -> Any:
    """What a module holds under a name, or None; of a parametrized tensor what it is made from.

    Reading a parametrized tensor computes it, and computing a spectral norm in training moves it on.
    """
    if parametrize.is_parametrized(module, name):
        parts: Any = module.parametrizations
        return next(parts[name].parameters(recurse=False), None)
    return getattr(module, name, None)
