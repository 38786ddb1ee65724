"""Compiled models run as they were written while they are probed: compiled code calls no hook."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from normprobe.capture.hooks.torch_internals import PRIVATE_TORCH
from normprobe.layers.module_attributes import attribute

UNCOMPILED = "compiled, but run as written while probed: outputs equal the compiled model's only to rounding"


def compiled_modules(model: nn.Module) -> Iterator[nn.Module]:
    """The modules whose call runs what `torch.compile` or `module.compile` made of them."""
    for module in model.modules():
        # `torch.compile(module)` is an OptimizedModule that holds the module as `_orig_mod`;
        # `module.compile()` leaves the compiled call in `_compiled_call_impl`. Neither has a public name.
        wrapper = type(module).__name__ == "OptimizedModule" and "_orig_mod" in module._modules
        if wrapper or attribute(module, "_compiled_call_impl") is not None:
            yield module


class _EagerStance:
    """What torch does about compiled functions: it ignores them while any probe is on a compiled model.

    A stance is of the whole process, so there is one object of this class, which knows the probes that need
    it. The lock guards them and the stance together: probes are entered and left in any thread.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users: set[int] = set()
        self._block: Any = None

    def acquire(self, user: int) -> None:
        """Have compiled functions run as they were written, for the user of this id."""
        with self._lock:
            if self._block is None:
                self._block = torch.compiler.set_stance("force_eager")
            self._users.add(user)

    def release(self, user: int) -> None:
        """Give up a use, if there is one; the last restores the stance, unless someone else changed it."""
        with self._lock:
            self._users.discard(user)
            if self._users or self._block is None:
                return
            # The stance in force has no public name; leaving the block would overwrite a later one.
            if torch._dynamo.eval_frame._stance is self._block.stance:
                self._block.__exit__(None, None, None)
            self._block = None


_EAGER = _EagerStance()


class Uncompiled:
    """Has a compiled model run as it was written until `leave`."""

    def __init__(self) -> None:
        self._entered = False

    def enter(self, model: nn.Module) -> set[int]:
        """Begin, if the model or a part of it is compiled; ids of the modules that now run as written."""
        inside = {id(child) for module in compiled_modules(model) for child in module.modules()}
        if not inside or not PRIVATE_TORCH:
            return set()  # layers that compiled code runs never fire then, and the ledger says why
        self._entered = True  # first: what an interrupt cuts short is released, too
        _EAGER.acquire(id(self))
        return inside

    def leave(self) -> None:
        """Let compiled code run again."""
        if self._entered:
            _EAGER.release(id(self))
            self._entered = False


_thread = threading.local()


def is_cut() -> bool:
    """Whether compiled code was cut in two to call us in this thread."""
    return getattr(_thread, "cut", False)


def call_uncompiled(call: Callable[..., None], args: tuple[Any, ...]) -> None:
    """Call what compilation must not look into; the code under compilation is cut in two here."""
    _thread.cut = True
    try:
        torch.compiler.disable(call)(*args)  # type: ignore[no-untyped-call]
    finally:
        _thread.cut = False


# What `torch.compiler.disable` does to a function, without loading the compiler (half a second) at import.
call_uncompiled._torchdynamo_disable = True  # type: ignore[attr-defined]
call_uncompiled._torchdynamo_disable_msg = (  # type: ignore[attr-defined]
    "normprobe measures here; compile without fullgraph inside its block, or before it"
)
