"""What tests of training share: hooks counted, and what a layer wrote in training and out of it."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor, nn

from tests.helpers.oracle import rows


def hooks(model: nn.Module) -> int:
    """How many forward hooks there are on all modules."""
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


class Written:
    """Keeps what a layer writes, float64, by whether it is in training; hooks of torch alone."""

    def __init__(self, layer: nn.Module) -> None:
        self.calls: dict[bool, list[np.ndarray]] = {True: [], False: []}
        self.handle = layer.register_forward_hook(self._keep)

    def _keep(self, layer: nn.Module, _: Any, output: Tensor) -> None:
        self.calls[layer.training].append(rows(output.detach().float()))

    def rows(self, *, training: bool) -> np.ndarray:
        """All rows of features."""
        return np.concatenate(self.calls[training])
