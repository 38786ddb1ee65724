"""Forward hooks with one lifetime: all on entry, none after exit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn
from torch.compiler import is_dynamo_compiling
from torch.utils.hooks import RemovableHandle

from normprobe.compiling import outside

BeforeHook = Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None]
AfterHook = Callable[[nn.Module, tuple[Any, ...], dict[str, Any], Any], None]


class Hook:
    """A callable that torch may copy or pickle with the model; the copy does nothing.

    A probed model may be copied or saved inside the block. The copy must neither drag the probe's
    records along nor go on measuring, so what is copied is an empty hook.
    """

    __slots__ = ("_call",)

    def __init__(self, call: Callable[..., None] | None = None) -> None:
        self._call = call

    def __call__(self, *args: Any) -> None:
        """Call what was wrapped; return None, so that torch leaves the tensors alone."""
        if self._call is None:
            return
        if is_dynamo_compiling():
            outside(self._call, args)
        else:
            self._call(*args)

    def __reduce__(self) -> tuple[type[Hook], tuple[()]]:
        """Copies and pickles are empty hooks."""
        return Hook, ()


class Hooks:
    """All hooks of one probe; `remove` takes away whatever was added, also after a failed entry."""

    def __init__(self) -> None:
        self._handles: list[RemovableHandle] = []

    def before(self, module: nn.Module, call: BeforeHook) -> None:
        """Call ``call(module, args, kwargs)`` ahead of the module's forward, after hooks already there."""
        self._handles.append(module.register_forward_pre_hook(Hook(call), with_kwargs=True))

    def after(self, module: nn.Module, call: AfterHook, *, always: bool = False) -> None:
        """Call ``call(module, args, kwargs, output)`` behind its forward; ``always``: also if it raised."""
        handle = module.register_forward_hook(Hook(call), with_kwargs=True, prepend=True, always_call=always)
        self._handles.append(handle)

    def around(self, module: nn.Module, before: BeforeHook, after: AfterHook) -> None:
        """Call both, ahead of the module's forward and behind it, even if it raised."""
        self.before(module, before)
        self.after(module, after, always=True)

    def remove(self) -> None:
        """Remove every hook, the last added first; calling it again does nothing."""
        while self._handles:
            self._handles.pop().remove()
