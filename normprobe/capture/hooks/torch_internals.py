"""Whether torch runs a model, or traces, transforms or captures it: only a run has numbers to measure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

_MODES = torch._C._TorchDispatchModeKey


def why_not_run(values: Iterable[Any]) -> str:
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
