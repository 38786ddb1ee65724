"""The rule of entry: which modules count as a Linear or a norm, and which of these are refused.

Decided from the module alone, before anything runs: registered classes and their subclasses (`view_registry`
has torch's own), else a Linear by its class name and weight, a norm by its class names or its eps. A call may
later correct how a candidate is read, and refuse one that does not do what it looks like (`norms.identify`).
What looks like a layer in one way only is refused at once, with the reason, so that no gap is silent. Layers
that are parameters, not modules, have a rule of their own in `parameter_layers`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from normprobe.layers.kind_by_name import norm_by_ending, norm_by_name, scripted_view
from normprobe.layers.layer import Layer, NamedModule
from normprobe.layers.linear_rule import base_of_adapter, linear_by_rule, linear_round, says_both_sizes
from normprobe.layers.module_attributes import (
    EPS_NAMES,
    PARAMETER_HOLDERS,
    attribute,
    is_lazy,
    is_per_feature,
    modules_in,
    own_tensors,
    stores_scale,
)
from normprobe.layers.view import CONDITIONED, EPS, MATRIX, View
from normprobe.layers.view_registry import registered_view

_SCRIPTED = "a scripted module takes no hooks; probe the eager model"
_TWO_INPUTS = "it reads two inputs at once, which no table has a place for"
_MORE = "it is called a norm, but holds a parameter of shape {}, which no norm's scale has"
_NO_WEIGHT = "it says how many features go in and out, but is called no Linear; say so with register_view"
# Not `LayerNormOutput`, `NormalizedBlock`: what has more words behind is a block with a norm somewhere.
_IS_NORM = re.compile(r"^ada|norm(alization)?(\dd)?$")
_SCALES = {"gamma", "beta", "weight", "bias", "scale"}


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


def candidate_of(named: NamedModule, layers: Mapping[int, Layer]) -> Candidate | None:
    """The candidate that a module is, or None.

    Args:
        named: the module and its names.
        layers: the layers found already, by the id of their module, those inside this one among them: by
            rule what contains a layer is a container, not a norm.
    """
    module, name = named.module, type(named.module).__name__
    if isinstance(module, torch.jit.ScriptModule):
        name = str(attribute(module, "original_name", name))
        view = scripted_view(name)
        return None if view is None else Candidate(view, name, _SCRIPTED)
    if isinstance(module, nn.Bilinear):
        return Candidate(View("linear"), name, _TWO_INPUTS)
    registered, view = registered_view(module)
    if not registered:
        if _normalizes_weights(named):
            return None
        inside = [
            layers[id(child)] for child in modules_in(module) if child is not module and id(child) in layers
        ]
        view = view_by_rule(module, inside)
    return None if view is None else Candidate(view, name)


def look_alike(named: NamedModule, layers: Mapping[int, Layer]) -> Candidate | None:
    """The refused candidate that a module is which only looks like a Linear or norm; None if it does not.

    Args:
        named: a module that is no candidate otherwise, and has no parameter that is one.
        layers: as for `candidate_of`.
    """
    module, name = named.module, type(named.module).__name__
    contains = any(id(child) in layers for child in modules_in(module))
    if isinstance(module, torch.jit.ScriptModule) or contains:
        return None
    if registered_view(module)[0] or _normalizes_weights(named) or not _is_callable(module):
        return None
    matrix = next((p for p in module.parameters() if not is_lazy(p) and not is_per_feature(p)), None)
    if matrix is not None and any(_IS_NORM.search(norm) for norm in _names_of_norms(module)):
        return Candidate(View("norm"), name, _MORE.format(tuple(matrix.shape)))
    # A matrix of its own is a candidate still, if a function uses it as a Linear's weight.
    own = own_tensors(module)
    matrices = [tensor for tensor in own.values() if tensor.dim() == 2 and tensor.is_floating_point()]
    if own and not matrices and says_both_sizes(module):
        return Candidate(View("linear"), name, _NO_WEIGHT)
    return None


def why_none(named: NamedModule) -> str:
    """Why a module that comes near a Linear or norm, by its names or what it says, is none; else "".

    Args:
        named: a module that is no candidate.
    """
    module, name = named.module, type(named.module).__name__
    registered, view = registered_view(module)
    near = _names_of_norms(module) or re.search(r"(?i)linear|dense$", name) or norm_by_ending(name)
    says_eps = any(isinstance(attribute(module, eps), float) for eps in EPS_NAMES)
    if isinstance(module, torch.jit.ScriptModule) or not (near or says_eps or says_both_sizes(module)):
        return ""
    if registered and view is None:
        return "register_view says that its class is never probed"
    if _normalizes_weights(named):
        return "it normalizes weights, not what flows through"
    if not _is_callable(module):
        return "it has no forward of its own"
    if not own_tensors(module):
        return "it stores no weight or scale of its own"
    return "what it stores is neither the weight of a Linear nor the scale of a norm"


def view_by_rule(module: nn.Module, inside: Sequence[Layer] = ()) -> View | None:
    """The view of a module whose class is not registered, or None if it is neither a Linear nor a norm.

    Args:
        module: the module.
        inside: the layers that it contains.
    """
    if inside:
        return _view_round(module, inside)
    name = type(module).__name__
    return linear_by_rule(module, name) or _norm_by_rule(module, name)


def _norm_by_rule(module: nn.Module, name: str) -> View | None:
    """The view of a module without layers inside that looks like a norm by its names or its eps."""
    children = [child for child in module.children() if not isinstance(child, PARAMETER_HOLDERS)]
    own = own_tensors(module)
    # Children with more than a number a feature (convolutions, embeddings) make it a container.
    inner = (parameter for child in children for parameter in child.parameters() if not is_lazy(parameter))
    if not (own or _is_callable(module)) or not all(is_per_feature(parameter) for parameter in inner):
        return None
    # Not so its own: a scale may have a row for each head. That it is one, the first call must show.
    matrix = not all(is_per_feature(tensor) for tensor in own.values())
    names, ending = _names_of_norms(module), norm_by_ending(name)
    has_eps = any(isinstance(attribute(module, eps), float) for eps in EPS_NAMES)
    if names:
        certain = "norm" in name.lower() and (own or not children)
        view, unconfirmed = norm_by_name(module, names[0]), "" if certain else "its class or a base of it"
    elif ending is not None and not children and _SCALES & set(own):
        view, unconfirmed = ending, "how its name ends"
    elif has_eps or {"running_mean", "running_var"} <= set(own):
        view, unconfirmed = norm_by_name(module, name.lower()), EPS
    else:
        return None
    if matrix and not names:
        return None
    return replace(view, unconfirmed=MATRIX if matrix else unconfirmed)


def _view_round(module: nn.Module, inside: Sequence[Layer]) -> View | None:
    """The view of a module that contains layers; None for most, which are containers."""
    if not _is_callable(module):
        return None
    base = next((layer for layer in inside if layer.module is base_of_adapter(module)), None)
    if base is not None and all(layer.view.kind == base.view.kind != "linear" for layer in inside):
        return replace(base.view, certain=False)
    return linear_round(module, inside) or _norm_round(module, inside)


def _norm_round(module: nn.Module, inside: Sequence[Layer]) -> View | None:
    """The view of a module called a norm that contains layers."""
    names = _names_of_norms(module)
    if not names or not all(is_per_feature(tensor) for tensor in own_tensors(module).values()):
        return None
    # A scale of its own round one norm that has none: together they are that norm.
    if len(inside) == 1 and inside[0].view.kind != "linear" and stores_scale(module):
        bare = inside[0]
        return None if bare.affine or bare.refused else replace(bare.view, certain=False)
    # Its scale is computed by the Linears inside from a condition (AdaLN, Perez et al. 2018), that of its
    # own formula or of one norm inside that has none.
    norms = [layer for layer in inside if layer.view.kind != "linear"]
    if not _IS_NORM.search(names[0]) or any(layer.affine or layer.refused for layer in norms):
        return None
    if len(norms) > 1:
        return None
    view = replace(norms[0].view, certain=False) if norms else norm_by_name(module, names[0])
    return replace(view, unconfirmed=CONDITIONED)


def _normalizes_weights(named: NamedModule) -> bool:
    """Whether a module normalizes weights, not activations: `_WeightNorm` and its like."""
    below = "parametrizations" in named.names[0].split(".")
    return below or type(named.module).__module__.startswith("torch.nn.utils")


def _is_callable(module: nn.Module) -> bool:
    """Whether a module can be called: an abstract base, a codebook cannot."""
    return type(module).forward is not nn.Module.forward or "forward" in vars(module)


def _names_of_norms(module: nn.Module) -> list[str]:
    """The names with "norm" in them of a module's class and its bases below nn.Module, lower-case."""
    classes = [cls for cls in type(module).__mro__ if issubclass(cls, nn.Module) and cls is not nn.Module]
    return [cls.__name__.lower() for cls in classes if "norm" in cls.__name__.lower()]
