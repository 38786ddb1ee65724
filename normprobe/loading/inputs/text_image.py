"""Texts and images together, for models with a tower for each."""

from __future__ import annotations

from normprobe.loading.inputs import images, texts
from normprobe.loading.inputs.bundled import bundled_images, bundled_texts
from normprobe.loading.inputs.processors import load_tokenizer
from normprobe.loading.inputs.sources import Chunks, Images, Inputs, Texts, count_of
from normprobe.loading.models import LoadedModel


def prepare(source: Texts | Images, model: LoadedModel, size: int) -> Inputs:
    """Make batches of ``size`` pairs; the half that the data lack comes, repeated, from the bundled set.

    Raises:
        DataError: a text or image cannot be read, or a processor is missing.
    """
    words = source if isinstance(source, Texts) else bundled_texts(None)
    pictures = source if isinstance(source, Images) else bundled_images(None)
    process, image_warnings = images.image_processor(model)
    tokenizer = load_tokenizer(model)
    encoded, text_warnings = texts.encode(words, tokenizer, model)
    # As many as the user gave: of the bundled half what is needed comes again and again.
    count = len(pictures.items) if isinstance(source, Images) else len(encoded)

    def make(rows: range) -> dict[str, object]:
        chosen = Images(pictures.where, [pictures.items[row % len(pictures.items)] for row in rows])
        pixels = images.batch(chosen, range(len(rows)), process, model)
        tokens = texts.pad([encoded[row % len(encoded)] for row in rows], tokenizer, model)
        return {**tokens, **pixels}

    batches = Chunks(count, size, make)
    if isinstance(source, Texts):
        description = (
            f"{count_of(count, 'text')} from {words.where}, with {count_of(len(pictures.items), 'image')}"
        )
    else:
        description = f"{count_of(count, 'image')} from {pictures.where}, with texts that ship with normprobe"
    unit = "text" if isinstance(source, Texts) else "image"
    warnings = (*text_warnings, *image_warnings)
    return Inputs(batches, len(batches), description, "token", unit, warnings, texts.labels_of(tokenizer))
