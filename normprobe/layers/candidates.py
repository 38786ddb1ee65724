"""The rule of entry: which modules count as a norm or a Linear, from the module alone."""

from __future__ import annotations

import re
from typing import Any

from torch import Tensor, nn

from normprobe.layers.module_attributes import EPS_NAMES, stored
from normprobe.layers.view import View


def guessed_view(module: nn.Module) -> View | None:
    """The view of a module by the rules for classes nobody registered, or None if it is no layer.

    Decided from the module alone: a Linear look-alike by its name and weight, a norm by its name or its
    eps (DESIGN: norms and Linears by rule). Whether it contains other layers is for `layers` to say.
    """
    name = type(module).__name__
    if _is_linear(module, name):
        return View("linear", certain=True)
    if type(module).__module__.startswith("torch.nn.utils"):
        return None
    if any(parameter.dim() > 1 for parameter in module.parameters() if not is_lazy(parameter)):
        return None
    children = next(module.children(), None) is not None
    own = next(module.parameters(recurse=False), None) is not None
    if not own and type(module).forward is nn.Module.forward and "forward" not in vars(module):
        return None  # nobody can call it: an abstract base, a codebook
    if "norm" in name.lower():
        return norm_by_name(module, name.lower()) if own or not children else None
    has_eps = any(isinstance(getattr(module, name, None), float) for name in EPS_NAMES)
    return norm_by_name(module, name.lower()) if not children and has_eps else None


def _is_linear(module: nn.Module, name: str) -> bool:
    """Whether a module is a Linear by its class name and what it holds.

    Its weight has two axes, or is a method, as in torch's quantized Linears, or is packed under another name
    (GPTQ, AWQ, HQQ): then it says how many features go in and out.
    """
    weight = stored(module, "weight")
    if isinstance(weight, Tensor):
        plain = name.endswith("Linear") or name == "Conv1D"
        return plain and (is_lazy(weight) or weight.dim() == 2)
    sizes = [getattr(module, side, None) for side in ("in_features", "out_features")]
    if sizes == [None, None]:
        sizes = [getattr(module, side, None) for side in ("infeatures", "outfeatures")]
    named = re.search(r"Linear(_[A-Za-z]+|\d\w*)?$", name) is not None
    return named and all(isinstance(size, int) for size in sizes)


def norm_by_name(module: nn.Module, name: str) -> View:
    """What a norm's class name and buffers say of its kind and axis, until the first call says more."""
    if "batchnorm" in name or (hasattr(module, "running_mean") and hasattr(module, "running_var")):
        return View("batch_norm", 1, "example")
    if "instancenorm" in name:
        return View("instance_norm", 1, "example")
    if "groupnorm" in name:
        return View("group_norm", 1, "example")
    axis = 1 if "norm2d" in name or getattr(module, "data_format", "") == "channels_first" else -1
    if "layernorm" in name:
        return View("layer_norm", axis)
    return View("rms_norm" if "rms" in name else "norm", axis)


def is_lazy(parameter: Any) -> bool:
    """Whether a parameter has no shape yet."""
    return isinstance(parameter, (nn.UninitializedParameter, nn.UninitializedBuffer))
