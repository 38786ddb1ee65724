"""Signal and noise power of the tensors of two models, summed in float64 as they run."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Numbers = NDArray[np.float64]


class PowerSums:
    """Sums over the rows of two models at one site, per feature; nothing else is kept.

    Attributes:
        rows: how many rows were added.
        nonfinite_differ: whether one of the two had NaN or infinite values where the other had none.
    """

    def __init__(self) -> None:
        self.rows = 0
        self.nonfinite_differ = False
        self._sums: Tensor | None = None

    def add(self, a: Tensor, b: Tensor) -> None:
        """Add rows of the first and the second model, both of shape (rows, features), in any dtype."""
        x, y = double(a), double(b)
        finite = torch.isfinite(x) & torch.isfinite(y)
        if not bool(finite.all()):
            self.nonfinite_differ |= bool((torch.isfinite(x) != torch.isfinite(y)).any())
            # Left out of both, so that one NaN does not hide the error of all other rows.
            x, y = x.where(finite, 0.0), y.where(finite, 0.0)
        # On the tensors' device: one small tensor stays, and nothing waits for the host.
        sums = torch.stack([x.sum(0), y.sum(0), (x * x).sum(0), (y * y).sum(0), (x * y).sum(0), _noise(x, y)])
        self._sums = sums if self._sums is None else self._sums + sums.to(self._sums.device)
        self.rows += len(a)

    @property
    def error(self) -> float:
        """Root of noise power over signal power; NaN without rows, inf if only one has a value somewhere."""
        if self._sums is None:
            return np.nan
        return (
            np.inf if self.nonfinite_differ else ratio(float(self._sums[5].sum()), float(self._sums[2].sum()))
        )

    @property
    def cosine(self) -> float:
        """Cosine between all values of the two, as one vector each."""
        if self._sums is None:
            return np.nan
        squares_a, squares_b, products = (float(self._sums[at].sum()) for at in (2, 3, 4))
        squares = squares_a * squares_b
        return products / float(np.sqrt(squares)) if squares > 0 else np.nan

    @property
    def features(self) -> tuple[Numbers, Numbers, Numbers]:
        """Relative error of each feature over the size of all, and both means' and variances' shifts.

        Returns:
            Root of each feature's noise power over the mean signal power; means, shape (2, features);
            population variances (divisor: rows), shape (2, features).
        """
        if self._sums is None:
            empty = np.empty((2, 0))
            return empty[0], empty, empty
        sums = self._sums.cpu().numpy() / max(self.rows, 1)
        # In float64 the difference of squares is good to about 1e-16 * mean**2, enough for a shift of
        # variance.
        means, variances = sums[:2], np.maximum(sums[2:4] - np.square(sums[:2]), 0.0)
        size = sums[2].mean()
        each = np.sqrt(sums[5] / size) if size > 0 else np.where(sums[5] > 0, np.inf, 0.0)
        return each, means, variances


class LocalPowerSums:
    """How much of a layer's error comes from its input and how much from the layer itself, over all rows."""

    def __init__(self) -> None:
        self._signal = self._inherited = self._introduced = 0.0

    def add(self, a: Tensor, b: Tensor, local: Tensor) -> None:
        """Add outputs of one shape.

        Args:
            a: of the first model's layer on its own input.
            b: of the second model's layer on its own input.
            local: of the second model's layer on the first one's input.
        """
        x, y, mixed = (double(tensor).to(a.device) for tensor in (a, b, local))
        self._signal += float((x * x).sum())
        self._inherited += float(((y - mixed) ** 2).sum())
        self._introduced += float(((mixed - x) ** 2).sum())

    @property
    def inherited(self) -> float:
        """Root of the noise power that comes from the input, over the signal power."""
        return ratio(self._inherited, self._signal)

    @property
    def introduced(self) -> float:
        """Root of the noise power that arises on the same input, over the signal power."""
        return ratio(self._introduced, self._signal)


def double(tensor: Tensor) -> Tensor:
    """The tensor in float64; on the CPU if its device (MPS) has no float64."""
    tensor = tensor.detach()
    return (tensor.cpu() if tensor.device.type == "mps" else tensor).to(torch.float64)


def ratio(noise: float, signal: float) -> float:
    """Root of noise over signal: 0 without noise, inf without signal."""
    if noise == 0:
        return 0.0
    return float(np.sqrt(noise / signal)) if signal > 0 else float(np.inf)


def _noise(x: Tensor, y: Tensor) -> Any:
    return ((y - x) ** 2).sum(0)
