"""Which layers of a model are probed, under which names: every candidate that the filters select."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from normprobe.errors import NoLayersError
from normprobe.layers.entry_rule import Candidate, candidate_of, look_alike, why_none
from normprobe.layers.experts import called_lists, expert_modules, with_experts
from normprobe.layers.filters import (
    LayerFilter,
    check_filters,
    nothing_selected,
    selects,
    unmatched,
    wanted_kinds,
)
from normprobe.layers.further_layers import NO_BLOCKS, Residual, check_residual, further_layers
from normprobe.layers.layer import Layer, LayerSet, NamedModule, modules_of, parameter_layer_name
from normprobe.layers.linear_rule import sizes_of_linear
from normprobe.layers.module_attributes import (
    eps_of,
    modules_in,
    n_features_of_linear,
    n_features_of_norm,
    own_tensors,
    parts_of,
    stored,
    stores_scale,
)
from normprobe.layers.parameter_layers import parameter_candidates, parameter_layers
from normprobe.layers.view import View
from normprobe.vocabulary import FURTHER_KINDS

__all__ = ["Layer", "LayerFilter", "LayerSet", "find_layers"]

_MOST_NEAR = 5


def find_layers(
    model: nn.Module,
    layers: LayerFilter | None = None,
    kinds: str | Iterable[str] | None = None,
    residual: Residual = None,
) -> LayerSet:
    """Find every Linear and norm of a model that the filters select, and layers of kinds that they ask for.

    Args:
        model: the model, which may itself be a layer.
        layers: glob patterns over qualified names, classes of modules, or a predicate (name, module).
        kinds: the kinds wanted; Linear and norms by default.
        residual: True finds the blocks of the residual stream, too; patterns name them. Other filters do not
            leave out blocks that are asked for here.

    Raises:
        NoLayersError: the model has no Linear or norm, or a filter matches none.
        NormprobeError: a filter is of another type.
    """
    layers, kinds = check_filters(layers, kinds)
    modules, wanted, named = modules_of(model), wanted_kinds(kinds), check_residual(residual)
    blocks = named or "residual" in wanted
    every = _every_layer(model, modules, wanted.intersection(FURTHER_KINDS) - {"residual"}, blocks)
    if not every:
        raise NoLayersError(_nothing_found(model, modules))

    def select(among: Iterable[Layer]) -> tuple[Layer, ...]:
        asked = named is not False
        return tuple(
            layer
            for layer in among
            if (asked and layer.view.kind == "residual") or selects(layers, kinds, layer)
        )

    selected = select(every)
    if not selected:
        raise NoLayersError(nothing_selected(layers, kinds, every, modules))
    possible = parameter_candidates(modules, every)
    # A pattern that names a mere parameter may still match a layer that its first use shows.
    lost = unmatched(layers, (*every, *possible), modules)
    if blocks and not any(layer.view.kind == "residual" for layer in every):
        lost = (*lost, NO_BLOCKS)
    containers, left_out = _containers(model, selected), _left_out(every, selected)
    experts = expert_modules(modules, selected)
    lists = called_lists(modules)
    return LayerSet(selected, containers, select(possible), left_out, lost, experts, lists)


def _every_layer(
    model: nn.Module,
    modules: Sequence[NamedModule],
    kinds: frozenset[str],
    blocks: bool | tuple[str, ...],
) -> tuple[Layer, ...]:
    """Every Linear and norm of a model, in order of definition, under names that are unique.

    With those of further kinds that are asked for: by kind, or as blocks of the residual stream.
    """
    named_modules = {id(named.module): named for named in modules}
    by_id: dict[int, Layer] = {}
    # Innermost first: by the rule of entry what contains a layer is a container, not a norm.
    for module in _innermost_first(model, set()):
        candidate = candidate_of(named_modules[id(module)], by_id)
        if candidate is not None:
            by_id[id(module)] = _layer(named_modules[id(module)], candidate)
    # Not innermost first: tables and reports list layers as the model defines them.
    layers: list[Layer] = []
    further = further_layers(modules, {*by_id}, kinds, blocks) if kinds or blocks else {}
    for named in modules:
        found = [by_id[id(named.module)]] if id(named.module) in by_id else list(parameter_layers(named))
        if id(named.module) in further:
            layers += further[id(named.module)], *found
            continue
        refused = None if found else look_alike(named, by_id)
        layers += found if refused is None else [_layer(named, refused)]
    # A wrapper may have a layer of its own beside the model's: then only the full names differ.
    ambiguous = {name for name, count in Counter(layer.name for layer in layers).items() if count > 1}
    full_names = (
        parameter_layer_name(named_modules[id(layer.module)].full_name, layer.parameter) for layer in layers
    )
    return with_experts(
        modules,
        [
            replace(layer, name=full_name) if layer.name in ambiguous else layer
            for layer, full_name in zip(layers, full_names, strict=True)
        ],
    )


def _innermost_first(module: nn.Module, visited: set[int]) -> Iterator[nn.Module]:
    """Every module once, after all that it contains, whichever of its names comes first."""
    if id(module) not in visited:
        visited.add(id(module))
        # The children first, whatever they turn out to be: what holds a layer is decided by them.
        for child in parts_of(module).values():
            yield from _innermost_first(child, visited)
        yield module


def _layer(named: NamedModule, candidate: Candidate) -> Layer:
    """The layer of a candidate, with what its module says of itself."""
    module, names = named.module, named.names
    return Layer(
        name=names[0],
        # Two names may become one when a wrapper's part is stripped.
        aliases=tuple(dict.fromkeys(name for name in names[1:] if name != names[0])),
        module=module,
        view=candidate.view,
        type=candidate.type,
        n_features=_n_features(module, candidate.view),
        eps=eps_of(module),
        affine=any(isinstance(stored(module, name), Tensor) for name in ("weight", "bias"))
        or (candidate.view.kind != "linear" and stores_scale(module))
        or bool(candidate.view.unconfirmed and own_tensors(module)),
        refused=candidate.refused,
    )


def _n_features(module: nn.Module, view: View) -> int | None:
    """How many features a layer says its input has."""
    if view.kind != "linear":
        return n_features_of_norm(module)
    # Of what is a Linear by its call alone the weight may be of any shape.
    return sizes_of_linear(module)[0] if view.unconfirmed else n_features_of_linear(module)


def _containers(model: nn.Module, selected: Sequence[Layer]) -> tuple[nn.Module, ...]:
    """The modules that contain a selected layer, or have one as a parameter, outermost first.

    A call of any of them may be an outermost one (an encoder called alone), so each gets hooks that begin
    and end a forward. Scripted modules take no hooks.
    """
    # Blocks and attention are layers and hold some.
    both = ("attention", "residual")
    hooked = {id(layer.module) for layer in selected if not layer.parameter and layer.view.kind not in both}
    holders = {id(layer.module) for layer in selected}
    containers = [
        module
        for module in modules_in(model)
        if id(module) not in hooked and any(id(child) in holders for child in modules_in(module))
    ]
    return tuple(module for module in containers if not isinstance(module, torch.jit.ScriptModule))


def _left_out(every: Iterable[Layer], selected: Iterable[Layer]) -> frozenset[int]:
    """The modules (by id) of layers not selected that share a tensor with one that is."""
    selected = tuple(selected)
    modules = {id(layer.module) for layer in selected}
    tensors = {id(tensor) for layer in selected for tensor in layer.module.parameters(recurse=False)}
    others = [layer.module for layer in every if id(layer.module) not in modules]
    return frozenset(
        id(other) for other in others if any(id(own) in tensors for own in other.parameters(recurse=False))
    )


def _nothing_found(model: nn.Module, modules: Sequence[NamedModule]) -> str:
    """The message of an error: what the model holds, and what comes nearest with why it is none."""
    reasons = [(named, why_none(named)) for named in modules]
    near = [
        f"{named.names[0] or 'the model itself'!r} ({type(named.module).__name__}: {why})"
        for named, why in reasons
        if why
    ]
    more = f" and {len(near) - _MOST_NEAR} more" if len(near) > _MOST_NEAR else ""
    types = dict.fromkeys(type(named.module).__name__ for named in modules[1:] if not parts_of(named.module))
    held = f" among {', '.join([*types][:_MOST_NEAR])}" if types else ""
    nearest = f"; nearest come {', '.join(near[:_MOST_NEAR])}{more}" if near else held
    return (
        f"{type(model).__name__} has no Linear or normalization layer to probe{nearest}; "
        "teach normprobe a layer type of your own with normprobe.register_view"
    )
