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
            return eight_bit(image, item).convert(mode)
    # Pillow raises SyntaxError at a damaged PNG.
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as cause:
        raise DataError(f"{item} is not a readable image: {describe(cause)}; mend or remove it") from cause


def eight_bit(image: Image.Image, item: Any) -> Image.Image:
    """A picture whose numbers are not 0 to 255 brought to that range; others as they are.

    16 bits a channel are divided by 257. Whole numbers of 32 bits, and floating ones, have no range of their
    own: 0 to 1, 0 to 255 and 0 to 65,535 are read as these, whichever is the least that holds all.

    Raises:
        DataError: a number is negative, larger, NaN or infinite.
    """
    if image.mode.startswith("I;16"):
        return _scaled(np.asarray(image), 65535)
    if image.mode not in {"I", "F"}:
        return image
    values = np.asarray(image)
    low, high = float(values.min()), float(values.max())
    floating = values.dtype.kind == "f"
    white = next((top for top in ((1,) if floating else ()) + (255, 65535) if high <= top), None)
    # PIL opens 16-bit files of some formats in 32 bits.
    if image.mode == "I" and image.format in {"PNG", "PPM"}:
        white = 65535 if high <= 65535 else None
    # Not `low < 0`: NaN is neither.
    if white is None or not low >= 0 or not np.isfinite(high):
        kind, tops = ("floating-point", "1, 255") if floating else ("whole", "255")
        raise DataError(
            f"{item} holds {kind} numbers from {low:g} to {high:g}; from 0 to {tops} or 65,535 were needed: "
            "scale it, or give the pixel values as .npy"
        )
    return _scaled(values, white)


def _scaled(values: Any, white: int) -> Image.Image:
    """A picture of 8 bits from numbers from 0 to ``white``."""
    return Image.fromarray(np.round(values * (255 / white)).astype(np.uint8))


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
    # A model of images and text has the sizes of its images in a config within.
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
