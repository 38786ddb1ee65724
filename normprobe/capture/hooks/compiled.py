"""Compiled models: which modules are, and what is done about code compiled without a probe's hooks."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from types import CodeType
from typing import Any

import torch
from torch import nn

from normprobe.capture.hooks.compiled_frames import between_graphs
from normprobe.capture.hooks.torch_internals import PRIVATE_TORCH
from normprobe.layers.module_attributes import attribute

IN_GRAPH = (
    "measured in a compiled graph, as that computes: equal to the model as written to rounding, and of a low "
    "precision what a fused step goes on with may be unrounded"
)
UNCOMPILED = (
    "compiled before the probe was entered, or for another model of its class, so forwards that are measured "
    "run as written: outputs equal the compiled model's only to rounding"
)


def is_compiled(module: nn.Module) -> bool:
    """Whether a call of a module runs what `torch.compile` or `module.compile` made of it."""
    # `torch.compile(module)` is an OptimizedModule that holds the module as `_orig_mod`;
    # `module.compile()` leaves the compiled call in `_compiled_call_impl`. Neither has a public name.
    return _is_wrapper(module) or attribute(module, "_compiled_call_impl") is not None


def _is_wrapper(module: nn.Module) -> bool:
    return type(module).__name__ == "OptimizedModule" and "_orig_mod" in module._modules


def compiled_modules(model: nn.Module) -> Iterator[nn.Module]:
    """The modules whose call runs what `torch.compile` or `module.compile` made of them."""
    return filter(is_compiled, model.modules())


class CompiledCode:
    """Code of a model that was compiled without the hooks of a probe, and calls none of them.

    Dynamo keeps what it compiled with the function that it compiled, and asks of each whether it fits a call.
    It may fit another model of the class, too. What fits and was not made in a call of this model, since
    the hooks are there, is stale: such a call runs as it was written, if it is measured. Any other call has
    dynamo make a graph, which calls the hooks.

    Attributes:
        parts: the modules of the model that are compiled by themselves, and those that wrap them.
    """

    def __init__(self, measures: Callable[[nn.Module, nn.Module | None], bool]) -> None:
        self.parts: set[nn.Module] = set()
        self._measures = measures
        self._own: dict[int, Any] = {}
        self._stale: dict[int, Any] = {}
        self._noted: set[int] = set()
        self._note: Callable[[nn.Module], None] = lambda module: None
        self._replaced: list[tuple[dict[str, Any], str, Any]] = []

    def enter(self, model: nn.Module, note: Callable[[nn.Module], None]) -> None:
        """Look what there is; ``note`` is told of modules that run as written."""
        self._note = note
        self._noted.clear()
        self.parts = {part for module in compiled_modules(model) for part in (module, _inner(module))}
        if not PRIVATE_TORCH or "torch._dynamo" not in sys.modules:
            return
        for module in compiled_modules(model):
            self._replace(module, model)

    def leave(self) -> None:
        """Give every module its call back."""
        while self._replaced:
            holder, name, call = self._replaced[-1]
            if getattr(holder.get(name), "_normprobe", None) is self:
                holder[name] = call
            self._replaced.pop()
        self._own, self._stale = {}, {}

    def is_stale(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], *, measured: bool
    ) -> bool:
        """Whether the call of a module that is about to run, and is measured, is of code without hooks."""
        # Also where it is not measured: what is not the model's own by now is never taken for it later.
        entries = [entry for entry in _entries_of(module) if id(entry.code) not in self._own]
        if not entries:
            return False
        self._stale |= {id(entry.code): entry.code for entry in entries}
        return measured and self._fits(module, entries, _locals_of(module, args, kwargs))

    def note_own(self, module: nn.Module) -> None:
        """Note what dynamo made in the call of a module that has ended."""
        # Kept by id, with the code itself, so that no other one gets that id.
        for entry in _entries_of(module):
            if id(entry.code) not in self._stale:
                self._own[id(entry.code)] = entry.code

    def _fits(self, module: nn.Module, entries: list[Any], local: dict[str, Any] | None) -> bool:
        found = local is None or any(_fits(entry, local) for entry in entries)
        if found and id(module) not in self._noted:
            self._noted.add(id(module))
            self._note(module)
        return found

    def _replace(self, module: nn.Module, model: nn.Module) -> None:
        """Of a call that dynamo sees whole, so that no hook runs ahead of it, put another in its place."""
        inner, wrapper = _inner(module), _is_wrapper(module)
        name = "forward" if wrapper else "_compiled_call_impl"
        holder = vars(module)
        call = holder.get(name)
        whole = getattr(call, "_torchdynamo_orig_callable", None)
        # Of a class of the user's hooks run first.
        if call is None or whole is None or (wrapper and inspect.ismethod(whole)):
            return
        code = (whole.__func__ if inspect.ismethod(whole) else whole).__code__
        entries = _entries(code)
        if not entries:
            return
        closure = inspect.getclosurevars(whole).nonlocals if inspect.isfunction(whole) else {"self": inner}

        def call_either(*args: Any, **kwargs: Any) -> Any:
            measured = self._measures(inner, model)
            local = {**closure, "args": args, "kwargs": kwargs}
            if measured and self._fits(inner, entries, local):
                return nn.Module._call_impl(inner, *args, **kwargs)  # type: ignore[no-untyped-call]
            return call(*args, **kwargs)

        # By this name dynamo finds what to look into, where it makes a graph of more.
        call_either._torchdynamo_inline = whole  # type: ignore[attr-defined]
        call_either._torchdynamo_orig_callable = whole  # type: ignore[attr-defined]
        call_either._normprobe = self  # type: ignore[attr-defined]
        self._replaced.append((holder, name, call))
        holder[name] = call_either


def _inner(module: nn.Module) -> nn.Module:
    """The module that a compiled call runs."""
    held = module._modules["_orig_mod"] if _is_wrapper(module) else None
    return module if held is None else held


def _code_of(module: nn.Module) -> CodeType | None:
    """The code of a module's `forward`, which is what dynamo compiles where hooks run ahead of it."""
    forward = attribute(module, "forward")
    code = getattr(getattr(forward, "__func__", forward), "__code__", None)
    return code if isinstance(code, CodeType) else None


def _entries(code: CodeType) -> list[Any]:
    """What dynamo compiled of a code."""
    # Read in torch 2.13; there since 2.5.
    return list(torch._C._dynamo.eval_frame._debug_get_cache_entry_list(code))


def _entries_of(module: nn.Module) -> list[Any]:
    """What dynamo made of a module's `forward`, where compiled code called the hook that asks."""
    code = _code_of(module) if PRIVATE_TORCH and between_graphs() else None
    return [] if code is None else _entries(code)


def _locals_of(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any] | None:
    """The local variables with which `forward` begins; None if Python cannot say."""
    forward = attribute(module, "forward")
    own = inspect.ismethod(forward)
    try:
        # Of the function: its first argument may have any name.
        signature = inspect.signature(forward.__func__ if own else forward)
        bound = signature.bind(*((forward.__self__,) if own else ()), *args, **kwargs)
    except (TypeError, ValueError):
        return None
    bound.apply_defaults()
    return dict(bound.arguments)


def _fits(entry: Any, local: dict[str, Any]) -> bool:
    """Whether dynamo would run this compiled code for a call; in doubt it would."""
    try:
        return bool(entry.guard_manager.check(local))
    except Exception:
        return True
