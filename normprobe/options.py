"""What a user may ask of a probe: checked, resolved and written down."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from normprobe.errors import NormprobeError
from normprobe.masks import Padding, to_real

MaskOf = Callable[[tuple[Any, ...], dict[str, Any]], Tensor]
MaskOption = Literal["auto"] | MaskOf | Mapping[str, Tensor] | None
LabelsOf = Callable[[tuple[Any, ...], dict[str, Any]], list[list[str]]]


def check_options(samples: Any, values: Any, every: Any, mask: Any) -> None:
    """Refuse options out of range, in words."""
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
    """A user's mask as it is; True = real."""
    if mask is None:
        return None
    if not isinstance(mask, Tensor) or mask.dim() != 2:
        got = f"shape {tuple(mask.shape)}" if isinstance(mask, Tensor) else type(mask).__name__
        raise NormprobeError(
            f"the mask {name!r} must be a bool tensor (batch, positions), True = real; got {got}"
        )
    real = to_real(mask.to(torch.bool))
    return None if real is None else Padding(name, real)


def padding_of(masks: Mapping[str, Tensor], layer: str, cache: dict[Any, Any]) -> Padding | None:
    """The mask given for the first glob that the name of a layer matches, kept in the forward's ``cache``."""
    for pattern, mask in masks.items():
        if fnmatch.fnmatchcase(layer, pattern):
            if ("given", pattern) not in cache:
                cache["given", pattern] = given_padding(mask, pattern)
            padding: Padding = cache["given", pattern]
            return padding
    return None


def shown(option: Any) -> Any:
    """An option as JSON holds it."""
    if option is None or isinstance(option, (str, int)):
        return option
    if isinstance(option, Mapping):
        return sorted(map(str, option))
    return (
        [str(entry) for entry in option]
        if isinstance(option, (list, tuple, set))
        else getattr(option, "__name__", "callable")
    )
