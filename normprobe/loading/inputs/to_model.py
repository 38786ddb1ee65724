"""Tensors onto the model's device, and floating-point ones into its type."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from normprobe.loading.inputs.modality import arguments
from normprobe.loading.models import LoadedModel


def to_tensor(array: Any) -> Tensor:
    """Return a tensor with the numbers of an array, whatever its byte order; a tensor stays as it is."""
    if isinstance(array, Tensor):
        return array
    array = np.asarray(array)
    if array.dtype.kind == "u" and array.dtype.itemsize > 1:
        array = array.astype(np.int64)
    if array.dtype == np.longdouble:
        array = array.astype(np.float64)
    # A copy: a file mapped into memory is read-only, and torch has no such tensors.
    return torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("=")))


def fit(tensor: Tensor, model: LoadedModel) -> Tensor:
    """Return ``tensor`` on the model's device; a floating-point one in the model's type."""
    return tensor.to(model.device, model.dtype) if tensor.is_floating_point() else tensor.to(model.device)


def keywords(values: Mapping[str, Any], model: LoadedModel) -> dict[str, Tensor]:
    """Return the tensors among ``values`` that the model's forward names, fitted to the model."""
    known = arguments(model.module)
    return {
        name: fit(value, model) for name, value in values.items() if name in known and torch.is_tensor(value)
    }


def move(batch: Any, device: torch.device) -> Any:
    """Return a batch with every tensor and array in it on ``device``, its types unchanged."""
    if isinstance(batch, Tensor | np.ndarray):
        return to_tensor(batch).to(device)
    if isinstance(batch, Mapping):
        return {name: move(value, device) for name, value in batch.items()}
    if isinstance(batch, list | tuple):
        moved = [move(value, device) for value in batch]
        return type(batch)(*moved) if hasattr(batch, "_fields") else type(batch)(moved)
    return batch
