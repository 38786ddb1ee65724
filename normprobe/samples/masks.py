"""Which samples are padding: the masks among the arguments of a forward, as one boolean grid each.

Every form that models take (1 and 0, booleans, additive floats; two, three or four axes; torch's inverted
``key_padding_mask``) becomes a boolean array (batch, positions), True where a position is real.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

_BLOCKED = -9000.0
"""Additive masks block with -10,000 (-9,984 in bfloat16), the dtype's minimum or -inf."""

_INVERTED = re.compile(r"(^|_)key_padding_mask$")
_LENGTHS = ("input_ids", "inputs_embeds")
_DECODER_LENGTHS = ("decoder_input_ids", "decoder_inputs_embeds")
DECODER_INPUTS = (*_DECODER_LENGTHS, "tgt")
_CROSS = re.compile(r"cross|encoder_attn|enc_?dec|encoder_attention")
_TORCH_CROSS = re.compile(r"\bmultihead_attn\.in_proj\.(k|v|kv)$")
_KEY_OR_VALUE = re.compile(
    r"^((to_|c_|w)?(k|v|kv|key|value|key_value)(_?(proj|lin|linear|norm|layernorm))?|c_attn)$"
)


SequenceName = Literal["own", "decoder", "cross"]
"""The sequences of a forward that a layer may work on."""


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

    Attributes:
        own: of the sequence a layer works on; of the encoder's in an encoder-decoder.
        decoder: of the decoder's sequence in an encoder-decoder.
        cross: of the sequence that cross-attention reads.
        two_sided: whether the forward is an encoder-decoder's.
    """

    own: Padding | None = None
    decoder: Padding | None = None
    cross: Padding | None = None
    two_sided: bool = False

    def of(self, reads: SequenceName) -> Padding | None:
        """The mask of a sequence."""
        return {"own": self.own, "decoder": self.decoder, "cross": self.cross}[reads]


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

    def reads(self, *, two_sided: bool, decoder_fired: bool) -> SequenceName:
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


def find_masks(arguments: Mapping[str, Any]) -> Masks:
    """Find the padding masks among named arguments, in any of the forms models take."""
    found = {name: value for name, value in arguments.items() if isinstance(value, Tensor)}
    two_sided = any(name in arguments for name in ("decoder_attention_mask", *DECODER_INPUTS))
    source = _first(found, ("attention_mask", "src_key_padding_mask", "key_padding_mask"))
    target = _first(found, ("decoder_attention_mask", "tgt_key_padding_mask"))
    memory = _first(found, ("encoder_attention_mask", "memory_key_padding_mask"))
    source = source or _any_inverted(found, {"tgt_key_padding_mask", "memory_key_padding_mask"})
    source = source or _packed(arguments)
    if "src" not in arguments and "tgt" in arguments and source is None:  # a decoder alone
        source, target, two_sided = target, None, False
    own = _last_positions(source, found, _LENGTHS)
    decoder = _last_positions(target, found, _DECODER_LENGTHS)
    return Masks(own, decoder, memory or (source if two_sided else None), two_sided)


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
            longer = torch.arange(int(value.batch_sizes[0])).unsqueeze(1) < value.batch_sizes
            order = value.unsorted_indices
            return Padding(name, (longer if order is None else longer[order.cpu()]).numpy())
    return None


def mask_sizes(arguments: Mapping[str, Any]) -> tuple[int, int] | None:
    """(batch, positions) of the mask that `find_masks` would find for the input, without reading it."""
    names = [name for name, value in arguments.items() if isinstance(value, Tensor) and _is_mask(name, value)]
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


def to_real(mask: Tensor, *, inverted: bool = False) -> NDArray[np.bool_] | None:
    """A mask of any form as a boolean array (batch, positions), True = real; None if it is no such mask.

    Args:
        mask: shape (batch, positions), (batch, queries, keys) or (batch, heads, queries, keys), or
            (positions,) for a batch of one; bool, integer (0 = padding), or floating: 1 and 0, or additive
            (0 = real).
        inverted: True = padding, as torch's ``key_padding_mask`` has it.
    """
    if mask.is_nested or mask.is_meta or not 1 <= mask.dim() <= 4 or mask.is_complex() or mask.numel() == 0:
        return None
    if type(mask) is Tensor and mask.is_cpu and mask.dim() == 2 and not mask.is_floating_point():
        numbers = mask.detach().numpy()
        return np.asarray(numbers == 0 if inverted else numbers != 0)
    allowed = _allowed(mask.detach(), inverted)
    if allowed.dim() == 1:
        allowed = allowed.unsqueeze(0)
    if allowed.dim() > 2:
        allowed = _keys(allowed.flatten(1, -3).any(1) if allowed.dim() == 4 else allowed)
    return np.asarray(allowed.cpu().numpy(), np.bool_)


def _allowed(mask: Tensor, inverted: bool) -> Tensor:
    """Elementwise, whether the mask lets a position be read."""
    if mask.is_floating_point():
        # 1 and 0 differ from an additive mask without padding, all 0, only by having a 1.
        multiplied = not inverted and bool((mask > 0).any())
        return mask > 0 if multiplied else mask > _BLOCKED
    nonzero = mask if mask.dtype == torch.bool else mask != 0
    return ~nonzero if inverted else nonzero


def _keys(allowed: Tensor) -> Tensor:
    """Which keys are real, (batch, keys), given (batch, queries, keys): those that a query reads.

    Queries in padding are often opened wholly to keep the softmax finite, so a query that reads everything
    says nothing, unless it is the last of a causal mask or no query is kept from anything.
    """
    queries, keys = allowed.shape[1:]
    full = allowed.all(-1)
    future = torch.ones_like(allowed[0]).triu(keys - queries + 1)
    reads_future = (allowed & future & ~full.unsqueeze(-1)).flatten(1).any(1)
    counts = ~full | full.all(1, keepdim=True)
    counts[:, -1] |= (full.sum(1) == 1) & ~reads_future
    return (allowed & counts.unsqueeze(-1)).any(1)
