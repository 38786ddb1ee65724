"""Files of tensors by layer name, which `torch.load` reads with ``weights_only=True``."""

from __future__ import annotations

from typing import Any

import numpy as np

from normprobe.errors import RecordingError
from normprobe.kernels.moments import Moments
from normprobe.tables.quantizer_files.selection import Selection


def act_scales(inputs: Selection) -> dict[str, Any]:
    """The largest |x| of each input feature, by Linear layer: float32 of shape (in_features,)."""
    return {layer: _tensor(layer, _abs_max(moments)) for layer, moments in inputs.moments.items()}


def abs_means(inputs: Selection) -> dict[str, Any]:
    """The mean of |x| over all rows, by Linear layer: float32 of shape (in_features,)."""
    return {layer: _tensor(layer, moments.abs_mean) for layer, moments in inputs.moments.items()}


def observers(inputs: Selection, outputs: Selection) -> dict[str, Any]:
    """What the observers of llm-compressor hold after the same rows, by what reads it.

    Args:
        inputs: of Linear layers.
        outputs: of Linear layers, LayerNorms and RMSNorms.

    Returns:
        "smoothquant": smallest and largest value of each feature at the outputs; "awq": mean of |x| and
        number of rows at the inputs; "imatrix_mse": sum of x² and number of rows there. Tensors are float32
        of shape (features,), numbers of rows int, in the last an int64 tensor without an axis.
    """
    import torch

    return {
        "smoothquant": {
            layer: {
                "min_channel_vals": _tensor(layer, moments.minimum),
                "max_channel_vals": _tensor(layer, moments.maximum),
            }
            for layer, moments in outputs.moments.items()
        },
        "awq": {
            layer: {"mean": _tensor(layer, moments.abs_mean), "count": rows_of(moments)}
            for layer, moments in inputs.moments.items()
        },
        "imatrix_mse": {
            layer: {
                "_imatrix_sum": _tensor(layer, sum_of_squares(moments)),
                "_imatrix_count": torch.tensor(rows_of(moments), dtype=torch.int64),
            }
            for layer, moments in inputs.moments.items()
        },
    }


def write_tensors(content: dict[str, Any], handle: Any) -> None:
    """Write into an open file what `torch.load` reads."""
    # Loaded in functions: loading and merging recordings does without torch.
    import torch

    torch.save(content, handle)


def sum_of_squares(moments: Moments) -> Any:
    """The sum of x² of each feature, float64: its centred part and count × mean², neither below 0."""
    return moments.m2 + moments.count * moments.mean**2


def rows_of(moments: Moments) -> int:
    """How many rows there were: each of their values is finite, so every feature has as many."""
    return int(moments.count[0])


def narrowed(layer: str, values: Any) -> Any:
    """The values in float32.

    Raises:
        RecordingError: one is beyond float32.
    """
    with np.errstate(over="ignore"):
        narrow = np.array(values, np.float32)
    if not np.isfinite(narrow).all():
        raise RecordingError(
            f"{layer!r} has numbers beyond float32, which the file cannot hold; leave it out of the "
            "recording with layers="
        )
    return narrow


def _abs_max(moments: Moments) -> Any:
    return np.maximum(np.abs(moments.minimum), np.abs(moments.maximum))


def _tensor(layer: str, values: Any) -> Any:
    import torch

    return torch.from_numpy(narrowed(layer, values))
