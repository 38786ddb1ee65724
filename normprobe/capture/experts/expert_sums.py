"""Moments of each expert's rows: one accumulator an expert on the CPU, one pass for all of them elsewhere."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from normprobe.kernels import dispatch
from normprobe.kernels.choice import Choice
from normprobe.kernels.moments import MOMENT_FIELDS, Moments, merge
from normprobe.kernels.types import Accumulator, AxisRoles


class ExpertSums(Protocol):
    """Moments of what each expert of a module reads or gives, feature by feature."""

    width: int

    def add(self, rows: Tensor, expert: Tensor) -> None:
        """Add rows, shape (rows, features), of these experts; ``count`` stands for no expert."""

    def totals(self) -> tuple[Moments, NDArray[np.int64]]:
        """Moments of each feature, one expert after the other, and how many rows each expert has."""

    def nbytes(self) -> int:
        """How many bytes they take."""


def expert_sums(count: int, width: int, device: torch.device) -> ExpertSums:
    """Fresh sums of so many experts and features."""
    return HostSums(count, width) if device.type == "cpu" else DeviceSums(count, width, device)


class HostSums:
    """Sums on the CPU: rows are put in the order of experts, and each expert's are one block of memory.

    Attributes:
        width: features of a row.
    """

    def __init__(self, count: int, width: int) -> None:
        self.width = width
        self._rows = np.zeros(count, np.int64)
        # Made with an expert's first row: in a short run many of hundreds have none.
        self._accumulators: dict[int, Accumulator] = {}

    def add(self, rows: Tensor, expert: Tensor) -> None:
        """Add rows of these experts."""
        number = expert.numpy()
        count = len(self._rows)
        # Products of all experts come in order already; gathering their rows would copy them for nothing.
        if not (number[1:] >= number[:-1]).all():
            # Stable, so that it does not depend on how torch sorts which of two equal rows is first.
            order = np.argsort(number, kind="stable")
            number = number[order]
            rows = rows.index_select(0, torch.from_numpy(order))
        # Rows of no expert lie before the first edge or behind the last one, so no block holds them.
        edges = np.searchsorted(number, np.arange(count + 1))
        for one in np.flatnonzero(np.diff(edges)).tolist():
            self._add_block(one, rows[edges[one] : edges[one + 1]])

    def _add_block(self, expert: int, rows: Tensor) -> None:
        held = self._accumulators.get(expert)
        if held is None:
            held = dispatch.accumulator(self.width, AxisRoles(), rows.device)
            self._accumulators[expert] = held
        held.add(rows.unsqueeze(0), _all_rows(len(rows)))
        self._rows[expert] += len(rows)

    def totals(self) -> tuple[Moments, NDArray[np.int64]]:
        """Moments of each feature, one expert after the other, and how many rows each expert has."""
        none = Moments.empty(self.width)
        held = [self._accumulators.get(expert) for expert in range(len(self._rows))]
        # No samples and no raw rows are kept of experts, hence 0 of both.
        every = [none if each is None else each.totals(0, 0).features for each in held]
        joined = (np.concatenate([getattr(each, name) for each in every]) for name in MOMENT_FIELDS)
        # A copy, for rows go on being counted.
        return Moments(*joined), self._rows.copy()

    def nbytes(self) -> int:
        """How many bytes they take."""
        return self._rows.nbytes + sum(held.nbytes() for held in self._accumulators.values())


@lru_cache(maxsize=256)
def _all_rows(rows: int) -> Choice:
    """The choice of all of so many rows: a pure function, whose compiled form is made once."""
    # One sample of many rows: the moments of each row are not asked for.
    return Choice(1, rows)


_BLOCK = 1 << 22
"""Numbers that are float64 at once on an accelerator: 32 MB each copy."""


class DeviceSums:
    """Sums on an accelerator, which is never waited for: sizes follow from those of tensors alone.

    Attributes:
        width: features of a row.
    """

    def __init__(self, count: int, width: int, device: torch.device) -> None:
        self.width, self._count = width, count
        empty = Moments.empty((count + 1) * width)
        self._moments = empty.map(lambda field: torch.from_numpy(field).to(device, torch.float64))
        # float64 counts exactly up to 2**53.
        self._rows = torch.zeros(count + 1, dtype=torch.float64, device=device)

    def add(self, rows: Tensor, expert: Tensor) -> None:
        """Add rows of these experts; those of no expert go to a last one, which nobody reads."""
        known = torch.where((expert >= 0) & (expert < self._count), expert, self._count)
        self._rows.index_add_(0, known, torch.ones_like(known, dtype=torch.float64))
        step = max(1, _BLOCK // max(1, self.width))
        for start in range(0, len(rows), step):
            part = slice(start, start + step)
            found = _segments(rows[part].double(), known[part], self._count + 1)
            # Merged, and not summed as powers: those of large values with a small variance would cancel.
            self._moments = merge(self._moments, found)

    def totals(self) -> tuple[Moments, NDArray[np.int64]]:
        """Moments of each feature, one expert after the other, and how many rows each expert has."""
        size = self._count * self.width
        moments = self._moments.map(lambda field: field[:size].cpu().numpy().copy())
        return moments, self._rows[: self._count].cpu().numpy().astype(np.int64)

    def nbytes(self) -> int:
        """How many bytes they take."""
        return sum(int(field.nbytes) for field in (*vars(self._moments).values(), self._rows))


def _segments(values: Tensor, segment: Tensor, count: int) -> Moments:
    """Moments of each feature in each of so many segments of rows, by two passes, each field flat."""
    finite = values.isfinite()
    # Replaced, not multiplied by 0, for NaN times 0 is NaN.
    inside = torch.where(finite, values, 0.0)

    def total(numbers: Tensor) -> Tensor:
        whole = torch.zeros(count, values.shape[1], dtype=torch.float64, device=values.device)
        return whole.index_add_(0, segment, numbers.to(torch.float64))

    held = total(finite)
    # An expert without rows divides by 1, so that its mean is 0 and not NaN.
    mean = total(inside) / held.clip(1)
    rest = torch.where(finite, inside - mean[segment], 0.0)
    # The rounding of the mean corrects both (Chan, Golub, LeVeque 1983), as in `kernels.reference`.
    left = total(rest)
    m2 = (total(rest.square()) - left * (left / held.clip(1))).clip(0)
    index = segment[:, None].expand_as(values)
    low, high = (
        torch.full_like(mean, neutral).scatter_reduce_(0, index, torch.where(finite, values, neutral), how)
        for neutral, how in ((torch.inf, "amin"), (-torch.inf, "amax"))
    )
    fields: dict[str, Any] = {
        "count": held,
        "mean": mean + left / held.clip(1),
        "m2": m2,
        "minimum": low,
        "maximum": high,
        "abs_sum": total(inside.abs()),
        "zeros": total(finite & (values == 0)),
        "nonfinite": total(~finite),
    }
    return Moments(**fields).map(Tensor.flatten)
