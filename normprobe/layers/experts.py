"""Modules that hold experts: as one weight for all of them, or as a list of modules; and their router."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from torch import Tensor, nn

from normprobe.layers.layer import ExpertModule, ExpertWeight, Layer, NamedModule
from normprobe.layers.module_attributes import attribute, modules_in, parts_of, stored

_EXPERTS = re.compile(r"expert|moe|mixture", re.IGNORECASE)
_LAST = re.compile(r"down|w2|fc2|out|\bwo\b", re.IGNORECASE)
# A "gated" module multiplies by a gate, it does not route.
_ROUTER = re.compile(r"router|gate(?!d|_up|_proj)|gating", re.IGNORECASE)


def experts_in(module: nn.Module, weight: Tensor) -> int | None:
    """How many experts a parameter of a module holds a matrix of each of; None where it is none such.

    Three dimensions are (experts, ...); a matrix may hold those of all experts one under another.
    """
    # By name, too: weights of batched heads or of convolutions have three dimensions as well.
    if weight.dim() not in (2, 3) or not _EXPERTS.search(type(module).__name__):
        return None
    if weight.dim() == 3:
        # An axis of length 1 would be for broadcasting; but of shared experts there may be one.
        several = weight.shape[0] > 1 or _has_counterpart(module, weight)
        # A matrix of one row or column is a bias of each expert.
        return weight.shape[0] if several and min(weight.shape[1:]) > 1 else None
    said = [value for name, value in vars(module).items() if name.endswith("num_experts")]
    counts = {value for value in said if isinstance(value, int) and value > 1}
    # A matrix of as many rows as experts is a bias of each, or a router.
    return next((n for n in counts if weight.shape[0] % n == 0 and weight.shape[0] > n), None)


def _has_counterpart(module: nn.Module, weight: Tensor) -> bool:
    """Whether a module has another weight that gives back what this one reads."""
    back = (weight.shape[0], weight.shape[2], weight.shape[1])
    return any(p is not None and p is not weight and p.shape == back for p in module._parameters.values())


def features_of_expert(module: nn.Module, parameter: str, weight: Tensor, count: int) -> int:
    """How many features a weight of experts reads, whichever way round it is stored."""
    if weight.dim() == 2:
        return weight.shape[0] // count if _LAST.search(parameter) else weight.shape[1]
    return weight.shape[1] if _is_transposed(module) else weight.shape[2]


def _is_transposed(module: nn.Module) -> bool:
    """Whether a module stores (experts, in, out): as it says itself, or as its first and last weight fit."""
    # First what the module says: the widths of square experts fit both ways.
    said = attribute(module, "is_transposed")
    if isinstance(said, bool):
        return said
    held = {name: p for name, p in module._parameters.items() if p is not None and p.dim() == 3}
    last = next((p for name, p in held.items() if _LAST.search(name)), None)
    first = next((p for name, p in held.items() if not _LAST.search(name)), None)
    if first is None or last is None:
        return False
    # What an expert reads is as wide as what it gives.
    return first.shape[1] == last.shape[2] and first.shape[2] != last.shape[1]


def expert_modules(modules: Sequence[NamedModule], layers: Sequence[Layer]) -> tuple[ExpertModule, ...]:
    """The modules that hold experts in one weight, of which a selected layer is a parameter."""
    by_name = {name: named for named in modules for name in named.names}
    held: dict[int, list[ExpertWeight]] = {}
    for layer in layers:
        weight = layer.module._parameters.get(layer.parameter) if layer.parameter else None
        count = None if weight is None else experts_in(layer.module, weight)
        if count is not None:
            held.setdefault(id(layer.module), []).append(_weight(layer, count))
    found = []
    for named in modules:
        if id(named.module) in held:
            found.append(_expert_module(named, held[id(named.module)], by_name))
    return tuple(found)


def _weight(layer: Layer, count: int) -> ExpertWeight:
    alone = sum(p is not None and p.dim() > 1 for p in layer.module._parameters.values()) == 1
    last = bool(_LAST.search(layer.parameter))
    return ExpertWeight(layer.module, layer.parameter, count, alone or not last, alone or last)


def _expert_module(
    named: NamedModule, weights: list[ExpertWeight], by_name: Mapping[str, NamedModule]
) -> ExpertModule:
    name, holder, parent = named.names[0], named, _parent(named.names[0], by_name)
    # Of one matrix for all experts the module around it routes, and takes slices.
    if _matrix(weights[0]).dim() == 2 and parent is not None:
        holder, name = parent, parent.names[0]
    # Identity experts are in the router and in no weight.
    count = min(weight.count for weight in weights)
    widths = {
        weight.first: features_of_expert(weight.module, weight.parameter, _matrix(weight), weight.count)
        for weight in weights
    }
    return ExpertModule(name, holder.module, count, widths.get(True), widths.get(False), tuple(weights))


def _matrix(weight: ExpertWeight) -> Tensor:
    tensor = weight.tensor
    assert tensor is not None, "it was found as a parameter"
    return tensor


def _parent(name: str, by_name: Mapping[str, NamedModule]) -> NamedModule | None:
    return by_name.get(name.rpartition(".")[0]) if name else None


def _router_of(name: str, count: int, layers: Sequence[Layer]) -> Layer | None:
    """The layer that gives a number for each expert of a module, beside the module or one further out.

    Args:
        name: of the module that holds the experts.
        count: how many there are; a router may have more, of experts that do nothing.
        layers: every layer that may be it.
    """
    outer = name
    for _ in range(2):
        outer = outer.rpartition(".")[0]
        prefix = f"{outer}." if outer else ""
        near = [
            layer
            for layer in layers
            if layer.name.startswith(prefix)
            and not layer.name.startswith(f"{name}.")
            and _ROUTER.search(f"{layer.name.removeprefix(prefix)} {layer.type}")
            and _gives(layer) >= count
        ]
        if near:
            # Of several, one that gives as many numbers as there are experts, and then the outermost.
            return min(near, key=lambda layer: (_gives(layer) != count, layer.name.count(".")))
    return None


def _gives(layer: Layer) -> int:
    """How many numbers a Linear gives; 0 where its weight does not say it."""
    # `stored` computes no parametrization: a search of layers must not run code of the user's.
    weight = stored(layer.module, layer.parameter or "weight") if layer.view.kind == "linear" else None
    return weight.shape[0] if isinstance(weight, Tensor) and weight.dim() == 2 else 0


def with_experts(modules: Sequence[NamedModule], layers: Sequence[Layer]) -> tuple[Layer, ...]:
    """The layers, marked where they lie inside an expert of a list, or route to experts."""
    inside = {id(module): mark for module, mark in _listed(modules)}
    holders = [(holder.name, holder.count) for holder in expert_modules(modules, layers)]
    holders += _counts(inside.values())
    routes: dict[str, list[str]] = {}
    # Asked once: of hundreds of lists there are tens of thousands of layers inside.
    outside = [layer for layer in layers if id(layer.module) not in inside] if holders else []
    possible = [layer for layer in outside if _ROUTER.search(f"{layer.name} {layer.type}")]
    for name, count in holders:
        router = _router_of(name, count, possible)
        if router is not None:
            routes.setdefault(router.name, []).append(name)
    return tuple(
        replace(layer, expert_of=of, expert=number, router_of="; ".join(routes.get(layer.name, ())))
        if (of or layer.name in routes)
        else layer
        for layer in layers
        for of, number in [inside.get(id(layer.module), ("", None))]
    )


def _counts(marks: Iterable[tuple[str, int]]) -> list[tuple[str, int]]:
    """Each list of experts and how many it has."""
    counts: dict[str, int] = {}
    for name, number in marks:
        counts[name] = max(counts.get(name, 0), number + 1)
    return list(counts.items())


def _listed(modules: Sequence[NamedModule]) -> Iterator[tuple[nn.Module, tuple[str, int]]]:
    """Every module inside an expert of a list: the name of the list, and which of its entries it is."""
    for named in modules:
        # Numbered in the order of the list, in which a router's numbers count them.
        if is_list_of_experts(named.names[0], named.module):
            for number, expert in enumerate(parts_of(named.module).values()):
                for module in modules_in(expert):
                    yield module, (named.names[0], number)


def is_list_of_experts(name: str, module: nn.Module) -> bool:
    """Whether a module is a list or dictionary of experts: of modules of one class, and called so."""
    if not isinstance(module, (nn.ModuleList, nn.ModuleDict)) or len(module) < 2:
        return False
    called = f"{name.rpartition('.')[2]} {type(module).__name__}"
    # Of one class: a list that is called so but holds a router and experts is none.
    return bool(_EXPERTS.search(called)) and len({type(child) for child in module.children()}) == 1


def called_lists(modules: Sequence[NamedModule]) -> tuple[tuple[str, nn.Module], ...]:
    """Name and module of each list of experts that has a `forward` of its own."""
    plain = {nn.ModuleList.forward, nn.ModuleDict.forward}
    return tuple(
        (named.names[0], named.module)
        for named in modules
        if is_list_of_experts(named.names[0], named.module) and type(named.module).forward not in plain
    )
