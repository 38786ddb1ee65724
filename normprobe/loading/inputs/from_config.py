"""Inputs for a model of transformers without a tokenizer or processor, by what its config says.

Which layers run, and on tensors of which sizes, is as with real data; statistics of random tokens and of
noise are not those of text and sound, and a warning says so.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from normprobe.loading.inputs import images, texts
from normprobe.loading.inputs.bundled import bundled_images
from normprobe.loading.inputs.decoder_inputs import start_tokens
from normprobe.loading.inputs.modality import forward_arguments, image_token, vocabulary_size
from normprobe.loading.inputs.sources import Chunks, Inputs, Texts, count_of
from normprobe.loading.inputs.to_model import on_model
from normprobe.loading.models import LoadedModel

_TEXTS, _TOKENS, _RECORDINGS = 8, 16, 2
_SECOND = 16_000
"""Samples of a second of speech, as models of waves take it."""


def prepare(model: LoadedModel, limit: int | None, size: int) -> Inputs | None:
    """Make inputs from a model's config; None where it does not say what is needed.

    Args:
        model: a model of transformers without a folder or hub id.
        limit: at most so many texts, images or recordings.
        size: how many a batch.
    """
    main = getattr(model.module, "main_input_name", "")
    if main == "input_ids":
        return _tokens(model, limit, size)
    if main == "pixel_values":
        return images.prepare(bundled_images(limit), model, size)
    sizes = _sound_sizes(model.config, main)
    return None if sizes is None else _noise(model, main, sizes, min(limit or _RECORDINGS, _RECORDINGS))


def _tokens(model: LoadedModel, limit: int | None, size: int) -> Inputs | None:
    """Texts of random token ids, with images beside them where a model reads both at once."""
    words = _vocabulary(model)
    if words is None:
        return None
    known = torch.ones(words, dtype=torch.bool)
    # Padding and tokens that stand for images ask for more than ids.
    known[[token for token in _special_tokens(model.config) if token < words]] = False
    choices = known.nonzero().flatten()
    if not len(choices):
        return None
    count, length = min(limit or _TEXTS, _TEXTS), min(texts.max_tokens(model, None) or _TOKENS, _TOKENS)
    # A generator of its own: the random numbers of the process are the user's.
    places = torch.randint(len(choices), (count, length), generator=torch.Generator().manual_seed(0))
    drawn = tuple(tuple(row) for row in choices[places].tolist())
    source = Texts("random tokens", lines=tuple(range(1, count + 1)), tokens=drawn)
    inputs = texts.prepare(source, model, size)
    what = f"{count_of(count, 'text')} of {length} random token ids (of {words:,})"
    warning = f"{model.name} has no tokenizer beside it: tokens are random, and statistics not those of text"
    batches, warnings = inputs.batches, (*inputs.warnings, warning)
    # Where a token stands for an image, texts alone will do.
    if {"pixel_values", "input_ids"} <= forward_arguments(model.module) and image_token(model) is None:
        batches, said = _with_images(inputs, model)
        warnings = (*warnings, *said)
    return Inputs(batches, inputs.total, what, inputs.unit, inputs.example_unit, warnings)


def _vocabulary(model: LoadedModel) -> int | None:
    """How many tokens a model knows, by its embedding or its config."""
    configs = (model.config, getattr(model.config, "text_config", None))
    sizes = [vocabulary_size(model.module), *(getattr(config, "vocab_size", None) for config in configs)]
    return next((size for size in sizes if isinstance(size, int) and size > 0), None)


def _special_tokens(config: Any) -> set[int]:
    """The ids that a config, or one within it, gives a name to."""
    found: set[int] = set()
    parts = [config, *(value for value in vars(config).values() if hasattr(value, "to_dict"))]
    for name, value in (item for part in parts for item in vars(part).items()):
        if name.endswith(("_token_id", "_token_index")):
            found |= {
                token for token in (value if isinstance(value, list) else [value]) if isinstance(token, int)
            }
    return {token for token in found if token >= 0}


def _with_images(inputs: Inputs, model: LoadedModel) -> tuple[list[Any], tuple[str, ...]]:
    """Batches of tokens with as many images of the bundled set beside them, and what is to be said."""
    pictures = bundled_images(None)
    process, warnings = images.image_processor(model)
    batches = []
    for batch in inputs.batches:
        count = len(batch["input_ids"])
        rows = [pictures.items[row % len(pictures.items)] for row in range(count)]
        chosen = type(pictures)(pictures.where, rows)
        batches.append({**batch, **images.batch(chosen, range(count), process, model)})
    return batches, warnings


def _sound_sizes(config: Any, main: str) -> tuple[int, ...] | None:
    """The sizes of one recording as a model reads it, or None where its config does not say them."""
    bins = getattr(config, "num_mel_bins", None)
    if main == "input_values":
        frames = getattr(config, "max_length", None)
        if isinstance(bins, int) and isinstance(frames, int):
            return frames, bins
        # A wave through convolutions may be of any length.
        return (_SECOND,) if hasattr(config, "conv_stride") else None
    if main == "input_features":
        positions = getattr(config, "max_source_positions", None)
        features = getattr(config, "input_feat_per_channel", None)
        if isinstance(features, int):
            return _SECOND // 160, features
        # The encoder halves the frames.
        return (bins, 2 * positions) if isinstance(bins, int) and isinstance(positions, int) else None
    return None


def _noise(model: LoadedModel, main: str, sizes: tuple[int, ...], count: int) -> Inputs:
    """Recordings of noise of these sizes."""
    generator = torch.Generator().manual_seed(0)
    sound = torch.randn((count, *sizes), generator=generator)

    def make(rows: range) -> dict[str, Tensor]:
        chosen = on_model(sound[rows.start : rows.stop], model)
        return {main: chosen, **start_tokens(model, len(chosen))}

    warning = f"{model.name} has no feature extractor beside it: it was given noise"
    what = f"{count_of(count, 'recording')} of noise, {' x '.join(map(str, sizes))}"
    batches = Chunks(count, count, make)
    return Inputs(batches, len(batches), what, warnings=(warning,))
