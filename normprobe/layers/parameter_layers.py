"""Parameters that are layers: attention's projections, routers, experts; and those that may be one."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn

from normprobe.layers.candidates import is_lazy
from normprobe.layers.layer import Layer, NamedModule, under
from normprobe.layers.view import View
from normprobe.layers.view_registry import registered_view

_PROJECTIONS = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")
_ROUTER = re.compile(r"router|gate(?!d)|gating", re.IGNORECASE)
_EXPERTS = re.compile(r"expert|moe|mixture|linear", re.IGNORECASE)


def parameter_layers(called: NamedModule) -> Iterator[Layer]:
    """The layers that a module has as parameters and uses in functions: by rule, from the module alone.

    Torch's attention projects its inputs with `in_proj_weight`; a router (or gate) without children has a
    matrix `weight`; experts have one weight of three dimensions for all of them.
    """
    module = called.module
    known, _ = registered_view(module)
    attention, name = isinstance(module, nn.MultiheadAttention), type(module).__name__
    if known or (type(module).__module__.startswith("torch.") and not attention):
        return
    for parameter, weight in _matrices(module, (2, 3)):
        projection = attention and parameter in _PROJECTIONS
        router = (
            parameter == "weight" and weight.dim() == 2 and _ROUTER.search(name) and not _holds_any(module)
        )
        experts = weight.dim() == 3 and min(weight.shape) > 1 and _EXPERTS.search(name)
        if projection or experts or (router and _ROUTER.search(name)):
            yield parameter_layer(called, parameter, weight)


def parameter_candidates(modules: Iterable[NamedModule], known: Iterable[Layer]) -> tuple[Layer, ...]:
    """The matrices of a model that no layer owns: a tied decoder multiplies by its embedding, for example."""
    taken = {layer.key for layer in known}
    owned = {id(parameter) for layer in known for parameter in layer.module.parameters(recurse=False)}
    return tuple(
        replace(parameter_layer(one, parameter, weight), by_use=True)
        for one in modules
        for parameter, weight in _matrices(one.module, (2,))
        if id(weight) not in owned and (id(one.module), parameter) not in taken and _may_be_probed(one.module)
    )


def projection_part(layer: Layer, weight: Tensor, part: Tensor) -> Layer | None:
    """The layer that a slice of attention's weight is: queries, keys and values may be projected apart."""
    size = weight.shape[0] // 3
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


def parameter_layer(called: NamedModule, parameter: str, weight: Tensor) -> Layer:
    """A Linear that is no module, but a parameter of one."""
    names = [under(name, parameter) for name in called.names]
    return Layer(
        name=names[0],
        aliases=tuple(dict.fromkeys(name for name in names[1:] if name != names[0])),
        module=called.module,
        view=View("linear", certain=True),
        type=type(called.module).__name__,
        n_features=weight.shape[-1],
        eps=None,
        affine=True,
        parameter=parameter,
    )


def _matrices(module: nn.Module, dims: tuple[int, ...]) -> Iterator[tuple[str, Tensor]]:
    if isinstance(module, torch.jit.ScriptModule):
        return
    for name, weight in module._parameters.items():
        if weight is not None and not is_lazy(weight) and weight.dim() in dims and weight.is_floating_point():
            yield name, weight


def _holds_any(module: nn.Module) -> bool:
    return next(module.children(), None) is not None


def _may_be_probed(module: nn.Module) -> bool:
    known, view = registered_view(module)
    return not known or view is not None
