"""How each layer type's tensors read as rows x features; the registry that says what is probed."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import Tensor, nn

from normprobe.errors import ViewError
from normprobe.layers.module_attributes import EPS_NAMES, stored

SampleUnit = Literal["position", "example"]
WeightOf = Callable[[nn.Module], Tensor | None]

NORM_KINDS = ("layer_norm", "rms_norm", "batch_norm", "group_norm", "instance_norm", "norm")
KINDS = ("linear", *NORM_KINDS)


@dataclass(frozen=True)
class View:
    """How the tensors at a layer read.

    Attributes:
        kind: one of `KINDS`.
        axis: the feature axis.
        sample: what the layer treats on its own: a `position` (one vector of features), or an `example`
            (one element of the batch, whose rows are its pixels).
        trailing: how many axes, ending at the last, make up the features; counts only for axis -1.
        unbatched: number of axes of an input without a batch axis, for layers that accept one.
        weight: the scale as applied, of shape (features,), where it is not the module's ``weight``.
        certain: the kind and axis follow from the class itself; otherwise the first call may correct them.
    """

    kind: str
    axis: int = -1
    sample: SampleUnit = "position"
    trailing: int = 1
    unbatched: int | None = None
    weight: WeightOf | None = None
    certain: bool = False


_REGISTRY: dict[type, Callable[[nn.Module], View | None]] = {}


def register_view(
    cls: type[nn.Module],
    *,
    kind: str | None,
    axis: int = -1,
    sample: SampleUnit = "position",
    weight: str | WeightOf | None = None,
) -> None:
    """Teach normprobe a layer type; its subclasses are read the same way.

    >>> register_view(MyNorm, kind="rms_norm")                            # features on the last axis
    >>> register_view(MyChannelNorm, kind="norm", axis=1, sample="example")   # (batch, channels, ...)
    >>> register_view(MyScaled, kind="layer_norm", weight="gain")          # the scale is called `gain`
    >>> register_view(NotReallyANorm, kind=None)                          # never probe it

    Args:
        cls: the module class.
        kind: one of `linear`, `layer_norm`, `rms_norm`, `batch_norm`, `group_norm`, `instance_norm`,
            `norm`; None means that layers of this class are never probed.
        axis: the feature axis of its input and output.
        sample: `position` if each vector along ``axis`` is treated on its own, `example` if each element
            of the batch is (or features are normalized over the batch).
        weight: name of the attribute that holds the scale as applied, shape (features,), or a function
            of the module that returns it; by default the module's ``weight``.

    Raises:
        ViewError: ``cls`` is no module class, or an argument is not of the above.
    """
    if not (isinstance(cls, type) and issubclass(cls, nn.Module)):
        raise ViewError(f"register_view needs a subclass of torch.nn.Module, got {cls!r}")
    _check_view(cls.__name__, kind, axis, sample, weight)
    read: WeightOf | None = (lambda module: getattr(module, weight)) if isinstance(weight, str) else weight
    view = None if kind is None else View(kind, axis, sample, weight=read, certain=True)
    _REGISTRY[cls] = lambda module: view


def _check_view(name: str, kind: Any, axis: Any, sample: Any, weight: Any) -> None:
    """Refuse a view that is declared wrongly, in words."""
    if kind is not None and kind not in KINDS:
        raise ViewError(f"kind {kind!r} of {name} is unknown; choose one of {', '.join(KINDS)} or None")
    if sample not in ("position", "example"):
        raise ViewError(f"sample {sample!r} of {name} is unknown; choose 'position' or 'example'")
    if isinstance(axis, bool) or not isinstance(axis, int):
        raise ViewError(f"axis {axis!r} of {name} is no whole number; give the index of the feature axis")
    if not (weight is None or isinstance(weight, str) or callable(weight)):
        raise ViewError(f"weight {weight!r} of {name} is neither a name nor a function; give one of them")


def registered_view(module: nn.Module) -> tuple[bool, View | None]:
    """Whether a class of the module is registered, and the view (None: never probe)."""
    for cls in type(module).__mro__:
        if cls in _REGISTRY:
            return True, _REGISTRY[cls](module)
    return False, None


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
        return _norm_by_name(module, name.lower()) if own or not children else None
    has_eps = any(isinstance(getattr(module, name, None), float) for name in EPS_NAMES)
    return _norm_by_name(module, name.lower()) if not children and has_eps else None


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


def _norm_by_name(module: nn.Module, name: str) -> View:
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


def _layer_norm(module: Any) -> View:
    return _last_axes(module, "layer_norm", nn.LayerNorm.forward)


def _rms_norm(module: Any) -> View:
    return _last_axes(module, "rms_norm", nn.RMSNorm.forward)


def _last_axes(module: Any, kind: str, forward: Any) -> View:
    """A norm over ``normalized_shape``; a subclass with a forward of its own may read another axis."""
    if type(module).forward is not forward:
        view = _norm_by_name(module, type(module).__name__.lower())
        if view.axis != -1:
            return replace(view, kind=kind)
    certain = type(module).forward is forward
    return View(kind, trailing=len(module.normalized_shape), certain=certain)


def _channels(module: Any, kind: str) -> View:
    """A norm of channels; a subclass with a forward of its own may read another axis."""
    unbatched = module._get_no_batch_dim() if kind == "instance_norm" else None
    return View(kind, 1, "example", unbatched=unbatched, certain=type(module).forward in _FORWARDS)


_FORWARDS = {
    cls.forward
    for cls in (
        nn.BatchNorm1d,
        nn.SyncBatchNorm,
        nn.InstanceNorm1d,
        nn.GroupNorm,
    )
}
_REGISTRY[nn.Linear] = lambda module: View("linear", certain=True)
_REGISTRY[nn.LayerNorm] = _layer_norm
_REGISTRY[nn.RMSNorm] = _rms_norm
_REGISTRY[nn.modules.batchnorm._BatchNorm] = lambda module: _channels(module, "batch_norm")
_REGISTRY[nn.modules.instancenorm._InstanceNorm] = lambda module: _channels(module, "instance_norm")
_REGISTRY[nn.GroupNorm] = lambda module: _channels(module, "group_norm")
_REGISTRY[nn.LocalResponseNorm] = lambda module: View("norm", 1, certain=True)
_REGISTRY[nn.CrossMapLRN2d] = _REGISTRY[nn.LocalResponseNorm]
