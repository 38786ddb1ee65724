"""The rule of entry: which modules count as a Linear or a norm, and which of these are refused.

Decided from the module alone, before anything runs: registered classes and their subclasses (`view_registry`
has torch's own), else a Linear by its class name and weight, a norm by its class name or its eps. A call may
later correct how a candidate is read (`norms.identify`), never whether it is one. Layers that are parameters,
not modules, have a rule of their own in `parameter_layers`.
"""

from __future__ import annotations

import re
from collections.abc import Container
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from normprobe.layers.layer import NamedModule
from normprobe.layers.module_attributes import (
    EPS_NAMES,
    IN_FEATURES,
    OUT_FEATURES,
    PARAMETER_HOLDERS,
    is_lazy,
    is_per_feature,
    own_tensors,
    stored,
)
from normprobe.layers.norm_names import norm_by_name, scripted_view
from normprobe.layers.view import MATRIX, View
from normprobe.layers.view_registry import registered_view

_SCRIPTED = "a scripted module takes no hooks; probe the eager model"
_TWO_INPUTS = "it reads two inputs at once, which no table has a place for"


@dataclass(frozen=True)
class Candidate:
    """A module that counts as a Linear or a norm.

    Attributes:
        view: how its tensors read, as far as the module says.
        type: its class name; of a scripted module the name of the class it was made from.
        refused: why it cannot be measured, or "".
    """

    view: View
    type: str
    refused: str = ""


def candidate_of(named: NamedModule, layers: Container[int]) -> Candidate | None:
    """The candidate that a module is, or None.

    Args:
        named: the module and its names.
        layers: the modules (by id) that are layers already, those inside this one among them: by rule what
            contains a layer is a container, not a norm.
    """
    module, name = named.module, type(named.module).__name__
    if isinstance(module, torch.jit.ScriptModule):
        name = str(getattr(module, "original_name", name))
        view = scripted_view(name)
        return None if view is None else Candidate(view, name, _SCRIPTED)
    if isinstance(module, nn.Bilinear):
        return Candidate(View("linear"), name, _TWO_INPUTS)
    registered, view = registered_view(module)
    if not registered:
        # `_WeightNorm` and its like normalize weights, not activations.
        if "parametrizations" in named.names[0].split("."):
            return None
        if any(id(child) in layers for child in module.modules() if child is not module):
            return None
        view = view_by_rule(module)
    return None if view is None else Candidate(view, name)


def view_by_rule(module: nn.Module) -> View | None:
    """The view of a module whose class is not registered, or None if it is neither a Linear nor a norm."""
    name = type(module).__name__
    if _is_linear(module, name):
        return View("linear", certain=True)
    if type(module).__module__.startswith("torch.nn.utils"):
        return None
    children = [child for child in module.children() if not isinstance(child, PARAMETER_HOLDERS)]
    own = own_tensors(module)
    if not own and type(module).forward is nn.Module.forward and "forward" not in vars(module):
        return None  # it cannot be called: an abstract base, a codebook
    # Children with more than a number a feature (convolutions, embeddings) make it a container.
    inner = (parameter for child in children for parameter in child.parameters() if not is_lazy(parameter))
    if not all(is_per_feature(parameter) for parameter in inner):
        return None
    # Not so its own: a scale may have a row for each head. That it is one, the first call must show.
    unconfirmed = "" if all(is_per_feature(tensor) for tensor in own.values()) else MATRIX
    if "norm" in name.lower():
        view = norm_by_name(module, name.lower()) if own or not children else None
    else:
        has_eps = any(isinstance(getattr(module, eps, None), float) for eps in EPS_NAMES)
        view = norm_by_name(module, name.lower()) if has_eps and not children and not unconfirmed else None
    return None if view is None else replace(view, unconfirmed=unconfirmed)


def _is_linear(module: nn.Module, name: str) -> bool:
    """Whether a module is a Linear by its class name and what it holds.

    Its weight has two axes, or is a method, as in torch's quantized Linears, or is packed under another name
    (GPTQ, AWQ, HQQ): then it says how many features go in and out.
    """
    weight = stored(module, "weight")
    if isinstance(weight, Tensor):
        plain = name.endswith("Linear") or name == "Conv1D"
        return plain and (is_lazy(weight) or weight.dim() == 2)
    sizes = [getattr(module, side, None) for side in (IN_FEATURES[0], OUT_FEATURES[0])]
    if sizes == [None, None]:
        sizes = [getattr(module, side, None) for side in (IN_FEATURES[1], OUT_FEATURES[1])]
    # Packed ones carry their kernel or bit width behind the word: `Linear_Marlin`, `Linear4bit`.
    is_named = re.search(r"Linear(_[A-Za-z]+|\d\w*)?$", name) is not None
    return is_named and all(isinstance(size, int) for size in sizes)
