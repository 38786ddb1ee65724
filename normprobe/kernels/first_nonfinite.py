"""Where in a tensor the first NaN or Inf is; twin of `first_nonfinite` in ``csrc/numerics/traverse.h``."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray


def first_nonfinite(values: torch.Tensor, real: NDArray[np.bool_] | None) -> tuple[float, int, int] | None:
    """The first number of a real row that is not finite.

    Args:
        values: shape (samples, rows, features), on the CPU.
        real: shape (samples, rows), True where a row is not padding; None if all are.

    Returns:
        It, its sample and its feature; None where there is none.
    """
    bad = ~values.isfinite().numpy()
    if real is not None:
        bad &= real[:, :, None]
    if not bad.any():
        return None
    sample, row, feature = np.unravel_index(int(bad.argmax()), bad.shape)
    return float(values[sample, row, feature]), int(sample), int(feature)
