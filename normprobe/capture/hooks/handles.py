"""Forward hooks with one lifetime: all on entry, none after exit."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Container
from typing import Any, NamedTuple

from torch import nn
from torch.compiler import is_dynamo_compiling
from torch.utils.hooks import RemovableHandle

from normprobe.capture.hooks import graph_calls
from normprobe.capture.hooks.compiled_frames import (
    ASIDE,
    call_between,
    call_uncompiled,
    end_as_written,
    set_callback,
    skipped,
)
from normprobe.capture.hooks.copies import COPIES
from normprobe.capture.hooks.graph_calls import GraphHook, Shows, traced
from normprobe.capture.hooks.graphs import GraphLayer, Graphs
from normprobe.capture.hooks.torch_internals import PRIVATE_TORCH
from normprobe.kernels import dispatch

BeforeHook = Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None]
AfterHook = Callable[[nn.Module, tuple[Any, ...], dict[str, Any], Any], None]


class Hook:
    """A callable that torch calls around a module's forward.

    Copies and pickles of a probed model are made without its hooks (`copies`). Where that did not reach one,
    what is copied is an empty hook: it neither drags the probe's records along nor goes on measuring.

    Attributes:
        call: what was wrapped; None of an empty hook.
        traced: what dynamo sees in its place (`graph_calls`); None where graphs are cut in two to call it.
    """

    __slots__ = ("call", "traced")

    def __init__(self, call: Callable[..., None] | None = None) -> None:
        self.call = call
        self.traced: Callable[..., None] = _cut(call)

    @skipped
    def __call__(self, *args: Any) -> None:
        """Call what was wrapped; return None, so that torch leaves the tensors alone."""
        if self.call is None:
            return
        # Under compilation the graph must break here, or the probe would be compiled into it.
        if is_dynamo_compiling():
            call_uncompiled(self.call, args)
            return
        callback = set_callback(None)
        if callback is None:
            self.call(*args)
        else:
            call_between(callback, self.call, args)
        if ASIDE and len(args) == _BEHIND:
            end_as_written(args[0])

    def __reduce__(self) -> tuple[type[Hook], tuple[()]]:
        """Copies and pickles are empty hooks."""
        return Hook, ()


_BEHIND = 4
"""How many arguments a hook behind a call is given."""


def _cut(call: Callable[..., None] | None) -> Callable[..., None]:
    """What dynamo sees in the place of a hook that no graph may hold."""

    def traced(*args: Any) -> None:
        if call is not None:
            call_uncompiled(call, args)

    return traced


def show_to_dynamo(hook_type: type) -> None:
    """Have dynamo look at `traced` of a hook instead of the hook itself."""
    # Read in torch 2.13, and so since 2.1: dynamo takes what has the first of these names, which
    # `torch.jit.script_if_tracing` gives, for a wrapper of what the second holds.
    if PRIVATE_TORCH and not hasattr(hook_type, "__script_if_tracing_wrapper"):
        setattr(hook_type, "__original_fn", hook_type.__dict__["traced"])
        setattr(hook_type, "__script_if_tracing_wrapper", True)


show_to_dynamo(Hook)


def _as_hook(call: Callable[..., None]) -> Callable[..., None]:
    """What torch is given to call: hooks of the extension that are copied as empty ones are called as is."""
    return call if isinstance(call, _hook_types()) else Hook(call)


def _hook_types() -> tuple[type, ...]:
    compiled = dispatch.compiled()
    return (Hook,) if compiled is None else (Hook, compiled.LayerHook)


class _Entry(NamedTuple):
    """A hook's entry in a dictionary of torch's: its number there, and whether it comes first."""

    hooks: dict[int, Callable[..., Any]]
    number: int
    hook: Callable[..., None]
    first: bool


class _Handle(NamedTuple):
    """What torch gave for a hook, the dictionaries of its module that name it, and what graphs call."""

    torch: RemovableHandle
    dictionaries: tuple[dict[int, Any], ...]
    graph_hook: GraphHook | None


class Hooks:
    """All hooks of one probe; `remove` takes away whatever was added, also after a failed entry.

    The handles own the hooks' lifetime. What is put aside during a call of the model is taken out of torch's
    dictionaries, `_forward_pre_hooks` and `_forward_hooks` of a module, each an OrderedDict from a handle's
    number to the hook: `remove` works whether a hook is in there or not, so a call that was cut short leaves
    none behind.
    """

    def __init__(self, graphs: Graphs | None = None) -> None:
        """Begin without hooks.

        Args:
            graphs: what is known of compiled graphs, which then call the hooks themselves; None where they
                are cut in two for each.
        """
        self.graphs = graphs
        self._handles: list[_Handle] = []
        self._inner: dict[int, tuple[_Entry, _Entry]] = {}
        self._aside: list[_Entry] = []
        # What is being registered: torch has the hook a moment before its handle is known here.
        self._registering: tuple[nn.Module, Callable[..., None]] | None = None
        self._threads: set[int] = set()
        self._last: list[tuple[OrderedDict[int, Any], int]] = []
        self._newest = -1

    def before(
        self,
        module: nn.Module,
        call: BeforeHook,
        *,
        last: bool = False,
        shows: Shows = "all",
        layer: GraphLayer | None = None,
    ) -> None:
        """Call ``call(module, args, kwargs)`` ahead of the module's forward, after hooks already there.

        Args:
            module: the module.
            call: what to call.
            last: after those of others that come later, too; `keep_last` sees to that.
            shows: the tensors that it is given in compiled graphs.
            layer: the layer that it measures, if it does.
        """
        number, _ = self._add_before(module, call, shows, layer)
        if last:
            self._add_last(module._forward_pre_hooks, number)

    def after(
        self,
        module: nn.Module,
        call: AfterHook,
        *,
        always: bool = False,
        last: bool = False,
        shows: Shows = "all",
        layer: GraphLayer | None = None,
    ) -> None:
        """Call ``call(module, args, kwargs, output)`` behind its forward, ahead of hooks already there.

        Args:
            module: the module.
            call: what to call.
            always: also if the forward raised.
            last: not ahead of the hooks of others but after them, which may replace the output: so its
                caller receives it.
            shows: the tensors that it is given in compiled graphs.
            layer: the layer that it measures, if it does.
        """
        number, _ = self._add_after(module, call, always=always, first=not last, shows=shows, layer=layer)
        if last:
            self._add_last(module._forward_hooks, number)

    def around(self, module: nn.Module, before: BeforeHook, after: AfterHook, *, inner: bool = False) -> None:
        """Call both, ahead of the module's forward and behind it, even if it raised.

        Args:
            module: the module.
            before: what to call ahead of it.
            after: what to call behind it.
            inner: whether both may be put aside; in a compiled graph they are given no tensors then.
        """
        first = self._add_before(module, before, "nothing" if inner else "all")
        last = self._add_after(module, after, always=True, shows="nothing")
        # The outermost hooks stay: they begin and end forwards.
        if inner and PRIVATE_TORCH:
            self._inner[id(module)] = (
                _Entry(module._forward_pre_hooks, *first, first=False),
                _Entry(module._forward_hooks, *last, first=True),
            )

    def once(self, module: nn.Module, call: AfterHook) -> None:
        """Call ``call(module, args, kwargs, output)`` behind the next forward alone, ahead of all hooks."""

        def call_once(*args: Any) -> None:
            handle.torch.remove()
            COPIES.discard(handle.dictionaries, handle.torch.id)
            call(*args)

        self._add_after(module, call_once, always=False, shows=None)
        handle = self._handles[-1]

    def keep_last(self) -> bool:
        """Put what must be last behind hooks that others registered since; whether there were any.

        Torch numbers every handle of the process, so that most forwards ask for one number.
        """
        newest = RemovableHandle.next_id
        if newest == self._newest:
            return False
        self._newest = newest
        # In the order of their registration, which stays theirs.
        for hooks, number in self._last:
            if number in hooks and next(reversed(hooks)) != number:
                hooks.move_to_end(number)
        return True

    def _add_last(self, hooks: Any, number: int) -> None:
        if isinstance(hooks, OrderedDict):
            self._last.append((hooks, number))

    def _add_before(
        self, module: nn.Module, call: BeforeHook, shows: Shows | None, layer: GraphLayer | None = None
    ) -> tuple[int, Callable[..., None]]:
        hook = _as_hook(call)
        graph_hook = self._show(module, hook, shows, layer, behind=False)
        self._registering = module, hook
        handle = module.register_forward_pre_hook(hook, with_kwargs=True)
        return self._added(module, handle, graph_hook), hook

    def _add_after(
        self,
        module: nn.Module,
        call: AfterHook,
        *,
        always: bool,
        first: bool = True,
        shows: Shows | None,
        layer: GraphLayer | None = None,
    ) -> tuple[int, Callable[..., None]]:
        hook = _as_hook(call)
        graph_hook = self._show(module, hook, shows, layer, behind=True)
        self._registering = module, hook
        handle = module.register_forward_hook(hook, with_kwargs=True, prepend=first, always_call=always)
        return self._added(module, handle, graph_hook), hook

    def _show(
        self,
        module: nn.Module,
        hook: Any,
        shows: Shows | None,
        layer: GraphLayer | None,
        *,
        behind: bool,
    ) -> GraphHook | None:
        """Have compiled graphs call a hook; None if they are not to."""
        if self.graphs is None or shows is None:
            return None
        show_to_dynamo(type(hook))
        call: Any = hook.call if isinstance(hook, Hook) else hook
        made = self.graphs.hook(call, module, behind=behind, layer=layer)
        hook.traced = traced(made.number, shows)
        return made

    def _added(self, module: nn.Module, handle: RemovableHandle, graph_hook: GraphHook | None) -> int:
        """Keep a handle, and the hook out of copies of the module; the hook's number."""
        dictionaries = _dictionaries(module)
        self._handles.append(_Handle(handle, dictionaries, graph_hook))
        if graph_hook is not None:
            graph_calls.listen(graph_hook)
        COPIES.add(dictionaries, handle.id)
        return handle.id

    def put_aside(self, modules: Container[int]) -> None:
        """Until `put_back` torch finds no hooks around these modules (by id), and calls them the sooner.

        Nothing happens once a second thread was here: what is aside for one is missed by the others. That
        needs no lock: a thread adds its number before it looks how many there are.
        """
        self._threads.add(threading.get_ident())
        # Code that was compiled with the hooks would be compiled again without them.
        if len(self._threads) > 1 or (self.graphs is not None and self.graphs.traced):
            return
        for module, both in self._inner.items():
            for entry in both if module in modules else ():
                if entry.number in entry.hooks:
                    # Noted first: an interrupt between the two must not lose the hook.
                    self._aside.append(entry)
                    del entry.hooks[entry.number]

    def put_back(self) -> None:
        """Put back what was put aside."""
        self._threads.add(threading.get_ident())
        while self._aside:
            hooks, number, hook, first = self._aside[-1]
            hooks[number] = hook
            # Order is the order of calls: hooks behind a layer were put ahead of those already there.
            if first and isinstance(hooks, OrderedDict):
                hooks.move_to_end(number, last=False)
            self._aside.pop()

    def remove(self) -> None:
        """Remove every hook, the last added first; what an interrupt left is removed by calling it again."""
        # What is aside is in no dictionary of torch's and must not come back.
        self._aside.clear()
        self._inner.clear()
        self._last.clear()
        while self._handles:
            handle, dictionaries, graph_hook = self._handles[-1]
            handle.remove()
            if graph_hook is not None:
                graph_calls.leave(graph_hook)
            COPIES.discard(dictionaries, handle.id)
            self._handles.pop()
        if self._registering is not None:
            _forget(*self._registering)
            self._registering = None


def others_behind(module: nn.Module) -> bool:
    """Whether hooks that are no probe's run behind a module's forward."""
    return not all(isinstance(hook, _hook_types()) for hook in module._forward_hooks.values())


_NAMES = (
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
)
"""Where torch writes of a module's hooks, by the numbers of their handles."""


def _dictionaries(module: nn.Module) -> tuple[dict[int, Any], ...]:
    # In the dictionary of the module itself: of 300 layers `getattr` takes a millisecond.
    own = vars(module)
    return tuple([own[name] for name in _NAMES])


def _forget(module: nn.Module, hook: Callable[..., None]) -> None:
    """Remove a hook whose handle an interrupt may have lost."""
    for hooks in (module._forward_pre_hooks, module._forward_hooks):
        for number in [number for number, held in hooks.items() if held is hook]:
            for dictionary in _dictionaries(module):
                dictionary.pop(number, None)
            COPIES.discard(_dictionaries(module), number)
