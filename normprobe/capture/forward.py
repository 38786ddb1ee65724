"""What one forward is: its number, its batch and time, its masks, and which thread is in it."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field, replace
from types import FrameType
from typing import Any, Protocol

from torch import Tensor, nn

from normprobe.capture import current_forward
from normprobe.capture.current_forward import ForwardState
from normprobe.capture.hooks.torch_internals import calling, is_over
from normprobe.samples.batch import Batch, Signatures, decoder_sizes, read_batch
from normprobe.samples.layout import Grid
from normprobe.samples.masks import Masks, Padding, SequenceName, has_two_sides
from normprobe.vocabulary import sites


class MaskFinder(Protocol):
    """Finds the padding masks of a forward."""

    def masks(self, arguments: dict[str, Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Masks:
        """All of them."""

    def sizes(
        self, arguments: dict[str, Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[int, ...] | None:
        """(batch, positions) of the mask of the input, without reading it."""


@dataclass(frozen=True, eq=False)
class Sequence:
    """What a layer of a forward works on.

    Attributes:
        padding: its padding mask, if it has one.
        grid: its batch and time.
        spoken: whether the forward's labels are of this sequence.
    """

    padding: Padding | None
    grid: Grid
    labelled: bool


@dataclass(eq=False)
class Forward:
    """One outermost call of the model, or of a module of it that contains probed layers.

    Attributes:
        state: what hooks ask of it at each call: the module that was called, and whether it is measured.
        call: running number of the forward.
        first: running number of its first example.
        batch: its batch, as the arguments say.
        masks: its padding masks.
        decoder: sizes of the decoder's input in an encoder-decoder, where known.
        labels: the text of each sample, as the user's callable gave it.
        decoder_fired: whether a layer on a path with `decoder` has fired.
        stash: inputs of layers whose first call is under way.
        sequences: what its layers work on, by what they read.
        placements: where samples lie, for layers that place them alike.
        plain: whether all layers work on one sequence, whatever fired before them.
        selections: which samples count and are kept, by where they lie.
        rows: which raw rows are kept.
        found: what tensors hold that were just measured, where the compiled kernel does not remember it.
        frame: the call of its owner, as Python runs it.
    """

    state: ForwardState
    call: int
    first: int
    batch: Batch
    masks: Masks
    decoder: tuple[int, ...] | None = None
    labels: list[list[str]] | None = None
    decoder_fired: bool = False
    stash: dict[int, Tensor] = field(default_factory=dict)
    sequences: dict[Any, Sequence] = field(default_factory=dict)
    placements: dict[Any, Any] = field(default_factory=dict)
    single_sequence: bool = False
    selections: dict[Any, Any] = field(default_factory=dict)
    rows: dict[Any, Any] = field(default_factory=dict)
    found: dict[Any, Any] = field(default_factory=dict)
    frame: FrameType | None = None

    def sequence(self, reads: SequenceName, padding: Padding | None) -> Sequence:
        """What a layer works on that reads this sequence, with the padding mask that it has."""
        # Labels are those of the first tensor's sequence, which a decoder does not work on.
        return Sequence(padding, self._grid(reads, padding), labelled=reads != "decoder")

    def _grid(self, reads: SequenceName, padding: Padding | None) -> Grid:
        batch = self.batch
        if padding is not None:
            sizes = padding.real.shape
            own = sizes if sizes[0] not in (1, batch.size) else None
            return Grid(batch.size, sizes[1], batch.swapped, own, batch.packed)
        if reads == "cross" and not self.masks.two_sided:
            time = None
        else:
            time = self._decoder_time() if reads == "decoder" else batch.time
        return Grid(batch.size, time, batch.swapped, None, batch.packed)

    def _decoder_time(self) -> int | None:
        return None if self.decoder is None else self.decoder[0 if self.batch.swapped else 1]


class Forwards:
    """Counts the forwards of one probe and knows, for each thread, the one it is in.

    Attributes:
        every: every how many a forward is measured.
        calls: how many there were.
        measured: how many of them were measured.
        examples: how many examples they had.
        unrun: why forwards were no runs of the model, with how often.
    """

    def __init__(self, every: int) -> None:
        self.every = every
        self.calls = 0
        self.measured = 0
        self.examples = 0
        self.skipped: dict[str, int] = {}
        self._lock = threading.Lock()
        self.inside = current_forward.new_current_forward()
        self._signatures = Signatures()
        self._two_sided: dict[int, bool] = {}

    @property
    def current(self) -> Forward | None:
        """The forward that this thread is in."""
        forward: Forward | None = self.inside.forward
        return forward

    def ongoing(self, module: nn.Module, model: nn.Module | None) -> Forward | None:
        """The forward that a call of a module is part of; None if a new one begins with it.

        A call of the model, or of the module that the forward began with, starts anew. So does any call after
        a forward that was cut short.
        """
        forward = self.current
        if forward is None or module is model or module is forward.state.owner or is_over(forward.frame):
            return None
        return forward

    def end(self, module: nn.Module) -> None:
        """Leave the forward if it is this module's."""
        forward = self.current
        if forward is not None and forward.state.owner is module:
            self.inside.leave()
            forward.frame = None

    def clear(self) -> None:
        """Forget any forward that was cut short."""
        self.inside.clear()

    def begin_skipped(self, module: nn.Module, why: str) -> Forward:
        """Start a forward that is no run of the module: its arguments are not looked at."""
        with self._lock:
            call, self.calls = self.calls, self.calls + 1
            self.skipped[why] = self.skipped.get(why, 0) + 1
        state = self.inside.begin(module, False, len(sites()))
        forward = Forward(state, call, self.examples, Batch(None, 0, None), Masks(), frame=calling())
        self.inside.enter(forward)
        return forward

    def begin(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], finder: MaskFinder
    ) -> Forward:
        """Start a forward with this call of a module."""
        arguments = self._signatures.named(module, args, kwargs)
        with self._lock:
            call = self.calls
            measured = call % self.every == 0
            self.calls += 1
            self.measured += measured
        masks = finder.masks(arguments, args, kwargs) if measured else Masks()
        own = None if masks.own is None else masks.own.real.shape
        batch = read_batch(arguments, own if measured else finder.sizes(arguments, args, kwargs))
        if measured and not masks.two_sided and self._has_two_sides(module):
            masks = replace(masks, two_sided=True, cross=masks.cross or masks.own)
        with self._lock:
            first = self.examples
            self.examples += batch.size
        decoder = decoder_sizes(arguments)
        state = self.inside.begin(module, measured, len(sites()))
        forward = Forward(state, call, first, batch, masks, decoder, frame=calling())
        self.inside.enter(forward)
        return forward

    def swap(self, forward: Forward) -> bool:
        """Read the forward's first tensor as (time, batch, ...) from now on; whether that is news."""
        batch = time_first(forward.batch)
        if batch is forward.batch:
            return False
        with self._lock:
            self.examples += batch.size - forward.batch.size
        forward.batch = batch
        forward.sequences.clear()
        return True

    def _has_two_sides(self, module: nn.Module) -> bool:
        """Whether the module holds an encoder and a decoder, whatever its arguments are called."""
        if id(module) not in self._two_sided:
            self._two_sided[id(module)] = has_two_sides(name for name, _ in module.named_modules())
        return self._two_sided[id(module)]


def time_first(batch: Batch) -> Batch:
    """The batch with its first tensor read as (time, batch, ...), or (time, features) of one example."""
    lead = batch.lead
    if lead is None or batch.swapped or batch.packed is not None or lead.is_nested or lead.dim() < 2:
        return batch
    return Batch(lead, lead.shape[1] if lead.dim() > 2 else 1, lead.shape[0], swapped=True)
