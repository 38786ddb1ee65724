"""What is known of a layer before it is called, and how it is named."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from normprobe.layers.view import View

_INSIDE = (
    "_orig_mod",  # torch.compile
    "_fsdp_wrapped_module",
    "_checkpoint_wrapped_module",
    "_forward_module",  # Lightning
)
_WRAPPERS = {"DataParallel", "DistributedDataParallel", "AveragedModel", "DeepSpeedEngine"}
"""Classes whose ``module`` is the model that they wrap."""


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
        stray: it is a layer only because a function used it as one.
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

    @property
    def key(self) -> tuple[int, str]:
        """Tells the layer from every other of the model."""
        return id(self.module), self.parameter


@dataclass(frozen=True)
class LayerSet:
    """The layers of a model.

    Attributes:
        layers: in order of definition.
        containers: the modules that contain one, outermost first.
        strays: parameters that turn out to be a Linear's weight if a function uses them as one.
        left_out: the modules (by id) of layers that a filter leaves out though they share a tensor with one
            that it lets through.
    """

    layers: tuple[Layer, ...]
    containers: tuple[nn.Module, ...]
    parameter_candidates: tuple[Layer, ...] = ()
    left_out: frozenset[int] = frozenset()


@dataclass(frozen=True)
class NamedModule:
    """A module of a model and what it is called there.

    Attributes:
        module: the module.
        names: its names, without the parts that torch.compile and the parallel wrappers put into them.
        full: its first name, with them.
    """

    module: nn.Module
    names: list[str]
    full: str


def modules_of(model: nn.Module) -> list[NamedModule]:
    """Every module with all its names, in order of definition."""
    found: dict[int, NamedModule] = {}
    for module, name, full in _named(model, "", "", outermost=True):
        found.setdefault(id(module), NamedModule(module, [], full)).names.append(name)
    return list(found.values())


def _named(
    module: nn.Module, name: str, full: str, *, outermost: bool
) -> Iterator[tuple[nn.Module, str, str]]:
    yield module, name, full
    for part, child in module._modules.items():
        if child is not None:
            wraps = _wraps(module, part, outermost=outermost)
            plain = name if wraps else _joined(name, part)
            yield from _named(child, plain, _joined(full, part), outermost=outermost and wraps)


def _wraps(module: nn.Module, part: str, *, outermost: bool) -> bool:
    """Whether a part of a module is the model that it wraps: a model may have a `module` of its own.

    An outermost module of any class that holds nothing but a `module` is taken for a wrapper.
    """
    if part != "module":
        return part in _INSIDE
    known = any(cls.__name__ in _WRAPPERS for cls in type(module).__mro__)
    return known or (outermost and len(module._modules) == 1)


def _joined(name: str, part: str) -> str:
    return f"{name}.{part}" if name else part


def under(name: str, parameter: str) -> str:
    """The name of a layer that is a parameter of the module of this name; that name for its ``weight``."""
    own = "" if parameter == "weight" else parameter.removesuffix("_weight")
    return ".".join(filter(None, (name, own)))
