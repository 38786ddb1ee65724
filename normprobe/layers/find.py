"""Which layers of a model are probed, under which names and kinds."""

from __future__ import annotations

import difflib
import fnmatch
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from normprobe.errors import NoLayersError
from normprobe.layers.candidates import guessed_view, is_lazy
from normprobe.layers.layer import Layer, LayerSet, NamedModule, modules_of, under
from normprobe.layers.module_attributes import eps_of, stored
from normprobe.layers.parameter_layers import parameter_candidates, parameter_layers
from normprobe.layers.view import View
from normprobe.layers.view_registry import registered_view
from normprobe.vocabulary import KINDS

__all__ = ["Layer", "LayerFilter", "LayerSet", "find_layers"]

LayerFilter = str | Iterable[str] | Callable[[str, nn.Module], bool]


def find_layers(
    model: nn.Module, layers: LayerFilter | None = None, kinds: str | Iterable[str] | None = None
) -> LayerSet:
    """Find every Linear and norm of a model that the filters let through.

    Args:
        model: the model, which may itself be a layer.
        layers: glob patterns over qualified names, or a predicate (name, module).
        kinds: the kinds wanted.

    Raises:
        NoLayersError: the model has no Linear or norm, or a filter matches none.
    """
    wanted = _wanted_kinds(kinds)
    modules = modules_of(model)
    every = _every_layer(model, modules)
    if not every:
        raise NoLayersError(
            f"{type(model).__name__} has no Linear or normalization layer to probe; "
            "teach normprobe a layer type of your own with normprobe.register_view"
        )

    def let_through(found: Iterable[Layer]) -> tuple[Layer, ...]:
        return tuple(layer for layer in found if layer.view.kind in wanted and _matches(layers, layer))

    chosen = let_through(every)
    if not chosen:
        raise NoLayersError(_nothing_matched(layers, kinds, every))
    more = let_through(parameter_candidates(modules, every))
    return LayerSet(chosen, _containers(model, chosen), more, _left_out(every, chosen))


def _every_layer(model: nn.Module, modules: list[NamedModule]) -> tuple[Layer, ...]:
    """Every Linear and norm, innermost decided first: what contains one is a container, not a norm."""
    called = {id(one.module): one for one in modules}
    found: dict[int, Layer] = {}
    for module in _innermost_first(model, set()):
        layer = _layer(called[id(module)], found)
        if layer is not None:
            found[id(module)] = layer
    layers: list[Layer] = []
    for one in modules:
        layers += [found[id(one.module)]] if id(one.module) in found else parameter_layers(one)
    shared = {name for name, count in Counter(layer.name for layer in layers).items() if count > 1}
    # A wrapper may have a layer of its own beside the model's: then only the full names tell the two apart.
    full = (under(called[id(layer.module)].full, layer.parameter) for layer in layers)
    return tuple(
        replace(layer, name=name) if layer.name in shared else layer
        for layer, name in zip(layers, full, strict=True)
    )


def _innermost_first(module: nn.Module, met: set[int]) -> Iterator[nn.Module]:
    """Every module once, after all that it contains, whichever of its names comes first."""
    if id(module) not in met:
        met.add(id(module))
        for child in module.children():
            yield from _innermost_first(child, met)
        yield module


def _layer(called: NamedModule, found: dict[int, Layer]) -> Layer | None:
    """The layer that a module is, or None."""
    module, names = called.module, called.names
    registered, view = registered_view(module)
    kind_name, refused = type(module).__name__, ""
    if isinstance(module, torch.jit.ScriptModule):
        kind_name = str(getattr(module, "original_name", kind_name))
        view = _scripted_view(kind_name)
        refused = "a scripted module takes no hooks; probe the eager model"
    elif isinstance(module, nn.Bilinear):
        view, refused = View("linear"), "it reads two inputs at once, which no table has a place for"
    elif not registered:
        if "parametrizations" in names[0].split("."):
            return None
        inside = any(id(child) in found for child in module.modules() if child is not module)
        view = None if inside else guessed_view(module)
    if view is None:
        return None
    return Layer(
        name=names[0],
        aliases=tuple(dict.fromkeys(name for name in names[1:] if name != names[0])),
        module=module,
        view=view,
        type=kind_name,
        n_features=_n_features(module),
        eps=eps_of(module),
        affine=any(isinstance(stored(module, name), Tensor) for name in ("weight", "bias")),
        refused=refused,
    )


def _scripted_view(original_name: str) -> View | None:
    """The kind a scripted module's original class name stands for, or None."""
    lowered = original_name.lower()
    if lowered.endswith("linear"):
        return View("linear")
    for kind in KINDS[1:]:
        if kind.replace("_", "") in lowered:
            return View(kind)
    return None


def _n_features(module: nn.Module) -> int | None:
    """How many features the module says its input has."""
    for name in ("in_features", "infeatures", "num_features", "num_channels"):
        value = getattr(module, name, None)
        if isinstance(value, int) and value > 0:
            return value
    shape = getattr(module, "normalized_shape", None)
    if isinstance(shape, (tuple, list, torch.Size)):
        return math.prod(shape)
    weight = stored(module, "weight")
    if isinstance(weight, Tensor) and not is_lazy(weight):
        # Conv1D of transformers stores (in, out); the other Linears store (out, in).
        return weight.shape[0] if weight.dim() == 1 or type(module).__name__ == "Conv1D" else weight.shape[-1]
    return None


def _containers(model: nn.Module, chosen: Sequence[Layer]) -> tuple[nn.Module, ...]:
    """The modules that contain a chosen layer, or have one as a parameter; the model itself always."""
    hooked = {id(layer.module) for layer in chosen if not layer.parameter}
    holders = {id(layer.module) for layer in chosen}
    inside = [
        module
        for module in model.modules()
        if id(module) not in hooked and any(id(child) in holders for child in module.modules())
    ]
    return tuple(module for module in inside if not isinstance(module, torch.jit.ScriptModule))


def _left_out(every: Iterable[Layer], chosen: Iterable[Layer]) -> frozenset[int]:
    """The modules (by id) of layers not chosen that have a tensor in common with one that is."""
    modules = {id(layer.module) for layer in chosen}
    tensors = {id(tensor) for layer in chosen for tensor in layer.module.parameters(recurse=False)}
    others = [layer.module for layer in every if id(layer.module) not in modules]
    return frozenset(
        id(other) for other in others if any(id(one) in tensors for one in other.parameters(recurse=False))
    )


def _wanted_kinds(kinds: str | Iterable[str] | None) -> set[str]:
    wanted = set(KINDS) if kinds is None else {kinds} if isinstance(kinds, str) else set(kinds)
    unknown = sorted(wanted - set(KINDS))
    if unknown:
        raise NoLayersError(f"unknown kind {', '.join(map(repr, unknown))}; choose from {', '.join(KINDS)}")
    return wanted


def _matches(layers: LayerFilter | None, layer: Layer) -> bool:
    if layers is None:
        return True
    if callable(layers):
        return bool(layers(layer.name, layer.module))
    return any(
        fnmatch.fnmatchcase(name, pattern)
        for pattern in _patterns(layers)
        for name in (layer.name, *layer.aliases)
    )


def _patterns(layers: str | Iterable[str]) -> Sequence[str]:
    return [layers] if isinstance(layers, str) else list(layers)


def _nothing_matched(layers: LayerFilter | None, kinds: object, every: Sequence[Layer]) -> str:
    """Say what was asked for, what there is, and the nearest names."""
    have = sorted({layer.view.kind for layer in every})
    asked = [] if kinds is None else [f"kinds={kinds!r}"]
    close: list[str] = []
    if layers is not None:
        asked.insert(0, "a predicate" if callable(layers) else f"layers={layers!r}")
    if layers is not None and not callable(layers):
        names = [layer.name for layer in every]
        close = [match for p in _patterns(layers) for match in difflib.get_close_matches(p, names, 3, 0.4)]
    hint = (
        f"; close names: {', '.join(dict.fromkeys(close))}" if close else f"; for example {every[0].name!r}"
    )
    return f"{' and '.join(asked)} matches none of {len(every)} layers ({', '.join(have)}){hint}"
