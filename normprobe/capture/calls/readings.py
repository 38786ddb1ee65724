"""Which tensors of a layer's calls are its input and output: decided on a call of each form, then looked up.

Most layers take one tensor and give one, and nothing is decided. Others take several (a residual, a gate,
token ids in a mapping), or give several. Of those that a norm takes its input is the one that it normalizes;
of a mapping that it changes, the entry that is another one after the call; of a Linear the one as wide as it
says. What holds no floating numbers is never one.

Calls of a norm may compute differently by a word among their arguments ("norm", "denorm"), so each form has
a reading of its own, and one whose calls do not normalize while others do is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from normprobe.capture.calls.call_tensors import (
    ARGS,
    DIRECT,
    KWARGS,
    OF_IDS,
    PLAIN,
    RESULT,
    Call,
    Form,
    Path,
    Reading,
    entries,
    first_tensors,
    form_of,
    holds_data,
    named,
    tensors_in,
    words_of,
)
from normprobe.layers.norms.identify import NO_WAY, Identification

NOT_NORMALIZED = "a call with {} does not normalize as its others do and is left out"
NO_INPUT = "a call without a tensor of floating numbers among its arguments is left out"
NO_OUTPUT = "a call that gave no tensor of floating numbers is left out"
_MOST_PAIRS = 4
"""How many pairs of tensors are held against every formula: it happens inside the user's first forward."""
_MOST_FORMS = 16
"""How many forms of a layer's calls are told apart; beyond that it reads its first tensor."""


class Held(NamedTuple):
    """A tensor as it was before a call: itself, its version, and a copy of its numbers."""

    tensor: Tensor
    version: int
    clone: Tensor

    def is_as_it_was(self) -> bool:
        """Whether nobody wrote to it since."""
        return _version(self.tensor) == self.version


@dataclass(eq=False)
class OpenCall:
    """A call of a layer that is under way.

    Attributes:
        form: its form.
        reading: where its tensors stand; None where that shows after it.
        held: what it was given, by paths, where the call is to decide something.
        vectors: the vectors of whole numbers that it was given then, by what they are called.
        own: what the layer itself gave, before hooks of others behind it; None where there are none.
        graphs: of a norm over graphs, which graph each row is of.
        stream: of a residual block, what it reads.
        shown: of attention, whether a function showed its weights.
        why_unshown: why not, as far as one shows.
    """

    form: Form = PLAIN
    reading: Reading | None = DIRECT
    held: dict[Path, Held] = field(default_factory=dict)
    vectors: dict[str, Tensor] = field(default_factory=dict)
    own: OwnResult | None = None
    graphs: Tensor | None = None
    stream: Held | None = None
    shown: bool = False
    why_unshown: str = ""

    def note_stream(self, tensor: Tensor | None) -> None:
        """Remember what a residual block reads."""
        # Not a copy, which each call would pay for: its version tells whether it was rewritten.
        self.stream = None if tensor is None else Held(tensor, _version(tensor), tensor)

    def hold(self, call: Call) -> None:
        """Copy what the call is given: the layer may overwrite it."""
        self.held = {
            path: Held(tensor, _version(tensor), tensor.detach().clone())
            for path, tensor in first_tensors(call).items()
        }
        self.vectors = {
            named((side, step)): value
            for side in (ARGS, KWARGS)
            for step, value in entries(call[side])
            if isinstance(value, Tensor) and value.dim() == 1 and not holds_data(value)
        }

    def others(self, path: Path) -> dict[str, Tensor]:
        """What it was given beside the tensor at a path, by what that is called."""
        floats = {named(other): held.clone for other, held in self.held.items() if other != path}
        return {**floats, **self.vectors}


@dataclass(eq=False)
class OwnResult:
    """The result of a layer's own forward, ahead of the hooks behind it.

    Attributes:
        result: the result.
        versions: its tensors, by paths, with their versions and, where wanted, copies.
    """

    result: Any
    tensors: dict[Path, Held]

    @staticmethod
    def of(result: Any, *, copied: bool) -> OwnResult:
        """What a forward gave, with copies where a hook may write to it before it is looked at."""
        found = first_tensors_of(result)
        return OwnResult(
            result,
            {
                path: Held(tensor, _version(tensor), tensor.detach().clone() if copied else tensor)
                for path, tensor in found.items()
            },
        )

    def differs(self, result: Any) -> bool:
        """Whether what the caller receives is something else."""
        now = first_tensors_of(result)
        return now.keys() != self.tensors.keys() or any(
            tensor is not self.tensors[path].tensor or _version(tensor) != self.tensors[path].version
            for path, tensor in now.items()
        )

    def is_part(self) -> bool:
        """Whether a tensor of it is spread over processes, which hooks behind it make whole, or plain."""
        return any(type(held.tensor).__name__ == "DTensor" for held in self.tensors.values())


class Pair(NamedTuple):
    """A tensor that a layer may read and one that it may write, as they were, with their paths."""

    input: Path
    before: Tensor
    output: Path
    after: Tensor

    @property
    def reading(self) -> Reading:
        """The reading of calls like this one."""
        return Reading(self.input, self.output)


def first_tensors_of(result: Any) -> dict[Path, Tensor]:
    """The tensors of data in a result, by their paths in the call."""
    return dict(tensors_in(result, (RESULT,)))


class Readings:
    """The readings of one layer's calls.

    Attributes:
        certain: its class says how it reads, so that all its calls do alike.
        width: how many features a Linear says that it reads; None for norms.
    """

    def __init__(self, *, certain: bool, width: int | None = None) -> None:
        self.certain, self.width = certain, width
        self.known: dict[Form, Reading] = {}

    @property
    def direct(self) -> bool:
        """Whether every call so far read its first argument and gave its result."""
        return all(reading.direct for reading in self.known.values())

    def open(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> OpenCall:
        """A call of the layer that begins with these arguments."""
        first = args[0] if args else None
        # Of nearly all layers each call ends here, and its form is not asked for.
        if self.certain and isinstance(first, Tensor) and holds_data(first):
            return OpenCall(PLAIN, self.known.get(PLAIN, DIRECT))
        form = form_of(args, kwargs)
        # Looked up before anything is compared: most calls are of the one form there is.
        known = self.known.get(form)
        if known is not None:
            return OpenCall(form, known)
        paths = list(first_tensors((args, kwargs)))
        # Ids are no rows of as many numbers as a Linear reads.
        whole = first if self.certain and not paths and isinstance(first, Tensor) else None
        if whole is not None and whole.dtype != torch.bool and whole.shape[-1:] == (self.width,):
            return OpenCall(form, Reading(whole_numbers=True))
        if form == PLAIN or len(self.known) >= _MOST_FORMS or not paths:
            return OpenCall(form, DIRECT if paths else None)
        # A form that is new is looked at after its call; where nothing is to choose, its input is known.
        return OpenCall(form, Reading(paths[0]) if len(form) == 1 else None)


STREAM_NAMES = ("hidden_states", "hidden_state", "x", "input", "inputs", "hidden", "src", "tgt")
"""What the argument of a block is called that is the stream, where it is given by keyword."""


class BlockReadings(Readings):
    """The readings of a residual block's calls, which are told apart by where the stream stands alone.

    Attributes:
        rewrites: whether a call without versions showed that the block writes to what it reads.
    """

    rewrites = False

    def open(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> OpenCall:
        """A call of the block that begins with these arguments."""
        form = (_stream_path(args, kwargs),)
        return OpenCall(form, self.known.get(form))


def _stream_path(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Path:
    """Where the stream stands among the arguments: first, under a usual name, else the first tensor."""
    if args and isinstance(args[0], Tensor) and holds_data(args[0]):
        return (ARGS, 0)
    named = (name for name in STREAM_NAMES if isinstance(kwargs.get(name), Tensor))
    name = next(named, None)
    if name is not None and holds_data(kwargs[name]):
        return (KWARGS, name)
    return next(iter(first_tensors((args, kwargs))), ())


class IdReadings(Readings):
    """The readings of an embedding's calls: it reads ids, and gives one tensor."""

    def open(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> OpenCall:
        """A call of the embedding."""
        return OpenCall(PLAIN, self.known.setdefault(PLAIN, OF_IDS))


def readings_of(kind: str, *, certain: bool, width: int | None) -> Readings:
    """The readings of a layer of a kind, as `Readings` takes them."""
    cls = {"residual": BlockReadings, "embedding": IdReadings}.get(kind, Readings)
    return cls(certain=certain, width=width)


class PairChoice:
    """What one call of a layer may have read and written, the likeliest first.

    Attributes:
        pairs: every pair.
        possible: those of as many numbers, as a norm has.
        form: the form of the call.
    """

    def __init__(self, opened: OpenCall, call: Call) -> None:
        self.form = opened.form
        self._opened, self._written = opened, _written(opened, call)
        pairs = list(_changed(opened, self._written))
        for output, after in self._written.items():
            pairs += [Pair(path, held.clone, output, after) for path, held in opened.held.items()]
        # Each once, where it comes first.
        self.pairs = list({(pair.input, pair.output): pair for pair in reversed(pairs)}.values())[::-1]
        self.possible = [pair for pair in self.pairs if pair.before.numel() == pair.after.numel()]

    def others(self, path: Path) -> dict[str, Tensor]:
        """What the call was given beside the input at a path, by what that is called."""
        return {} if path[0] == RESULT else self._opened.others(path)

    def of_input(self, path: Path) -> Pair:
        """The pair of the tensor at a path and the first that was written, of its shape if one is."""
        here = [pair for pair in self.pairs if pair.input == path] or self.pairs
        # Nested tensors have no one shape.
        plain = [p for p in here if not (p.before.is_nested or p.after.is_nested)]
        return next((p for p in plain if p.before.shape == p.after.shape), here[0])

    def best(self, shown: Callable[..., Identification]) -> tuple[Pair, Identification]:
        """The pair whose output is the normalized input, and what shows it; the first where none is.

        Args:
            shown: what a pair shows, by the quick ways or, ``thorough``, by all.
        """
        outputs = dict.fromkeys(pair.output for pair in self.possible)
        added = [pair for output in outputs for pair in self._sums(output)]
        if len(self.possible) + len(added) > 1:
            for pair in self.possible:
                found = shown(pair, thorough=False)
                if found.way != NO_WAY:
                    # Nothing was added this time: what is given beside the output is what it normalizes.
                    alike = [one for one in added if one.output == pair.output]
                    return next((one for one in alike if torch.equal(one.before, pair.before)), pair), found
            for pair in added:
                found = shown(pair, thorough=False)
                if found.way != NO_WAY:
                    return pair, found
        every = [(pair, shown(pair, thorough=True)) for pair in self.possible[:_MOST_PAIRS]]
        return min(every, key=lambda each: each[1].way)

    def _sums(self, output: Path) -> list[Pair]:
        """What the call gave beside its output, as what it may have normalized: a sum of its arguments."""
        after = self._written[output]
        beside = [(path, tensor) for path, tensor in self._written.items() if path != output]
        # A sum takes two.
        if len(self._opened.held) < 2:
            return []
        return [Pair(path, tensor, output, after) for path, tensor in beside if tensor.shape == after.shape]


def fitting_pair(pairs: list[Pair], width: int | None) -> Pair:
    """The first pair whose input is as wide as a Linear says, with an output of as many rows."""
    wide = [pair for pair in pairs if width is None or pair.before.shape[-1:] == (width,)]
    alike = [pair for pair in wide if pair.before.shape[:-1] == pair.after.shape[:-1]]
    return next(iter(alike or wide or pairs))


def left_out(form: Form) -> str:
    """Why calls of a form are not measured that do not normalize, in words for the ledger."""
    return NOT_NORMALIZED.format(words_of(form) or "other tensors")


def _written(opened: OpenCall, call: Call) -> dict[Path, Tensor]:
    """What a call wrote, as the layer itself gave it: results that it was not given, else what it changed."""
    if opened.own is None:
        results = first_tensors_of(call[RESULT])
        copies = results
    else:
        results = {path: held.tensor for path, held in opened.own.tensors.items()}
        copies = {path: held.clone for path, held in opened.own.tensors.items()}
    untouched = {id(held.tensor) for held in opened.held.values() if _version(held.tensor) == held.version}
    new = {path: copies[path].detach() for path, tensor in results.items() if id(tensor) not in untouched}
    if new or results:
        return new or {path: copy.detach() for path, copy in copies.items()}
    return {
        path: tensor.detach()
        for path, tensor in first_tensors(call[:RESULT]).items()
        if path not in opened.held or _is_changed(opened.held[path], tensor)
    }


def _changed(opened: OpenCall, written: dict[Path, Tensor]) -> Iterator[Pair]:
    """The entries of a container that stand in the result where they stood before, and are others."""
    for output, after in written.items():
        inner = output[1:] if output[0] == RESULT else output[2:]
        for path, held in opened.held.items():
            if inner and path[2:] == inner:
                yield Pair(path, held.clone, output, after)


def _is_changed(held: Held, now: Tensor) -> bool:
    return now is not held.tensor or _version(now) != held.version


def _version(tensor: Tensor) -> int:
    """How often a tensor was written to; -1 where it does not count that."""
    return -1 if tensor.is_inference() else tensor._version
