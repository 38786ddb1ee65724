"""One forward: its number, batch, time and masks, what is cached in it, and which thread is in it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from types import FrameType
from typing import Any, Protocol

from torch import nn

from normprobe.capture.forwards import current_forward
from normprobe.capture.forwards.current_forward import ForwardState
from normprobe.capture.forwards.data_share import DataShare
from normprobe.capture.forwards.group_options import ForwardGroups, GroupedCall
from normprobe.capture.forwards.phases import Phase, Phases
from normprobe.capture.forwards.traced_tensors import TracedTensors
from normprobe.capture.hooks.callers import who_calls
from normprobe.capture.hooks.torch_internals import innermost_call, is_over, why_skipped
from normprobe.samples.batch import Batch, Signatures, argument_sizes, decoder_sizes, read_batch
from normprobe.samples.dealing import ALONE, Deal
from normprobe.samples.groups import SampleGroups
from normprobe.samples.layout import Grid
from normprobe.samples.masks import Masks, Padding, has_two_sides
from normprobe.samples.strides import MaskBySize
from normprobe.vocabulary import sites


class MaskFinder(Protocol):
    """Finds the padding masks of a forward."""

    def masks(self, arguments: dict[str, Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Masks:
        """The masks of a call, given its arguments by name and as they are."""

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
        labelled: whether the forward's labels are of this sequence.
        alone: whether nothing else comes into the forward, so that what its mask does not fit is of it, too.
        groups: of what group its samples are; None where none were asked for.
    """

    padding: Padding | None
    grid: Grid
    labelled: bool
    alone: bool = False
    groups: SampleGroups | None = None


@dataclass(eq=False)
class Forward:
    """One outermost call of the model, or of a module of it that contains probed layers.

    One thread runs it, and all that it caches ends with it. What is cached rests on the sizes of tensors, on
    the forward's batch and masks, which change only in `Forwards.read_time_first`, and on reservoirs, which
    never change: an entry stays right as long as the forward lasts.

    Attributes:
        state: what hooks ask of it at each call: the module that was called, and whether it is measured.
        call: running number of the forward.
        first: running number of its first example, in this process.
        deal: the numbers of its examples over all processes.
        batch: its batch, as the arguments say.
        masks: its padding masks.
        decoder: sizes of the decoder's input in an encoder-decoder, where known.
        labels: the text of each sample, as the user's callable gave it.
        groups: of what group each is; None where none were asked for.
        decoder_fired: whether a layer on a path with `decoder` has fired.
        opened: the calls under way that Python measures, of layers (`readings.OpenCall`) by the index of
            each, of modules of experts by keys of their own.
        sequences: what its layers work on, by which sequence they read and which of the user's masks
            they have.
        placements: the samples of its tensors, by sequence, sizes and first number (`sample_numbers.place`).
        single_sequence: whether all layers work on one sequence, whatever fired before them.
        selections: which samples count and are kept, by placement, reservoir and repeat (`selection.select`).
        rows: which raw rows are kept, by selection and reservoir (`selection.select_rows`).
        recent: moments of tensors just measured, where the compiled kernel does not hold them.
        argument_sizes: the leading sizes of its tensor arguments, and how many edges an index of edges has.
        fitting: of the leading sizes at each layer and site whether they fit the batch (`no_data`).
        identities: the leading sizes of identity matrices that layers were called on.
        reading: the sequence that each layer read last, by its index, where its name does not say it.
        traced: the sequences of the outputs of its layers, likewise.
        by_size: the masks where there are other numbers of positions, by the id of the mask at the input.
        frame: the call of its owner, as Python runs it.
        phase: the phase of the run that it is of; None where it is no run.
        trace: what its gradients need of it; None where none are measured.
        numbered: then, the samples of the tensors that the extension measures, by the slots of their plans.
        values: tensors that several hooks of a compiled graph are given (`hooks.graphs`).
    """

    state: ForwardState
    call: int
    first: int
    batch: Batch
    masks: Masks
    decoder: tuple[int, ...] | None = None
    deal: Deal = ALONE
    labels: list[list[str]] | None = None
    groups: ForwardGroups | None = None
    decoder_fired: bool = False
    opened: dict[Any, Any] = field(default_factory=dict)
    sequences: dict[Any, Sequence] = field(default_factory=dict)
    placements: dict[Any, Any] = field(default_factory=dict)
    single_sequence: bool = False
    selections: dict[Any, Any] = field(default_factory=dict)
    rows: dict[Any, Any] = field(default_factory=dict)
    recent: dict[Any, Any] = field(default_factory=dict)
    argument_sizes: frozenset[int] = frozenset()
    fitting: dict[tuple[int, str], dict[tuple[int, ...], bool]] = field(default_factory=dict)
    identities: set[tuple[int, ...]] = field(default_factory=set)
    reading: dict[int, str] = field(default_factory=dict)
    traced: TracedTensors = field(default_factory=TracedTensors)
    by_size: dict[int, MaskBySize] = field(default_factory=dict)
    frame: FrameType | None = None
    phase: Phase | None = None
    trace: Any = None
    numbered: dict[Any, Any] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)

    def remember(self, memory: Any) -> Any:
        """Look up the moments of tensors just measured from now on, in a fresh place if None is given."""
        place = (current_forward.new_memory(), {}) if memory is None else memory
        self.state.recent, self.recent = place
        return place

    def sequence(self, reads: str, padding: Padding | None) -> Sequence:
        """What a layer works on that reads this sequence, with the padding mask that it has."""
        # Labels are those of the first tensor's sequence, which a decoder does not work on.
        labelled = reads != "decoder" and reads not in self.masks.others
        alone = self.masks.alone and reads == "own"
        two_sided = self.masks.two_sided
        groups = None if self.groups is None else self.groups.of(reads, self.batch, two_sided=two_sided)
        return Sequence(padding, self._grid(reads, padding), labelled, alone, groups)

    def _grid(self, reads: str, padding: Padding | None) -> Grid:
        """The batch and time of the sequence; those of its mask where it has one."""
        batch = self.batch
        if padding is not None:
            # A mask with a batch of its own (images beside texts) is not of the first tensor's examples.
            sizes = padding.real.shape
            own = sizes if sizes[0] not in (1, batch.size) else None
            return Grid(batch.size, sizes[1], batch.time_first, own, batch.packed)
        if reads == "cross" and not self.masks.two_sided:
            time = None  # it reads another sequence, of unknown length
        else:
            time = self.decoder_time if reads == "decoder" else batch.time
        return Grid(batch.size, time, batch.time_first, None, batch.packed)

    @property
    def decoder_time(self) -> int | None:
        """How many positions the decoder of an encoder-decoder reads, where known."""
        return None if self.decoder is None else self.decoder[0 if self.batch.time_first else 1]


class Forwards:
    """Counts the forwards of one probe and knows, for each thread, the one it is in.

    A lock of their own guards the counts, so that a forward can begin while another thread measures.

    Attributes:
        phases: which of them are measured, and of which phase each is.
        share: which share of the data the process has.
        calls: how many there were.
        measured: how many of them were measured.
        examples: how many examples they had.
        skipped: why forwards were no runs of the model, with how often.
        lock: guards the counts.
        on_end: what to call behind each forward.
        inside: the forward that each thread is in.
    """

    def __init__(self, phases: Phases, share: DataShare | None = None) -> None:
        self.phases, self.share = phases, share or DataShare()
        self.calls = 0
        self.measured = 0
        self.examples = 0
        self.skipped: dict[str, int] = {}
        self.lock = threading.Lock()
        self.on_end: Callable[[], None] | None = None
        self.inside = current_forward.new_current_forward()
        self._signatures = Signatures()
        self._two_sided: dict[int, bool] = {}
        self._passed_over = 0

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

    def measured_now(self) -> Forward | None:
        """The forward that this thread is in, if it is measured."""
        forward = self.current
        return forward if forward is not None and forward.state.measured else None

    def measures(self, module: nn.Module, model: nn.Module | None) -> bool:
        """Whether what a call of a module runs, that begins now, is measured."""
        forward = self.ongoing(module, model)
        return self.phases.next(module.training)[1] if forward is None else forward.state.measured

    def end(self, module: nn.Module) -> None:
        """Leave the forward if it is this module's."""
        forward = self.current
        if forward is not None and forward.state.owner is module:
            self.inside.leave()
            forward.frame = None  # which keeps the local variables of the call alive
            if self.on_end is not None:
                self.on_end()

    def resume(self, calls: int, examples: int) -> None:
        """Number forwards and examples on from those of a run before."""
        self.calls, self.examples = calls, examples

    def clear(self) -> None:
        """Forget any forward that was cut short."""
        self.inside.clear()

    @property
    def runs(self) -> int:
        """How many forwards there were here, those of other processes that are counted aside."""
        return self.calls - self._passed_over

    def pass_over(
        self, module: nn.Module, finder: MaskFinder, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        """Count a forward that another process makes: those behind it are numbered as in one process."""
        arguments = self._signatures.named(module, args, kwargs)
        size = read_batch(arguments, finder.sizes(arguments, args, kwargs)).size
        with self.lock:
            self.phases.pass_over(module.training, self.calls)
            self.calls += 1
            self._passed_over += 1
            self.examples += size

    def why_left_out(self, values: Iterable[Any]) -> str:
        """Why a forward that begins with these arguments is no run on data, or ""."""
        caller = who_calls()
        if why := why_skipped(values) or caller.no_data:
            return why
        self.share.note(caller.stage)
        return ""

    def begin_skipped(self, module: nn.Module, why: str) -> Forward:
        """Begin a forward that is no run of the module: its arguments are not looked at."""
        with self.lock:
            call, self.calls = self.calls, self.calls + 1
            self.skipped[why] = self.skipped.get(why, 0) + 1
        state = self.inside.begin(module, False, len(sites()))
        forward = Forward(state, call, self.examples, Batch(None, 0, None), Masks(), frame=innermost_call())
        self.inside.enter(forward)
        return forward

    def begin(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], finder: MaskFinder
    ) -> Forward:
        """Begin a forward with this call of a module."""
        arguments = self._signatures.named(module, args, kwargs)
        # Only the numbers are drawn with the lock: reading masks and the batch may wait for a device.
        with self.lock:
            call = self.calls
            phase, measured = self.phases.begin(module.training, call)
            self.calls += 1
            self.measured += measured
        # Of a forward that is not measured only the number of examples counts, for those after it.
        try:
            masks = finder.masks(arguments, args, kwargs) if measured else Masks()
            own = None if masks.own is None else masks.own.real.shape
            batch = read_batch(arguments, own if measured else finder.sizes(arguments, args, kwargs))
        except BaseException:  # of the user's function: no forward came of it
            self._withdraw(call, phase, measured=measured)
            raise
        if measured and not masks.two_sided and self._has_two_sides(module):
            masks = replace(masks, two_sided=True, cross=masks.cross or masks.own)
        with self.lock:
            first = self.examples
            self.examples += batch.size
        state = self.inside.begin(module, measured, len(sites()))
        sizes = argument_sizes(arguments) if measured else frozenset()
        forward = Forward(
            state,
            call,
            first,
            batch,
            masks,
            decoder_sizes(arguments),
            self.share.deal,
            argument_sizes=sizes,
            frame=innermost_call(),
            phase=phase,
        )
        self.inside.enter(forward)
        return forward

    def grouped_call(self, forward: Forward, args: tuple[Any, ...], kwargs: dict[str, Any]) -> GroupedCall:
        """What says of which group the samples of a forward are, that began with these arguments."""
        arguments = self._signatures.named(forward.state.owner, args, kwargs)
        return GroupedCall(arguments, args, kwargs, forward.batch)

    def withdraw(self, forward: Forward) -> None:
        """Take back a forward that the user's labels ended before it began."""
        if forward.phase is not None:
            self._withdraw(forward.call, forward.phase, measured=True, examples=forward.batch.size)

    def _withdraw(self, call: int, phase: Phase, *, measured: bool, examples: int = 0) -> None:
        with self.lock:
            self.measured -= measured
            self.phases.withdraw(phase, measured=measured)
            if self.calls == call + 1:  # else another thread has drawn the next numbers
                self.calls, self.examples = call, self.examples - examples

    def read_time_first(self, forward: Forward) -> bool:
        """Read the forward's first tensor as (time, batch, ...) from now on; False if it was already."""
        batch = as_time_first(forward.batch)
        if batch is forward.batch:
            return False
        with self.lock:  # another thread may have begun a forward since: its first example stays as it is
            self.examples += batch.size - forward.batch.size
        forward.batch = batch
        # Placements hang on sequences, so none made for the other batch is found again.
        forward.sequences.clear()
        forward.reading.clear()
        return True

    def _has_two_sides(self, module: nn.Module) -> bool:
        """Whether the module holds an encoder and a decoder, whatever its arguments are called."""
        # By id, of modules that the model holds as long as the probe lives.
        if id(module) not in self._two_sided:
            self._two_sided[id(module)] = has_two_sides(name for name, _ in module.named_modules())
        return self._two_sided[id(module)]


def as_time_first(batch: Batch) -> Batch:
    """The batch with its first tensor read as (time, batch, ...), or (time, features) of one example."""
    lead = batch.lead
    if lead is None or batch.time_first or batch.packed is not None or lead.is_nested or lead.dim() < 2:
        return batch
    return Batch(lead, lead.shape[1] if lead.dim() > 2 else 1, lead.shape[0], time_first=True)
