"""What can go wrong, as types a caller can catch.

NormprobeError
├── NoLayersError     nothing to probe: no Linear or norm, or a filter matched none
├── ViewError         a layer's tensor cannot be read as rows x features
├── NoSamplesError    nothing was measured
├── RecordingError    a recording cannot be read, written or merged
├── ModelError        a model cannot be loaded or run
└── DataError         data cannot be read or do not fit the model
"""

from __future__ import annotations


class NormprobeError(Exception):
    """Base of every error that normprobe raises on purpose."""


class NoLayersError(NormprobeError):
    """There is nothing to probe: the model has no Linear or norm, or a filter matched none."""


class ViewError(NormprobeError):
    """A layer's tensor cannot be read as rows x features, or a view is declared wrongly."""


class NoSamplesError(NormprobeError):
    """Nothing was measured where measurements are asked for."""


class RecordingError(NormprobeError):
    """A recording cannot be read, written or merged."""


class ModelError(NormprobeError):
    """A model cannot be loaded or run."""


class DataError(NormprobeError):
    """Data cannot be read, or do not fit the model."""
