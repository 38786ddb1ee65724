"""Formulas held against one call of a norm: with what relative error each makes its output of its input."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from normprobe.layers.module_attributes import attribute, eps_of
from normprobe.layers.norms.activations import activated, activations_of
from normprobe.layers.norms.affine import Affine
from normprobe.layers.norms.call import TOLERANCE, Arrays, NormCall
from normprobe.layers.norms.formulas import Formula, normalize

_ROWS_TO_FIT = 16
"""Fewest rows for a least-squares line of two numbers a feature: fewer fit too many formulas."""

_ROWS_TO_SCALE = 4
"""Fewest rows for a least-squares line through 0."""

_USUAL_EPS = 1e-6
_TRIED_EPS = (_USUAL_EPS, 1e-5, 1e-8, 1e-12, 1e-4, 1e-3)
_EXACT, _APART = 1e-3, 5.0
"""For a norm that does not say its eps."""

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": functional.silu,
    "sigmoid": torch.sigmoid,
    "gelu": functional.gelu,
    "": lambda gate: gate,
}
"""What gated norms (Mamba 2, Qwen3-Next) apply to the gate."""

LENGTH = "the root mean square"
"""Of the rows of another argument: what MessageNorm scales by (Li et al. 2020, arXiv:2006.07739)."""

_NO_AFFINE = Affine(None, None, 0.0)


@dataclass(frozen=True)
class Fit:
    """A formula held against a call.

    Attributes:
        formula: which numbers are normalized together.
        offset: what is added to the stored weight before scaling; None where the weight plays another part.
        error: the relative error of what the formula makes against the output.
        factor: what is multiplied by beside the stored weight.
        activation: what the scaled and shifted values go through, or "".
        scales_input: the stored weight scales the input, not what is normalized.
        operand: what is normalized in place of the input, in words, or "".
        multiplied: what the scaled and shifted values are multiplied by, in words, or "".
    """

    formula: Formula
    offset: float | None
    error: float
    scales_input: bool = False
    factor: float = 1.0
    activation: str = ""
    operand: str = ""
    multiplied: str = ""


class FormulaFits:
    """Formulas held against one call of a norm; each method is one way in which a norm may use a formula.

    Attributes:
        call: the call.
        uninformative: no formula tried so far had samples that can tell it from another.
        too_few_rows: no formula tried so far had rows enough to fit any scale and shift.
        eps: that of a module that says none, where the call shows it (`find_eps`); else None.
    """

    def __init__(self, call: NormCall) -> None:
        self.call = call
        eps = eps_of(call.module)
        self._eps = _USUAL_EPS if eps is None else eps
        # Mean relative error of rounding to the output's dtype, for `_error`.
        self._rounding = torch.finfo(call.after.dtype).eps / 4
        self.uninformative, self.too_few_rows = True, True
        self.eps: float | None = None

    def find_eps(self, formulas: Iterable[Formula]) -> None:
        """Take the eps with which one of these formulas makes the call best, where the module says none."""
        if eps_of(self.call.module) is not None:
            return
        formulas, errors = tuple(formulas), {}
        for eps in _TRIED_EPS:
            self._eps = eps
            errors[eps] = min((fit.error for fit in self.plain(formulas)), default=1.0)
        best, second = sorted(_TRIED_EPS, key=lambda eps: errors[eps])[:2]
        self._eps = best if errors[best] <= TOLERANCE else _USUAL_EPS
        # In float32 an eps of 1e-5 beside a variance of 1 shows; in half precision, only beside a small one.
        if errors[best] <= _EXACT and errors[second] > _APART * errors[best]:
            self.eps = best

    def plain(self, formulas: Iterable[Formula]) -> Iterator[Fit]:
        """Normalized, then scaled and shifted by what the module stores."""
        for formula, arrays, values in self._normalized(formulas):
            for affine in arrays.affines:
                yield Fit(formula, affine.offset, self._error(affine.scaled(values), arrays.y, affine))

    def factored(self, formulas: Iterable[Formula]) -> Iterator[Fit]:
        """Normalized, scaled and shifted by what the module stores, and scaled by one number fitted to it."""
        formulas = (formula for formula in formulas if formula.together in ("features", "example", "graph"))
        for formula, arrays, values in self._normalized(formulas):
            fits = []
            for affine in arrays.affines:
                scaled = affine.scaled(values)
                target = arrays.y if affine.shift is None else arrays.y - affine.shift
                factor = float((scaled * target).sum() / scaled.square().sum().clip(1e-30))
                error = self._error(scaled * factor, arrays.y, affine) if factor else 1.0
                fits.append(Fit(formula, affine.offset, error, factor=factor))
            # A constant weight fits as w and as 1 + w: then the one with a factor that norms are known by.
            close = [fit for fit in fits if fit.error <= TOLERANCE and self._shows(fit, values.shape[2])]
            yield from sorted(close, key=lambda fit: not _is_usual(fit.factor, values.shape[2]))[:1]

    def _shows(self, fit: Fit, width: int) -> bool:
        """Whether a factor shows a normalization: any one makes one graph of itself, centred."""
        graphs = self.call.graphs
        if fit.formula.together != "graph" or graphs is None or bool((graphs != graphs[0]).any()):
            return True
        scale = attribute(self.call.module, "scale", 1.0)
        return _is_usual(fit.factor / (scale if isinstance(scale, (int, float)) and scale else 1.0), width)

    def activated(self, formulas: Iterable[Formula]) -> Iterator[Fit]:
        """Normalized, scaled and shifted, then put through an activation."""
        activations: dict[str, Callable[[Tensor], Tensor]] = {}
        for name, activation in activations_of(self.call.module):
            activations.setdefault(name, activation)
        for formula, arrays, values in self._normalized(formulas):
            for affine in arrays.affines:
                output = affine.scaled(values) + (0.0 if affine.shift is None else affine.shift)
                for name, activation in activations.items():
                    result = activated(activation, output)
                    if result is not None:
                        error = self._error(result.to(output.dtype), arrays.y, _NO_AFFINE)
                        yield Fit(formula, affine.offset, error, activation=name)

    def gated(self, formulas: Iterable[Formula]) -> Iterator[Fit]:
        """The same with another tensor of the call: multiplied before or after, or added before."""
        for formula in formulas:
            arrays = self._informative(formula)
            if arrays is not None:
                for name, gate in zip(self.call.gate_names, arrays.gates, strict=True):
                    yield from self._gated(formula, arrays, name, gate)

    def _gated(self, formula: Formula, arrays: Arrays, name: str, gate: Tensor) -> Iterator[Fit]:
        operands = {
            f"its input times {_of(act, name)}": arrays.x * activation(gate)
            for act, activation in _ACTIVATIONS.items()
        }
        operands[f"the sum of its input and {name}"] = arrays.x + gate
        for operand, values in operands.items():
            before = self._normalize(formula, values, arrays)
            if before is None:  # which depends on shapes alone, so no other operand would do better
                return
            for affine in arrays.affines:
                error = self._error(affine.scaled(before), arrays.y, affine)
                yield Fit(formula, affine.offset, error, operand=operand)
        after = self._normalize(formula, arrays.x, arrays)
        length = gate.square().mean(-1, keepdim=True).sqrt()
        factors = {_of(act, name): activation(gate) for act, activation in _ACTIVATIONS.items()}
        factors[_of(LENGTH, name)] = length
        for factor, values in factors.items() if after is not None else ():
            for affine in arrays.affines:
                assert after is not None
                output = affine.scaled(after) + (0.0 if affine.shift is None else affine.shift)
                error = self._error(output * values, arrays.y, _NO_AFFINE)
                yield Fit(formula, affine.offset, error, multiplied=factor)

    def scaled_first(self, formulas: Iterable[Formula]) -> Iterator[Fit]:
        """The input scaled by the weight, then normalized."""
        for formula in formulas:
            arrays = self._informative(formula)
            for affine in () if arrays is None else arrays.affines:
                assert arrays is not None
                values = self._normalize(formula, affine.scaled(arrays.x), arrays)
                if values is not None and affine.scale is not None:
                    yield Fit(formula, 0.0, self._error(values, arrays.y, affine), scales_input=True)

    def fitted(self, formulas: Iterable[Formula]) -> Iterator[Fit]:
        """Normalized, then scaled and shifted by any numbers, one pair per feature (least squares)."""
        # A feature of one graph under any scale and shift is what it was, normalized or not.
        formulas = (formula for formula in formulas if formula.together != "graph")
        for formula, arrays, values in self._normalized(formulas):
            rows, y = values.flatten(0, 1), arrays.y.flatten(0, 1)
            self.too_few_rows = self.too_few_rows and len(rows) < _ROWS_TO_FIT
            if len(rows) >= _ROWS_TO_FIT:
                yield Fit(formula, None, _residual(rows, y))

    def fitted_by_example(self, formulas: Iterable[Formula]) -> Iterator[Fit]:
        """The same, with numbers for each example: a norm may compute them from another argument."""
        formulas = (formula for formula in formulas if formula.together in ("features", "example"))
        for formula, arrays, values in self._normalized(formulas):
            examples = arrays.examples.repeat_interleave(values.shape[1])
            error = _residual_by_example(values.flatten(0, 1), arrays.y.flatten(0, 1), examples)
            self.too_few_rows = self.too_few_rows and error is None
            if error is not None:
                yield Fit(formula, None, error)

    def unit_moments(self, formulas: Iterable[Formula]) -> Iterator[Fit]:
        """Whatever becomes of the input: normalizing the output, unscaled, once more changes nothing."""
        # Stored statistics give an output no particular moments.
        formulas = (formula for formula in formulas if formula.together not in ("running", "graph"))
        for formula, arrays, _ in self._normalized(formulas):
            for affine in arrays.affines:
                y = arrays.y if affine.shift is None else arrays.y - affine.shift
                y = y if affine.scale is None else y / affine.scale
                # Without eps: the output has unit moments already, and a large eps would shrink it again.
                again = self._normalize(formula, y, arrays, eps=0.0)
                if len(y) > 1 and again is not None and bool(y.isfinite().all()):
                    yield Fit(formula, affine.offset, self._error(again, y, _NO_AFFINE))

    def unnormalized_error(self) -> float:
        """The least relative error of the input scaled and shifted by what the module stores, or as it is."""
        errors = [1.0]
        for axis in self.call.axes:
            arrays = self._informative(Formula("norm", axis))
            for affine in () if arrays is None else arrays.affines:
                assert arrays is not None
                errors.append(self._error(affine.scaled(arrays.x), arrays.y, affine))
        return min(errors)

    def divides_by_fewer(self, fit: Fit) -> bool:
        """Whether a fit is one with the divisor n - 1 in place of n, as `torch.var` has by default."""
        arrays = self.call.arrays(fit.formula)
        if arrays is None or fit.activation or fit.operand or fit.multiplied or fit.scales_input:
            return False
        values = self._normalize(fit.formula, arrays.x, arrays)
        affine = next((one for one in arrays.affines if one.offset == fit.offset), None)
        if values is None or affine is None or not fit.formula.square:
            return False
        numbers = arrays.x.shape[2] // max(fit.formula.groups, 1) if fit.formula.groups else 1
        numbers *= arrays.x.shape[1] if fit.formula.together == "example" else 1
        if numbers < 2:
            return False
        scaled = affine.scaled(values)
        target = arrays.y if affine.shift is None else arrays.y - affine.shift
        factor = float((scaled * target).sum() / scaled.square().sum().clip(1e-30))
        unbiased = math.sqrt(1 - 1 / numbers)
        # Nearer to it than to 1 by far, and as well as the call's rounding allows to tell.
        near = abs(factor - unbiased) < 0.1 * (1 - unbiased)
        return near and self._error(scaled * unbiased, arrays.y, affine) < 0.1 * (1 - unbiased)

    def _informative(self, formula: Formula) -> Arrays | None:
        """The informative samples of the call for a formula, noting whether there were any."""
        arrays = self.call.arrays(formula)
        self.uninformative = self.uninformative and arrays is None
        return arrays

    def _normalized(self, formulas: Iterable[Formula]) -> Iterator[tuple[Formula, Arrays, Tensor]]:
        """The formulas that apply to the call, with its samples and what they normalize the input to."""
        for formula in formulas:
            arrays = self._informative(formula)
            if arrays is not None:
                values = self._normalize(formula, arrays.x, arrays)
                if values is not None:
                    yield formula, arrays, values

    def _normalize(
        self, formula: Formula, x: Tensor, arrays: Arrays, eps: float | None = None
    ) -> Tensor | None:
        eps = self._eps if eps is None else eps
        return normalize(formula, x, eps, self.call.module, time=arrays.time, graphs=self.call.graphs)

    def _error(self, scaled: Tensor, y: Tensor, affine: Affine) -> float:
        """The relative error of ``scaled`` against the output less the shift.

        0 where both are so small beside the shift that rounding hides them: such a fit is possible, and as
        others are, too, the call stays undecided.
        """
        target = y if affine.shift is None else y - affine.shift
        size = max(float(target.norm()), float(scaled.norm()))
        if size <= self._rounding * float(y.norm()) / TOLERANCE:
            return 0.0
        return float((target - scaled).norm()) / size


def _of(activation: str, name: str) -> str:
    return f"{activation} of {name}" if activation else name


def _is_usual(factor: float, width: int) -> bool:
    """Whether a factor is 1, sqrt(d) or 1 / sqrt(d), or that of a divisor d - 1 in place of d."""
    unbiased = math.sqrt(1 - 1 / width)
    usual = (1.0, math.sqrt(width), 1 / math.sqrt(width), unbiased, 1 / unbiased if width > 1 else 1.0)
    return any(abs(factor - one) <= 1e-3 * one for one in usual)


def _residual_by_example(values: Tensor, y: Tensor, examples: Tensor) -> float | None:
    """The residual of y about lines in the values for each example and feature; None with too few rows.

    Both are (rows, features). With few rows the lines go through 0, so that they cannot fit by chance.
    """
    squares, spread = 0.0, 0.0
    for example in torch.unique(examples):
        v, target = values[examples == example], y[examples == example]
        if len(v) < _ROWS_TO_SCALE:
            continue
        # Centred, the line may have an intercept: a shift then counts as part of the fit.
        if len(v) >= _ROWS_TO_FIT:
            v, target = v - v.mean(0), target - target.mean(0)
        slope = (v * target).sum(0) / v.square().sum(0).clip(1e-30)
        squares += float((target - slope * v).square().sum())
        spread += float(target.square().sum())
    return math.sqrt(squares / spread) if spread else None


def _residual(values: Tensor, y: Tensor) -> float:
    """The root mean square residual of y about its least-squares line in the values, feature by feature.

    Both are (rows, features); relative to the standard deviation of y, 1 where y is constant.
    """
    d, e = values - values.mean(0), y - y.mean(0)
    slope = (d * e).sum(0) / d.square().sum(0).clip(1e-30)
    spread = float(e.norm())
    return float((e - slope * d).norm()) / spread if spread else 1.0
