"""What a module stores and says of itself, read without computing anything."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

EPS_NAMES = ("eps", "epsilon", "variance_epsilon", "norm_eps", "layer_norm_eps", "rms_norm_eps")
"""The usual names of the constant in a norm's denominator."""

NAMES = {
    "weight": ("weight", "gamma", "scale", "gain", "g"),
    "bias": ("bias", "beta", "shift", "b"),
    "running_mean": ("running_mean", "moving_mean"),
    "running_var": ("running_var", "moving_var", "moving_variance"),
}
"""The usual names of what a norm stores, by the one that torch has."""

IN_FEATURES = ("in_features", "infeatures")  # HQQ and some GPTQ kernels write it without the underscore
OUT_FEATURES = ("out_features", "outfeatures")

PARAMETER_HOLDERS = (nn.ParameterDict, nn.ParameterList)
"""Modules that compute nothing: what they hold is their parent's."""


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
    if isinstance(module, nn.RMSNorm):
        # Its eps=None is the machine epsilon, of float32 at least: torch computes in no less.
        weight = stored(module, "weight")
        dtype = weight.dtype if isinstance(weight, Tensor) else torch.get_default_dtype()
        return torch.finfo(torch.promote_types(dtype, torch.float32)).eps
    # A scale round a norm without one: that norm's.
    inner = {eps_of(child) for child in module.children()} - {None}
    return inner.pop() if len(inner) == 1 and stores_scale(module) else None


def stored(module: nn.Module, name: str) -> Any:
    """The attribute of this name, or None; of a parametrized tensor the first tensor it is computed from."""
    # Reading a parametrized tensor computes it: spectral norm in training mode would take another step of
    # its power iteration, so merely entering a probe would change what the model computes.
    if parametrize.is_parametrized(module, name):
        parts: Any = module.parametrizations
        return next(parts[name].parameters(recurse=False), None)
    return attribute(module, name)


def is_quantized(module: nn.Module) -> bool:
    """Whether a module is of torch's quantized ones, whose `weight` and `bias` are methods."""
    return any(base.__module__.startswith("torch.ao.nn.quantized") for base in type(module).__mro__)


def has_bias(module: nn.Module) -> bool | None:
    """Whether a Linear has a bias; None where its `bias` is a method that cannot be asked."""
    if "bias" in own_tensors(module):
        return True
    held = attribute(module, "bias")
    if isinstance(held, nn.Module) or not callable(held):
        return False
    if not is_quantized(module):  # the method of a foreign class may do anything
        return None
    try:
        return held() is not None
    except Exception:
        return None


def is_lazy(parameter: Any) -> bool:
    """Whether a parameter or buffer has no shape yet."""
    return isinstance(parameter, (nn.UninitializedParameter, nn.UninitializedBuffer))


def own_tensors(module: nn.Module) -> dict[str, Tensor]:
    """A module's parameters and buffers by name, those in a ParameterDict or ParameterList of its own too.

    Of a name that is a path (Keras: ``layer_normalization/gamma``) the last part counts.
    """
    holders = [child for child in module._modules.values() if isinstance(child, PARAMETER_HOLDERS)]
    stores = [store for held in (module, *holders) for store in (held._parameters, held._buffers)]
    return {
        name.replace("/", ".").rpartition(".")[2]: tensor
        for store in (*stores, keras_variables(module))
        for name, tensor in store.items()
        if tensor is not None and not is_lazy(tensor)
    }


def keras_variables(module: nn.Module) -> dict[str, Tensor]:
    """The tensors that a layer of Keras on torch keeps in variables of its own, by name; else none."""
    if not is_keras(module):
        return {}
    held = (attribute(module, name, ()) for name in ("_trainable_variables", "_non_trainable_variables"))
    named = [(attribute(kept, "name"), attribute(kept, "value")) for each in held for kept in each]
    return {name: value for name, value in named if isinstance(value, Tensor)}


def is_keras(module: nn.Module) -> bool:
    """Whether a module is a layer of Keras 3, which on its torch backend derives from nn.Module."""
    return hasattr(type(module), "_flatten_layers")


def parts_of(module: nn.Module) -> dict[str, nn.Module]:
    """The modules that a module holds, by name; of a Keras model its layers, which torch does not know."""
    parts = {name: child for name, child in module._modules.items() if child is not None}
    if is_keras(module):
        known = {id(child) for child in parts.values()}
        others = [layer for layer in attribute(module, "_layers", ()) if isinstance(layer, nn.Module)]
        parts |= {str(attribute(layer, "name")): layer for layer in others if id(layer) not in known}
    return parts


def modules_in(module: nn.Module, seen: set[int] | None = None) -> Iterator[nn.Module]:
    """A module and every one in it, once each, as `nn.Module.modules` gives them, with `parts_of`."""
    seen = set() if seen is None else seen
    if id(module) not in seen:
        seen.add(id(module))
        yield module
        for part in parts_of(module).values():
            yield from modules_in(part, seen)


def is_per_feature(tensor: Tensor) -> bool:
    """Whether a tensor has one number a feature: at most one of its axes is longer than 1."""
    return sum(size > 1 for size in tensor.shape) <= 1


def n_features_of_norm(module: nn.Module) -> int | None:
    """How many features a norm says its input has, in words or by the length of its scale or shift."""
    if n_features_in_words(module) is not None:
        return n_features_in_words(module)
    tensors = [tensor for tensor in own_tensors(module).values() if tensor.numel() > 1]
    # A scale of several axes has one row for each head or type; only its last axis can be features.
    sizes = [tensor.numel() for tensor in tensors if is_per_feature(tensor)]
    return next(iter([*sizes, *(tensor.shape[-1] for tensor in tensors)]), None)


def n_features_in_words(module: nn.Module) -> int | None:
    """How many features one of the module's usual attributes says its input has."""
    for name in (*IN_FEATURES, "num_features", "num_channels"):
        value = attribute(module, name)
        if isinstance(value, int) and value > 0:
            return value
    shape = attribute(module, "normalized_shape")
    if isinstance(shape, (tuple, list, torch.Size)) and all(isinstance(size, int) for size in shape):
        return math.prod(shape)
    return None


def n_features_of_linear(module: nn.Module) -> int | None:
    """How many features a Linear says its input has, or None where it says nothing."""
    if n_features_in_words(module) is not None:
        return n_features_in_words(module)
    weight = stored(module, "weight")
    if isinstance(weight, Tensor) and not is_lazy(weight):
        # Conv1D of transformers stores (in, out); the other Linears store (out, in).
        return weight.shape[0] if weight.dim() == 1 or type(module).__name__ == "Conv1D" else weight.shape[-1]
    return None


def stores_scale(module: nn.Module) -> bool:
    """Whether a norm has a scale or shift of its own: a parameter, or a buffer called like one."""
    names = {*NAMES["weight"], *NAMES["bias"]}
    own = own_tensors(module)
    return any(name in names or isinstance(tensor, nn.Parameter) for name, tensor in own.items())


def groups_of(module: nn.Module, kind: str) -> int | None:
    """How many groups of features a norm of this kind says that it normalizes, each together; 1 for all."""
    if kind == "group_norm":
        counts = (attribute(module, name) for name in ("num_groups", "n_groups", "groups"))
        return next((count for count in counts if isinstance(count, int) and count > 0), None)
    return 1 if kind in ("layer_norm", "rms_norm") else None
