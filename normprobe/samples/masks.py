"""Which samples are padding: the masks among the arguments of a forward, and which of them a layer reads.

Those of names that models agree on are found here, whatever their form (`mask_forms`); others, and lengths,
by `mask_arguments`. Each becomes a boolean array (batch, positions), True where a position is real.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from normprobe.samples.mask_arguments import MaskReader, argument_of, mask_name, sources
from normprobe.samples.mask_forms import to_real

_INVERTED = re.compile(r"(^|_)key_padding_mask$")
_LENGTHS = ("input_ids", "inputs_embeds")
_DECODER_LENGTHS = ("decoder_input_ids", "decoder_inputs_embeds")
DECODER_INPUTS = (*_DECODER_LENGTHS, "tgt")
_CROSS = re.compile(r"cross|encoder_attn|enc_?dec|encoder_attention")
_TORCH_CROSS = re.compile(r"\bmultihead_attn\.in_proj\.(k|v|kv)$")
_KEY_OR_VALUE = re.compile(
    r"^((to_|c_|w)?(k|v|kv|key|value|key_value)(_?(proj|lin|linear|norm|layernorm))?|c_attn)$"
)


@dataclass(frozen=True, eq=False)
class Padding:
    """A padding mask.

    Attributes:
        name: the argument it came from.
        real: shape (batch, positions), True where a position is not padding.
    """

    name: str
    real: NDArray[np.bool_]

    @cached_property
    def full(self) -> bool:
        """Whether no position is padding."""
        return bool(self.real.all())


@dataclass(frozen=True)
class Masks:
    """The padding masks of one forward.

    A sequence is called ``own``, ``decoder``, ``cross`` or, of any other argument, by its mask's name.

    Attributes:
        own: of the sequence a layer works on; of the encoder's in an encoder-decoder.
        decoder: of the decoder's sequence in an encoder-decoder.
        cross: of the sequence that cross-attention reads.
        two_sided: whether the forward is an encoder-decoder's.
        others: of further arguments, by the name of the mask.
        arguments: what the masks belong to, by sequence, where several sequences are to be told apart.
        unmasked: in how many positions arguments without a mask may come.
        alone: whether layers read nothing but the sequence that `own` is of.
        unused: arguments that look like masks of padding and are not used.
    """

    own: Padding | None = None
    decoder: Padding | None = None
    cross: Padding | None = None
    two_sided: bool = False
    # Not compared: two arrays have no single truth value.
    others: Mapping[str, Padding] = field(default_factory=dict, compare=False)
    arguments: Mapping[str, Tensor] = field(default_factory=dict, compare=False)
    unmasked: frozenset[int] = field(default=frozenset(), compare=False)
    alone: bool = field(default=False, compare=False)
    unused: tuple[str, ...] = field(default=(), compare=False)

    @property
    def several(self) -> bool:
        """Whether arguments have masks of their own, so that what a layer reads decides about its mask."""
        return bool(self.others) or (
            self.cross is not None and not self.two_sided and self.cross is not self.own
        )

    @property
    def padded(self) -> bool:
        """Whether any mask leaves something out."""
        every = (self.own, self.decoder, self.cross, *self.others.values())
        return any(mask is not None and not mask.full for mask in every)

    def of(self, reads: str) -> Padding | None:
        """The mask of a sequence."""
        named = {"own": self.own, "decoder": self.decoder, "cross": self.cross}
        return named[reads] if reads in named else self.others.get(reads)


@dataclass(frozen=True)
class SequenceRule:
    """Which sequence a layer works on, as far as its name says.

    Attributes:
        cross: it is the key or value projection of a cross-attention.
        torch_cross: likewise of torch's attention, whose names say so only in a decoder.
        side: ``encoder``, ``decoder`` or "".
    """

    cross: bool
    torch_cross: bool
    side: str

    @staticmethod
    def named(name: str) -> SequenceRule:
        """The rule of a layer of this name."""
        return SequenceRule(is_cross_source(name), bool(_TORCH_CROSS.search(name)), side_of(name))

    def reads(self, *, two_sided: bool, decoder_fired: bool) -> str:
        """The sequence it works on, given whether a decoder layer of an encoder-decoder fired before it."""
        if self.cross or (self.torch_cross and two_sided and self.side == "decoder"):
            return "cross"
        decodes = two_sided and (self.side == "decoder" or (self.side == "" and decoder_fired))
        return "decoder" if decodes else "own"


def side_of(name: str) -> str:
    """``encoder`` or ``decoder``, as the leftmost part of the name that says either; else ''."""
    for part in name.lower().split("."):
        decoder, encoder = "decoder" in part, "encoder" in part
        if decoder is not encoder:  # `encoder_decoder` holds both
            return "decoder" if decoder else "encoder"
    return ""


def has_two_sides(names: Iterable[str]) -> bool:
    """Whether modules of these names form an encoder-decoder, whose decoder attends to the encoder."""
    every = list(names)
    cross = [name for name in every if is_cross_source(name) or name.endswith(".multihead_attn")]
    attends = any(side_of(name) == "decoder" for name in cross)
    return attends and any(side_of(name) == "encoder" for name in every)


def is_cross_source(name: str) -> bool:
    """Whether the layer is the key or value projection of a cross-attention."""
    *path, last = name.lower().split(".")
    return bool(_KEY_OR_VALUE.match(last)) and any(_CROSS.search(part) for part in path)


def find_masks(arguments: Mapping[str, Any], reader: MaskReader | None = None) -> Masks:
    """Find the padding masks among named arguments, in any of the forms models take.

    Args:
        arguments: of a forward, by name in the order of its signature.
        reader: what reads the masks whose names are not known; it learns from each forward.
    """
    found = {name: value for name, value in arguments.items() if isinstance(value, Tensor)}
    two_sided = any(name in arguments for name in ("decoder_attention_mask", *DECODER_INPUTS))
    source = _first(found, ("attention_mask", "src_key_padding_mask", "key_padding_mask"))
    target = _first(found, ("decoder_attention_mask", "tgt_key_padding_mask"))
    memory = _first(found, ("encoder_attention_mask", "memory_key_padding_mask"))
    source = source or _any_inverted(found, {"tgt_key_padding_mask", "memory_key_padding_mask"})
    source = source or _packed(arguments)
    used = {mask.name for mask in (source, target, memory) if mask is not None}
    further, unused = (reader or MaskReader()).read(arguments, used)
    # Of masks that leave nothing out nothing more is asked: a decoded token is a forward.
    asked = bool(further) or memory is not None or (source is not None and not source.full)
    read = _read_by_layers(arguments) if asked else {}
    first = next(iter(read.values()), None)
    others: dict[str, Padding] = {}
    for mask in further:
        if source is None and mask.argument is first:
            source = Padding(mask.name, mask.real)
        elif source is None or mask.argument is not first:
            others[mask.name] = Padding(mask.name, mask.real)
    if "src" not in arguments and "tgt" in arguments and source is None:  # a decoder alone
        source, target, two_sided = target, None, False
    own = _last_positions(source, found, _LENGTHS)
    decoder = _last_positions(target, found, _DECODER_LENGTHS)
    cross = memory or (source if two_sided else None)
    alone = own is not None and all(_of_positions(own, each) for each in read.values())
    masks = Masks(own, decoder, cross, two_sided, others, alone=alone, unused=unused)
    of_others = {mask.name: mask.argument for mask in further if mask.name in others}
    return _with_arguments(masks, read, of_others) if masks.several else masks


def _read_by_layers(arguments: Mapping[str, Any]) -> dict[str, Tensor]:
    """The arguments that layers may read, but for the decoder's in an encoder-decoder."""
    return {name: tensor for name, tensor in sources(arguments).items() if name not in DECODER_INPUTS}


def _with_arguments(masks: Masks, read: Mapping[str, Tensor], of_others: Mapping[str, Tensor]) -> Masks:
    """The masks with what they belong to, and with how many positions the other arguments have."""
    arguments = dict(of_others)
    for sequence, mask in (("own", masks.own), ("cross", masks.cross)):
        says = None if mask is None else mask_name(mask.name)
        if mask is not None and says is not None:
            argument, _ = argument_of(says, mask.real.shape, read)
            if argument is not None:
                arguments[sequence] = argument
    masked = {id(argument) for argument in arguments.values()}
    free = [tensor for tensor in read.values() if id(tensor) not in masked and not tensor.is_nested]
    unmasked = frozenset(count for tensor in free for count in _positions(tensor))
    return replace(masks, arguments=arguments, unmasked=unmasked)


def _positions(tensor: Tensor) -> set[int]:
    """In how many positions layers may read a tensor: an image's pixels, also at half its sides and so on."""
    if tensor.dim() < 4:
        return {tensor.shape[1]}
    pixels = math.prod(tensor.shape[2:])
    return {pixels // 4**halved for halved in range(7)}


def _of_positions(mask: Padding, argument: Tensor) -> bool:
    """Whether an argument has as many positions as a mask."""
    return not argument.is_nested and mask.real.shape[1] in argument.shape[1:]


def _first(found: Mapping[str, Tensor], names: tuple[str, ...]) -> Padding | None:
    """The padding mask of the first of these names under which there is one."""
    for name in names:
        if name in found:
            real = to_real(found[name], inverted=bool(_INVERTED.search(name)))
            if real is not None:
                return Padding(name, real)
    return None


def _any_inverted(found: Mapping[str, Tensor], others: set[str]) -> Padding | None:
    """The padding mask of any argument named as torch's inverted ones, but for these others."""
    names = tuple(name for name in found if _INVERTED.search(name) and name not in others)
    return _first(found, names)


def _packed(arguments: Mapping[str, Any]) -> Padding | None:
    """The padding mask that a packed sequence would have if it were padded."""
    for name, value in arguments.items():
        if isinstance(value, PackedSequence):
            # batch_sizes tells for each position how many texts are longer; texts are sorted by length.
            longer = torch.arange(int(value.batch_sizes[0])).unsqueeze(1) < value.batch_sizes
            order = value.unsorted_indices
            return Padding(name, (longer if order is None else longer[order.cpu()]).numpy())
    return None


def mask_sizes(arguments: Mapping[str, Any]) -> tuple[int, int] | None:
    """(batch, positions) of the mask that `find_masks` would find for the input, without reading it."""
    names = [name for name, value in arguments.items() if isinstance(value, Tensor) and _is_mask(name, value)]
    # `find_masks` prefers it, too, and both must speak of one mask.
    names.sort(key=lambda name: name != "attention_mask")
    return (arguments[names[0]].shape[0], arguments[names[0]].shape[-1]) if names else None


def _is_mask(name: str, value: Tensor) -> bool:
    """Whether an argument is a padding mask of the input, by its name."""
    others = ("tgt_key_padding_mask", "memory_key_padding_mask")
    return value.dim() > 1 and (
        name == "attention_mask" or bool(_INVERTED.search(name) and name not in others)
    )


def _last_positions(
    mask: Padding | None, found: Mapping[str, Tensor], inputs: tuple[str, ...]
) -> Padding | None:
    """The mask of this forward's input: with a cache its last columns, for it covers the past, too."""
    for name in inputs:
        given = found.get(name)
        if (
            mask is not None
            and given is not None
            and given.dim() > 1
            and mask.real.shape[1] > given.shape[1] > 0
        ):
            return Padding(mask.name, mask.real[:, -given.shape[1] :])
    return mask
