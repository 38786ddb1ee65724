"""Arrays from files, handed to the model as they are or through its feature extractor or image processor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from normprobe.errors import DataError
from normprobe.loading.inputs import audio, image_prompts, images
from normprobe.loading.inputs.modality import (
    Modality,
    forward_arguments,
    modality_of,
    takes_any_keyword,
    vocabulary_size,
)
from normprobe.loading.inputs.sources import Arrays, Batch, Chunks, Images, Inputs, count_of
from normprobe.loading.inputs.to_model import on_model, to_tensor
from normprobe.loading.models import LoadedModel


def prepare(source: Arrays, model: LoadedModel, size: int) -> Inputs:
    """Make batches of ``size`` rows; floating-point numbers take the model's dtype.

    Raises:
        DataError: the names or types of the arrays do not fit the model's forward.
    """
    only = source.arrays.get(0) if len(source.arrays) == 1 else None
    modality = modality_of(model)
    # Sound has at most two axes (recordings, time); more are features that were extracted already.
    if only is not None and modality is Modality.AUDIO and _is_float(only) and only.ndim <= 2:
        return audio.prepare(source, only, model, size)
    # Bytes are pictures, as a camera gives them; floating-point numbers are pixel values ready for the model.
    if only is not None and only.dtype == np.uint8 and only.ndim == 4:
        pictures = Images(source.where, only[: source.rows])
        if modality is Modality.IMAGE:
            return images.prepare(pictures, model, size)
        if modality is Modality.IMAGE_IN_TEXT:
            return image_prompts.prepare(pictures, model, size)
    named = _named(source, model, modality)
    # Whole numbers are class ids to a model with an embedding, measurements to any other.
    as_float = modality is Modality.TENSORS and not _has_embedding(model.module)
    tensors = Chunks(source.rows, size, lambda rows: _batch(named, rows, model, as_float))
    _check_ids(named, source, model)
    cast = sorted({str(array.dtype) for array in named.values() if not _is_float(array) and as_float})
    warnings = (f"{', '.join(cast)} numbers given to the model as {model.dtype}".replace("torch.", ""),)
    return Inputs(
        tensors,
        len(tensors),
        f"{count_of(source.rows, 'row')} from {source.where}",
        "token" if "input_ids" in named else "position",
        warnings=warnings if cast else (),
    )


def _batch(named: Mapping[str | int, Any], rows: range, model: LoadedModel, as_float: bool) -> Batch:
    """One batch of some rows of every array: keyword arguments, or a tuple where the arrays have no names."""
    cut = {name: to_tensor(array[rows.start : rows.stop]) for name, array in named.items()}
    batch = {name: on_model(_as_float(value, model, as_float), model) for name, value in cut.items()}
    return tuple(batch[index] for index in range(len(batch))) if 0 in batch else batch


def _as_float(tensor: Tensor, model: LoadedModel, as_float: bool) -> Tensor:
    """A tensor whose whole numbers are of the model's dtype if ``as_float``.

    A model without an embedding computes with what it is given, and torch multiplies no integers by floats.
    """
    whole = not tensor.is_floating_point() and not tensor.is_complex() and tensor.dtype is not torch.bool
    return tensor.to(model.dtype) if as_float and whole else tensor


def _named(source: Arrays, model: LoadedModel, modality: Modality) -> dict[str | int, Any]:
    """The arrays under the names of the forward's arguments.

    Raises:
        DataError: a name is missing, or the forward does not take it.
    """
    kind = type(model.module).__name__
    arrays = dict(source.arrays)
    if 0 in arrays:
        if modality is Modality.TENSORS:
            return arrays
        if len(arrays) > 1:
            raise DataError(
                f"{source.where} holds arrays without names; {kind} needs names such as input_ids"
            )
        return {_main_name(arrays[0], source, model, modality): arrays[0]}
    known = forward_arguments(model.module)
    unknown = [str(name) for name in arrays if name not in known]
    if unknown and not takes_any_keyword(model.module):
        raise DataError(
            f"{source.where} holds {', '.join(unknown[:6])}; the forward of {kind} takes "
            f"{', '.join(sorted(known)[:12])}"
        )
    if not set(arrays) & known:
        raise DataError(
            f"{source.where} holds {', '.join(unknown[:6])}, none of them an argument of {kind}: "
            f"{', '.join(sorted(known)[:8])}"
        )
    return arrays


def _main_name(array: Any, source: Arrays, model: LoadedModel, modality: Modality) -> str:
    """The forward's argument for a single array without a name.

    Raises:
        DataError: the numbers are none that the model reads.
    """
    kind, held = type(model.module).__name__, f"{array.dtype} of shape {tuple(array.shape)}"
    if modality in {Modality.TEXT, Modality.TEXT_AND_IMAGE, Modality.IMAGE_IN_TEXT}:
        if not _is_float(array):
            return "input_ids"
        if array.ndim == 3 and "inputs_embeds" in forward_arguments(model.module):
            return "inputs_embeds"
        raise DataError(
            f"{source.where} holds {held}; {kind} reads token ids (whole numbers, texts x tokens)"
        )
    return str(model.module.main_input_name)


def _check_ids(named: Mapping[str | int, Any], source: Arrays, model: LoadedModel) -> None:
    """Check that the embedding has a row for every token id: torch says no more than index out of range."""
    ids, rows = named.get("input_ids"), vocabulary_size(model.module)
    if ids is None or rows is None or _is_float(ids):
        return
    # Of the rows in use only: --limit may leave out the others.
    low, high = int(ids[: source.rows].min()), int(ids[: source.rows].max())
    if low < 0 or high >= rows:
        raise DataError(
            f"{source.where} holds token ids from {low} to {high}; "
            f"{type(model.module).__name__} knows 0 to {rows - 1}"
        )


def _is_float(array: Any) -> bool:
    return array.is_floating_point() if isinstance(array, Tensor) else array.dtype.kind == "f"


def _has_embedding(module: nn.Module) -> bool:
    return any(isinstance(part, nn.Embedding | nn.EmbeddingBag) for part in module.modules())
