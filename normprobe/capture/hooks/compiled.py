"""Compiled models run as they were written while they are probed: compiled code calls no hook."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

UNCOMPILED = "compiled, but run as written while probed: outputs equal the compiled model's only to rounding"


def compiled_modules(model: nn.Module) -> Iterator[nn.Module]:
    """The modules whose call runs what `torch.compile` or `module.compile` made of them."""
    for module in model.modules():
        wrapper = type(module).__name__ == "OptimizedModule" and "_orig_mod" in module._modules
        if wrapper or getattr(module, "_compiled_call_impl", None) is not None:
            yield module


class _Stance:
    """What torch does about compiled functions in the whole process: ignores them while anyone asks."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._asking = 0
        self._held: Any = None

    def ask(self) -> None:
        """Have compiled functions run as they were written."""
        with self._lock:
            if not self._asking:
                self._held = torch.compiler.set_stance("force_eager")
            self._asking += 1

    def withdraw(self) -> None:
        """Need it no longer: the last to say so restores what was, unless someone else changed it since."""
        with self._lock:
            self._asking -= 1
            if not self._asking and torch._dynamo.eval_frame._stance is self._held.stance:
                self._held.__exit__(None, None, None)


_STANCE = _Stance()


class Uncompiled:
    """Has a compiled model run as it was written until `leave`; torch before 2.6 cannot do that."""

    def __init__(self) -> None:
        self._asked = False

    def enter(self, model: nn.Module) -> set[int]:
        """Begin, if the model or a part of it is compiled; ids of the modules that now run as written."""
        inside = {id(child) for module in compiled_modules(model) for child in module.modules()}
        if not inside or not hasattr(torch.compiler, "set_stance"):
            return set()
        _STANCE.ask()
        self._asked = True
        return inside

    def leave(self) -> None:
        """Let compiled code run again."""
        if self._asked:
            self._asked = False
            _STANCE.withdraw()


_cut = threading.local()


def is_cut() -> bool:
    """Whether compiled code was cut in two to call us in this thread."""
    return getattr(_cut, "here", False)


def outside(call: Callable[..., None], args: tuple[Any, ...]) -> None:
    """Call what compilation must not look into; the code under compilation is cut in two here."""
    _cut.here = True
    try:
        torch.compiler.disable(call)(*args)  # type: ignore[no-untyped-call]
    finally:
        _cut.here = False


# What `torch.compiler.disable` does to a function, without loading the compiler at import.
outside._torchdynamo_disable = True  # type: ignore[attr-defined]
outside._torchdynamo_disable_msg = (  # type: ignore[attr-defined]
    "normprobe measures here; compile without fullgraph inside its block, or before it"
)
