"""Private state of torch and of Python: is this a run, whose call is it, which modes see it, is it backward.

Each private name says what it is for. All were read in torch 2.13; the package's `__init__` lists them.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterable
from functools import partial
from types import FrameType, GeneratorType, TracebackType
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules import module as _modules
from torch.overrides import TorchFunctionMode

from normprobe.capture.hooks.interrupts import finish

PRIVATE_TORCH = os.environ.get("NORMPROBE_PRIVATE_TORCH") != "0"
"""Whether what is optional may rest on private names of torch; read once, when a probe is first imported."""

_DISPATCH_KEYS = torch._C._TorchDispatchModeKey
"""Names of the modes that torch itself puts in place to trace: PROXY (make_fx, export) and FAKE."""


def why_skipped(values: Iterable[Any]) -> str:
    """Why a forward with these arguments is no run of the model, or "".

    What a probe computed there would become part of the graph, or read numbers that do not exist.
    """
    if torch._C._is_tracing():  # as `torch.jit.is_tracing`, which has no types
        return "a forward that torch.jit traces is left out"
    # The innermost transform of torch.func in this thread; there is no public way to ask.
    if torch._C._functorch.peek_interpreter_stack() is not None:
        return "a forward under a transform of torch.func (vmap, grad, jvp) is left out"
    # The dispatch mode of a key in this thread, or None; `torch.compiler.is_exporting` knows fewer cases.
    if torch._C._get_dispatch_mode(_DISPATCH_KEYS.PROXY) is not None:
        return "a forward that torch exports or traces is left out"
    faked = torch._C._get_dispatch_mode(_DISPATCH_KEYS.FAKE) is not None
    if faked or any(type(value).__name__ == "FakeTensor" for value in values):
        return "a forward of fake tensors, which hold no numbers, is left out"
    started = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    if started and torch.cuda.is_current_stream_capturing():
        return "a forward captured in a CUDA graph is left out, and replays of the graph call no hook"
    return ""


def is_transformed(tensor: Tensor) -> bool:
    """Whether a tensor stands for others under a transform of `torch.func`, though the model was not."""
    # Such a tensor is of Python's type Tensor, so its type does not say it.
    return bool(torch._C._functorch.is_functorch_wrapped_tensor(tensor))


def unmeasurable(tensor: Tensor) -> str:
    """Why a tensor has no numbers to measure, or ""."""
    if tensor.is_meta:
        return "a call on meta tensors, which hold no numbers, is left out"
    if is_transformed(tensor):
        return "a call under a transform of torch.func, whose tensors stand for others, is left out"
    if tensor.is_complex():
        return "a call on complex numbers, which have no order, is left out"
    if tensor.layout not in (torch.strided, torch.jagged):
        return f"a call on a tensor of layout {tensor.layout} is left out"
    return ""


def base_of(tensor: Tensor) -> Tensor | None:
    """The tensor that another one is a view of, or None; `_base` is set by autograd for every view."""
    return tensor._base


_MODULE_FILE = _modules.__file__
"""The file of `nn.Module._call_impl`, by which its Python frames are known."""


def innermost_call() -> FrameType | None:
    """The frame of the innermost call of a module that this code is part of; let it go when the call ends.

    The frame itself must be held: of one that is gone, Python gives the address to the next. Without private
    names None, for which `is_over` is never true.
    """
    frame: FrameType | None = sys._getframe() if PRIVATE_TORCH else None
    while frame is not None and frame.f_code.co_filename != _MODULE_FILE:
        frame = frame.f_back
    return frame


def called_module() -> Any:
    """The module whose call is the innermost one, or None."""
    frame = innermost_call()
    return None if frame is None else frame.f_locals.get("self")


def is_over(call: FrameType | None) -> bool:
    """Whether the call has ended, however it did; False where nothing is known of it.

    Torch runs no hook when a KeyboardInterrupt ends a call. Python clears the local variables of a call that
    has ended and refuses to clear those of one under way, at the same small price at any depth.
    """
    if call is None:
        return False
    try:
        call.clear()
    except RuntimeError:
        return False
    return True


def put_below(mode: TorchFunctionMode) -> None:
    """Let a mode see the calls of this thread, below every other mode.

    Leaving a `with` block takes away whichever mode is on top. Below all others a mode can be left behind by
    a KeyboardInterrupt, which runs no hook, and still everyone takes away their own. Only the mode that
    `torch.set_default_device` puts in place must stay the lowest of all; torch checks that.
    """
    above = _stack()
    # Thread-local; its attribute `device_context` exists once a default device was set.
    default = getattr(torch._GLOBAL_DEVICE_CONTEXT, "device_context", None)
    lowest = above[-1:] if above and above[-1] is default else []
    try:
        _set_stack([*above[: len(above) - len(lowest)], mode, *lowest])
    except BaseException:  # an interrupt: the modes of others must not be lost
        finish(partial(_set_stack, above))
        raise


def take_out(mode: TorchFunctionMode) -> None:
    """Take a mode away from this thread, wherever it stands, if it is there."""
    above = _stack() if PRIVATE_TORCH else []
    if mode in above:
        # To its end: an interrupt in between would take the modes of others from their own blocks.
        finish(partial(_set_stack, [other for other in above if other is not mode]))


class ModesAside:
    """A block in which no mode of torch's functions sees this thread.

    What a probe computes would otherwise pass through its own mode, a call of Python for each function and
    attribute of a tensor, and through those of others, who would count or change it. Tensor subclasses keep
    their `__torch_function__`, which says what their numbers are (`torch._C.DisableTorchFunction` would not).
    Blocks may be nested. The stack belongs to the thread, so no lock is needed.
    """

    __slots__ = ("_stack",)

    def __enter__(self) -> None:
        # Most forwards have no mode at all: asking for the length first spares them the rest.
        some = PRIVATE_TORCH and torch._C._len_torch_function_stack()
        self._stack = _stack() if some else []
        if self._stack:
            try:
                _take_all()
            except BaseException:  # an interrupt: without `__enter__` no `__exit__` puts them back
                finish(partial(_set_stack, self._stack))
                raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._stack:
            finish(partial(_set_stack, self._stack))


class ModeAside:
    """A block in which one mode alone does not see this thread: a user's function keeps the user's modes."""

    __slots__ = ("_mode", "_stack")

    def __init__(self, mode: TorchFunctionMode) -> None:
        self._mode = mode
        self._stack: list[TorchFunctionMode] = []

    def __enter__(self) -> None:
        stack = _stack() if PRIVATE_TORCH else []
        if self._mode in stack:
            self._stack = stack
            take_out(self._mode)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._stack:
            finish(partial(_set_stack, self._stack))


def end_cut_blocks(mode: TorchFunctionMode) -> None:
    """End the blocks of torch in which a mode is away, where an interrupt cut their beginnings or ends.

    Torch takes a mode away while it hears a function, by a generator (`torch.overrides`). Interrupted as such
    a block begins or ends, the generator waits with the traceback, and puts the mode back once that is
    forgotten: after the probe has taken its mode out for good.
    """
    for value in gc.get_objects():
        if type(value) is not GeneratorType or value.gi_code is not _AWAY or value.gi_frame is None:
            continue
        if value.gi_frame.f_locals.get("old") is mode and not value.gi_running:
            value.close()


_AWAY = getattr(
    getattr(torch.overrides, "_pop_mode_temporarily", None), "__wrapped__", end_cut_blocks
).__code__
"""The code of the generator of these blocks."""


def _take_all() -> list[TorchFunctionMode]:
    """All modes of this thread, the highest first, taken away for a moment.

    `torch.overrides` has only blocks, which end in the order they began; the stack itself is private.
    """
    return [torch._C._pop_torch_function_stack() for _ in range(torch._C._len_torch_function_stack())]


def _stack() -> list[TorchFunctionMode]:
    """All modes of this thread, the highest first, left as they are."""
    count = torch._C._len_torch_function_stack()
    return [torch._C._get_function_stack_at(at) for at in reversed(range(count))]


def _set_stack(above: list[TorchFunctionMode]) -> None:
    """Let these be the modes of this thread, the highest first."""
    _take_all()
    _put_back(above)


def _put_back(above: list[TorchFunctionMode]) -> None:
    for mode in reversed(above):
        torch._C._push_on_torch_function_stack(mode)


def in_backward() -> bool:
    """Whether autograd is running backward in this thread: a forward there is a recomputation."""
    return bool(graph_task() != -1)


graph_task = torch._C._current_graph_task_id
"""The number of the backward that runs in this thread, -1 without one; the extension asks it, too."""
