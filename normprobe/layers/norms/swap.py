"""Exchanging the norms of a model, so that "BatchNorm or LayerNorm?" can be asked of one's own."""

from __future__ import annotations

import copy
import inspect
import math
import warnings
from dataclasses import replace
from typing import Any, Literal, cast, get_args

import torch
from torch import nn

from normprobe.errors import NormprobeError
from normprobe.layers.find import Layer, LayerFilter, find_layers
from normprobe.layers.norms import replacements
from normprobe.layers.norms.affine import vector
from normprobe.layers.norms.identify import identify
from normprobe.layers.norms.replacements import Shape, counterpart, groups_for
from normprobe.vocabulary import NORM_KINDS

Norm = Literal["layer_norm", "batch_norm", "group_norm", "rms_norm"]

_KNOWN = {
    cls.forward
    for cls in (
        nn.LayerNorm,
        nn.RMSNorm,
        nn.GroupNorm,
        nn.SyncBatchNorm,
        nn.modules.batchnorm._BatchNorm,
        nn.modules.instancenorm._InstanceNorm,
        replacements.FeatureBatchNorm,
        replacements.FeatureGroupNorm,
        replacements.FeatureRMSNorm,
        replacements.ChannelRMSNorm,
    )
}
_EPS = 1e-5
_ROWS_TRIED = 64


class _StaysError(Exception):
    """Why a norm stays as it is."""


def swap_norms(
    model: nn.Module, to: Norm, *, layers: LayerFilter | None = None, groups: int = 32
) -> nn.Module:
    """Return a copy of a model whose norms are of another kind; the model itself is left as it is.

    >>> with_layer_norm = normprobe.swap_norms(cnn, to="layer_norm")      # over channels and pixels
    >>> with_batch_norm = normprobe.swap_norms(encoder, to="batch_norm")  # over batch and positions

    Each new norm takes over the width, eps, dtype, device, mode, scale and shift (as applied: Gemma's
    1 + weight) of the old one, and reads its features on the same axis. Over channels, `layer_norm` and
    `rms_norm` normalize all channels and pixels of an example together (group normalization with one group;
    Wu and He 2018, arXiv:1803.08494). A `batch_norm` starts with running mean 0 and variance 1: train the
    copy, or collect its running statistics, before using it in evaluation mode.

    Args:
        model: the model; it may itself be a norm.
        to: the kind wanted. A norm that already has it stays.
        layers: which norms, as `Probe` takes them: glob patterns over names, or a predicate.
        groups: for `group_norm`, the most groups. Taken is the largest divisor of the number of features
            that leaves at least 4 features in a group.

    Returns:
        The copy. A norm whose shape or behaviour forbids the exchange stays in it, and a `UserWarning`
        names it with the reason.

    Raises:
        NormprobeError: `to` or `groups` is not of the above.
        NoLayersError: the model has no norm, or the filter matches none.
    """
    if to not in get_args(Norm):
        raise NormprobeError(
            f"to={to!r} is no norm that normprobe can put in; choose from {', '.join(get_args(Norm))}"
        )
    if isinstance(groups, bool) or not isinstance(groups, int) or groups < 1:
        raise NormprobeError(f"groups={groups!r} is no number of groups; give a whole number from 1")
    swapped = copy.deepcopy(model)
    chosen = find_layers(swapped, layers, NORM_KINDS).layers
    new, stay = {}, []
    for layer in chosen:
        try:
            new[id(layer.module)] = _new_norm(layer, to, groups)
        except _StaysError as reason:
            stay.append(f"{layer.name or layer.type} ({layer.type}): {reason}")
    if stay:
        told = f"{len(stay)} of {len(chosen)} norms stay as they are, not {to}: " + "; ".join(stay)
        warnings.warn(told, UserWarning, stacklevel=2)
    return _exchanged(swapped, new)


def _new_norm(layer: Layer, to: Norm, groups: int) -> nn.Module:
    """The norm that stands for a layer's; the layer's own where it is of the kind already."""
    if layer.refused:
        raise _StaysError(layer.refused)
    kind, shape = _read(layer)
    if kind == to:
        return layer.module
    if len(shape.sizes) > 1 and to in ("batch_norm", "group_norm"):
        raise _StaysError(f"it normalizes its last {len(shape.sizes)} axes together, which {to} cannot")
    if to == "group_norm":
        shape = replace(shape, groups=groups_for(shape.width, groups))
        if shape.groups == 1 < groups:
            raise _StaysError(f"its {shape.width} features do not divide into groups of 4 or more")
    return _like(counterpart(to, shape), layer.module)


def _read(layer: Layer) -> tuple[str, Shape]:
    """What a norm does: known of torch's own classes, tried out for any other."""
    module = layer.module
    if layer.n_features is None:
        raise _StaysError("its number of features cannot be told from the module")
    sizes = tuple(getattr(module, "normalized_shape", ())) or (layer.n_features,)
    kind, weight = layer.view.kind, vector(module, "weight", math.prod(sizes))
    if type(module).forward not in _KNOWN:
        kind, offset = _tried(layer, layer.n_features)
        weight = None if weight is None else weight + offset
    bias = vector(module, "bias", math.prod(sizes))
    eps = _EPS if layer.eps is None else layer.eps
    return kind, Shape(sizes, layer.view.axis == 1, eps, weight, bias)


def _tried(layer: Layer, width: int) -> tuple[str, float]:
    """Run a norm of an unknown class on random numbers: its kind, and what it adds to its weight."""
    module, channels = layer.module, layer.view.axis == 1
    takes = inspect.signature(module.forward).parameters
    if len(takes) != 1:
        raise _StaysError(f"its forward takes {len(takes)} arguments, a norm's one")
    like = next(module.parameters(), torch.empty(0))
    numbers = torch.Generator().manual_seed(0)
    before = torch.randn(_ROWS_TRIED, width, *([2, 2] * channels), generator=numbers).to(like)
    if channels:
        before = before + torch.arange(width).reshape(-1, 1, 1).to(like)
    mode, module.training = module.training, False
    try:
        with torch.no_grad():
            after = module(before)
    except Exception as error:
        raise _StaysError(
            f"it cannot be tried on random numbers ({type(error).__name__}: {error})"
        ) from error
    finally:
        module.training = mode
    found = identify(module, layer.view, before, after)
    kind, offset = found.view.kind, found.offset
    if offset is None or not found.decided or kind not in ("layer_norm", "rms_norm"):
        raise _StaysError("what it computes is no normalization of a sample's features, scaled and shifted")
    return kind, offset


def _like(new: nn.Module, old: nn.Module) -> nn.Module:
    """Give a new norm the dtype, device, mode and need of gradients of the old one."""
    tensors = [*old.parameters(), *(b for b in old.buffers() if b.is_floating_point())]
    if tensors:
        new.to(device=tensors[0].device, dtype=tensors[0].dtype)
    trained = [parameter.requires_grad for parameter in old.parameters()]
    return new.requires_grad_(any(trained) or not trained).train(old.training)


def _exchanged(model: nn.Module, new: dict[int, nn.Module]) -> nn.Module:
    """Put the new norms in place of the old, under every name that those have."""
    if id(model) in new:
        return new[id(model)]
    for module in list(model.modules()):
        for name, child in list(module._modules.items()):
            if child is not None and id(child) in new:
                setattr(module, name, new[id(child)])
    _leave_fused_paths(model)
    return model


def _leave_fused_paths(model: nn.Module) -> None:
    """Have torch's encoder call its norms; its fused path computes LayerNorm from their weights."""
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoderLayer):
            norms = {type(module.norm1), type(module.norm2)}
            if norms != {nn.LayerNorm}:
                cast("Any", module).activation_relu_or_gelu = 0
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoder):
            fused = [getattr(layer, "activation_relu_or_gelu", 0) for layer in module.layers]
            module.use_nested_tensor = module.use_nested_tensor and all(fused)
