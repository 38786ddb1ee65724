"""Whether a model is as it was when its layers were looked for, which takes a tenth of looking again."""

from __future__ import annotations

from typing import Any

from torch import nn

from normprobe.layers.module_attributes import is_keras, is_lazy, parts_of
from normprobe.layers.view_registry import registered

_BY_VALUE = frozenset((bool, int, float, str, type(None)))


def fingerprint(model: nn.Module) -> list[Any]:
    """What `find_layers` reads of a model: equal lists of one model mean that it finds the same layers.

    Of each module its class and attributes, numbers by value and objects by id; of the tensors and parts that
    it stores which they are, and the sizes of the tensors. An id may be another object's once its owner is
    gone; of modules that were found, a `LayerSet` holds every one.
    """
    found: list[Any] = [registered()]
    waiting, seen = [model], set[int]()
    while waiting:
        module = waiting.pop()
        if id(module) in seen:
            continue
        seen.add(id(module))
        values = vars(module)
        parts = [*parts_of(module).values()] if is_keras(module) else [*module._modules.values()]
        waiting += [part for part in parts if part is not None]
        found += (
            id(module),
            type(module),
            *values,
            *[value if type(value) in _BY_VALUE else id(value) for value in values.values()],
            *module._modules.keys(),
            *[id(part) for part in parts],
        )
        for stored in (module._parameters, module._buffers):
            found += [(name, *_facts(value)) for name, value in stored.items()] if stored else ()
    return found


def _facts(value: Any) -> tuple[Any, ...]:
    """Which object a stored tensor is, and of what sizes."""
    if value is None or is_lazy(value):
        return id(value), type(value)
    return id(value), type(value), value.shape, value.dtype
