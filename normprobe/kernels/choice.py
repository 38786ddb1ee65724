"""Which rows of a tensor count and which are kept; twin of ``csrc/numerics/choice.h``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray


def _none() -> NDArray[np.int64]:
    return np.empty(0, np.int64)


@dataclass(frozen=True, eq=False)
class Choice:
    """Which rows of a tensor (samples, rows, features) count, and what of it is kept in which slots.

    Attributes:
        samples: how many samples the tensor has.
        rows: how many rows each has.
        real: shape (samples, rows), True where a row is not padding; None if all are.
        keep: samples whose own moments are kept, each with a real row, ascending, int64.
        slots: where they are kept.
        raw: rows (sample * rows + row) whose numbers are kept, int64.
        raw_slots: where those are kept.
        example: which example each sample is, for accelerators: only they keep who has an extreme.
        position: likewise its position.
        prepared: what kernels made of the choice for their own use, by name: the extension's form of it,
            tensors on an accelerator. It may be kept, for the arrays are not written to once a choice is
            made.
    """

    samples: int
    rows: int
    real: NDArray[np.bool_] | None = None
    keep: NDArray[np.int64] = field(default_factory=_none)
    slots: NDArray[np.int64] = field(default_factory=_none)
    raw: NDArray[np.int64] = field(default_factory=_none)
    raw_slots: NDArray[np.int64] = field(default_factory=_none)
    example: NDArray[np.int64] = field(default_factory=_none)
    position: NDArray[np.int64] = field(default_factory=_none)
    prepared: dict[str, Any] = field(default_factory=dict)
