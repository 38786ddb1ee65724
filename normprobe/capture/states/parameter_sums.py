"""What is added up of one parameter over steps: its numbers, its gradients, and what steps changed of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import isfinite, sqrt
from typing import Any, NamedTuple

import torch
from torch import Tensor

from normprobe.tables.records import ParameterRecord

HALVES = (torch.float16, torch.bfloat16)
"""Dtypes whose numbers are added up, and subtracted, as float32."""
_LEAST, _MOST = 1e-12, 1e15
"""Between these root mean squares the squares that matter, and rows of them, are ordinary float32 numbers."""

Number = Any
"""A number: Python's of what lies on the CPU, else a tensor on its device, for which nobody waits."""


class Sums(NamedTuple):
    """The numbers of one tensor.

    Attributes:
        square: the sum of squares of the finite ones.
        count: how many finite ones.
        largest: the largest magnitude of the finite ones; 0 without one, or where it was not asked for.
        nonfinite: how many others.
    """

    square: Number
    count: Number
    largest: Number
    nonfinite: Number

    @staticmethod
    def of(tensor: Tensor, *, largest: bool = True) -> Sums:
        """The sums of a tensor of any shape; of one spread over processes, of the part that is here."""
        own = tensor.detach()
        own = own.to_local() if hasattr(own, "to_local") else own
        own = own.coalesce().values() if own.is_sparse else own
        if not own.is_cpu:  # to choose would mean to wait
            return _exact(own)
        quick = _quick(own, largest) if own.numel() else Sums(0.0, 0.0, 0.0, 0.0)
        return Sums(*map(float, _exact(own))) if quick is None else quick


def _quick(tensor: Tensor, largest: bool) -> Sums | None:
    """The sums at the speed of memory; None where float32 does not hold the squares or a number is broken."""
    # Row by row in float32, rows in float64: a norm of all at once would be off in the sixth digit.
    rows = tensor.reshape(-1, tensor.shape[-1]) if tensor.dim() > 1 else tensor[None].double()
    dtype = torch.float32 if rows.dtype in HALVES else None
    square = float(torch.linalg.vector_norm(rows, dim=-1, dtype=dtype).double().square().sum())
    ordinary = isfinite(square) and _LEAST < sqrt(square / tensor.numel()) < _MOST
    if not ordinary and (square or tensor.any()):
        return None
    low, high = torch.aminmax(tensor) if largest else (0.0, 0.0)
    return Sums(square, float(tensor.numel()), max(-float(low), float(high)), 0.0)


def _exact(tensor: Tensor) -> Sums:
    wide = tensor.double()
    finite = wide.isfinite()
    inside = torch.where(finite, wide, 0.0)
    count = finite.sum().double()
    largest = inside.abs().amax() if inside.numel() else count
    return Sums(inside.square().sum(), count, largest, tensor.numel() - count)


@dataclass(eq=False)
class _Total:
    """Sums over steps: squares, count, largest, others, and in how many steps."""

    square: Number = 0.0
    count: Number = 0.0
    largest: Number = 0.0
    nonfinite: Number = 0.0
    steps: Number = 0.0

    def add(self, sums: Sums, *, where: Number = True, times: Number = 1.0) -> None:
        """Add the sums of a step, of numbers multiplied by ``times``, where that holds; count the others."""
        self.square = self.square + _where(where, sums.square * times * times)
        self.count = self.count + _where(where, sums.count)
        self.largest = _larger(self.largest, _where(where, sums.largest * times))
        self.nonfinite = self.nonfinite + sums.nonfinite
        self.steps = self.steps + where


def _where(held: Number, value: Number) -> Number:
    """The value where that holds, else 0; not a product, for the value may be infinite."""
    return torch.where(held, value, 0.0) if isinstance(held, Tensor) else value if held else 0.0


def _larger(a: Number, b: Number) -> Number:
    if isinstance(b, Tensor):
        return torch.maximum(torch.as_tensor(a, dtype=b.dtype, device=b.device), b)
    return max(a, b)


@dataclass(eq=False)
class ParameterSums:
    """The sums of one parameter over the steps that were measured.

    Attributes:
        size: how many numbers it has here.
        weight: of itself, ahead of the step.
        gradient: of its gradient; a step at which that is not finite, which a scaler skips, is left out.
        skipped: how many of those.
        update: of what steps changed.
        updated: the sum of its squares ahead of these steps.
        traced: how many forwards with gradients had been measured at the last step.
    """

    size: int = 0
    weight: _Total = field(default_factory=_Total)
    gradient: _Total = field(default_factory=_Total)
    skipped: Number = 0.0
    update: _Total = field(default_factory=_Total)
    updated: Number = 0.0
    traced: int = 0

    def add_step(
        self, weight: Sums, gradient: Sums | None, size: int, times: Number, taken: Number
    ) -> Number:
        """Add a step's weight and gradient, multiplied by ``times``, if it is finite and the step is taken.

        Returns:
            Whether that is so.
        """
        self.size = size
        self.weight.add(weight)
        if gradient is None:
            return True
        finite = taken & (gradient.nonfinite == 0)
        self.gradient.add(gradient, where=finite, times=times)
        self.skipped = self.skipped + (gradient.nonfinite > 0)
        return finite

    def add_skipped(self, gradient: Sums) -> None:
        """Count a gradient that is not finite, at a step that was not taken."""
        self.gradient.nonfinite = self.gradient.nonfinite + gradient.nonfinite
        self.skipped = self.skipped + (gradient.nonfinite > 0)

    def add_update(self, change: Sums, weight: Sums, where: Number) -> None:
        """Add what a step changed of a weight, where its gradient was finite, and the change is."""
        held = where & (change.nonfinite == 0)
        self.update.add(change, where=held)
        self.updated = self.updated + _where(held, weight.square)

    def record(self, name: str) -> ParameterRecord:
        """The sums frozen, under the parameter's name."""
        return ParameterRecord(
            parameter=name,
            size=self.size,
            steps=int(self.weight.steps),
            weight_square=float(self.weight.square),
            weight_count=int(self.weight.count),
            weight_max=float(self.weight.largest),
            weight_nonfinite=int(self.weight.nonfinite),
            gradients=int(self.gradient.steps),
            gradient_square=float(self.gradient.square),
            gradient_count=int(self.gradient.count),
            gradient_max=float(self.gradient.largest),
            gradient_nonfinite=int(self.gradient.nonfinite),
            skipped=int(self.skipped),
            updates=int(self.update.steps),
            update_square=float(self.update.square),
            update_count=int(self.update.count),
            updated_square=float(self.updated),
        )
