"""The blocks of a residual stream: consecutive modules of one class in the lists that a model repeats.

Found from the modules alone, the outermost lists first. A list whose entries hold such lists themselves and
have other sizes than their neighbours is one of stages (Swin, ConvNeXt): its stages' lists are looked into.
That the entries hand on one stream their first calls must show (`capture.states.block_chains`). In 95 model
types of transformers the entries of such a list chain by value, output to input.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import nn

from normprobe.layers.module_attributes import modules_in, parts_of

_LISTS = (nn.ModuleList, nn.Sequential)
_FEWEST = 2


class BlockList(NamedTuple):
    """Modules that a model runs one after the other.

    Attributes:
        holder: the list.
        blocks: consecutive entries of it; a single one where it may be called again and again.
    """

    holder: nn.Module
    blocks: tuple[nn.Module, ...]


def block_lists(model: nn.Module, layers: set[int]) -> list[BlockList]:
    """The outermost lists of blocks.

    Args:
        model: the model.
        layers: ids of the modules that are a Linear or a norm, which are no blocks.
    """
    found: list[BlockList] = []
    _search(model, layers, found, set())
    return found


def _search(module: nn.Module, layers: set[int], found: list[BlockList], seen: set[int]) -> None:
    if id(module) in seen:
        return
    seen.add(id(module))
    taken: set[int] = set()
    for run in _runs(module, layers):
        if not _are_stages(run, layers):
            found.append(BlockList(module, tuple(run)))
            # Lists inside a block are of its own parts, so the search goes on beside blocks alone.
            taken |= {id(block) for block in run}
    for part in parts_of(module).values():
        if id(part) not in taken:
            _search(part, layers, found, seen)


def _runs(module: nn.Module, layers: set[int]) -> list[list[nn.Module]]:
    """The runs of consecutive entries of one class in a module, if it is a list."""
    if not isinstance(module, _LISTS) or isinstance(module, torch.jit.ScriptModule):
        return []
    entries = [*parts_of(module).values()]
    if len(entries) == 1 and isinstance(module, nn.ModuleList):
        # One module may be called again and again, as ALBERT's is.
        alone = _may_be_block(entries[0], layers) and not _holds_runs(entries[0], layers)
        return [entries] if alone else []
    runs: list[list[nn.Module]] = []
    before: nn.Module | None = None
    for entry in entries:
        if not _may_be_block(entry, layers):
            before = None
            continue
        if before is not None and _of_one_class(before, entry, layers):
            runs[-1].append(entry)
        else:
            runs.append([entry])
        before = entry
    return [run for run in runs if len(run) >= _FEWEST]


def _may_be_block(module: nn.Module, layers: set[int]) -> bool:
    """Whether a module is called, is no layer and holds parameters further in. A Sequential has no skip."""
    forward = type(module).forward
    if id(module) in layers or forward in (nn.Module.forward, nn.Sequential.forward):
        return False
    if isinstance(module, torch.jit.ScriptModule):
        return False
    return any(next(part.parameters(), None) is not None for part in module.children())


def _of_one_class(a: nn.Module, b: nn.Module, layers: set[int]) -> bool:
    """Whether two entries are of one class, or of classes with a base of their own, as hybrids have them."""
    if type(a) is type(b):
        return True
    common = _own_bases(a) & _own_bases(b)
    return bool(common) and not (_holds_runs(a, layers) or _holds_runs(b, layers))


def _own_bases(module: nn.Module) -> set[type]:
    bases = {cls for cls in type(module).__mro__ if issubclass(cls, nn.Module)}
    return {cls for cls in bases if not cls.__module__.startswith("torch.nn")}


def _holds_runs(module: nn.Module, layers: set[int]) -> bool:
    return any(_plain_runs(part, layers) for part in modules_in(module) if part is not module)


def _plain_runs(module: nn.Module, layers: set[int]) -> bool:
    """Whether a module is a list with two entries of one class that may be blocks."""
    if not isinstance(module, _LISTS):
        return False
    return any(
        type(a) is type(b) and _may_be_block(a, layers) for a, b in pairwise(parts_of(module).values())
    )


def _are_stages(run: Sequence[nn.Module], layers: set[int]) -> bool:
    """Whether entries hold lists of blocks themselves, and are of other sizes than their neighbours."""
    if not any(_holds_runs(entry, layers) for entry in run):
        return False
    differ = [_differ(a, b) for a, b in pairwise(run)]
    # Most, not all: two stages of a model may be of one size.
    return sum(differ) * 2 > len(differ)


def _differ(a: nn.Module, b: nn.Module) -> bool:
    """Whether most parameters of two modules that have one name have other sizes."""
    shapes = [dict(_shapes(module)) for module in (a, b)]
    common = shapes[0].keys() & shapes[1].keys()
    other = sum(shapes[0][name] != shapes[1][name] for name in common)
    return not common or other * 2 > len(common)


def _shapes(module: nn.Module) -> Iterator[tuple[str, tuple[int, ...]]]:
    for name, parameter in module.named_parameters():
        # A lazy module's parameter has no shape before its first call.
        if not isinstance(parameter, nn.UninitializedParameter):
            yield name, tuple(parameter.shape)
