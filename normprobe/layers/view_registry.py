"""The registry of layer types: how the tensors of each read as rows x features; torch's own stand at the end.

A new norm type of torch is one entry here. A kind that is new, too, is listed in `vocabulary` (and in
`kind_by_name`, if classes of other people bear its name); a way of normalizing that is new has its formula in
`norms.formulas`, so that a first call is recognised.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import nn

from normprobe.errors import ViewError
from normprobe.layers.kind_by_name import norm_by_name
from normprobe.layers.module_attributes import attribute
from normprobe.layers.view import SampleUnit, View, WeightOf
from normprobe.vocabulary import KINDS, SAMPLE_UNITS

_REGISTRY: dict[type, Callable[[nn.Module], View | None]] = {}
"""By class; a module is read as its nearest base is (`registered_view`). None: never probed."""


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
    weight_of: WeightOf | None = (
        (lambda module: getattr(module, weight)) if isinstance(weight, str) else weight
    )
    view = None if kind is None else View(kind, axis, sample, weight=weight_of, certain=True)
    # A function of the module, as torch's own entries need; the user's view is the same for all.
    _REGISTRY[cls] = lambda module: view


def registered() -> tuple[Any, ...]:
    """Which classes are registered, in an order and form that two calls can be compared by."""
    return tuple((id(cls), id(view)) for cls, view in _REGISTRY.items())


def _check_view(name: str, kind: Any, axis: Any, sample: Any, weight: Any) -> None:
    """Raise a `ViewError` that says which argument is wrong, if one is."""
    if kind is not None and kind not in KINDS:
        raise ViewError(f"kind {kind!r} of {name} is unknown; choose one of {', '.join(KINDS)} or None")
    if sample not in SAMPLE_UNITS:
        raise ViewError(f"sample {sample!r} of {name} is unknown; choose 'position' or 'example'")
    if isinstance(axis, bool) or not isinstance(axis, int):
        raise ViewError(f"axis {axis!r} of {name} is no whole number; give the index of the feature axis")
    if not (weight is None or isinstance(weight, str) or callable(weight)):
        raise ViewError(f"weight {weight!r} of {name} is neither a name nor a function; give one of them")


def registered_view(module: nn.Module) -> tuple[bool, View | None]:
    """Whether the module's class or a base of it is registered, and the nearest one's view (None: never)."""
    # The order of inheritance: a user's entry for a subclass wins over torch's for its base.
    for cls in type(module).__mro__:
        if cls in _REGISTRY:
            return True, _REGISTRY[cls](module)
    return False, None


def _layer_norm(module: Any) -> View:
    return _last_axes(module, "layer_norm", nn.LayerNorm.forward)


def _rms_norm(module: Any) -> View:
    return _last_axes(module, "rms_norm", nn.RMSNorm.forward)


def _last_axes(module: Any, kind: str, forward: Any) -> View:
    """The view of a norm over ``normalized_shape``."""
    # A subclass with a forward of its own may read another axis (ConvNeXt's channels-first LayerNorm), so its
    # name is asked and its first call decides. Only torch's forward makes the view certain.
    if type(module).forward is not forward:
        view = norm_by_name(module, type(module).__name__.lower())
        if view.axis != -1:
            return replace(view, kind=kind)
    certain = type(module).forward is forward
    return View(kind, trailing=len(attribute(module, "normalized_shape", (1,))), certain=certain)


def _channels(module: Any, kind: str) -> View:
    """The view of a norm of channels; certain only with one of torch's own forwards, as above."""
    # Without a batch axis the features of (channels, length) would be taken to lie along the length.
    unbatched = next((axes for classes, axes in _UNBATCHED if isinstance(module, classes)), None)
    return View(kind, 1, "example", unbatched=unbatched, certain=type(module).forward in _FORWARDS)


_FORWARDS = {cls.forward for cls in (nn.BatchNorm1d, nn.SyncBatchNorm, nn.InstanceNorm1d, nn.GroupNorm)}
"""BatchNorm2d and 3d, InstanceNorm2d and 3d inherit theirs from the bases of these."""

_UNBATCHED = (
    ((nn.InstanceNorm1d, nn.LazyInstanceNorm1d), 2),
    ((nn.InstanceNorm2d, nn.LazyInstanceNorm2d), 3),
    ((nn.InstanceNorm3d, nn.LazyInstanceNorm3d), 4),
)
"""How many axes an input without a batch axis has; only InstanceNorms take one."""

_REGISTRY[nn.Linear] = lambda module: View("linear", certain=True)
_REGISTRY[nn.LayerNorm] = _layer_norm
_REGISTRY[nn.RMSNorm] = _rms_norm
_REGISTRY[nn.modules.batchnorm._BatchNorm] = lambda module: _channels(module, "batch_norm")
_REGISTRY[nn.modules.instancenorm._InstanceNorm] = lambda module: _channels(module, "instance_norm")
_REGISTRY[nn.GroupNorm] = lambda module: _channels(module, "group_norm")
_REGISTRY[nn.LocalResponseNorm] = lambda module: View("norm", 1, certain=True)
_REGISTRY[nn.CrossMapLRN2d] = _REGISTRY[nn.LocalResponseNorm]
