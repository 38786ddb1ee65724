"""Modes of torch's function calls, put in place and taken away without disturbing those of others."""

from __future__ import annotations

import torch
from torch.overrides import TorchFunctionMode


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
