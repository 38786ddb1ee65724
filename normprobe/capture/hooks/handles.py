"""Forward hooks with one lifetime: all on entry, none after exit."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Container
from typing import Any, NamedTuple

from torch import nn
from torch.compiler import is_dynamo_compiling
from torch.utils.hooks import RemovableHandle

from normprobe.capture.hooks.compiled import outside

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


class _Aside(NamedTuple):
    """A hook that may be put aside: where torch finds it, under which number, and whether it comes first."""

    among: dict[int, Callable[..., Any]]
    number: int
    hook: Hook
    first: bool


class Hooks:
    """All hooks of one probe; `remove` takes away whatever was added, also after a failed entry."""

    def __init__(self) -> None:
        self._handles: list[RemovableHandle] = []
        self._inner: dict[int, tuple[_Aside, _Aside]] = {}
        self._aside: list[_Aside] = []
        self._threads: set[int] = set()

    def before(self, module: nn.Module, call: BeforeHook) -> _Aside:
        """Call ``call(module, args, kwargs)`` ahead of the module's forward, after hooks already there."""
        hook = Hook(call)
        self._handles.append(module.register_forward_pre_hook(hook, with_kwargs=True))
        return _Aside(module._forward_pre_hooks, self._handles[-1].id, hook, False)

    def after(self, module: nn.Module, call: AfterHook, *, always: bool = False) -> _Aside:
        """Call ``call(module, args, kwargs, output)`` behind its forward; ``always``: also if it raised."""
        hook = Hook(call)
        handle = module.register_forward_hook(hook, with_kwargs=True, prepend=True, always_call=always)
        self._handles.append(handle)
        return _Aside(module._forward_hooks, handle.id, hook, True)

    def around(self, module: nn.Module, before: BeforeHook, after: AfterHook, *, inner: bool = False) -> None:
        """Call both, ahead of the module's forward and behind it, even if it raised.

        Args:
            module: the module.
            before: what to call ahead of it.
            after: what to call behind it.
            inner: whether both may be put aside.
        """
        both = self.before(module, before), self.after(module, after, always=True)
        if inner:
            self._inner[id(module)] = both

    def put_aside(self, modules: Container[int]) -> None:
        """Until `put_back` torch finds no hooks around these modules (by id), and calls them the sooner.

        Nothing happens once a second thread was here: what is aside for one is missed by the others.
        """
        self._threads.add(threading.get_ident())
        if len(self._threads) > 1:
            return
        for module, both in self._inner.items():
            for aside in both if module in modules else ():
                if aside.among.pop(aside.number, None) is not None:
                    self._aside.append(aside)

    def put_back(self) -> None:
        """Put back what was put aside."""
        self._threads.add(threading.get_ident())
        while self._aside:
            among, number, hook, first = self._aside.pop()
            among[number] = hook
            if first and isinstance(among, OrderedDict):
                among.move_to_end(number, last=False)

    def remove(self) -> None:
        """Remove every hook, the last added first; calling it again does nothing."""
        self._aside.clear()
        self._inner.clear()
        while self._handles:
            self._handles.pop().remove()
