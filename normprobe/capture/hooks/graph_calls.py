"""Calls of hooks from inside compiled graphs: one operator stands in a graph where a hook was called.

Dynamo cannot look into a hook that is an object of the extension, and must not look into one of Python. It is
shown another function in its place (`traced`), which puts `normprobe::call_hook` into the graph: with the
tensors that the hook is given, and as constants the number of the hook and how its arguments were made of
those tensors. When the graph runs, the operator makes the arguments again and calls the very hook that plain
code calls. So what is measured, and how, is decided in one place.

The operator says that it writes to one small tensor, the same for all, though it does not: so no compiler
leaves it out, and all run in the order of the program. Compiled code outlives a probe. A number is never
given to a second hook, and an operator whose hook is gone does nothing.
"""

from __future__ import annotations

import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from functools import cache
from itertools import count
from typing import Any, Literal

import torch
from torch import Tensor, nn

Shows = Literal["all", "output", "nothing"]
"""Of a call, the tensors that its hook is given in a graph, which live until the hook is called."""

_LIBRARY = torch.library.Library("normprobe", "DEF")  # type: ignore[no-untyped-call]
_SCHEMA = "call_hook(Tensor[] tensors, SymInt[] sizes, Tensor(a!) order, str hook, str form) -> ()"
_LIBRARY.define(_SCHEMA)  # type: ignore[no-untyped-call]

# Outside of inference mode, in which graphs with gradients could not say that they write to it.
with torch.inference_mode(False):
    _ORDER = torch.zeros(1, device="cpu")

_NUMBERS = count()
# Weakly: a probe that was never left goes with its model.
_HOOKS: weakref.WeakValueDictionary[str, GraphHook] = weakref.WeakValueDictionary()
_CALL = torch.ops.normprobe.call_hook.default


class _Thread(threading.local):
    inside = False


_THREAD = _Thread()


def in_graph() -> bool:
    """Whether the hook that runs in this thread was called by a compiled graph."""
    return _THREAD.inside


class GraphHook:
    """A hook of a module as compiled graphs call it.

    Attributes:
        number: by which graphs know it.
        call: what to call with (module, args, kwargs), and behind a call the output.
        module: the module.
        on_trace: what to call when a graph that calls it is made.
        graphs: of how many graphs that were made it was the first hook.
        around: what gives the tensors to show for those in the graph, and readies what the hook looks up.
    """

    __slots__ = ("__weakref__", "around", "call", "graphs", "module", "number", "on_trace")

    def __init__(self, number: str, call: Callable[..., None], module: nn.Module) -> None:
        self.number, self.call, self.module = number, call, module
        self.graphs = 0
        self.on_trace: Callable[[list[Tensor]], None] | None = None
        self.around: Callable[[list[Tensor]], list[Tensor]] | None = None

    def run(self, tensors: list[Tensor], sizes: list[int], form: str) -> None:
        """Call the hook with arguments of this form."""
        # In training a graph runs within a function of autograd, which switches gradients off.
        grad, enabled = form[0] == "G", torch.is_grad_enabled()
        if self.around is not None:
            tensors = self.around(tensors)
        call = _reader(form)(tensors, sizes)
        _THREAD.inside = True
        try:
            if grad is not enabled:
                torch._C._set_grad_enabled(grad)
            self.call(self.module, *call)
        finally:
            _THREAD.inside = False
            if grad is not enabled:
                torch._C._set_grad_enabled(enabled)


def new_number() -> str:
    """The number of a hook, which no other gets in this process."""
    return str(next(_NUMBERS))


def listen(hook: GraphHook) -> None:
    """Have graphs call a hook until `leave`."""
    _HOOKS[hook.number] = hook


def leave(hook: GraphHook) -> None:
    """Have graphs call a hook no more."""
    if _HOOKS.get(hook.number) is hook:
        del _HOOKS[hook.number]


def traced(number: str, shows: Shows) -> Callable[..., None]:
    """The function that dynamo sees in the place of a hook of this number."""

    def call(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], *output: Any) -> None:
        # Not by `is_exporting()`, which dynamo of torch 2.7 takes to be true of any compilation.
        if torch.compiler._is_exporting_flag:
            return
        tensors: list[Tensor] = []
        sizes: list[int] = []
        form = "G" if torch.is_grad_enabled() else "N"
        if shows == "all":
            form += _form(args, tensors, sizes) + _form(kwargs, tensors, sizes)
        else:
            form += _form(args, None, sizes) + _form(kwargs, None, sizes)
        for value in output:
            form += _form(value, None if shows == "nothing" else tensors, sizes)
        _CALL(tensors, sizes, _ORDER, number, form)

    return call


def _form(value: Any, tensors: list[Tensor] | None, sizes: list[int]) -> str:  # noqa: PLR0911
    """How a value is made of the tensors and whole numbers in it, which are put into these lists.

    Dynamo runs this as it makes a graph. Where tensors are not wanted, only that there is one is said.
    """
    if isinstance(value, Tensor):
        if type(value) is not Tensor and type(value) is not nn.Parameter:
            return "?"
        if tensors is None:
            return "t"
        tensors.append(value)
        return "T"
    if value is None:
        return "N"
    if isinstance(value, bool):
        return "1" if value else "0"
    if isinstance(value, int):
        sizes.append(value)
        return "I"
    if isinstance(value, (tuple, list)):
        form = "(" if isinstance(value, tuple) else "["
        for entry in value:
            form += _form(entry, tensors, sizes)
        return form + (")" if isinstance(value, tuple) else "]")
    if type(value) is dict:
        form = "{"
        for name, entry in value.items():
            if isinstance(name, str) and name.isidentifier():
                form += name + "=" + _form(entry, tensors, sizes)
        return form + "}"
    return "?"


class _Unshown:
    """Stands for an argument of which a graph holds nothing."""

    def __repr__(self) -> str:
        return "(not in the graph)"


UNSHOWN = _Unshown()
Reader = Callable[[list[Tensor], list[int]], tuple[Any, ...]]


@cache
def _reader(form: str) -> Reader:
    """What makes arguments of this form: (args, kwargs), and behind a call the output."""
    rest = form[1:]
    if rest == "(T){}":
        return lambda tensors, sizes: ((tensors[0],), {})
    # Of a call whose output alone is in the graph: that there was a tensor is all that is asked of the input.
    if rest == "(t){}T":
        return lambda tensors, sizes: ((tensors[0],), {}, tensors[0])

    def read(tensors: list[Tensor], sizes: list[int]) -> tuple[Any, ...]:
        symbols, values = _Symbols(rest), []
        given, numbers = iter(tensors), iter(sizes)
        while symbols.more():
            values.append(_value(symbols, given, numbers, tensors))
        return tuple(values)

    return read


class _Symbols:
    """The symbols of a form, one after the other."""

    def __init__(self, form: str) -> None:
        self._form, self._at = form, 0

    def more(self) -> bool:
        return self._at < len(self._form)

    def next(self) -> str:
        self._at += 1
        return self._form[self._at - 1]

    def ends(self, closing: str) -> bool:
        """Whether the list that is being read ends here."""
        ended = self._form[self._at] == closing
        self._at += ended
        return ended

    def name(self) -> str:
        end = self._form.index("=", self._at)
        name, self._at = self._form[self._at : end], end + 1
        return name


def _value(symbols: _Symbols, tensors: Iterator[Tensor], sizes: Iterator[int], shown: list[Tensor]) -> Any:
    """The next value of a form."""
    symbol = symbols.next()
    if symbol == "T":
        return next(tensors)
    if symbol == "t":
        return shown[-1] if shown else UNSHOWN
    if symbol == "I":
        return next(sizes)
    if symbol in "([":
        entries = []
        while not symbols.ends(")" if symbol == "(" else "]"):
            entries.append(_value(symbols, tensors, sizes, shown))
        return tuple(entries) if symbol == "(" else entries
    if symbol == "{":
        named = {}
        while not symbols.ends("}"):
            name = symbols.name()
            named[name] = _value(symbols, tensors, sizes, shown)
        return named
    return {"N": None, "0": False, "1": True}.get(symbol, UNSHOWN)


def _run(tensors: list[Tensor], sizes: list[int], order: Tensor, hook: str, form: str) -> None:
    """The operator, as a graph runs it."""
    found = _HOOKS.get(hook)
    if found is not None:
        found.run(tensors, sizes, form)


def _trace(tensors: list[Tensor], sizes: list[int], order: Tensor, hook: str, form: str) -> None:
    """The operator, as a graph that holds it is made."""
    found = _HOOKS.get(hook)
    if found is not None and _traces():
        _allow_one_more(found)
        if found.on_trace is not None:
            found.on_trace(tensors)


_LAST_TRACED: list[Any] = [None]
"""A weak reference to what dynamo knew of the last graph that calls hooks, as it was made."""


_MOST_ALLOWED = 8
"""Of how many graphs that begin with one hook dynamo's limits are raised: as many as it allows a function."""


def _allow_one_more(first: GraphHook) -> None:
    """Have a graph that calls hooks, this one first, not count towards dynamo's limits of graphs.

    They are of one function, and modules of one class share the graphs of their `forward`, if these are
    compiled one by one. With hooks each has its own, and beyond the limit dynamo runs code as written, or
    raises with fullgraph=True. What is compiled again and again for other reasons reaches the limit as ever.
    """
    # Read in torch 2.13, and so since 2.6: the limits, and what tells one compilation from another. The
    # numbers of compilations begin anew with each reset.
    context = torch._guards.TracingContext.try_get()
    last = _LAST_TRACED[0]
    if context is None or (last is not None and last() is context):
        return
    _LAST_TRACED[0] = weakref.ref(context)
    first.graphs += 1
    if first.graphs <= _MOST_ALLOWED:
        config: Any = torch._dynamo.config
        config.recompile_limit += 1
        config.accumulated_recompile_limit += 1


def _traces() -> bool:
    """Whether dynamo itself asks what an operator gives: what makes a graph smaller asks again, of others."""
    frame = sys._getframe(1)
    while frame.f_back is not None:
        # Read in torch 2.13; in each version since 2.1 `torch._dynamo.utils.get_fake_value` asks.
        if frame.f_code.co_name == "get_fake_value":
            return True
        frame = frame.f_back
    return False


# Tensors of any device: what a hook does with them it decides itself.
_LIBRARY.impl("call_hook", _run, "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]
torch.library.register_fake("normprobe::call_hook", _trace, lib=_LIBRARY)


def _leave_out(info: Any, dims: Any, *call: Any) -> tuple[None, None]:
    """Under vmap a hook is not called: its tensors stand for a batch of others, as outside of graphs."""
    return None, None


torch.library.register_vmap("normprobe::call_hook", _leave_out, lib=_LIBRARY)
