"""Inputs for a tiny model of any kind, made from the signature of its forward and its configuration."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from itertools import islice, product
from typing import Any

import torch
from torch import Tensor, nn

BATCH, TIME = 2, 12
_PATCHES = 16
_MOST_PIXELS = 224
Inputs = dict[str, Any]


def _find(config: Any, *names: str, default: Any = None) -> Any:
    """The first of these settings that the configuration or one of its parts has."""
    parts = [config, *(v for v in vars(config).values() if hasattr(v, "to_dict"))]
    found = (getattr(part, name, None) for name in names for part in parts)
    return next((value for value in found if value is not None), default)


def _number(config: Any, *names: str, default: int) -> int:
    value = _find(config, *names, default=default)
    return value if isinstance(value, int) else default


def _sides(config: Any) -> tuple[int, int]:
    size = _find(config, "image_size", "input_size", "img_size", default=32)
    if isinstance(size, dict):
        size = size.get("height", size.get("shortest_edge", 32))
    height, width = (size, size) if isinstance(size, int) else (int(size[-2]), int(size[-1]))
    return min(height, _MOST_PIXELS), min(width, _MOST_PIXELS)


def _image(config: Any) -> Iterator[Tensor]:
    channels = _number(config, "num_channels", "in_channels", "in_chans", default=3)
    height, width = _sides(config)
    patch = _number(config, "patch_size", default=8)
    yield torch.randn(BATCH, channels, height, width)
    yield torch.randn(BATCH, channels, 64, 64)
    frames = _number(config, "num_frames", "frames_per_clip", default=2)
    yield torch.randn(BATCH, frames, channels, height, width)
    yield torch.randn(BATCH, 2, channels, height, width)
    yield torch.randn(BATCH, _PATCHES, channels * patch * patch)
    yield torch.randn(BATCH * _PATCHES, channels * patch * patch)
    temporal = _number(config, "temporal_patch_size", default=2)
    yield torch.randn(BATCH * _PATCHES, channels * temporal * patch * patch)
    yield torch.randn(BATCH, channels, 2, height, width)


def _video(config: Any) -> Iterator[Tensor]:
    channels = _number(config, "num_channels", "in_channels", "in_chans", default=3)
    frames = _number(config, "num_frames", "frames_per_clip", default=4)
    yield torch.randn(BATCH, frames, channels, *_sides(config))
    yield torch.randn(BATCH, channels, frames, *_sides(config))


def _spectrum(config: Any) -> Iterator[Tensor]:
    names = ("num_mel_bins", "n_mels", "feature_size", "input_feat_per_channel", "input_dim", "hidden_size")
    sizes = dict.fromkeys([_number(config, name, default=80) for name in names])
    for size, time in product(sizes, (64, 256, 100)):
        yield torch.randn(BATCH, time, size)
        yield torch.randn(BATCH, size, time)


def _sound(config: Any) -> Iterator[Tensor]:
    yield torch.randn(BATCH, 3200)
    yield torch.randn(BATCH, 1, 3200)
    yield torch.randn(
        BATCH, _number(config, "max_length", default=128), _number(config, "num_mel_bins", default=128)
    )
    yield torch.randn(BATCH, 64, _number(config, "num_mel_bins", default=80))


def _series(config: Any) -> Iterator[Tensor]:
    length = _number(config, "context_length", default=32)
    channels = _number(config, "num_input_channels", "input_size", default=1)
    lags = _find(config, "lags_sequence", default=[0])
    yield torch.randn(BATCH, length, channels)
    yield torch.randn(BATCH, length + max(lags, default=0), *([channels] * (channels > 1)))
    yield torch.randn(BATCH, length)


def _hidden(config: Any) -> Iterator[Tensor]:
    width = _number(config, "hidden_size", "d_model", default=32)
    patch, channels = _number(config, "patch_size", default=8), _number(config, "in_channels", default=3)
    temporal = _number(config, "temporal_patch_size", default=2)
    yield torch.randn(BATCH * _PATCHES, channels * temporal * patch * patch)
    yield torch.randn(BATCH * _PATCHES, channels * patch * patch)
    yield torch.randn(BATCH, TIME, width)
    yield torch.randn(BATCH, width, 4, 4)


def _grid(config: Any) -> Iterator[Tensor]:
    yield torch.tensor([[1, 4, 4]] * BATCH)
    yield torch.tensor([[4, 4]] * BATCH)


def _ids(config: Any) -> Iterator[Tensor]:
    yield torch.randint(5, 100, (BATCH, TIME))
    books = _number(config, "num_codebooks", "num_channels", "num_quantizers", default=4)
    yield torch.randint(5, 20, (BATCH, TIME, books))
    yield torch.randint(5, 20, (BATCH, books + 1, TIME))
    yield torch.randint(5, 20, (BATCH * books, TIME))


def _mask(config: Any) -> Iterator[Tensor]:
    mask = torch.ones(BATCH, TIME, dtype=torch.long)
    mask[1, TIME - 4 :] = 0
    yield mask


def _always(value: Callable[[Any], Any]) -> Callable[[Any], Iterator[Any]]:
    return lambda config: iter([value(config)])


def _embeddings(config: Any) -> Iterator[Tensor]:
    yield torch.randn(BATCH, TIME, _number(config, "hidden_size", "d_model", "n_embd", default=32))


def _flattened(config: Any) -> Iterator[Tensor]:
    patch, channels = _number(config, "patch_size", default=8), _number(config, "num_channels", default=3)
    place = torch.arange(1, _PATCHES + 1).float().reshape(1, -1, 1).expand(BATCH, -1, 2)
    yield torch.cat([place, torch.randn(BATCH, _PATCHES, channels * patch * patch)], 2)


MAKERS: dict[str, Callable[[Any], Iterator[Any]]] = {
    "input_ids": _ids,
    "attention_mask": _mask,
    "pixel_values": _image,
    "input_values": _sound,
    "input_features": _spectrum,
    "decoder_input_ids": _always(lambda config: torch.randint(5, 100, (BATCH, 7))),
    "bbox": _always(lambda config: torch.randint(1, 100, (BATCH, TIME, 4)).sort(-1).values),
    "pixel_values_videos": _video,
    "past_values": _series,
    "past_time_features": _always(lambda config: torch.zeros(BATCH, 19, 0)),
    "past_observed_mask": _always(lambda config: torch.ones(BATCH, 19)),
    "hidden_states": _hidden,
    "grid_thw": _grid,
    "image_grid_thw": _grid,
    "spatial_shapes": _always(lambda config: torch.tensor([[4, 4]] * BATCH)),
    "pixel_attention_mask": _always(lambda config: torch.ones(BATCH, _PATCHES, dtype=torch.long)),
    "flattened_patches": _flattened,
    "visual_feats": _always(
        lambda config: torch.randn(BATCH, 5, _number(config, "visual_feat_dim", default=32))
    ),
    "visual_pos": _always(lambda config: torch.rand(BATCH, 5, 4)),
    "input_features_mask": _always(lambda config: torch.ones(BATCH, 64, dtype=torch.long)),
}
_OPTIONAL = (
    "input_ids",
    "attention_mask",
    "pixel_values",
    "image_grid_thw",
    "input_values",
    "input_features",
    "decoder_input_ids",
    "bbox",
    "spatial_shapes",
    "pixel_attention_mask",
    "flattened_patches",
    "visual_feats",
    "visual_pos",
    "input_features_mask",
)
_FALLBACK = {
    "embeds": _embeddings,
    "states": _hidden,
    "ids": _ids,
    "mask": _mask,
    "values": _image,
    "features": _spectrum,
}


def inputs_for(model: nn.Module) -> Iterator[Inputs]:
    """Keyword arguments that a model's forward may take, the fullest first."""
    takes = {
        name: parameter
        for name, parameter in inspect.signature(model.forward).parameters.items()
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    }
    needed = [name for name, parameter in takes.items() if parameter.default is parameter.empty]
    wanted = [name for name in _OPTIONAL if name in takes and name not in needed]
    if "pixel_values_videos" in takes and "pixel_values" not in (*needed, *wanted):
        wanted.append("pixel_values_videos")
    fixed = {"use_cache": False} if "use_cache" in takes else {}
    for names in _choices(needed, wanted):
        makers = [_maker(name) for name in names]
        for values in islice(product(*(list(make(model.config)) for make in makers)), 40):
            yield dict(zip(names, values, strict=True)) | fixed


def with_images(inputs: Inputs, model: nn.Module, refusal: str) -> Iterator[Inputs]:
    """The same with as many image tokens ahead of the text as a model says it wants when it refuses."""
    told = re.search(r"tokens:? (\d+),? features:? (\d+)", refusal)
    token = _find(model.config, "image_token_id", "image_token_index")
    counts = [int(told[2]) // (BATCH * width) for width in (1, 32, 64)] if told else []
    if "mm_token_type_ids" in refusal:
        counts = [4, 16]
    for count in counts if token is not None and "input_ids" in inputs else ():
        if 0 < count < 300:
            ahead = torch.full((BATCH, count), token)
            ids = torch.cat([ahead, inputs["input_ids"]], 1)
            more = {"input_ids": ids}
            if "attention_mask" in inputs:
                more["attention_mask"] = torch.cat([torch.ones_like(ahead), inputs["attention_mask"]], 1)
            if "mm_token_type_ids" in inspect.signature(model.forward).parameters:
                more["mm_token_type_ids"] = (ids == token).int()
            yield inputs | more


def _maker(name: str) -> Callable[[Any], Iterator[Any]]:
    if name in MAKERS:
        return MAKERS[name]
    return next((make for ending, make in _FALLBACK.items() if name.endswith(ending)), _embeddings)


def _choices(needed: list[str], wanted: list[str]) -> Iterator[list[str]]:
    """Everything the forward takes; then without one kind of input after the other."""
    yield needed + wanted
    for dropped in (
        ("pixel_values",),
        ("input_features", "input_values"),
        ("attention_mask",),
        ("input_ids", "attention_mask"),
        ("spatial_shapes", "pixel_attention_mask"),
        ("input_features_mask",),
    ):
        if set(dropped) & set(wanted):
            yield needed + [name for name in wanted if name not in dropped]
