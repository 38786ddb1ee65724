"""What the name of a norm's class says of its kind and axis, until the first call says more."""

from __future__ import annotations

import re

from torch import nn

from normprobe.layers.module_attributes import attribute, is_per_feature, own_tensors
from normprobe.layers.view import View
from normprobe.vocabulary import NORM_KINDS


def norm_by_name(module: nn.Module, name: str) -> View:
    """The view of a norm by its class name (lower-case) and its buffers.

    Names that say axis 1 are ``*Norm2d``, as the channels-first LayerNorms of ConvNeXt and VitDet are called;
    a ``data_format`` says it, too.
    """
    # Frozen batch norms are plain modules under any name; the pair of buffers gives them away.
    if "batchnorm" in name or "batchrenorm" in name or _has_running_statistics(module):
        return View("batch_norm", 1, "example")
    if "instancenorm" in name:
        return View("instance_norm", 1, "example")
    if "groupnorm" in name:
        return View("group_norm", 1, "example")
    first = "norm2d" in name or attribute(module, "data_format", "") == "channels_first" or _channels(module)
    axis = 1 if first else -1
    if "layernorm" in name:
        return View("layer_norm", axis)
    return View("rms_norm" if "rms" in name else "norm", axis)


def _has_running_statistics(module: nn.Module) -> bool:
    # None is an answer: a BatchNorm without running statistics has both attributes.
    missing = object()
    return all(attribute(module, name, missing) is not missing for name in ("running_mean", "running_var"))


def norm_by_ending(name: str) -> View | None:
    """The view of a norm whose class name ends in an abbreviation (``GlobLN``, ``SyncBN2d``), else None."""
    ending = re.search(r"(LN|BN|GN|IN)(?:\dd)?$", name)
    return None if ending is None else _ENDINGS[ending[1]]


_ENDINGS = {
    "LN": View("layer_norm"),
    "BN": View("batch_norm", 1, "example"),
    "GN": View("group_norm", 1, "example"),
    "IN": View("instance_norm", 1, "example"),
}


def _channels(module: nn.Module) -> bool:
    """Whether a norm's scale and shift are shaped for channels: (1, C, 1, 1), (C, 1, 1) and the like."""
    shaped = [t for t in own_tensors(module).values() if t.dim() > 1 and t.numel() > 1 and is_per_feature(t)]
    return bool(shaped) and all(tensor.shape[-1] == 1 for tensor in shaped)


def scripted_view(original_name: str) -> View | None:
    """The view of a scripted module by the name of the class it was made from; None if that is no layer.

    Only the kind counts: a scripted module is refused, so its tensors are never read.
    """
    name = original_name.lower()
    if name.endswith("linear"):
        return View("linear")
    return next((View(kind) for kind in NORM_KINDS if kind.replace("_", "") in name), None)
