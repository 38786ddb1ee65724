"""The calls of a model's modules, kept by hooks of the survey's own, and which of these look like layers."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

_ENDS_LIKE_NORM = re.compile(r"(LN|BN|GN|IN|RMS)$")
_ENDS_LIKE_LINEAR = re.compile(r"(Linear|Dense|Conv1D)$")
_SIZES = (("in_features", "out_features"), ("in_size", "out_size"))

_READS = {"MessageNorm": 1}
"""Which floating argument a class works on where that is not the first, by hand from its source."""


@dataclass(frozen=True)
class Called:
    """One call of a module.

    Attributes:
        input: the first floating tensor that it read, as it was before; of a mapping the one replaced.
        output: the tensor that its caller got; of a mapping the one that the call put in.
        training: the module's mode.
    """

    input: Tensor | None
    output: Tensor | None
    training: bool


def floating(values: Any, path: str = "") -> Iterator[tuple[str, Tensor]]:
    """Path and tensor of every floating tensor in whatever a module takes or gives."""
    if isinstance(values, Tensor):
        # What vmap or grad wraps is gone when they are left.
        wrapped = torch._C._functorch.is_functorch_wrapped_tensor(values)
        if values.is_floating_point() and values.layout == torch.strided and not wrapped:
            yield path, values
        return
    if isinstance(values, dict) or hasattr(values, "keys"):
        for key in values.keys():  # noqa: SIM118 - some outputs of models are no mappings
            yield from floating(values[key], f"{path}.{key}")
    elif isinstance(values, (tuple, list)):
        for index, value in enumerate(values):
            yield from floating(value, f"{path}.{index}")


def record_calls(modules: Iterable[nn.Module], run: Callable[[], Any]) -> dict[int, list[Called]]:
    """Every call of every module while ``run`` runs, by the module's id."""
    calls: dict[int, list[Called]] = defaultdict(list)
    pending: dict[int, list[Any]] = defaultdict(list)
    handles = []

    def before(module: nn.Module, args: Any, kwargs: Any) -> None:
        read = list(floating([*args, *kwargs.values()]))
        copies = {path: tensor.detach().clone() for path, tensor in read}
        pending[id(module)].append((copies, {id(tensor) for _, tensor in read}))

    def after(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        copies, known = pending[id(module)].pop()
        given = list(floating(output))
        fresh = [(path, tensor) for path, tensor in given if id(tensor) not in known]
        put_in = fresh[0] if isinstance(output, dict) and fresh else None
        path, out = put_in or next(iter(given), ("", None))
        replaced = [copy for place, copy in copies.items() if put_in and place.endswith(path)]
        of_call = replaced or list(copies.values())[_READS.get(type(module).__name__, 0) :]
        read = next(iter(of_call), None)
        out = None if out is None else out.detach().clone()
        calls[id(module)].append(Called(read, out, module.training))

    for module in {id(module): module for module in modules}.values():
        if not isinstance(module, torch.jit.ScriptModule):
            handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
            handles.append(module.register_forward_hook(after, with_kwargs=True))
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    return {key: _of_data(seen, calls) for key, seen in calls.items()}


def _of_data(seen: list[Called], calls: dict[int, list[Called]]) -> list[Called]:
    """The calls of a module that are not on an identity matrix, nor on what such a call gave."""
    every = [call for some in calls.values() for call in some]
    given = [call.output for call in every if _is_identity(call.input) and call.output is not None]
    return [call for call in seen if not _is_identity(call.input) and not _is_among(call.input, given)]


def _is_identity(value: Tensor | None) -> bool:
    square = value is not None and value.dim() == 2 and value.shape[0] == value.shape[1]
    return square and torch.equal(value, torch.eye(len(value), dtype=value.dtype))


def _is_among(value: Tensor | None, others: list[Tensor]) -> bool:
    return value is not None and any(value.shape == o.shape and torch.equal(value, o) for o in others)


def looks(module: nn.Module) -> str:
    """In which way a module looks like a Linear or a norm; "" if in none."""
    if isinstance(module, nn.modules.activation.MultiheadAttention):
        return ""
    names = [cls.__name__ for cls in type(module).__mro__ if cls not in (nn.Module, object)]
    if any("norm" in name.lower() or _ENDS_LIKE_NORM.search(name) for name in names):
        return "its name"
    if any(_ENDS_LIKE_LINEAR.search(name) for name in names):
        return "its name"
    for name in ("eps", "epsilon", "variance_epsilon"):
        if isinstance(getattr(module, name, None), float):
            return f"its {name}"
    return "its sizes" if any(all(_is_size(module, side) for side in sides) for sides in _SIZES) else ""


def _is_size(module: nn.Module, name: str) -> bool:
    try:
        return isinstance(getattr(module, name, None), int)
    except Exception:  # a property of whatever library
        return False
