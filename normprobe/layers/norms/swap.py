"""Swapping the norms of a model for others, so that "BatchNorm or LayerNorm?" is answered on one's own."""

from __future__ import annotations

import copy
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
from normprobe.layers.norms.replacements import NormShape, groups_for, new_norm
from normprobe.layers.norms.trial import CannotSwapError, Trial, try_norm, with_activation
from normprobe.vocabulary import NORM_KINDS

Norm = Literal["layer_norm", "batch_norm", "group_norm", "rms_norm"]

_KNOWN_FORWARDS = {
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
"""Forwards whose computation is known; a norm with any other is tried on random numbers."""

_USUAL_EPS = 1e-5
"""That of torch's own norms, for one that does not say its eps."""


def swap_norms(
    model: nn.Module, to: Norm, *, layers: LayerFilter | None = None, groups: int = 32
) -> nn.Module:
    """A copy of a model whose norms are of another kind; the model itself is left as it is.

    >>> with_layer_norm = normprobe.swap_norms(cnn, to="layer_norm")      # over channels and pixels
    >>> with_batch_norm = normprobe.swap_norms(encoder, to="batch_norm")  # over batch and positions

    Each new norm takes over the width, eps, dtype, device, mode, scale and shift (as applied: Gemma's
    1 + weight) of the old one, and reads its features on the same axis. Over channels, `layer_norm` and
    `rms_norm` normalize all channels and pixels of an example together (group normalization with one group;
    Wu and He 2018, arXiv:1803.08494). A `batch_norm` starts with running mean 0 and variance 1: train the
    copy, or collect its running statistics, before using it in evaluation mode. Where an activation is part
    of the norm's module (timm's ``BatchNormAct2d``) the norm alone is exchanged: an `nn.Sequential` of the
    new norm and that activation takes its place.

    Args:
        model: the model; it may itself be a norm.
        to: the kind wanted. A norm that already has it stays.
        layers: which norms, as `Probe` takes them: glob patterns over names, or a predicate.
        groups: for `group_norm`, the most groups. Taken is the largest divisor of the number of features
            that leaves at least 4 features in a group.

    Returns:
        The copy. A norm whose shape or behaviour forbids the swap stays in it, and a `UserWarning`
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
    swapped = copy.deepcopy(model)  # the user's model is left as it is, tied weights stay tied in the copy
    norms = find_layers(swapped, layers, NORM_KINDS).layers
    replacements_by_id, kept = {}, []
    for layer in norms:
        try:
            replacements_by_id[id(layer.module)] = _replacement(layer, to, groups)
        except CannotSwapError as reason:
            kept.append((layer, reason))
    # Of a norm round another, which computes its scale, the inner one is what is exchanged.
    kept = [
        entry for entry in kept if not any(id(m) in replacements_by_id for m in entry[0].module.modules())
    ]
    if kept:
        stay = "; ".join(f"{layer.name or layer.type} ({layer.type}): {reason}" for layer, reason in kept)
        message = f"{len(kept)} of {len(norms)} norms stay as they are, not {to}: {stay}"
        warnings.warn(message, UserWarning, stacklevel=2)
    return _with_replacements(swapped, replacements_by_id)


def _replacement(layer: Layer, to: Norm, groups: int) -> nn.Module:
    """The norm that replaces a layer's, with its activation; the layer's own where it is of the kind already.

    Raises:
        CannotSwapError: there is none.
    """
    if layer.refused:
        raise CannotSwapError(layer.refused)
    trial, shape = _trial_and_shape(layer)
    # The layer's own module, not a new one: its running statistics stay.
    if trial.kind == to:
        return layer.module
    if trial.obstacle:
        raise CannotSwapError(trial.obstacle)
    if len(shape.sizes) > 1 and to in ("batch_norm", "group_norm"):
        raise CannotSwapError(f"it normalizes its last {len(shape.sizes)} axes together, which {to} cannot")
    if to == "group_norm":
        shape = replace(shape, groups=groups_for(shape.width, groups))
        if shape.groups == 1 < groups:
            raise CannotSwapError(f"its {shape.width} features do not divide into groups of 4 or more")
    new = _set_up_like(new_norm(to, shape), layer.module)
    return with_activation(new, layer.module, trial.activation) if trial.activation else new


def _trial_and_shape(layer: Layer) -> tuple[Trial, NormShape]:
    """What a norm computes, known of torch's own classes and tried for any other, and what it stores.

    Raises:
        CannotSwapError: neither the module nor a trial shows it.
    """
    module = layer.module
    if layer.n_features is None:
        raise CannotSwapError("its number of features cannot be told from the module")
    # Several axes are kept as they are: a new LayerNorm's weight has to have their shape.
    sizes = tuple(getattr(module, "normalized_shape", ())) or (layer.n_features,)
    weight, bias = (vector(module, name, math.prod(sizes)) for name in ("weight", "bias"))
    trial = Trial(layer.view.kind, layer.view.axis == 1)
    if type(module).forward not in _KNOWN_FORWARDS:
        trial = try_norm(module, layer.view, layer.n_features)
        if weight is not None or trial.factor != 1.0:
            # A new norm multiplies by its weight as it stands, so whatever the old one adds goes into it.
            plain = torch.ones(math.prod(sizes)) if weight is None else weight + trial.offset
            weight = plain * trial.factor
    eps = _USUAL_EPS if layer.eps is None else layer.eps
    return trial, NormShape(sizes, trial.channels, eps, weight, bias)


def _set_up_like(new: nn.Module, old: nn.Module) -> nn.Module:
    """Give a new norm the dtype, device, mode and need of gradients of the old one."""
    tensors = [*old.parameters(), *(b for b in old.buffers() if b.is_floating_point())]
    if tensors:
        new.to(device=tensors[0].device, dtype=tensors[0].dtype)
    trained = [parameter.requires_grad for parameter in old.parameters()]
    # A norm without parameters says nothing of that: what replaces it is trained, as a new layer is.
    return new.requires_grad_(any(trained) or not trained).train(old.training)


def _with_replacements(model: nn.Module, new: dict[int, nn.Module]) -> nn.Module:
    """The model with new norms in place of the old (by id), under every name that those have.

    Of a model that is itself a norm it is the replacement.
    """
    if id(model) in new:
        return new[id(model)]
    for module in list(model.modules()):
        for name, child in list(module._modules.items()):
            if child is not None and id(child) in new:
                setattr(module, name, new[id(child)])
    _disable_fused_paths(model)
    return model


def _disable_fused_paths(model: nn.Module) -> None:
    """Make torch's encoder call its norms: its fused path computes LayerNorm from their weights alone.

    A layer whose activation is neither ReLU nor GELU (0) is never fused, and an encoder with such a layer
    must make no nested tensor of padded input, which only the fused path takes.
    """
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoderLayer):
            norms = {type(module.norm1), type(module.norm2)}
            if norms != {nn.LayerNorm}:
                cast("Any", module).activation_relu_or_gelu = 0
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoder):
            fused = [getattr(layer, "activation_relu_or_gelu", 0) for layer in module.layers]
            module.use_nested_tensor = module.use_nested_tensor and all(fused)
