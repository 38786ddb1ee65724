"""Texts and images together, for models with a tower for each."""

from __future__ import annotations

from normprobe.loading.inputs import images, texts
from normprobe.loading.inputs.bundled import shipped_images, shipped_texts
from normprobe.loading.inputs.processors import tokenizer
from normprobe.loading.inputs.sources import Chunks, Images, Inputs, Texts, count_of
from normprobe.loading.models import LoadedModel


def prepare(source: Texts | Images, model: LoadedModel, size: int) -> Inputs:
    """Make batches of ``size`` pairs; the half that the data lack comes, repeated, from the shipped set.

    Raises:
        DataError: A text or image cannot be read, or a processor is missing.
    """
    words = source if isinstance(source, Texts) else shipped_texts(None)
    pictures = source if isinstance(source, Images) else shipped_images(None)
    process, warnings = images.processor(model)
    found = tokenizer(model)
    encoded, told = texts.encode(words, found, model)
    count = len(pictures.items) if isinstance(source, Images) else len(encoded)

    def make(rows: range) -> dict[str, object]:
        shown = Images(pictures.where, [pictures.items[row % len(pictures.items)] for row in rows])
        pixels = images.batch(shown, range(len(rows)), process, model)
        written = texts.pad([encoded[row % len(encoded)] for row in rows], found, model)
        return {**written, **pixels}

    batches = Chunks(count, size, make)
    if isinstance(source, Texts):
        description = (
            f"{count_of(count, 'text')} from {words.where}, with {count_of(len(pictures.items), 'image')}"
        )
    else:
        description = f"{count_of(count, 'image')} from {pictures.where}, with texts that ship with normprobe"
    unit = "text" if isinstance(source, Texts) else "image"
    return Inputs(
        batches, len(batches), description, "token", unit, (*told, *warnings), texts.labels_of(found)
    )
