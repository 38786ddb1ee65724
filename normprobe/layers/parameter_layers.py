"""Layers that are no modules but parameters: attention's projections, routers, experts; and candidates.

Such a layer is called through a function (`F.linear`, a matmul), so no hook sees it; `capture.functions`
knows it by the identity of its weight. Those of `parameter_layers` are layers by rule. The candidates of
`parameter_candidates` become layers if a function uses them as a Linear's weight.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn

from normprobe.layers.experts import experts_in, features_of_expert
from normprobe.layers.layer import Layer, NamedModule, parameter_layer_name
from normprobe.layers.linear_rule import is_matrix_of, sizes_of_linear
from normprobe.layers.module_attributes import is_lazy
from normprobe.layers.view import View
from normprobe.layers.view_registry import registered_view

_PROJECTIONS = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")
# Class names, as in Mixtral, DeepSeek, Qwen-MoE; a "gated" module multiplies by a gate, it does not route.
_ROUTER = re.compile(r"router|gate(?!d)|gating", re.IGNORECASE)
# Several matrices in one weight, an axis of length 1 would be for broadcasting.
_STACKED = re.compile(r"linear", re.IGNORECASE)


def parameter_layers(named: NamedModule) -> Iterator[Layer]:
    """The layers that a module has as parameters, by rule, from the module alone.

    Torch's attention projects its inputs with `in_proj_weight`; a router (or gate) without children has a
    matrix `weight`; experts have one weight for all of them (`experts.experts_in`); what says how many
    features go in and out, without being called a Linear, has a matrix of these sizes (a graph convolution).
    """
    module, name = named.module, type(named.module).__name__
    registered, _ = registered_view(module)
    attention = isinstance(module, nn.MultiheadAttention)
    if registered or (type(module).__module__.startswith("torch.") and not attention):
        return
    # With children it is a block that routes, and its router is one of them.
    is_leaf = next(module.children(), None) is None
    is_router = is_leaf and _ROUTER.search(name)
    for parameter, weight in _matrices(module, (2, 3)):
        projection = attention and parameter in _PROJECTIONS
        router = is_router and parameter == "weight" and weight.dim() == 2
        stacked = weight.dim() == 3 and min(weight.shape) > 1 and _STACKED.search(name)
        experts = stacked or experts_in(module, weight) is not None
        if projection or router or experts or (is_leaf and is_matrix_of(module, weight)):
            yield _parameter_layer(named, parameter, weight)


def parameter_candidates(modules: Iterable[NamedModule], layers: Iterable[Layer]) -> tuple[Layer, ...]:
    """The matrices of a model that no layer owns: a tied decoder multiplies by its embedding, for example.

    Args:
        modules: every module of the model.
        layers: every layer of the model.
    """
    layers = tuple(layers)
    keys = {layer.key for layer in layers}
    owned = {id(parameter) for layer in layers for parameter in layer.module.parameters(recurse=False)}
    return tuple(
        replace(_parameter_layer(named, parameter, weight), by_use=True)
        for named in modules
        for parameter, weight in _matrices(named.module, (2,))
        if id(weight) not in owned and (id(named.module), parameter) not in keys
        if not _is_never_probed(named.module)
    )


def projection_part(layer: Layer, weight: Tensor, part: Tensor) -> Layer | None:
    """The layer that a slice of attention's `in_proj_weight` is, or None.

    Queries, keys and values may be projected apart, or the last two together, each by a view of the one
    weight. The slice is known by where it begins in that weight's storage, for a view is a new tensor.

    Args:
        layer: the layer of the whole weight.
        weight: the whole weight, shape (3 x features, features in).
        part: the weight that a function was given.
    """
    size = weight.shape[0] // 3  # queries, keys and values in turn
    if layer.parameter != "in_proj_weight" or part.shape[1:] != weight.shape[1:]:
        return None
    start = (part.storage_offset() - weight.storage_offset()) // weight.stride(0)
    parts = {(0, size): "q", (size, 2 * size): "kv", (size, size): "k", (2 * size, size): "v"}
    name = parts.get((start, part.shape[0]))
    if name is None or part.stride() != weight.stride():
        return None
    return replace(
        layer,
        name=f"{layer.name}.{name}",
        aliases=tuple(f"{alias}.{name}" for alias in layer.aliases),
        parameter=f"{layer.parameter}.{name}",
        by_use=True,
    )


def _parameter_layer(named: NamedModule, parameter: str, weight: Tensor) -> Layer:
    """A Linear that is a parameter of a module."""
    names = [parameter_layer_name(name, parameter) for name in named.names]
    return Layer(
        name=names[0],
        aliases=tuple(dict.fromkeys(name for name in names[1:] if name != names[0])),
        module=named.module,
        view=View("linear", certain=True),
        type=type(named.module).__name__,
        n_features=_features_in(named.module, parameter, weight),
        eps=None,
        affine=True,
        parameter=parameter,
    )


def _features_in(module: nn.Module, parameter: str, weight: Tensor) -> int:
    """How many features a weight reads: by its last axis, unless its module says otherwise."""
    if (experts := experts_in(module, weight)) is not None:
        return features_of_expert(module, parameter, weight, experts)
    said, _ = sizes_of_linear(module) if is_matrix_of(module, weight) else (None, None)
    return weight.shape[-1] if said is None else said


def _matrices(module: nn.Module, dims: tuple[int, ...]) -> Iterator[tuple[str, Tensor]]:
    """The floating-point parameters of a module's own with so many dimensions, by name."""
    # Its compiled code passes no function mode, so no call with these weights is seen.
    if isinstance(module, torch.jit.ScriptModule):
        return
    # Not `named_parameters`: that leaves out the second name of a tensor, and here each name is a layer.
    for name, weight in module._parameters.items():
        if weight is not None and not is_lazy(weight) and weight.dim() in dims and weight.is_floating_point():
            yield name, weight


def _is_never_probed(module: nn.Module) -> bool:
    """Whether the module's class was registered with ``kind=None``."""
    registered, view = registered_view(module)
    return registered and view is None
