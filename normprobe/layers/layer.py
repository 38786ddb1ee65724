"""A layer as it is known on entry, the set of those of a model, and how modules are named."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn

from normprobe.layers.module_attributes import parts_of
from normprobe.layers.view import View

# Names must be those of the bare model: a recording of the compiled or parallel one is compared and merged
# with one of the bare one layer by layer.
_WRAPPED_NAMES = (
    "_orig_mod",  # torch.compile
    "_fsdp_wrapped_module",
    "_checkpoint_wrapped_module",
    "_forward_module",  # Lightning
)
"""Attributes that hold the wrapped model, in any wrapper: no model of a user's own has such names."""

_WRAPPERS = {
    "DataParallel",
    "DistributedDataParallel",
    "FullyShardedDataParallel",
    "AveragedModel",
    "DeepSpeedEngine",
    "ModelEma",
    "ModelEmaV2",
    "ModelEmaV3",
}
"""Classes whose ``module`` is the model that they wrap; in any other class it is a part of that name."""


@dataclass(frozen=True)
class Layer:
    """A probed module, as it stands on entry.

    Attributes:
        name: its qualified name, without the prefixes of wrappers.
        aliases: other names of the same module.
        module: the module.
        view: how its tensors read; the first call may correct it.
        type: its class name.
        n_features: features of its input, where the module says so.
        eps: the constant in its denominator, where it has one.
        affine: whether it has a scale or shift of its own.
        refused: why it cannot be hooked, or "".
        parameter: of a layer that is no module, but a parameter of the module: which one; else "".
        by_use: it is a layer only if a function uses it as one, which its first call shows.
        block_list: of a block of a residual stream, which list of blocks it is of; "" where it was named.
        expert_of: of a layer inside an expert that is a module of a list: the name of that list; else "".
        expert: then, which of its experts.
        router_of: of a layer that gives a number for each expert: the modules of experts that it routes for,
            joined by `; `; else "".
    """

    name: str
    aliases: tuple[str, ...]
    module: nn.Module
    view: View
    type: str
    n_features: int | None
    eps: float | None
    affine: bool
    refused: str = ""
    parameter: str = ""
    by_use: bool = False
    block_list: str = ""
    expert_of: str = ""
    expert: int | None = None
    router_of: str = ""

    @property
    def key(self) -> tuple[int, str]:
        """Unique within the model: the id of the module, and the parameter."""
        return id(self.module), self.parameter


@dataclass(frozen=True)
class ExpertWeight:
    """A parameter that holds one matrix of every expert.

    Attributes:
        module: whose parameter it is.
        parameter: its name there.
        count: of how many experts.
        first: whether an expert begins with it, so that it reads what the expert reads.
        last: whether an expert ends with it, so that it gives what the expert gives.
    """

    module: nn.Module
    parameter: str
    count: int
    first: bool
    last: bool

    @property
    def tensor(self) -> Tensor | None:
        """The parameter as it is now."""
        return self.module._parameters.get(self.parameter)


@dataclass(frozen=True)
class ExpertModule:
    """A module whose call computes all experts of a layer that tokens were routed to.

    Attributes:
        name: its qualified name.
        module: the module that is called with the rows and their experts.
        count: how many experts there are.
        width: how many features an expert reads; None where the module does not say.
        inner_width: how many features its last weight reads; None where it is the only one.
        weights: the parameters that hold the experts.
    """

    name: str
    module: nn.Module
    count: int
    width: int | None
    inner_width: int | None
    weights: tuple[ExpertWeight, ...]


@dataclass(frozen=True)
class LayerSet:
    """The layers of a model that filters select.

    Attributes:
        layers: in order of definition.
        containers: the modules that contain one, outermost first.
        parameter_candidates: parameters that are a Linear's weight if a function uses them as one.
        left_out: the modules (by id) of layers that a filter leaves out though they share a tensor with one
            that it selects: a call that uses this tensor is not always the selected layer's.
        unmatched: a sentence for each pattern that matches no layer, while others do.
        experts: the modules that hold experts in one weight, with a selected layer among these.
        expert_lists: name and module of each list of experts that is called itself.
    """

    layers: tuple[Layer, ...]
    containers: tuple[nn.Module, ...]
    parameter_candidates: tuple[Layer, ...] = ()
    left_out: frozenset[int] = frozenset()
    unmatched: tuple[str, ...] = ()
    experts: tuple[ExpertModule, ...] = ()
    expert_lists: tuple[tuple[str, nn.Module], ...] = ()


@dataclass(frozen=True)
class NamedModule:
    """A module of a model and what it is called there.

    Attributes:
        module: the module.
        names: all its names, without the parts that torch.compile and the parallel wrappers put into them.
        full_name: its first name, with those parts.
    """

    module: nn.Module
    names: list[str]
    full_name: str


def modules_of(model: nn.Module) -> list[NamedModule]:
    """Every module with all its names, in order of definition."""
    # By id: modules may define equality, and a shared one has several names.
    by_id: dict[int, NamedModule] = {}
    for module, name, full_name in _walk(model, "", ""):
        by_id.setdefault(id(module), NamedModule(module, [], full_name)).names.append(name)
    return list(by_id.values())


def _walk(module: nn.Module, name: str, full_name: str) -> Iterator[tuple[nn.Module, str, str]]:
    """Every module under every name, a shared one several times, which `named_modules` would leave out."""
    yield module, name, full_name
    for part, child in parts_of(module).items():
        child_name = name if _is_wrapped(module, part) else _joined(name, part)
        yield from _walk(child, child_name, _joined(full_name, part))


def _is_wrapped(module: nn.Module, part: str) -> bool:
    """Whether the part of a module under this name is the model that it wraps."""
    if part != "module":
        return part in _WRAPPED_NAMES
    return any(cls.__name__ in _WRAPPERS for cls in type(module).__mro__)


def _joined(name: str, part: str) -> str:
    return f"{name}.{part}" if name else part


def parameter_layer_name(name: str, parameter: str) -> str:
    """The name of a layer that is a parameter of the module of this name; that name for its ``weight``."""
    own = "" if parameter == "weight" else parameter.removesuffix("_weight")
    return ".".join(filter(None, (name, own)))
