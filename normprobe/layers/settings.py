"""What a layer says of itself in plain attributes: numbers, truths and words."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import nn

from normprobe.layers.module_attributes import (
    EPS_NAMES,
    IN_FEATURES,
    OUT_FEATURES,
    attribute,
    has_bias,
    is_quantized,
)
from normprobe.vocabulary import QUANTIZED

_ELSEWHERE = {*EPS_NAMES, *IN_FEATURES, *OUT_FEATURES, "training", "num_features", "num_channels"}
"""What the ledger and the tables say under names of their own."""

_NAMES_IT = re.compile(r"(^|_)(name|key|id|idx|index|prefix|path|rank|device|version)s?$")
"""Attributes that say which layer it is, not what it computes."""

_LONGEST, _MOST = 32, 24


def settings_of(module: nn.Module, kind: str) -> str:
    """A layer's own settings as ``name=value``, joined by ``; ``; of a Linear whether it has a bias, too.

    Those are the public attributes of the instance that are plain: a number, a truth, a short word, a dtype.
    Eps, widths and tensors are in the tables, and what names the layer says nothing of it.
    """
    attributes: dict[str, Any] = attribute(module, "__dict__", {})
    found = {
        name: value
        for name, value in attributes.items()
        if not (name.startswith("_") or name in _ELSEWHERE or _NAMES_IT.search(name)) and _is_plain(value)
    }
    if kind == "linear" and (bias := has_bias(module)) is not None:
        found["bias"] = bias
    if is_quantized(module):
        found[QUANTIZED] = True
    return "; ".join(f"{name}={_shown(value)}" for name, value in list(found.items())[-_MOST:])


def _is_plain(value: Any) -> bool:
    if isinstance(value, str):
        return len(value) <= _LONGEST and value.isascii() and value.isprintable() and not {*value} & {*";="}
    return isinstance(value, (bool, int, float, torch.dtype))


def _shown(value: Any) -> str:
    return str(value).removeprefix("torch.")
