"""The option `mask` of a probe: what a user may give, and the masks of forwards that follow from it."""

from __future__ import annotations

import fnmatch
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal

import torch
from torch import Tensor, nn

from normprobe.capture.forwards.probe_options import users_own
from normprobe.errors import NormprobeError
from normprobe.samples.batch import first_tensor
from normprobe.samples.mask_arguments import MaskReader, held_tensor, mask_name, read_lengths, sources
from normprobe.samples.mask_forms import to_real
from normprobe.samples.masks import Masks, Padding, find_masks, mask_sizes

MaskOf = Callable[[tuple[Any, ...], dict[str, Any]], Tensor]
MaskOption = str | Tensor | MaskOf | Mapping[str, Tensor] | None


@dataclass(frozen=True)
class MaskArgument:
    """A mask that is found by the name of an argument."""

    name: str


@dataclass(frozen=True, eq=False)
class SingleMask:
    """A mask of the only batch that there is."""

    tensor: Tensor


Mask = MaskArgument | SingleMask | MaskOf | Mapping[str, Tensor] | Literal["auto"] | None


def read_mask(mask: Any) -> Mask:
    """What a user gave as a mask, a text or a tensor as what it stands for."""
    if isinstance(mask, str):
        return "auto" if mask == "auto" else MaskArgument(mask)
    return SingleMask(mask) if isinstance(mask, Tensor) else mask


def check_mask_name(mask: Any, model: nn.Module) -> None:
    """Raise if a mask is asked for by a name that no forward of the model's modules has as an argument.

    Raises:
        NormprobeError: there is none; close names are said.
    """
    if not isinstance(mask, str) or mask == "auto":
        return
    known: dict[str, None] = {}
    # The model's own first, for its names are the likeliest meant.
    for module in model.modules():
        try:
            parameters = inspect.signature(module.forward).parameters.values()
        except (TypeError, ValueError):  # a scripted module: which arguments it has nobody knows
            return
        if any(each.kind in _ANY or each.name == mask for each in parameters):
            return
        known |= dict.fromkeys(each.name for each in parameters)
    close = get_close_matches(mask, known, n=3)
    names = f"did you mean {' or '.join(close)}?" if close else f"it takes {', '.join([*known][:6])}"
    raise NormprobeError(
        f"mask={mask!r} is no argument of {type(model).__name__} or of a module in it; {names}"
    )


_ANY = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def given_padding(mask: Any, name: str) -> Padding | None:
    """A mask that the user gave, (batch, positions) with True = real, under a name for messages."""
    if mask is None:
        return None
    if not isinstance(mask, Tensor) or mask.dim() != 2:
        got = f"shape {tuple(mask.shape)}" if isinstance(mask, Tensor) else type(mask).__name__
        raise NormprobeError(
            f"the mask {name!r} must be a bool tensor (batch, positions), True = real; got {got}"
        )
    # As booleans: a user's mask is True = real in any dtype, never additive.
    real = to_real(mask.to(torch.bool))
    return None if real is None else Padding(name, real)


class GivenMasks:
    """The padding masks of forwards as the user wants them.

    Attributes:
        by_layer: whether layers have masks of their own.
    """

    def __init__(self, mask: Mask, note: Callable[[str, Exception], None]) -> None:
        """Keep the user's option, and what to call with the error of an argument that cannot be read."""
        self._mask, self._note = mask, note
        self._is_used = False
        self.by_layer = isinstance(mask, Mapping)
        self._reader = MaskReader()

    def masks(self, arguments: dict[str, Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Masks:
        """The masks of a call, given its arguments by name and as they are."""
        if callable(self._mask):
            with users_own():
                own = given_padding(self._mask(args, kwargs), "mask")
            return Masks(own, own, own)
        if isinstance(self._mask, (MaskArgument, SingleMask)):
            with users_own():
                own = (
                    self._named(self._mask.name, arguments)
                    if isinstance(self._mask, MaskArgument)
                    else self._single(self._mask.tensor, arguments)
                )
            return Masks(own, own, own)
        try:
            return find_masks(arguments, self._reader) if self._mask == "auto" else Masks()
        except Exception as error:  # a mask of a form that is none of the known ones
            self._note("no padding mask was found in a forward whose arguments could not be read", error)
            return Masks()

    def sizes(
        self, arguments: dict[str, Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[int, ...] | None:
        """(batch, positions) of the mask of a forward that is not measured."""
        if callable(self._mask):
            with users_own():
                mask = self._mask(args, kwargs)
            return None if mask is None else tuple(mask.shape)
        if isinstance(self._mask, MaskArgument):
            tensor = held_tensor(arguments.get(self._mask.name))
            return tuple(tensor.shape) if tensor is not None and tensor.dim() == 2 else None
        return mask_sizes(arguments) if self._mask == "auto" else None

    def _named(self, name: str, arguments: dict[str, Any]) -> Padding | None:
        """The mask, or the lengths, that the argument of this name holds."""
        tensor = held_tensor(arguments.get(name))
        if tensor is None:
            if name not in arguments:
                given = ", ".join(arguments) or "nothing"
                missing = NormprobeError(
                    f"mask={name!r} is no argument that it was given; it was given {given}"
                )
                self._note("a forward was measured without a mask", missing)
            return None
        says = mask_name(name)
        if tensor.dim() == 1:
            lengths = read_lengths("lengths", tensor, sources(arguments))
            real = None if lengths is None else lengths.real
        else:
            real = to_real(tensor, inverted=says is not None and says.inverted)
        if real is None:
            raise NormprobeError(
                f"the argument {name!r} of shape {tuple(tensor.shape)} reads as no mask (batch, positions), "
                "and as no lengths of the input; give mask= a function (args, kwargs) -> bool tensor"
            )
        return Padding(name, real)

    def _single(self, mask: Tensor, arguments: dict[str, Any]) -> Padding | None:
        """The mask of the only batch."""
        lead = first_tensor(arguments.values())
        if self._is_used:
            raise NormprobeError(
                "mask is one tensor, of one batch, and this is another; give the name of an argument or a "
                "function (args, kwargs) -> bool tensor"
            )
        if lead is not None and lead.dim() > 1 and mask.dim() == 2 and len(mask) not in lead.shape[:2]:
            raise NormprobeError(
                f"mask of shape {tuple(mask.shape)} is not of a batch of shape {tuple(lead.shape)}: (batch, "
                "positions) is needed"
            )
        padding, self._is_used = given_padding(mask, "mask"), True
        return padding

    def pattern_of(self, layer: str) -> str | None:
        """The first of the user's patterns for masks by layer that the layer's name matches."""
        if not isinstance(self._mask, Mapping):
            return None
        # In the order given, and by case: names of modules differ by it.
        return next((pattern for pattern in self._mask if fnmatch.fnmatchcase(layer, pattern)), None)

    def padding(self, pattern: str | None, found: Padding | None) -> Padding | None:
        """The mask of a layer that matches this pattern, or else the one found for its sequence."""
        if not isinstance(self._mask, Mapping):
            return found
        with users_own():
            return None if pattern is None else given_padding(self._mask[pattern], pattern)
