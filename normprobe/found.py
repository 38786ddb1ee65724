"""What is known of a layer before it is called, and how it is named."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from normprobe.views import View

_WRAPPERS = (
    "_orig_mod",  # torch.compile
    "module",  # DataParallel, DistributedDataParallel
    "_fsdp_wrapped_module",
    "_checkpoint_wrapped_module",
    "_forward_module",  # Lightning
)


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
    stray: bool = False

    @property
    def key(self) -> tuple[int, str]:
        """Tells the layer from every other of the model."""
        return id(self.module), self.parameter


@dataclass(frozen=True)
class Found:
    """The layers of a model.

    Attributes:
        layers: in order of definition.
        containers: the modules that contain one, outermost first.
        strays: parameters that turn out to be a Linear's weight if a function uses them as one.
    """

    layers: tuple[Layer, ...]
    containers: tuple[nn.Module, ...]
    strays: tuple[Layer, ...] = ()


def stripped(name: str) -> str:
    """A name without the parts that torch.compile and the parallel wrappers put into it."""
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def under(name: str, parameter: str) -> str:
    """The name of a layer that is a parameter of the module of this name; that name for its ``weight``."""
    own = "" if parameter == "weight" else parameter.removesuffix("_weight")
    return ".".join(filter(None, (name, own)))
