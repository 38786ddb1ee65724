"""Where tensors stand in a call of a module: among its arguments, in containers of them, and in its result.

A call is the triple (args, kwargs, result), and a path the steps from it to a tensor: ``(0, 0)`` is the first
argument, ``(1, "x")`` the keyword argument x, ``(2,)`` the result, ``(0, 0, "embedding")`` an entry of a
mapping that is the first argument.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from itertools import islice
from typing import Any

from torch import Tensor

ARGS, KWARGS, RESULT = 0, 1, 2

Path = tuple[Any, ...]
Call = tuple[Any, ...]
"""(args, kwargs), and the result where there is one already."""

FIRST: Path = (ARGS, 0)
WHOLE: Path = (RESULT,)

Form = tuple[Any, ...]
"""What tells calls of a layer apart that may compute differently: see `form_of`."""

PLAIN: Form = ()
"""The form of a call with one argument, a tensor."""

_LITERAL = "literal"
_DEEPEST = 6
_MOST = 16
"""How deep containers are looked into, and for how many tensors: a cache of states may hold hundreds."""


def holds_data(tensor: Tensor) -> bool:
    """Whether a tensor may hold what a layer reads or writes: numbers that are no ids and no mask."""
    return tensor.is_floating_point() or tensor.is_complex() or tensor.is_quantized


def entries(value: Any) -> Iterator[tuple[Any, Any]]:
    """The steps into a container and what is there: of a mapping, a sequence, or a dataclass."""
    if isinstance(value, Mapping):
        yield from list(value.items())
    elif isinstance(value, (tuple, list)):
        yield from enumerate(value)
    elif is_dataclass(value) and not isinstance(value, type):
        # A field may be declared and never set.
        yield from ((field.name, getattr(value, field.name, None)) for field in fields(value))


def tensors_in(value: Any, path: Path = ()) -> Iterator[tuple[Path, Tensor]]:
    """Every tensor of data in a value, with its path, in order."""
    if isinstance(value, Tensor):
        if holds_data(value):
            yield path, value
    elif len(path) < _DEEPEST:
        for step, entry in entries(value):
            yield from tensors_in(entry, (*path, step))


def first_tensors(call: Call) -> dict[Path, Tensor]:
    """The first few tensors of data of a call, by their paths."""
    return dict(islice(tensors_in(call), _MOST))


def tensor_at(call: Call, path: Path) -> Tensor | None:
    """The tensor at a path, if there is one."""
    value: Any = call
    for step in path:
        # A foreign container may lack at this call what it had at another.
        try:
            value = value[step] if isinstance(value, (Mapping, tuple, list)) else getattr(value, step, None)
        except (KeyError, IndexError, TypeError):
            return None
    return value if isinstance(value, Tensor) and holds_data(value) else None


def form_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Form:
    """The form of a call: where its tensors of data stand, and the words and truths among its arguments.

    Numbers are no part of it, as a step or a time is another at each call.
    """
    if len(args) == 1 and not kwargs and isinstance(args[0], Tensor):
        return PLAIN
    # Marked, so that a word is not taken for a step of a path.
    literals = (
        (_LITERAL, side, step, entry)
        for side, held in ((ARGS, enumerate(args)), (KWARGS, kwargs.items()))
        for step, entry in held
        if isinstance(entry, (str, bool))
    )
    return (*first_tensors((args, kwargs)), *literals)


_MOST_BITS = 32


def bits_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    """Which positional arguments of a call are tensors, a bit for each; -1 where there are others, but None.

    The extension compares a call with those of its form by this alone (``fast_hooks.h``).
    """
    if kwargs or len(args) > _MOST_BITS or not all(a is None or isinstance(a, Tensor) for a in args):
        return -1
    return sum(isinstance(argument, Tensor) << at for at, argument in enumerate(args))


def words_of(form: Form) -> str:
    """The words and truths among the arguments of calls of a form, for people reading."""
    literals = [part[1:] for part in form if part[0] == _LITERAL]
    return ", ".join(f"{step}={entry!r}" if side == KWARGS else repr(entry) for side, step, entry in literals)


_ORDINALS = ("first", "second", "third", "fourth", "fifth")


def named(path: Path) -> str:
    """A path in words: its second argument, its argument `gate`, the entry `x` of its first argument."""
    side, step, *inner = path
    if side == KWARGS:
        what = f"argument `{step}`"
    else:
        what = f"{_ORDINALS[step]} argument" if step < len(_ORDINALS) else f"argument {step + 1}"
    return f"entry `{'.'.join(map(str, inner))}` of its {what}" if inner else f"its {what}"


@dataclass(frozen=True)
class Reading:
    """Where a layer's tensors stand in calls of one form.

    Attributes:
        input: what it reads, or normalizes, where its result holds that: a module that adds a residual
            before it normalizes may give the sum, too.
        output: what it writes; the whole result, or, of a container, the first tensor where ``whole``.
        left_out: why calls of this form are not measured, or "".
        whole_numbers: its input holds whole numbers, which a Linear turns into floating ones itself.
        ids: its input holds ids, of which there are no moments: an embedding's.
    """

    input: Path = FIRST
    output: Path = WHOLE
    left_out: str = ""
    whole_numbers: bool = False
    ids: bool = False

    @property
    def direct(self) -> bool:
        """Whether it reads its first argument and its result, as nearly all layers do."""
        return (
            self.input == FIRST
            and self.output == WHOLE
            and not (self.left_out or self.whole_numbers or self.ids)
        )


DIRECT = Reading()
OF_IDS = Reading(ids=True)


def input_at(call: Call, reading: Reading) -> Tensor | None:
    """The tensor that a call reads."""
    if reading.whole_numbers:
        first = call[ARGS][0] if call[ARGS] else None
        return first if isinstance(first, Tensor) else None
    return tensor_at(call, reading.input)


def output_at(call: Call, reading: Reading) -> Tensor | None:
    """The tensor that a call wrote; where none stands there, the first that the call has not been given."""
    result = call[RESULT]
    if reading.output == WHOLE and isinstance(result, Tensor):
        return result if holds_data(result) else None
    found = tensor_at(call, reading.output)
    return found if found is not None else new_tensor(call)


def new_tensor(call: Call) -> Tensor | None:
    """The first tensor of data in the result of a call that is none of its arguments, else the first."""
    # By identity: what a layer hands through is the very tensor that it was given.
    held = {id(tensor) for tensor in first_tensors(call[:RESULT]).values()}
    written = [tensor for _, tensor in tensors_in(call[RESULT])]
    return next((tensor for tensor in written if id(tensor) not in held), written[0] if written else None)
