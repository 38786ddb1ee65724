"""Tensors onto the model's device, and floating-point ones into its dtype."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from normprobe.loading.inputs.modality import forward_arguments
from normprobe.loading.models import LoadedModel


def to_tensor(array: Any) -> Tensor:
    """A tensor with the numbers of an array, whatever its byte order; a tensor stays as it is."""
    if isinstance(array, Tensor):
        return array
    array = np.asarray(array)
    # torch adds and indexes by no unsigned numbers but uint8.
    if array.dtype.kind == "u" and array.dtype.itemsize > 1:
        array = array.astype(np.int64)
    # torch has no such type.
    if array.dtype == np.longdouble:
        array = array.astype(np.float64)
    # A copy: a file mapped into memory is read-only, and torch has no such tensors.
    return torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("=")))


def on_model(tensor: Tensor, model: LoadedModel) -> Tensor:
    """A tensor on the model's device; a floating-point one in the model's dtype."""
    return tensor.to(model.device, model.dtype) if tensor.is_floating_point() else tensor.to(model.device)


def keyword_tensors(values: Mapping[str, Any], model: LoadedModel) -> dict[str, Tensor]:
    """The tensors among ``values`` that the model's forward takes, on its device and in its dtype."""
    known = forward_arguments(model.module)
    return {
        name: on_model(value, model)
        for name, value in values.items()
        # Processors give more than forwards take, such as the sizes that images had.
        if name in known and torch.is_tensor(value)
    }


def move_batch(batch: Any, device: torch.device) -> Any:
    """A batch with every tensor and array in it on ``device``, its types unchanged."""
    if isinstance(batch, Tensor | np.ndarray):
        return to_tensor(batch).to(device)
    if isinstance(batch, Mapping):
        return {name: move_batch(value, device) for name, value in batch.items()}
    if isinstance(batch, list | tuple):
        moved = [move_batch(value, device) for value in batch]
        # A named tuple takes its fields apart.
        return type(batch)(*moved) if hasattr(batch, "_fields") else type(batch)(moved)
    return batch
