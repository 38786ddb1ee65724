"""Which rows of a tensor count and which are kept; twin of ``csrc/numerics/choice.h``.

A choice may be of some samples of a tensor, `Choice.among`: those of one group, say. The others are not
looked at, not even for numbers that are not finite.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray


def _none() -> NDArray[np.int64]:
    return np.empty(0, np.int64)


_NOT_ASKED = 2


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
        among: the samples that the choice is about, ascending; None for all. `samples`, `rows`, `real` and
            `keep` are of the whole tensor all the same.
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
    among: NDArray[np.int64] | None = None
    prepared: dict[str, Any] = field(default_factory=dict)

    @property
    def counted(self) -> NDArray[np.uint8] | NDArray[np.bool_] | None:
        """Shape (samples, rows): 1 where a row counts, 0 if it is padding, 2 of a sample not asked about."""
        if self.among is None:
            return self.real
        # Not 0: padding is searched for numbers that are not finite, and each group would count them.
        says = np.full((self.samples, self.rows), _NOT_ASKED, np.uint8)
        says[self.among] = 1 if self.real is None else self.real[self.among]
        return says

    @property
    def picked(self) -> Choice:
        """The same of a tensor that has none but the samples that it is about."""
        among = self.among
        if among is None:
            return self
        if "picked" not in self.prepared:
            # Without a mask where it leaves nothing out of these: kernels are faster then.
            real = None if self.real is None or self.real[among].all() else self.real[among]
            keep = np.searchsorted(among, self.keep)
            self.prepared["picked"] = Choice(len(among), self.rows, real, keep, self.slots)
        picked: Choice = self.prepared["picked"]
        return picked
