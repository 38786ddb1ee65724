"""Which kernel measures: the compiled one if it was built and the tensor lies on a CPU, else plain torch."""

from __future__ import annotations

import importlib
import os
from functools import cache
from types import ModuleType
from typing import TYPE_CHECKING

from normprobe.kernels.types import Accumulator, AxisRoles

if TYPE_CHECKING:
    import torch


@cache
def compiled() -> ModuleType | None:
    """The compiled kernel, unless it was not built or ``NORMPROBE_KERNEL=torch`` asks for plain torch.

    Asked once: what a probe made with one kernel cannot go on with another.
    """
    if os.environ.get("NORMPROBE_KERNEL") == "torch":
        return None
    try:
        return importlib.import_module("normprobe.kernels.cpu")
    except ImportError:
        return None


def name() -> str:
    """Which kernel measures plain CPU tensors in this process: "c" or "torch"."""
    return "torch" if compiled() is None else "c"


def accumulator(features: int, axis_roles: AxisRoles, device: torch.device) -> Accumulator:
    """A new accumulator of a site whose tensors lie on this device, with the fastest kernel there is for it.

    Args:
        features: how many features its tensors have.
        axis_roles: how their axes read.
        device: where they lie.
    """
    kernel = compiled() if device.type == "cpu" else None
    if kernel is not None:
        found: Accumulator = kernel.CompiledAccumulator(features, axis_roles)
        return found
    # Here, for where the extension is there nothing else of this module's needs torch.
    if device.type == "cpu":
        from normprobe.kernels.numpy_accumulator import NumpyAccumulator

        return NumpyAccumulator(features)
    from normprobe.kernels.accumulator import TorchAccumulator

    return TorchAccumulator(features, device)
