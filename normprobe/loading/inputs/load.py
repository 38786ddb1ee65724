"""From the name of a file to batches that fit a model."""

from __future__ import annotations

from pathlib import Path

from normprobe.errors import DataError
from normprobe.loading.inputs import arrays, callables, image_prompts, images, text_image, texts
from normprobe.loading.inputs.bundled import shipped_images, shipped_texts
from normprobe.loading.inputs.modality import Wants, wants
from normprobe.loading.inputs.readers import read_source, require
from normprobe.loading.inputs.sources import Arrays, Images, Inputs, Reference, Source, Texts, count_of
from normprobe.loading.models import LoadedModel, is_reference


def load_inputs(
    model: LoadedModel,
    data: str | None = None,
    *,
    column: str | None = None,
    batch_size: int | None = None,
    limit: int | None = None,
) -> Inputs:
    """Make batches that fit ``model``, on its device, in the order of the data.

    Args:
        model: What they are for; its tokenizer, image processor or feature extractor is used.
        data: ``.txt`` (a text per line), ``.jsonl``, ``.csv``, ``.parquet``, a folder of images, ``.npy``,
            ``.npz``, ``.safetensors``, or ``module.py:callable``; None for the set that ships with normprobe.
        column: Which column of a table (field of a ``.jsonl`` row) holds the text.
        batch_size: Texts, images or rows a batch; 8, or 64 for arrays, by default.
        limit: Use only the first so many of them (batches, for a callable).

    Raises:
        DataError: The data cannot be read, or do not fit the model.
    """
    for name, number in (("--batch-size", batch_size), ("--limit", limit)):
        if number is not None and number < 1:
            raise DataError(f"{name} is {number}; at least 1 was needed")
    source = _shipped(model, limit) if data is None else _read(data, column, limit)
    return _prepare(source, model, batch_size or (64 if isinstance(source, Arrays) else 8))


def check_data(data: str | None) -> None:
    """Refuse data that are not there, before time goes into loading a model.

    Raises:
        DataError: There is no such file or folder.
    """
    if data is not None and not is_reference(data):
        require(Path(data).expanduser())


def _read(data: str, column: str | None, limit: int | None) -> Source:
    if is_reference(data) and not Path(data).exists():
        return Reference(data, limit)
    return read_source(Path(data).expanduser(), column, limit)


def _shipped(model: LoadedModel, limit: int | None) -> Source:
    """Choose the bundled set for a model, or say that there is none."""
    wanted = wants(model)
    if wanted in {Wants.TEXT, Wants.TEXT_AND_IMAGE}:
        return shipped_texts(limit)
    if wanted in {Wants.IMAGE, Wants.IMAGE_IN_TEXT}:
        return shipped_images(limit)
    kind = type(model.module).__name__
    need = "arrays of sound" if wanted is Wants.AUDIO else "tensors that normprobe cannot guess"
    raise DataError(f"{kind} reads {need}, and no such set ships with normprobe; give --data, such as x.npy")


def _prepare(source: Source, model: LoadedModel, size: int) -> Inputs:
    """Make the inputs from what the file holds and what the model wants."""
    wanted = wants(model)
    match source:
        case Reference():
            return callables.prepare(source, model)
        case Arrays():
            return arrays.prepare(source, model, size)
        case Texts() | Images() if wanted is Wants.TEXT_AND_IMAGE:
            return text_image.prepare(source, model, size)
        case Texts() if wanted in {Wants.TEXT, Wants.IMAGE_IN_TEXT}:
            return texts.prepare(source, model, size)
        case Images() if wanted is Wants.IMAGE:
            return images.prepare(source, model, size)
        case Images() if wanted is Wants.IMAGE_IN_TEXT:
            return image_prompts.prepare(source, model, size)
    raise DataError(_misfit(source, model, wanted))


def _misfit(source: Source, model: LoadedModel, wanted: Wants) -> str:
    kind = type(model.module).__name__
    held = count_of(len(source.items), "image") if isinstance(source, Images) else "text"
    if wanted is Wants.TENSORS:
        return (
            f"{source.where} holds {held}, and {kind} has no tokenizer or image processor to read it; "
            "give tensors: .npy, .npz, .safetensors, or module.py:callable that yields batches"
        )
    need = {
        Wants.TEXT: "text; give .txt, .jsonl, .csv or .parquet",
        Wants.IMAGE: "images; give a folder of images or an .npy of pixel values",
        Wants.AUDIO: "sound; give an .npy of samples (recordings, time)",
    }[wanted]
    return f"{source.where} holds {held}, and {kind} reads {need}"
