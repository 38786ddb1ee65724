"""Whether torch runs a model, or traces, transforms or captures it: only a run has numbers to measure."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules import module as _calls
from torch.overrides import TorchFunctionMode

_MODES = torch._C._TorchDispatchModeKey


def why_skipped(values: Iterable[Any]) -> str:
    """Why a forward with these arguments is no run of the model, or "".

    What a probe computed there would become part of the graph, or read numbers that do not exist.
    """
    if torch._C._is_tracing():
        return "a forward that torch.jit traces is left out"
    if torch._C._functorch.peek_interpreter_stack() is not None:
        return "a forward under a transform of torch.func (vmap, grad, jvp) is left out"
    if torch._C._get_dispatch_mode(_MODES.PROXY) is not None:
        return "a forward that torch exports or traces is left out"
    faked = torch._C._get_dispatch_mode(_MODES.FAKE) is not None
    if faked or any(type(value).__name__ == "FakeTensor" for value in values):
        return "a forward of fake tensors, which hold no numbers, is left out"
    if torch.cuda._initialized and torch.cuda.is_current_stream_capturing():
        return "a forward captured in a CUDA graph is left out, and replays of the graph call no hook"
    return ""


def is_transformed(tensor: Tensor) -> bool:
    """Whether a tensor stands for others under a transform of `torch.func`, though the model was not."""
    return bool(torch._C._functorch.is_functorch_wrapped_tensor(tensor))


def unmeasurable(tensor: Tensor) -> str:
    """Why a tensor has no numbers to measure, or ""."""
    if tensor.is_meta:
        return "a call on meta tensors, which hold no numbers, is left out"
    if type(tensor).__name__ == "DTensor":
        return "a call on a DTensor, of which this process holds a part, is left out"
    if is_transformed(tensor):
        return "a call under a transform of torch.func, whose tensors stand for others, is left out"
    if tensor.is_complex():
        return "a call on complex numbers, which have no order, is left out"
    if tensor.layout not in (torch.strided, torch.jagged):
        return f"a call on a tensor of layout {tensor.layout} is left out"
    return ""


_FILE = _calls.__file__


def calling() -> FrameType | None:
    """The innermost call of a module that this code is part of; to be let go of when the call ends.

    The frame itself must be held: of one that is gone, Python gives the address to the next.
    """
    frame: FrameType | None = sys._getframe()
    while frame is not None and frame.f_code.co_filename != _FILE:
        frame = frame.f_back
    return frame


def called() -> Any:
    """The module whose call is the innermost one, or None."""
    frame = calling()
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
    """Let a mode hear the calls of this thread, below every other mode.

    Leaving a `with` block takes away whichever mode is on top. Below all others a mode can be left behind by
    a KeyboardInterrupt, which runs no hook, and still everyone takes away their own. Only the mode that
    `torch.set_default_device` puts in place must stay the lowest of all; torch checks that.
    """
    above = _lifted()
    default = getattr(torch._GLOBAL_DEVICE_CONTEXT, "device_context", None)
    if above and above[-1] is default:
        _put_back([above.pop()])
    _put_back([*above, mode])


def take_out(mode: TorchFunctionMode) -> None:
    """Take a mode away from this thread, wherever it stands, if it is there."""
    if torch._C._len_torch_function_stack():
        _put_back([other for other in _lifted() if other is not mode])


def _lifted() -> list[TorchFunctionMode]:
    """All modes of this thread, the highest first, taken away for a moment."""
    return [torch._C._pop_torch_function_stack() for _ in range(torch._C._len_torch_function_stack())]


def _put_back(above: list[TorchFunctionMode]) -> None:
    for mode in reversed(above):
        torch._C._push_on_torch_function_stack(mode)


def in_backward() -> bool:
    """Whether autograd is running backward in this thread: a forward there is a recomputation."""
    return bool(graph_task() != -1)


graph_task = torch._C._current_graph_task_id
"""Which backward is running in this thread; -1: none."""
