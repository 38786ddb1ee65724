"""The circumstances of a recording: the model, its numbers' dtype and device, versions and the date."""

from __future__ import annotations

import platform
import sys
from datetime import UTC, datetime
from typing import Any

import torch
from torch import nn

import normprobe
from normprobe import kernels


def describe(model: nn.Module) -> dict[str, Any]:
    """Facts about a model and the versions that ran it, as JSON holds them."""
    inner = getattr(model, "_orig_mod", model)
    tensors = list(inner.parameters()) or list(inner.buffers())
    transformers = sys.modules.get("transformers")
    return {
        "name": type(inner).__name__,
        "model": type(inner).__name__,
        "data": None,
        "device": "; ".join(dict.fromkeys(str(tensor.device) for tensor in tensors)) or "cpu",
        "dtype": "; ".join(dict.fromkeys(str(t.dtype).removeprefix("torch.") for t in tensors)),
        "kernel": kernels.name(),
        "versions": {
            "normprobe": normprobe.__version__,
            "torch": str(torch.__version__),
            "transformers": getattr(transformers, "__version__", None),
            "python": platform.python_version(),
        },
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": None,
        "warnings": [],
    }
