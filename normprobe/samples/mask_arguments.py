"""Which argument of a forward a mask belongs to, and which of its values stand for real positions.

An argument is a mask by its name, or by being boolean with one value up to some position and the other from
there on. It is used where three things are certain: the argument that it masks, its sizes, and which of its
two values is padding. What looks like a mask of padding and is not used is named, so that a person can hand
it to the probe.
"""

from __future__ import annotations

import re
from collections.abc import Container, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from normprobe.samples.mask_forms import to_real

_QUALIFIERS = {"attention", "attn", "padding", "pad", "key"}
_OTHERWISE = re.compile(
    r"masked|causal|head_mask|global|special|loss|label|perm|prompt|noise|mlm|observed|posi?tion|(^|_)pos_"
    r"|mask_(time|feature|ind|token|prob)|segment|target_|target$|^p_mask|drop|crop|output_mask|next_token"
)
"""Names of masks of something else than padding."""
_NUMBERS = re.compile(
    r"(^|_)(ids?|labels?|types?|segments?|positions?|targets?|index|indices|choices?|pos)(_|$)"
)
"""Names of numbers by position that are no masks, though they may be 0 and 1."""
_NO_SOURCE = re.compile(r"mask|label|target_|targets?$")
_LENGTHS = re.compile(r"^(?:(?P<base>\w+)_)?(?:lengths?|lens?)$")
_FIRST = {
    "",
    "input",
    "inputs",
    "x",
    "xs",
    "src",
    "source",
    "seq",
    "sequence",
    "wav",
    "wavs",
    "audio",
    "feat",
}
"""What lengths may be said to be of where they are those of the first tensor."""


class MaskName(NamedTuple):
    """What the name of a mask says.

    Attributes:
        base: of the argument: ``text`` of ``text_padding_mask``.
        tail: what stands behind: ``t5`` of ``text_mask_t5``.
        padding: whether it is of padding, which says nothing of what is 1.
        inverted: it is 1 where padding is, as torch's ``key_padding_mask``.
        certain: it is 1 where positions are real, or additive, as any ``attention_mask``.
    """

    base: str
    tail: str
    padding: bool
    inverted: bool
    certain: bool


class MaskedArgument(NamedTuple):
    """A mask that is used: its name, shape (batch, positions) with True = real, and what it masks."""

    name: str
    real: NDArray[np.bool_]
    argument: Tensor


@lru_cache(maxsize=1024)
@lru_cache(1024)
def mask_name(name: str) -> MaskName | None:
    """What a name says of a mask of padding; None if it says nothing, or that it masks something else."""
    words = name.lower().split("_")
    at = next((index for index, word in enumerate(words) if word in ("mask", "masks")), None)
    if at is None or _OTHERWISE.search(name.lower()):
        return None
    before = words[:at]
    while before and before[-1] in _QUALIFIERS:
        before.pop()
    qualifiers = set(words[len(before) : at])
    return MaskName(
        "_".join(before),
        "_".join(words[at + 1 :]),
        padding=bool({"padding", "pad"} & qualifiers),
        inverted={"key", "padding"} <= qualifiers,
        certain="attention" in qualifiers,
    )


def held_tensor(value: Any) -> Tensor | None:
    """The tensor that an argument is, or the only one that an object given as a mask holds."""
    if isinstance(value, Tensor):
        return value
    held = [entry for entry in getattr(value, "__dict__", {}).values() if isinstance(entry, Tensor)]
    return held[0] if len(held) == 1 else None


def sources(arguments: Mapping[str, Any]) -> dict[str, Tensor]:
    """The arguments that layers may read: tensors of two axes or more that are no masks, nor labels."""
    return {
        name: value
        for name, value in arguments.items()
        if isinstance(value, Tensor)
        and (value.is_nested or value.dim() > 1)
        and value.dtype != torch.bool
        and not _NO_SOURCE.search(name.lower())
    }


def fits(mask: tuple[int, ...], argument: Tensor) -> bool:
    """Whether a mask of these sizes may be one of this argument's positions."""
    if argument.is_nested or argument.dim() < 2 or mask[0] not in (1, argument.shape[0]):
        return False
    # (batch, channels, positions) has them last; more axes are those of images.
    return mask[1] == argument.shape[1] or (argument.dim() == 3 and mask[1] == argument.shape[2])


def argument_of(
    name: MaskName, sizes: tuple[int, ...], candidates: Mapping[str, Tensor]
) -> tuple[Tensor | None, bool]:
    """The argument that a mask belongs to, None where that is not certain; and whether its name says so."""
    fitting = {key: tensor for key, tensor in candidates.items() if fits(sizes, tensor)}
    if not name.base:
        first = next(iter(candidates), None)
        return (fitting[first], True) if first in fitting else (_only(fitting, sizes), False)
    # `text_mask` may be of text, of text_ids, of texts or of input_text.
    begins = (f"{name.base}_", f"{name.base}s", f"input_{name.base}")
    for key, tensor in fitting.items():
        if key == name.base or key.startswith(begins):
            return tensor, True
    of_tail = {key: tensor for key, tensor in fitting.items() if key.endswith(name.tail)}
    return _only(of_tail, sizes), False


def _only(fitting: Mapping[str, Tensor], sizes: tuple[int, ...]) -> Tensor | None:
    """The only argument that fits, or the first of several that all say the same positions."""
    second = [tensor for tensor in fitting.values() if tensor.shape[1] == sizes[1]]
    some = second or list(fitting.values())
    # Ids beside one tensor of numbers are of its positions; two tensors of numbers may be two sequences.
    alike = len({id(tensor) for tensor in some}) == 1 or sum(t.is_floating_point() for t in some) < 2
    return some[0] if some and alike else None


def by_ends(values: NDArray[np.bool_]) -> NDArray[np.bool_] | None:
    """Which positions are real by the values alone; None where they do not tell.

    Padding stands at one end of each example, and the longest example has none: of rows that change once at
    most, those that do not change hold the value that is real.

    Args:
        values: shape (batch, positions).
    """
    changes = (values[:, 1:] != values[:, :-1]).sum(1)
    whole = values[changes == 0, 0]
    if changes.max(initial=0) > 1 or not len(whole) or (whole != whole[0]).any():
        return None
    # A triangle is what a causal mask of as many positions as examples is.
    return None if _is_triangle(values) else np.asarray(values == whole[0])


def _is_triangle(values: NDArray[np.bool_]) -> bool:
    """Whether (n, n) values are a triangle and its opposite."""
    if values.shape[0] != values.shape[1] or len(values) < 2:
        return False
    triangle = np.tri(len(values), dtype=bool)
    return any(np.array_equal(values, form) for form in (triangle, ~triangle, triangle.T, ~triangle.T))


def read_lengths(name: str, value: Tensor, candidates: Mapping[str, Tensor]) -> MaskedArgument | None:
    """The mask that lengths stand for, in positions, or relative to the longest, which is 1 (or all).

    Args:
        name: of the argument.
        value: shape (batch,).
        candidates: what it may be the lengths of.
    """
    says = _LENGTHS.match(name.lower())
    if says is None or value.dim() != 1 or not len(value) or value.is_meta or value.is_complex():
        return None
    base = says["base"] or ""
    found = next((tensor for key, tensor in candidates.items() if base and key.startswith(base)), None)
    if found is None and base in _FIRST:
        found = next(iter(candidates.values()), None)
    if found is None or found.is_nested or found.dim() < 2 or found.shape[0] != len(value):
        return None
    lengths = value.detach().double().cpu().numpy()
    longest = lengths.max()
    if value.is_floating_point() and longest == 1 and lengths.min() > 0:
        lengths, positions = np.round(lengths * found.shape[1]), found.shape[1]
    # The longest text has no padding; else these are lengths of something else.
    elif lengths.min() >= 1 and longest in (found.shape[1], found.shape[-1]):
        positions = int(longest)
    else:
        return None
    return MaskedArgument(name, np.arange(positions) < lengths[:, None], found)


class MaskReader:
    """Reads the masks of a probe's forwards that are not known by name.

    What one forward's values said of a mask is kept for those that do not say it, and what was looked at in
    vain is not looked at for ever: that waits for the device.
    """

    def __init__(self) -> None:
        self._inverted: dict[str, bool] = {}
        self._in_vain: dict[str, int] = {}

    def read(
        self, arguments: Mapping[str, Any], used: Container[str]
    ) -> tuple[list[MaskedArgument], tuple[str, ...]]:
        """The masks that can be used, and the names of those that look like one and cannot.

        Args:
            arguments: of a forward, by name.
            used: names of those that are used already.
        """
        found: list[MaskedArgument] = []
        unused: list[str] = []
        candidates: dict[str, Tensor] = {}
        for name, value in arguments.items():
            tensor = self._looked_at(name, value) if _may_be_one(name) and name not in used else None
            if tensor is None:
                continue
            candidates = candidates or sources(arguments)
            one = tensor.dim() == 1
            masked = read_lengths(name, tensor, candidates) if one else self._read(name, tensor, candidates)
            if masked is not None:
                found.append(masked)
            elif tensor.dim() > 1:
                self._in_vain[name] = self._in_vain.get(name, 0) + 1
                if _is_missed(name, tensor, candidates):
                    unused.append(name)
        return found, tuple(unused)

    def _looked_at(self, name: str, value: Any) -> Tensor | None:
        """The tensor of an argument that may be a mask or lengths."""
        says = mask_name(name)
        tensor = value if isinstance(value, Tensor) else held_tensor(value) if says else None
        if tensor is None or tensor.is_nested or tensor.is_meta or tensor.numel() == 0:
            return None
        if self._in_vain.get(name, 0) >= (_MOST_LOOKS if says is None else _MOST_LOOKS_BY_NAME):
            return None
        if tensor.dim() == 1:
            return tensor if _LENGTHS.match(name.lower()) else None
        return tensor if says or (tensor.dim() == 2 and _may_be_a_mask(name, tensor)) else None

    def _read(self, name: str, tensor: Tensor, candidates: Mapping[str, Tensor]) -> MaskedArgument | None:
        """The mask that an argument is, if what it masks and which value is real are certain."""
        says = mask_name(name)
        # (batch, 1, 1, positions), as attention adds it, is (batch, positions) with its axes spread.
        flat = tensor.dim() == 2 or (tensor.dim() == 4 and tensor.shape[1] == tensor.shape[2] == 1)
        if says is None or not flat:
            return None
        argument, named = argument_of(says, (tensor.shape[0], tensor.shape[-1]), candidates)
        known = says.certain or says.inverted
        if argument is None or not (known or is_two_valued(tensor)):
            return None
        values = to_real(tensor, inverted=says.inverted)
        real = None if values is None else self._real(name, says, values, named=named)
        return None if real is None else MaskedArgument(name, real, argument)

    def _real(
        self, name: str, says: MaskName, values: NDArray[np.bool_], *, named: bool
    ) -> NDArray[np.bool_] | None:
        """Which values are real: by the name, by the values, or as in a forward before."""
        if says.certain or says.inverted:
            return values
        real = by_ends(values)
        if real is not None:
            if not real.all():
                self._inverted[name] = bool((real != values).any())
            return real
        if name in self._inverted:
            return ~values if self._inverted[name] else values
        # A mask of a named argument is 1 where it is real, unless its name is of the padding.
        by_name = says.base and named and not says.padding and _in_runs(values)
        return values if by_name else None


_MOST_LOOKS, _MOST_LOOKS_BY_NAME = 4, 32
"""In how many forwards an argument that is not used is looked at, and one that is called a mask."""


@lru_cache(maxsize=1024)
@lru_cache(1024)
def _may_be_one(name: str) -> bool:
    """Whether a name does not rule out a mask or lengths."""
    says = mask_name(name) or _LENGTHS.match(name.lower())
    return bool(says) or not ("mask" in name.lower() or _NUMBERS.search(name.lower()))


def _may_be_a_mask(name: str, tensor: Tensor) -> bool:
    """Whether an argument whose name does not say mask may be one all the same."""
    return _may_be_one(name) and not tensor.is_floating_point() and not tensor.is_complex()


def _in_runs(values: NDArray[np.bool_]) -> bool:
    """Whether every row changes once at most, and all that change do so from and to the same value."""
    changes = (values[:, 1:] != values[:, :-1]).sum(1)
    begin = values[changes == 1, 0]
    return bool(changes.max(initial=0) <= 1 and values.any(1).all() and len(set(begin.tolist())) <= 1)


def is_two_valued(tensor: Tensor) -> bool:
    """Whether there is nothing but 0 and 1, or 0 and what blocks an additive mask."""
    if tensor.dtype == torch.bool:
        return True
    low, high = (float(value) for value in torch.aminmax(tensor.detach()))
    if low < 0:
        return high == 0
    return high <= 1 and bool(((tensor == 0) | (tensor == 1)).all())


def _is_missed(name: str, tensor: Tensor, candidates: Mapping[str, Tensor]) -> bool:
    """Whether an argument that is not used looks like a mask of padding: by its name, or by its values."""
    others = [candidate for candidate in candidates.values() if candidate is not tensor]
    if not any(_is_as_large(tensor, other) for other in others) or not is_two_valued(tensor):
        return False
    values = (tensor != 0).detach().flatten(1).cpu().numpy()
    # What leaves out nothing, or all, is no sign of padding.
    if values.all() or not values.any() or _is_triangle(values):
        return False
    changes = (values[:, 1:] != values[:, :-1]).sum(1)
    return mask_name(name) is not None or bool(changes.max(initial=0) <= 1)


def _is_as_large(mask: Tensor, argument: Tensor) -> bool:
    """Whether a mask has an argument's positions, or its pixels."""
    if mask.dim() == 2:
        return fits(tuple(mask.shape), argument)
    alike = argument.dim() == mask.dim() + 1 and argument.shape[0] == mask.shape[0]
    return alike and argument.shape[-2:] == mask.shape[-2:]
