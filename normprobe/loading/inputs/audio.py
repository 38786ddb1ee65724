"""Recordings of sound through a model's feature extractor."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np

from normprobe.errors import DataError
from normprobe.loading.inputs.decoder_inputs import start_tokens
from normprobe.loading.inputs.processors import load_feature_extractor
from normprobe.loading.inputs.sources import Arrays, Batch, Chunks, Inputs, count_of
from normprobe.loading.inputs.to_model import keyword_tensors, to_tensor
from normprobe.loading.models import LoadedModel


def prepare(source: Arrays, array: Any, model: LoadedModel, size: int) -> Inputs:
    """Make batches of an array ``(recordings, time)`` or ``(time,)``, of the extractor's sampling rate.

    Raises:
        DataError: the model has no feature extractor, or it refuses the sound.
    """
    extractor = load_feature_extractor(model)
    waves = np.atleast_2d(np.asarray(to_tensor(array).float()))
    waves = waves[: source.rows] if array.ndim == 2 else waves
    batches = Chunks(len(waves), size, lambda rows: _batch(extractor, waves[rows.start : rows.stop], model))
    rate = int(extractor.sampling_rate)
    description = f"{count_of(len(waves), 'recording')} from {source.where}, taken as {rate:,} Hz"
    return Inputs(batches, len(batches), description)


def _batch(extractor: Any, waves: Any, model: LoadedModel) -> Batch:
    """The keyword arguments of some recordings (recordings, time).

    Raises:
        DataError: the extractor refuses them.
    """
    # Whisper's extractor pads to 30 seconds by default, the only length its encoder takes.
    own = inspect.signature(extractor.__call__).parameters["padding"].default
    try:
        features = extractor(
            list(waves),
            sampling_rate=extractor.sampling_rate,
            padding=own if own == "max_length" else True,
            return_tensors="pt",
        )
    # Each extractor raises its own.
    except Exception as cause:
        raise DataError(
            f"the feature extractor refuses the sound: {type(cause).__name__}: {cause}"
        ) from cause
    batch = keyword_tensors(features, model)
    return {**batch, **start_tokens(model, len(waves))}
