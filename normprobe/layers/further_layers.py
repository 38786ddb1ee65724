"""The layers of further kinds that were asked for, as they stand on entry."""

from __future__ import annotations

import fnmatch
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from normprobe.errors import NoLayersError, NormprobeError
from normprobe.layers.blocks import block_lists
from normprobe.layers.filters import check_filters
from normprobe.layers.further_kinds import channels_of, further_view, says_axis, width_beside
from normprobe.layers.layer import Layer, NamedModule
from normprobe.layers.module_attributes import parts_of, stored
from normprobe.layers.view import REPEATS, View

Residual = bool | str | Iterable[str] | None
"""Whether blocks of a residual stream are measured: those that are found, or those of such names."""

NO_BLOCKS = "residual: no module that repeats was found; name the blocks, as residual='encoder.layer.*'"


def check_residual(residual: object) -> bool | tuple[str, ...]:
    """Whether blocks are looked for, or the patterns of their names.

    Raises:
        NormprobeError: it is neither.
    """
    if residual is None or isinstance(residual, bool):
        return bool(residual)
    patterns = [residual] if isinstance(residual, str) else residual
    if isinstance(patterns, Iterable):
        listed = list(patterns)
        if listed and all(isinstance(pattern, str) for pattern in listed):
            return tuple(listed)
    raise NormprobeError(
        f"residual must be True, a glob pattern such as 'encoder.layer.*' or several; got {residual!r}"
    )


def checked(layers: Any, kinds: Any, residual: object) -> tuple[Any, Any, bool | tuple[str, ...]]:
    """The filters by names and kinds, and whether blocks are looked for or what they are called.

    Raises:
        NormprobeError: one of them is of another type.
        NoLayersError: there is no such kind.
    """
    return (*check_filters(layers, kinds), check_residual(residual))


def further_layers(
    modules: Sequence[NamedModule],
    layers: set[int],
    kinds: Collection[str],
    residual: bool | tuple[str, ...],
) -> dict[int, Layer]:
    """The layers of further kinds, by the id of their module.

    Args:
        modules: those of the model, itself first.
        layers: ids of the modules that are a Linear or a norm.
        kinds: the kinds that are asked for.
        residual: whether blocks are looked for, or the patterns of their names.

    Raises:
        NoLayersError: a pattern is of no module.
    """
    found: dict[int, Layer] = {}
    if residual:
        for layer in _blocks(modules, layers, residual):
            found[id(layer.module)] = layer
    near = dict(_neighbours(modules)) if kinds else {}
    for named in modules if kinds else ():
        key = id(named.module)
        beside = near.get(key)
        module = None if beside is None else beside.module
        view = None if key in layers | found.keys() else further_view(named.module, module, kinds)
        if view is not None:
            width = None if beside is None or view.kind != "activation" else beside.width
            found[key] = _layer(named, view, width)
    return found


def _blocks(
    modules: Sequence[NamedModule], layers: set[int], residual: bool | tuple[str, ...]
) -> Iterator[Layer]:
    view = View("residual")
    if isinstance(residual, tuple):
        yield from (_layer(named, view) for named in _named_so(modules, layers, residual))
        return
    by_id = {id(named.module): named for named in modules}
    for holder, blocks in block_lists(modules[0].module, layers):
        for block in blocks:
            of = view if len(blocks) > 1 else replace(view, unconfirmed=REPEATS)
            name = by_id[id(holder)].names[0]
            yield replace(_layer(by_id[id(block)], of), block_list=f"{name}:{id(blocks[0])}")


def _named_so(
    modules: Sequence[NamedModule], layers: set[int], patterns: tuple[str, ...]
) -> Iterator[NamedModule]:
    """The modules that patterns name, layers aside.

    Raises:
        NoLayersError: a pattern names none.
    """
    fitting = [
        (named, pattern)
        for named in modules
        for pattern in patterns
        if id(named.module) not in layers
        and type(named.module).forward is not nn.Module.forward
        and not isinstance(named.module, torch.jit.ScriptModule)
        and any(fnmatch.fnmatchcase(name, pattern) for name in named.names)
    ]
    lost = [pattern for pattern in patterns if pattern not in {pattern for _, pattern in fitting}]
    if lost:
        raise NoLayersError(
            f"residual={lost[0]!r} names no module that is called and is no layer itself; "
            "residual=True looks for the blocks"
        )
    yield from {id(named.module): named for named, _ in fitting}.values()


def _layer(named: NamedModule, view: View, width: int | None = None) -> Layer:
    module, names = named.module, named.names
    if view.kind in ("conv", "embedding"):
        width = getattr(module, "embedding_dim", None) or channels_of(module)
    return Layer(
        name=names[0],
        aliases=tuple(dict.fromkeys(name for name in names[1:] if name != names[0])),
        module=module,
        view=view,
        type=type(module).__name__,
        n_features=width,
        eps=None,
        affine=any(isinstance(stored(module, name), Tensor) for name in ("weight", "bias")),
    )


class _Neighbour(NamedTuple):
    """The module next to another one that says its axis, and how many features lie between the two."""

    module: nn.Module
    width: int | None


def _neighbours(modules: Sequence[NamedModule]) -> Iterator[tuple[int, _Neighbour]]:
    """By the id of each part of a module the nearest one before it, else behind it, that says its axis."""
    for named in modules:
        parts = [*parts_of(named.module).values()]
        saying = [at for at, part in enumerate(parts) if says_axis(part)]
        for at, part in enumerate(parts):
            if not says_axis(part) and saying:
                before = [other for other in saying if other < at]
                beside = parts[before[-1] if before else saying[0]]
                yield id(part), _Neighbour(beside, width_beside(beside, behind=bool(before)))
