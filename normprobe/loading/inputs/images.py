"""Images through a model's own image processor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from normprobe.errors import DataError
from normprobe.loading.inputs.decoder_inputs import start_tokens
from normprobe.loading.inputs.processors import load_image_processor
from normprobe.loading.inputs.sources import Batch, Chunks, Images, Inputs, count_of
from normprobe.loading.inputs.to_model import keyword_tensors
from normprobe.loading.models import LoadedModel
from normprobe.loading.models.import_path import describe

Processor = Callable[[Sequence[Image.Image]], dict[str, Any]]


def prepare(source: Images, model: LoadedModel, size: int) -> Inputs:
    """Make batches of ``size`` images in the order of their names.

    Raises:
        DataError: a file is not a readable image, or the processor is damaged or refuses it.
    """
    process, warnings = image_processor(model)
    batches = Chunks(len(source.items), size, lambda rows: batch(source, rows, process, model))
    description = f"{count_of(len(source.items), 'image')} from {source.where}"
    return Inputs(batches, len(batches), description, "position", "image", warnings)


def batch(source: Images, rows: range, process: Processor, model: LoadedModel) -> Batch:
    """The keyword arguments of some images of a source.

    Raises:
        DataError: one of them cannot be read, or the processor refuses them.
    """
    opened = [open_image(source.items[index], channels(model)) for index in rows]
    try:
        pixels = process(opened)
    except Exception as cause:
        raise DataError(f"{source.where}: the image processor refuses it: {describe(cause)}") from cause
    return {**keyword_tensors(pixels, model), **start_tokens(model, len(opened))}


def open_image(item: Any, n_channels: int) -> Image.Image:
    """Open a file (or take an array) as an image of 1 or 3 channels.

    Raises:
        DataError: it is not a readable image.
    """
    mode = "L" if n_channels == 1 else "RGB"
    if not isinstance(item, Path):
        array = np.asarray(item)
        if array.shape[0] in {1, 3} and array.shape[-1] not in {1, 3}:
            array = np.moveaxis(array, 0, -1)  # channels first, as torch has them
        if array.shape[-1] not in {1, 3}:
            raise DataError(f"an image of shape {array.shape} was given; 1 or 3 channels were needed")
        return Image.fromarray(array.squeeze(-1) if array.shape[-1] == 1 else array).convert(mode)
    try:
        with Image.open(item) as image:
            return image.convert(mode)
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as cause:
        raise DataError(f"{item} is not a readable image: {describe(cause)}; mend or remove it") from cause


def channels(model: LoadedModel) -> int:
    """How many channels the model's images have."""
    vision = getattr(model.config, "vision_config", model.config)
    value = getattr(vision, "num_channels", 3)
    return value if isinstance(value, int) else 3


def image_processor(model: LoadedModel) -> tuple[Processor, tuple[str, ...]]:
    """The model's image processor, or a plain one and a sentence that says so."""
    own = load_image_processor(model)
    if own is not None:
        return lambda opened: dict(own(images=list(opened), return_tensors="pt")), ()
    vision = getattr(model.config, "vision_config", model.config)
    size = getattr(vision, "image_size", 224)
    side = int(size if isinstance(size, int | float) else max(size))
    warning = f"no image processor beside the model: images resized to {side} x {side}, values from -1 to 1"
    return lambda opened: _resized(opened, side), (warning,)


def _resized(opened: Sequence[Image.Image], side: int) -> dict[str, Any]:
    """Images resized and scaled to [-1, 1]; ``pixel_values`` is ``(images, channels, side, side)``."""
    arrays = [
        np.asarray(image.resize((side, side), Image.Resampling.BILINEAR), dtype=np.float32)
        for image in opened
    ]
    stacked = torch.from_numpy(np.stack([np.atleast_3d(array) for array in arrays]))
    return {"pixel_values": stacked.permute(0, 3, 1, 2) / 127.5 - 1}
