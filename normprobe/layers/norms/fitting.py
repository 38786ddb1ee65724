"""One call of a norm held against the ways in which norms work: which of them make its output."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from normprobe.layers.module_attributes import eps_of
from normprobe.layers.norms.affine import Affine
from normprobe.layers.norms.call import AGREES, Arrays, NormCall
from normprobe.layers.norms.formulas import Formula, normalized

_ROWS_TO_FIT = 16
_GATES: tuple[Callable[[Tensor], Tensor], ...] = (
    functional.silu,
    torch.sigmoid,
    functional.gelu,
    lambda gate: gate,
)

_BARE = Affine(None, None, 0.0)


@dataclass(frozen=True)
class Fit:
    """A way of working that agrees with a call.

    Attributes:
        reading: which numbers are normalized together.
        offset: what is added to the stored weight before scaling; None where the weight plays another part.
        error: the relative error of what it makes against the output.
        unscaled: the stored weight scales the input, not what is normalized.
    """

    formula: Formula
    offset: float | None
    error: float
    unscaled: bool = False


class FormulaFits:
    """One call of a norm.

    Attributes:
        call: the call.
        mute: no reading asked so far found numbers that can tell one way of working from another.
        short: there were too few rows to fit any scale and shift.
    """

    def __init__(self, call: NormCall) -> None:
        self.call = call
        given = eps_of(call.module)
        self._eps = 1e-6 if given is None else given
        self._rounding = torch.finfo(call.after.dtype).eps / 4
        self.uninformative, self.short = True, True

    def _arrays(self, formula: Formula) -> Arrays | None:
        found = self.call.arrays(formula)
        self.uninformative = self.uninformative and found is None
        return found

    def _made(self, formula: Formula, x: Tensor, arrays: Arrays, eps: float | None = None) -> Tensor | None:
        return normalized(formula, x, self._eps if eps is None else eps, self.call.module, arrays.time)

    def plain(self, formulas: Iterable[Formula]) -> Iterator[Fit]:
        """Normalized, scaled and shifted by what the module stores."""
        for formula, arrays, values in self._normalized(formulas):
            for affine in arrays.affines:
                yield Fit(formula, affine.offset, self._error(affine.apply(values), arrays.y, affine))

    def gated(self, formulas: Iterable[Formula]) -> Iterator[Fit]:
        """The same with another tensor of the call: multiplied before or after, or added before."""
        for formula in formulas:
            arrays = self._arrays(formula)
            for gate in () if arrays is None else arrays.gates:
                yield from self._gated(formula, arrays, gate)

    def _gated(self, formula: Formula, arrays: Arrays | None, gate: Tensor) -> Iterator[Fit]:
        assert arrays is not None
        for act in (*_GATES, None):
            moved = arrays.x + gate if act is None else arrays.x * act(gate)
            inside = self._made(formula, moved, arrays)
            outside = self._made(formula, arrays.x, arrays)
            if inside is None or outside is None:
                return
            for affine in arrays.affines:
                yield Fit(formula, affine.offset, self._error(affine.apply(inside), arrays.y, affine))
                if act is not None:
                    scaled = affine.apply(outside) + (0.0 if affine.shift is None else affine.shift)
                    yield Fit(formula, affine.offset, self._error(scaled * act(gate), arrays.y, _BARE))

    def scaled_first(self, formulas: Iterable[Formula]) -> Iterator[Fit]:
        """The input scaled by the weight, then normalized."""
        for formula in formulas:
            arrays = self._arrays(formula)
            for affine in () if arrays is None else arrays.affines:
                assert arrays is not None
                made = self._made(formula, affine.apply(arrays.x), arrays)
                if made is not None and affine.scale is not None:
                    yield Fit(formula, 0.0, self._error(made, arrays.y, affine), unscaled=True)

    def fitted(self, formulas: Iterable[Formula]) -> Iterator[Fit]:
        """Normalized, then scaled and shifted by any numbers, one pair per feature (least squares)."""
        for formula, arrays, values in self._normalized(formulas):
            n, y = values.flatten(0, 1), arrays.y.flatten(0, 1)
            self.short = self.short and len(n) < _ROWS_TO_FIT
            if len(n) >= _ROWS_TO_FIT:
                yield Fit(formula, None, _residual(n, y))

    def moments(self, formulas: Iterable[Formula]) -> Iterator[Fit]:
        """Whatever becomes of the input: the output, unscaled, has unit second moment where it should."""
        formulas = (formula for formula in formulas if formula.together != "running")
        for formula, arrays, _ in self._normalized(formulas):
            for affine in arrays.affines:
                y = arrays.y if affine.shift is None else arrays.y - affine.shift
                y = y if affine.scale is None else y / affine.scale
                again = self._made(formula, y, arrays, eps=0.0)
                if len(y) > 1 and again is not None and bool(y.isfinite().all()):
                    yield Fit(formula, affine.offset, self._error(again, y, _BARE))

    def passed(self) -> float:
        """The least error of the input scaled and shifted by what the module stores, or left as it is."""
        errors = [1.0]
        for axis in self.call.axes:
            arrays = self._arrays(Formula("norm", axis))
            for affine in () if arrays is None else arrays.affines:
                assert arrays is not None
                errors.append(self._error(affine.apply(arrays.x), arrays.y, affine))
        return min(errors)

    def _normalized(self, formulas: Iterable[Formula]) -> Iterator[tuple[Formula, Arrays, Tensor]]:
        for formula in formulas:
            arrays = self._arrays(formula)
            if arrays is not None:
                values = self._made(formula, arrays.x, arrays)
                if values is not None:
                    yield formula, arrays, values

    def _error(self, made: Tensor, y: Tensor, affine: Affine) -> float:
        """The relative error of ``made``, before the shift; 0 where rounding hides what it should make."""
        target = y if affine.shift is None else y - affine.shift
        size = max(float(target.norm()), float(made.norm()))
        if size <= self._rounding * float(y.norm()) / AGREES:
            return 0.0
        return float((target - made).norm()) / size


def _residual(n: Tensor, y: Tensor) -> float:
    """What is left of y (rows, features) after its best line in n, as a part of its spread per feature."""
    d, e = n - n.mean(0), y - y.mean(0)
    slope = (d * e).sum(0) / d.square().sum(0).clip(1e-30)
    spread = float(e.norm())
    return float((e - slope * d).norm()) / spread if spread else 1.0
