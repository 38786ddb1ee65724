"""Python code that dynamo must not compile: hooks that run between compiled code, in its thread.

While a compiled model runs, dynamo is asked about each Python function that is called outside of its graphs,
as hooks of the model itself are: by a callback that belongs to the thread. Hooks take it away while they run.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from normprobe.capture.hooks.torch_internals import PRIVATE_TORCH


def _no_callback(callback: Any) -> Any:
    return None


set_callback: Callable[[Any], Any] = (
    torch._C._dynamo.eval_frame.set_eval_frame if PRIVATE_TORCH else _no_callback
)
"""Sets dynamo's callback of this thread and gives the one before: None where nothing is compiled."""


def skipped(function: Any) -> Any:
    """Have dynamo never compile a function by itself; what it calls is another matter."""
    if PRIVATE_TORCH:
        internals = torch._C._dynamo.eval_frame
        strategy = internals._FrameExecStrategy(internals._FrameAction.SKIP, internals._FrameAction.DEFAULT)
        internals.set_code_exec_strategy(function.__code__, strategy)
    return function


class _Thread(threading.local):
    callback: Any = None
    cut = False


_THREAD = _Thread()
ASIDE: list[tuple[int, nn.Module, Any]] = []
"""By thread, the modules whose call runs as written, and the callback to set when it ends."""


def between_graphs() -> bool:
    """Whether compiled code called the hook that runs in this thread, outside of its graphs or cut in two."""
    return _THREAD.callback is not None or _THREAD.cut


@skipped
def call_between(callback: Any, call: Callable[..., None], args: tuple[Any, ...]) -> None:
    """Call what was called between compiled code; this callback is set again behind it."""
    thread = _THREAD
    outer, thread.callback = thread.callback, callback
    try:
        call(*args)
    finally:
        after, thread.callback = thread.callback, outer
        set_callback(after)


def run_as_written(module: nn.Module) -> None:
    """Have the call of a module that is about to run go on uncompiled: called in a hook ahead of it."""
    ASIDE.append((threading.get_ident(), module, _THREAD.callback))
    _THREAD.callback = None


@skipped
def end_as_written(module: nn.Module) -> None:
    """Behind a call of a module, compile again what follows, if it ran as written."""
    thread = threading.get_ident()
    for entry in [entry for entry in ASIDE if entry[0] == thread and entry[1] is module]:
        ASIDE.remove(entry)
        # With fullgraph=True torch 2.13 counts the compiled code that ran, and none is an error. At -1 it
        # does not count. Older ones have no such count.
        count = getattr(torch._C._dynamo.eval_frame, "set_fullgraph_compiled_frame_count", None)
        if count is not None:
            count(-1)
        set_callback(entry[2])


def call_uncompiled(call: Callable[..., None], args: tuple[Any, ...]) -> None:
    """Call what compilation must not look into; the code under compilation is cut in two here."""
    _THREAD.cut = True
    try:
        torch.compiler.disable(call)(*args)  # type: ignore[no-untyped-call]
    finally:
        _THREAD.cut = False


# What `torch.compiler.disable` does to a function, without loading the compiler (half a second) at import.
call_uncompiled._torchdynamo_disable = True  # type: ignore[attr-defined]
call_uncompiled._torchdynamo_disable_msg = (  # type: ignore[attr-defined]
    "normprobe measures here; compile without fullgraph inside its block, or before it"
)
