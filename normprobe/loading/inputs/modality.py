"""The modality of a model (text, images, sound, plain tensors), and what its forward and config say of it."""

from __future__ import annotations

import inspect
from enum import Enum, auto

from torch import nn

from normprobe.loading.models import LoadedModel


class Modality(Enum):
    """What a model reads; the last, where nothing says."""

    TEXT = auto()
    IMAGE = auto()
    TEXT_AND_IMAGE = auto()
    IMAGE_IN_TEXT = auto()
    AUDIO = auto()
    TENSORS = auto()


_BY_NAME = {
    "input_ids": Modality.TEXT,
    "pixel_values": Modality.IMAGE,
    "input_values": Modality.AUDIO,
    "input_features": Modality.AUDIO,
}


def modality_of(model: LoadedModel) -> Modality:
    """The modality of ``model``, by the name of its main input.

    A model with a tower each for text and image (CLIP and its like) needs both at once. One whose config
    names an image token (LLaVA and its like) reads text, with or without images in it.
    """
    # Without a folder or hub id there is no tokenizer or processor to read anything with.
    if model.config is None or model.source is None:
        return Modality.TENSORS
    # Before `main_input_name`, which names but one of the two.
    if {"input_ids", "pixel_values"} <= forward_arguments(model.module):
        if all(hasattr(model.module, name) for name in ("get_text_features", "get_image_features")):
            return Modality.TEXT_AND_IMAGE
        if image_token(model) is not None:
            return Modality.IMAGE_IN_TEXT
    return _BY_NAME.get(str(getattr(model.module, "main_input_name", "")), Modality.TENSORS)


def image_token(model: LoadedModel) -> int | None:
    """The token that stands for an image in a model's text, or None where the config names none."""
    names = ("image_token_id", "image_token_index")
    tokens = (getattr(model.config, name, None) for name in names)
    return next((token for token in tokens if isinstance(token, int)), None)


def forward_arguments(module: nn.Module) -> set[str]:
    """The names of the arguments of a module's forward, without ``*args`` and ``**kwargs``."""
    variadic = {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}
    parameters = inspect.signature(module.forward).parameters.values()
    return {parameter.name for parameter in parameters if parameter.kind not in variadic}


def takes_any_keyword(module: nn.Module) -> bool:
    """Whether a module's forward has ``**kwargs``."""
    parameters = inspect.signature(module.forward).parameters.values()
    return any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters)


def vocabulary_size(module: nn.Module) -> int | None:
    """How many tokens a model's embedding has a row for, or None where that is unknown."""
    embedding = getattr(module, "get_input_embeddings", None)
    try:
        rows = getattr(embedding(), "num_embeddings", None) if embedding is not None else None
    # transformers' default raises where a model keeps its embedding elsewhere.
    except (NotImplementedError, AttributeError):
        return None
    return rows if isinstance(rows, int) else None
