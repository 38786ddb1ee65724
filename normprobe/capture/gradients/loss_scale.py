"""The factor that a loss was multiplied by before backward, as the user's scaler says it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from normprobe.capture.hooks.torch_internals import graph_task
from normprobe.errors import NormprobeError

_HALVES = (torch.float16, torch.bfloat16)


def loss_scale(gradients: bool, scaler: Any) -> LossScale | None:
    """The scale of the loss where gradients are to be measured, else None.

    Raises:
        NormprobeError: the scaler has no `get_scale`, or there is one though no gradients are to be measured.
    """
    if scaler is not None and not callable(getattr(scaler, "get_scale", None)):
        raise NormprobeError(
            "scaler must be a torch.amp.GradScaler, or another object with get_scale(), "
            f"got {type(scaler).__name__}"
        )
    if scaler is not None and not gradients:
        raise NormprobeError("scaler= says how gradients are scaled: give gradients=True with it")
    return LossScale(scaler) if gradients else None


class LossScale:
    """Divides gradients by the scale of a `torch.amp.GradScaler`, or of another with `get_scale`.

    A scaler changes its scale in `update`, after backward: so it is asked at the first gradient of each
    backward, and no more, for on an accelerator the answer is waited for.
    """

    def __init__(self, scaler: Any) -> None:
        """Keep the scaler; None where the loss is not scaled."""
        self._scaler = scaler
        self._task, self._scale = -1, 1.0

    def divided_out(self, gradient: Tensor) -> Tensor:
        """A gradient of the loss itself: the tensor given where the scale is 1, else a new one."""
        if self._scaler is None:
            return gradient
        if self._task != graph_task():
            self._task, self._scale = graph_task(), float(self._scaler.get_scale())
        if self._scale == 1:
            return gradient
        # Half precision would lose what is small: that is what the scale is for.
        return (gradient.float() if gradient.dtype in _HALVES else gradient) / self._scale
