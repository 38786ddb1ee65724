"""Swapping the norms of a model for others, so that "BatchNorm or LayerNorm?" is answered on one's own."""

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
from normprobe.layers.norms.replacements import NormShape, groups_for, new_norm
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

_TRIAL_SAMPLES = 64
"""More than `identify` needs to fit a scale and shift, and still only an instant."""


class _CannotSwapError(Exception):
    """The reason why a norm stays as it is."""


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
    copy, or collect its running statistics, before using it in evaluation mode.

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
        except _CannotSwapError as reason:
            kept.append(f"{layer.name or layer.type} ({layer.type}): {reason}")
    if kept:
        message = f"{len(kept)} of {len(norms)} norms stay as they are, not {to}: " + "; ".join(kept)
        warnings.warn(message, UserWarning, stacklevel=2)
    return _with_replacements(swapped, replacements_by_id)


def _replacement(layer: Layer, to: Norm, groups: int) -> nn.Module:
    """The norm that replaces a layer's; the layer's own where it is of the kind already.

    Raises:
        _CannotSwapError: there is none.
    """
    if layer.refused:
        raise _CannotSwapError(layer.refused)
    kind, shape = _kind_and_shape(layer)
    if kind == to:
        return layer.module
    if len(shape.sizes) > 1 and to in ("batch_norm", "group_norm"):
        raise _CannotSwapError(f"it normalizes its last {len(shape.sizes)} axes together, which {to} cannot")
    if to == "group_norm":
        shape = replace(shape, groups=groups_for(shape.width, groups))
        if shape.groups == 1 < groups:
            raise _CannotSwapError(f"its {shape.width} features do not divide into groups of 4 or more")
    return _set_up_like(new_norm(to, shape), layer.module)


def _kind_and_shape(layer: Layer) -> tuple[str, NormShape]:
    """What a norm computes, known of torch's own classes and tried for any other, and what it stores.

    Raises:
        _CannotSwapError: neither the module nor a trial shows it.
    """
    module = layer.module
    if layer.n_features is None:
        raise _CannotSwapError("its number of features cannot be told from the module")
    sizes = tuple(getattr(module, "normalized_shape", ())) or (layer.n_features,)
    kind, weight = layer.view.kind, vector(module, "weight", math.prod(sizes))
    if type(module).forward not in _KNOWN_FORWARDS:
        kind, offset, factor = _kind_by_trial(layer, layer.n_features)
        if weight is not None or factor != 1.0:
            weight = (torch.ones(math.prod(sizes)) if weight is None else weight + offset) * factor
    bias = vector(module, "bias", math.prod(sizes))
    eps = _USUAL_EPS if layer.eps is None else layer.eps
    return kind, NormShape(sizes, layer.view.axis == 1, eps, weight, bias)


def _kind_by_trial(layer: Layer, width: int) -> tuple[str, float, float]:
    """Run a norm of an unknown class on random numbers: its kind, and what it adds to and times its weight.

    Raises:
        _CannotSwapError: it cannot be run, or what it computes is not known.
    """
    module, channels = layer.module, layer.view.axis == 1
    arguments = inspect.signature(module.forward).parameters
    if len(arguments) != 1:
        raise _CannotSwapError(f"its forward takes {len(arguments)} arguments, a norm's one")
    like = next(module.parameters(), torch.empty(0))
    # A generator of its own: torch's random state is the user's.
    generator = torch.Generator().manual_seed(0)
    before = torch.randn(_TRIAL_SAMPLES, width, *([2, 2] * channels), generator=generator).to(like)
    if channels:
        # Channels of different means: normalized one by one they come out unlike normalized together.
        before = before + torch.arange(width).reshape(-1, 1, 1).to(like)
    # Not `eval()`, which reaches the children too and would have to be undone for each.
    mode, module.training = module.training, False
    try:
        with torch.no_grad():
            after = module(before)
    except Exception as error:
        raise _CannotSwapError(
            f"it cannot be tried on random numbers ({type(error).__name__}: {error})"
        ) from error
    finally:
        module.training = mode
    identification = identify(module, layer.view, before, after)
    kind, offset = identification.view.kind, identification.offset
    if offset is None or not identification.decided or kind not in ("layer_norm", "rms_norm"):
        raise _CannotSwapError(
            "what it computes is no normalization of a sample's features, scaled and shifted"
        )
    return kind, offset, identification.factor


def _set_up_like(new: nn.Module, old: nn.Module) -> nn.Module:
    """Give a new norm the dtype, device, mode and need of gradients of the old one."""
    tensors = [*old.parameters(), *(b for b in old.buffers() if b.is_floating_point())]
    if tensors:
        new.to(device=tensors[0].device, dtype=tensors[0].dtype)
    trained = [parameter.requires_grad for parameter in old.parameters()]
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
