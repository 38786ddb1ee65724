"""Which kernel measures: the compiled one where it was built and the tensor lies on a CPU, else plain torch."""

from __future__ import annotations

import importlib
import os
from functools import cache
from types import ModuleType
from typing import TYPE_CHECKING

from normprobe.kernels.types import Reading, Sums

if TYPE_CHECKING:
    import torch


@cache
def compiled() -> ModuleType | None:
    """The compiled kernel, unless it was not built or ``NORMPROBE_KERNEL=torch`` asks for plain torch."""
    if os.environ.get("NORMPROBE_KERNEL") == "torch":
        return None
    try:
        return importlib.import_module("normprobe.kernels.cpu")
    except ImportError:
        return None


def name() -> str:
    """Which kernel measures plain CPU tensors in this process: "c" or "torch"."""
    return "torch" if compiled() is None else "c"


def sums(features: int, reading: Reading, device: torch.device) -> Sums:
    """A fresh account of a site whose tensors lie on this device, with the fastest kernel there is for it.

    Args:
        features: how many features its tensors have.
        reading: how their axes read.
        device: where they lie.
    """
    kernel = compiled() if device.type == "cpu" else None
    if kernel is not None:
        found: Sums = kernel.CompiledSums(features, reading)
        return found
    from normprobe.kernels.accumulator import PlainSums

    return PlainSums(features, device)
