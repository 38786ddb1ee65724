"""Which sequence of a forward a layer works on, and with which mask.

By the layer's name in an encoder-decoder, and by what it reads where several arguments have masks: the
argument itself, what a layer made of it, or a tensor of its sizes, where no other has them. Where there are
other numbers of positions than in the model's input, the mask is carried there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from normprobe.capture.experts.listed_rows import routed_sequence
from normprobe.capture.forwards.forward import Forward, Sequence
from normprobe.capture.forwards.mask_options import GivenMasks
from normprobe.capture.forwards.traced_tensors import address
from normprobe.capture.states.layer_state import LayerState
from normprobe.layers.module_attributes import attribute
from normprobe.layers.to_rows import Extent, extent_of
from normprobe.samples.masks import Padding
from normprobe.samples.strides import LENGTH_FUNCTIONS, MaskBySize, Stride
from normprobe.vocabulary import INPUT, OUTPUT


class SequenceFinder:
    """Finds what the layers of a probe's forwards work on; who calls it holds the probe's lock.

    Args:
        masks: the masks as the user wants them.

    Attributes:
        crosses_by_name: whether names say which layers of a decoder read what its encoder gave.
    """

    def __init__(self, masks: GivenMasks) -> None:
        self._masks = masks
        self.crosses_by_name = False
        self._functions: dict[int, list[Callable[..., Any]]] = {}
        # Whether layers read the same of every example at these numbers of positions: learned queries, no
        # data. And what the model made up where there are so many positions more than the mask has.
        self._learned: dict[int, bool] = {}
        self._made_up: dict[int, str] = {}

    def of(self, state: LayerState, name: str, tensor: Tensor, forward: Forward) -> Sequence:
        """What the layer works on that has this tensor at this site."""
        masks = forward.masks
        reads = state.sequence_rule.reads(two_sided=masks.two_sided, decoder_fired=forward.decoder_fired)
        if masks.several or (masks.two_sided and reads == "decoder" and not self.crosses_by_name):
            reads = self._by_tensor(state, name, tensor, forward, reads)
        elif masks.two_sided and name == OUTPUT and not self.crosses_by_name:
            forward.traced.note(state.layer.name, tensor, reads)
        # Not by layer: layers that work on one sequence share it, and with it placements and selections.
        pattern = self._masks.pattern_of(state.layer.name)
        sequence = forward.sequences.get((reads, pattern))
        if sequence is None:
            padding = self._masks.padding(pattern, masks.of(reads))
            sequence = forward.sequences[reads, pattern] = forward.sequence(reads, padding)
        if state.layer.expert is not None and forward.opened:
            sequence = routed_sequence(state.layer, tensor, forward, sequence)
        if sequence.padding is None or sequence.padding.full or pattern is not None or tensor.is_nested:
            return sequence
        return self._at_its_size(state, tensor, forward, reads, sequence)

    def _by_tensor(self, state: LayerState, name: str, tensor: Tensor, forward: Forward, reads: str) -> str:
        """The sequence of a tensor where its layer's name does not say it."""
        if tensor.is_nested or tensor.layout is not torch.strided:
            return reads
        # What it reads decides: its output is of the same sequence, but no argument and nothing traced yet.
        if name == INPUT or state.index not in forward.reading:
            forward.reading[state.index] = self._read(state, tensor, forward, reads)
        reads = forward.reading[state.index]
        if name == OUTPUT:
            forward.traced.note(state.layer.name, tensor, reads)
        return reads

    def _read(self, state: LayerState, tensor: Tensor, forward: Forward, reads: str) -> str:
        """The sequence of a tensor that a layer reads."""
        masks, state.sequence_certain = forward.masks, True
        given = (name for name, argument in masks.arguments.items() if _same(argument, tensor))
        known = next(given, None) or forward.traced.made(tensor)
        if known is not None:
            # The encoder's sequence, where a decoder reads it.
            known = "cross" if masks.two_sided and known == "own" else known
            state.sequence = known
            return known
        return reads if reads == "cross" else self._of_its_size(state, tensor, forward, reads)

    def _of_its_size(self, state: LayerState, tensor: Tensor, forward: Forward, reads: str) -> str:
        """The sequence of a tensor by its sizes, where no other has them, or of the layers beside it."""
        masks = forward.masks
        counts = _positions(extent_of(state.view, tensor.shape), forward)
        fitting = [name for name in _masked(forward) if _count(forward, name) in counts and name != reads]
        if not fitting:
            return reads
        if len(fitting) == 1 and not self._may_be(reads, counts, forward, _count(forward, fitting[0])):
            return fitting[0]
        # Once seen, for the extension's hooks note no outputs.
        if state.sequence in (reads, *fitting):
            return str(state.sequence)
        if not masks.two_sided:
            state.sequence = forward.traced.beside(state.layer.name, tensor)
        state.sequence_certain = state.sequence is not None
        return state.sequence or reads

    def _may_be(self, reads: str, counts: tuple[int, ...], forward: Forward, count: int) -> bool:
        """Whether a tensor with so many positions may be of the sequence that the layer's name says."""
        masks, own = forward.masks, forward.masks.of(reads)
        # Without a mask of the decoder's its length tells, and without that nothing does.
        if masks.two_sided and own is None:
            return forward.decoder_time is None or forward.decoder_time in counts
        return count in masks.unmasked or (own is not None and own.real.shape[1] in counts)

    def _at_its_size(
        self, state: LayerState, tensor: Tensor, forward: Forward, reads: str, sequence: Sequence
    ) -> Sequence:
        """The sequence where there are as many positions as the tensor has."""
        padding = sequence.padding
        assert padding is not None
        if state.view.axis == -1 and tensor.dim() > 2 and tensor.shape[:2] == padding.real.shape:
            return sequence  # as most are
        extent = extent_of(state.view, tensor.shape)
        counts = _positions(extent, forward)
        if padding.real.shape[1] in counts or padding.real.shape[0] not in (1, forward.batch.size):
            return sequence
        masks = forward.by_size.setdefault(id(padding), MaskBySize(padding.real))
        for count in counts:
            # One position is a pooler's or a head's: of which one nothing says.
            if count > 1 and not self._learned.get(count):
                # Rows without a batch may be any, such as those of an expert.
                if not masks.knows(count) and (len(extent.leading) > 1 or extent.inner):
                    self._find(masks, count, tensor, forward, sequence)
                real = masks.at(count)
                if real is not None:
                    return self._sized(forward, reads, Padding(padding.name, real))
        return sequence

    def _find(
        self, masks: MaskBySize, count: int, tensor: Tensor, forward: Forward, sequence: Sequence
    ) -> None:
        """Find out about so many positions by what is read there."""
        # Only where nothing else comes in that may have as many.
        if sequence.alone and sequence.padding is not None:
            masks.note(count, self._extended(tensor, sequence.padding.real, count))
        if not masks.knows(count) and not self._is_learned(count, tensor, forward):
            masks.find(count, self._length_functions(forward.state.owner), stacked=sequence.alone)

    def _sized(self, forward: Forward, reads: str, padding: Padding) -> Sequence:
        key = (reads, None, padding.real.shape[1])
        if key not in forward.sequences:
            # Labels are of the positions of the input.
            forward.sequences[key] = replace(forward.sequence(reads, padding), labelled=False)
        return forward.sequences[key]

    def _is_learned(self, count: int, tensor: Tensor, forward: Forward) -> bool:
        """Whether every example has the same here."""
        lead, size = forward.batch.lead, forward.batch.size
        if lead is None or tensor.is_meta or size < 2 or len(tensor) != size or len(lead) != size:
            return False
        # Looked at once: it waits for the device. Examples that are all the same tell nothing.
        if count not in self._learned and not bool((lead[0] == lead[-1]).all()):
            self._learned[count] = bool((tensor[0] == tensor[-1]).all())
        return self._learned.get(count, False)

    def _extended(self, tensor: Tensor, real: NDArray[np.bool_], count: int) -> NDArray[np.bool_] | None:
        """The mask where the model put positions of its own before those of its input, or behind them.

        Before them alike for every example: a prompt, which is real. Behind them all the same: padding.
        """
        size, time = real.shape
        more = count - time
        if more < 1 or tensor.dim() < 3 or tensor.shape[:2] != (size, count) or size < 2:
            return None
        if more not in self._made_up:
            alike = (tensor == tensor[:1]).flatten(2).all(2).all(0).tolist()
            prompt = all(alike[:more]) and not alike[more]
            behind = more > 1 and not all(alike) and bool((tensor[:, time:] == tensor[:1, -1:]).all())
            self._made_up[more] = "prompt" if prompt else "padding" if behind else ""
        if not (kind := self._made_up[more]):
            return None
        own = np.full((size, more), kind == "prompt")
        return np.concatenate([own, real] if kind == "prompt" else [real, own], axis=1)

    def holds_padding(self, extent: Extent, forward: Forward, sequence: Sequence) -> bool:
        """Whether a tensor that the sequence's mask does not fit holds padding of it all the same."""
        if not sequence.alone or sequence.padding is None:
            return False
        batch, (_, time) = forward.batch.size, sequence.padding.real.shape
        # In a batch of one nothing tells learned queries from positions.
        total = extent.samples * extent.rows
        if total >= batch * time:  # every position, in windows, say; or twice as many relative ones
            return batch > 1 or total < 2 * time - 1
        counts = _positions(extent, forward)
        return (
            extent.leading[:1] == (batch,)
            and any(1 < count < time for count in counts)
            and not any(self._learned.get(count) for count in counts)
        )

    def carry(self, strides: tuple[Stride, ...], forward: Forward, given: Tensor, made: Tensor) -> None:
        """Carry the masks of a forward through a convolution or a pool."""
        masks, axes = forward.masks, len(strides)
        # Two axes are an image's where one comes in beside the sequence, and no mask is of its sides.
        if made.dim() != given.dim() or given.dim() <= axes or (axes > 1 and not masks.alone):
            return
        for reads in ("own", *masks.others):
            padding = masks.of(reads)
            if padding is not None and not padding.full:
                sizes = forward.by_size.setdefault(id(padding), MaskBySize(padding.real))
                sizes.carry(strides, given.shape[-axes:], made.shape[-axes:])

    def _length_functions(self, owner: nn.Module) -> list[Callable[..., Any]]:
        """What a model has to say how many positions are behind its strides."""
        if id(owner) not in self._functions:
            self._functions[id(owner)] = list(_functions(owner))
        return self._functions[id(owner)]


def _functions(owner: nn.Module) -> Iterator[Callable[..., Any]]:
    for module in owner.modules():
        for name in LENGTH_FUNCTIONS:
            if callable(function := attribute(module, name)):
                yield function


def _masked(forward: Forward) -> list[str]:
    """The sequences that a layer may work on although its name does not say so."""
    masks = forward.masks
    if masks.two_sided:
        return [*masks.others, *(["cross"] if masks.cross is not None else [])]
    return [*(["cross"] if masks.cross is not None else []), *masks.others]


def _count(forward: Forward, reads: str) -> int:
    padding = forward.masks.of(reads)
    return -1 if padding is None else padding.real.shape[1]


def _positions(extent: Extent, forward: Forward) -> tuple[int, ...]:
    """How many positions a tensor may have for each example, the likeliest first."""
    leading, inner, batch = extent.leading, extent.inner, forward.batch.size
    # As the model's input says, before what sizes alone would say.
    if forward.batch.time_first and leading[1:2] == (batch,):
        return (leading[0],)
    if leading[:1] == (batch,):
        return (*leading[1:], *(inner if len(leading) == 1 else ()))
    if not leading or batch < 1:
        return ()
    whole = leading[0] % batch == 0
    if len(leading) == 1:
        return (leading[0] // batch,) if whole else ()
    # Attention swaps the two: (positions, batch), or puts heads beside the batch.
    return (*(leading[:1] if leading[1] == batch else ()), *(leading[1:2] if whole else ()))


def _same(argument: Tensor, tensor: Tensor) -> bool:
    """Whether a tensor is an argument, seen through a view."""
    if argument is tensor:
        return True
    # Of the same numbers: a slice begins at the same address, too.
    same = argument.numel() == tensor.numel() and argument.dtype == tensor.dtype
    return same and address(argument) == address(tensor) != 0
