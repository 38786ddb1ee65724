"""What is added up of one parameter over steps: its numbers, its gradients, and what steps changed of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import isfinite

import torch
from torch import Tensor

from normprobe.tables.records import ParameterRecord

HALVES = (torch.float16, torch.bfloat16)
"""Dtypes whose numbers are added up, and subtracted, as float32."""
_LEAST, _MOST = 1e-15, 1e15
"""Between these the square of the largest number, and a row of such, are ordinary float32 numbers."""


@dataclass(frozen=True, eq=False)
class Sums:
    """The numbers of one tensor, as tensors of float64 on its device, for which nobody waits.

    Attributes:
        square: the sum of squares of the finite ones.
        count: how many finite ones.
        largest: the largest magnitude of the finite ones, 0 without one.
        nonfinite: how many others.
    """

    square: Tensor
    count: Tensor
    largest: Tensor
    nonfinite: Tensor

    @staticmethod
    def of(tensor: Tensor) -> Sums:
        """The sums of a tensor of any shape; of one spread over processes, of the part that is here."""
        own = tensor.detach()
        own = own.to_local() if hasattr(own, "to_local") else own
        own = own.coalesce().values() if own.is_sparse else own
        # On an accelerator the choice would have to be waited for.
        quick = _quick(own) if own.is_cpu and own.numel() else None
        return _exact(own) if quick is None else quick


def _quick(tensor: Tensor) -> Sums | None:
    """The sums at the speed of memory; None where float32 does not hold the squares or a number is broken."""
    low, high = (float(end) for end in torch.aminmax(tensor))
    largest = max(-low, high)
    if not (isfinite(low) and isfinite(high) and _LEAST < largest < _MOST):
        return None
    # Row by row in float32, rows in float64: a norm of all at once would be off in the sixth digit.
    rows = tensor.reshape(-1, tensor.shape[-1]) if tensor.dim() > 1 else tensor[None].double()
    dtype = torch.float32 if tensor.dim() > 1 and tensor.dtype in HALVES else None
    square = torch.linalg.vector_norm(rows, dim=-1, dtype=dtype).double().square().sum()
    return Sums(square, *torch.tensor([tensor.numel(), largest, 0], dtype=torch.float64))


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

    square: Tensor | float = 0.0
    count: Tensor | float = 0.0
    largest: Tensor | float = 0.0
    nonfinite: Tensor | float = 0.0
    steps: Tensor | float = 0

    def add(self, sums: Sums, *, where: Tensor | bool = True, times: float | Tensor = 1.0) -> None:
        """Add the sums of a step, of numbers multiplied by ``times``, where that holds; count the others."""
        held = torch.as_tensor(where, device=sums.square.device)
        none = torch.zeros_like(sums.square)
        self.square = self.square + torch.where(held, sums.square * times * times, none)
        self.count = self.count + torch.where(held, sums.count, none)
        self.largest = torch.maximum(
            torch.as_tensor(self.largest, dtype=torch.float64, device=none.device),
            torch.where(held, sums.largest * times, none),
        )
        self.nonfinite = self.nonfinite + sums.nonfinite
        self.steps = self.steps + held.double()


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
    """

    size: int = 0
    weight: _Total = field(default_factory=_Total)
    gradient: _Total = field(default_factory=_Total)
    skipped: Tensor | float = 0.0
    update: _Total = field(default_factory=_Total)
    updated: Tensor | float = 0.0

    def add_step(
        self, weight: Sums, gradient: Sums | None, size: int, times: float | Tensor = 1.0
    ) -> Tensor | bool:
        """Add a step's weight and gradient, multiplied by ``times``; whether the gradient is finite."""
        self.size = size
        self.weight.add(weight)
        if gradient is None:
            return True
        finite = gradient.nonfinite == 0
        self.gradient.add(gradient, where=finite, times=times)
        self.skipped = self.skipped + (~finite).double()
        return finite

    def add_update(self, change: Sums, weight: Sums, where: Tensor | bool) -> None:
        """Add what a step changed of a weight, where its gradient was finite, and the change is."""
        held = torch.as_tensor(where, device=change.square.device) & (change.nonfinite == 0)
        self.update.add(change, where=held)
        self.updated = self.updated + torch.where(held, weight.square, torch.zeros_like(weight.square))

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
            update_max=float(self.update.largest),
            updated_square=float(self.updated),
        )
