"""The options of a probe: checked, resolved and as JSON holds them."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor

from normprobe.errors import NormprobeError
from normprobe.samples.mask_arguments import MaskReader
from normprobe.samples.mask_forms import to_real
from normprobe.samples.masks import Masks, Padding, find_masks, mask_sizes
from normprobe.tables.records import valid_name

MaskOf = Callable[[tuple[Any, ...], dict[str, Any]], Tensor]
MaskOption = Literal["auto"] | MaskOf | Mapping[str, Tensor] | None
_GIVEN = "raised by what normprobe.Probe was given as its mask or labels"
LabelsOf = Callable[[tuple[Any, ...], dict[str, Any]], list[list[str]]]


def check_options(samples: Any, values: Any, every: Any, mask: Any) -> None:
    """Raise NormprobeError, with what is allowed, for an option out of range."""
    whole = {"values": (values, 0), "every": (every, 1)}
    if samples != "all":
        whole["samples"] = (samples, 0)
    for name, (given, least) in whole.items():
        if isinstance(given, bool) or not isinstance(given, int) or given < least:
            also = ' or "all"' if name == "samples" else ""
            raise NormprobeError(f"{name} must be a whole number of at least {least}{also}, got {given!r}")
    if not (mask is None or mask == "auto" or callable(mask) or isinstance(mask, Mapping)):
        raise NormprobeError(
            f'mask must be "auto", None, a callable or a dict of tensors by layer, got {type(mask).__name__}'
        )


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


@contextmanager
def users_own() -> Iterator[None]:
    """A block that runs or reads what the user gave: its errors are the user's own, and say so."""
    try:
        yield
    except Exception as error:
        error.add_note(_GIVEN)
        raise


def is_users_own(error: Exception) -> bool:
    """Whether an error is one of a mask or of labels that the user gave."""
    return _GIVEN in getattr(error, "__notes__", ())


class GivenMasks:
    """The padding masks of forwards as the user wants them.

    Attributes:
        by_layer: whether layers have masks of their own.
    """

    def __init__(self, mask: MaskOption, note: Callable[[str, Exception], None]) -> None:
        """Keep the user's option, and what to call with the error of an argument that cannot be read."""
        self._mask, self._note = mask, note
        self.by_layer = isinstance(mask, Mapping)
        self._reader = MaskReader()

    def masks(self, arguments: dict[str, Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Masks:
        """The masks of a call, given its arguments by name and as they are."""
        if callable(self._mask):
            with users_own():
                own = given_padding(self._mask(args, kwargs), "mask")
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
        return mask_sizes(arguments) if self._mask == "auto" else None

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


def shown(option: Any) -> Any:
    """An option as JSON holds it."""
    if option is None or isinstance(option, int):
        return option
    if isinstance(option, str):
        return valid_name(option)
    if isinstance(option, Mapping):
        return sorted(valid_name(str(name)) for name in option)
    return (
        [valid_name(str(entry)) for entry in option]
        if isinstance(option, (list, tuple, set))
        else getattr(option, "__name__", "callable")
    )
