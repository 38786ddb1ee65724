"""From the name of data to batches that fit a model: a source is read, and made into inputs by modality."""

from __future__ import annotations

from pathlib import Path

from normprobe.errors import DataError
from normprobe.loading.inputs import arrays, callables, from_config, image_prompts, images, text_image, texts
from normprobe.loading.inputs.bundled import bundled_images, bundled_texts
from normprobe.loading.inputs.expected_shape import array_to_give
from normprobe.loading.inputs.modality import Modality, modality_of
from normprobe.loading.inputs.readers import any_of, check_exists, names_of, read_source
from normprobe.loading.inputs.sources import Arrays, Images, ImportPath, Inputs, Source, Texts, count_of
from normprobe.loading.models import LoadedModel, is_import_path


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
        model: what they are for; its tokenizer, image processor or feature extractor is used.
        data: ``.txt`` (a text per line), ``.jsonl``, ``.csv``, ``.parquet``, a folder of images, ``.npy``,
            ``.npz``, ``.safetensors``, or ``module.py:callable``; None for the set that ships with normprobe,
            or for what the config says that a model of transformers without tokenizer or processor reads.
        column: which column of a table (field of a ``.jsonl`` row) holds the text.
        batch_size: texts, images or rows a batch; 8, or 64 for arrays, by default.
        limit: use only the first so many of them (batches, for a callable).

    Raises:
        DataError: the data cannot be read, or do not fit the model.
    """
    for name, number in (("--batch-size", batch_size), ("--limit", limit)):
        if number is not None and number < 1:
            raise DataError(f"{name} is {number}; at least 1 was needed")
    if column is not None and (data is None or _is_callable(data)):
        what = "the bundled set" if data is None else data
        raise DataError(f"--column {column} names the column of a table; {what} has no columns")
    # Without a folder there is no tokenizer or processor, so no bundled text or image would fit.
    if data is None and model.config is not None and model.source is None:
        made = from_config.prepare(model, limit, batch_size or 8)
        if made is not None:
            return made
    source = _bundled(model, limit) if data is None else _source(data, column, limit)
    return _prepare(source, model, batch_size or (64 if isinstance(source, Arrays) else 8))


def check_data(data: str | None) -> None:
    """Check that the data are there, before time goes into loading a model.

    Raises:
        DataError: there is no such file or folder.
    """
    if data is not None and not is_import_path(data):
        check_exists(Path(data).expanduser())


def _source(data: str, column: str | None, limit: int | None) -> Source:
    """What data of this name are: an import path, else what a file or folder holds.

    Raises:
        DataError: the file cannot be read.
    """
    if _is_callable(data):
        return ImportPath(data, limit)
    return read_source(Path(data).expanduser(), column, limit)


def _is_callable(data: str) -> bool:
    """Whether data of this name are what a callable yields."""
    # A file may have a colon in its name.
    return is_import_path(data) and not Path(data).exists()


def _bundled(model: LoadedModel, limit: int | None) -> Source:
    """The bundled set for a model.

    Raises:
        DataError: there is none of what it reads.
    """
    modality = modality_of(model)
    if modality in {Modality.TEXT, Modality.TEXT_AND_IMAGE}:
        return bundled_texts(limit)
    if modality in {Modality.IMAGE, Modality.IMAGE_IN_TEXT}:
        return bundled_images(limit)
    kind = type(model.module).__name__
    if modality is Modality.AUDIO:
        raise DataError(
            f"{kind} reads sound, and no such set ships with normprobe; put an array of shape (recordings, "
            "samples) into x.npy and give --data x.npy"
        )
    raise DataError(
        f"{kind} reads tensors that normprobe cannot guess; {array_to_give(model.module)}, or "
        "module.py:callable that yields batches, such as a DataLoader"
    )


def _prepare(source: Source, model: LoadedModel, size: int) -> Inputs:
    """Make inputs of what the data hold, by what the model reads.

    Raises:
        DataError: the model reads something else.
    """
    modality = modality_of(model)
    match source:
        case ImportPath():
            return callables.prepare(source, model)
        case Arrays():
            return arrays.prepare(source, model, size)
        # Before the others: such a model takes either, and lacks the other half.
        case Texts() | Images() if modality is Modality.TEXT_AND_IMAGE:
            return text_image.prepare(source, model, size)
        case Texts() if modality in {Modality.TEXT, Modality.IMAGE_IN_TEXT}:
            return texts.prepare(source, model, size)
        case Images() if modality is Modality.IMAGE:
            return images.prepare(source, model, size)
        case Images() if modality is Modality.IMAGE_IN_TEXT:
            return image_prompts.prepare(source, model, size)
    raise DataError(_misfit(source, model, modality))


def _misfit(source: Source, model: LoadedModel, modality: Modality) -> str:
    """The message of an error: what the data hold, what the model reads, and what to give."""
    kind = type(model.module).__name__
    held = count_of(len(source.items), "image") if isinstance(source, Images) else "text"
    if modality is Modality.TENSORS:
        return (
            f"{source.where} holds {held}, and {kind} has no tokenizer or image processor to read it; "
            f"give tensors: {', '.join(names_of('tensors'))}, or module.py:callable that yields batches"
        )
    need = {
        Modality.TEXT: f"text; give {any_of(names_of('text'))}",
        Modality.IMAGE: "images; give a folder of images or an .npy of pixel values",
        Modality.AUDIO: "sound; give an .npy of samples (recordings, time)",
    }[modality]
    return f"{source.where} holds {held}, and {kind} reads {need}"
