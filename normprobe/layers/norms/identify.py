"""What a norm's call shows of how it must be read: along which axis, as which kind, scaled by what.

Names lie: `T5LayerNorm` does not centre, Gemma scales by 1 + weight, `VitDetLayerNorm` reads axis 1. So
input and output decide, by the formula that makes this output of this input. What is tried, in order:

1. the formulas of the class, with the stored scale and shift (w and 1 + w): almost every norm ends here;
2. every formula, the same way, and scaled by one more number (L2 norms, unbiased divisors);
3. the input scaled and shifted alone: then it does not normalize, and nothing more is tried;
4. formulas with an activation behind, with a gate, with the input scaled first, in groups that the class does
   not name, with any scale and shift (least squares), and last those under which the output has unit moments.

Each is less strict than the one before, so the first that a formula passes decides. `call.TOLERANCE` is how
near its output must come; where several come as near and differ, the next call decides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from normprobe.layers.norms.affine import ones, several_per_feature
from normprobe.layers.norms.call import TOLERANCE, NormCall
from normprobe.layers.norms.fitting import LENGTH, Fit, FormulaFits
from normprobe.layers.norms.formulas import formulas_of_view, grouped_formulas, other_formulas
from normprobe.layers.to_rows import extent_of
from normprobe.layers.view import CONDITIONED, EPS, MATRIX, SampleUnit, View

NO_NORM = "its output is its input, scaled and shifted by numbers that do not depend on it: not normalized"
UNKNOWN = "what it computes is no known normalization, so it is read as its class says"
ROWS = "one feature has several scales or shifts, which no weight of the feature is"
ACTIVATED = "its output is {} of what it normalizes, scales and shifts: variance / weight**2 is not of that"
OPERAND = "what is normalized is {}, not its input alone"
MULTIPLIED = "its output is multiplied by {}: variance / weight**2 is not of that"
INPUT_SCALED = "its input times its weight"
BY_OUTPUT = "by its output it is one, but how that is made of its input is not known"
STD_ONLY = "it divides by the standard deviation (divisor n - 1) without subtracting the mean"
FEWER = "it divides by the variance of divisor n - 1"
OTHERWISE = "it scales and shifts by other numbers than those it stores"
STORED = "it applies stored numbers, by no normalization that is known"
UNTOLD = "its calls had too few rows to show what it computes, so it is read as its class says"
BY_LENGTH = "its features lie along {} by the length of what it stores"
UNCONFIRMED = "it looks like a norm by {}, but its call shows none: {}"
LATE = "what it computes shows {}, but calls that could not tell were read as {}, and so are all"

NO_WAY = 99
_BY_MOMENTS = 9
"""The last way: by the moments of the output alone."""

_NEAR_BEST, _NEAR_BEST_FLOOR = 3, 1e-6
"""A fit is as good as the best up to this factor; the floor stands for the rounding of float32."""


@dataclass(frozen=True)
class Identification:
    """How a layer is to be read from now on.

    Attributes:
        view: the view on entry, corrected by what the call showed.
        offset: what the layer adds to its stored weight before scaling; None where unknown.
        decided: the call could tell; otherwise the next call decides.
        reason: what contradicts the layer's name, in words for the ledger, or "".
        refused: why it is no norm after all, or "".
        factor: what the layer scales by beside its stored weight.
        statistics: of a batch norm, whose mean and variance the call took: ``batch`` or ``running``; else "".
        groups: how many groups of features, each normalized together; None where it is not known.
        activation: what the output went through, or "".
        eps: what it adds to the variance, where it does not say so and the call shows it.
        normalizes: whether its input is what is normalized: ``input``, ``other`` or ``unknown``; "" where
            the call could not tell.
        way: by which of the ways above it was found, from 0; `NO_WAY` where by none.
    """

    view: View
    offset: float | None
    decided: bool
    reason: str = ""
    refused: str = ""
    factor: float = 1.0
    statistics: str = ""
    groups: int | None = None
    activation: str = ""
    eps: float | None = None
    normalizes: str = ""
    way: int = NO_WAY


def identify(
    module: nn.Module,
    view: View,
    before: Tensor,
    after: Tensor,
    others: Mapping[str, Tensor] | None = None,
    *,
    recorded: bool = False,
    thorough: bool = True,
) -> Identification:
    """Decide from one call of a layer how it is to be read.

    A call that cannot tell (constant or all-zero input, weights of zero, too few rows) leaves the view as it
    is, undecided. A later one may still correct the kind and the offset; the axis and the sample only while
    nothing was ``recorded``, and the reason says so where it comes too late.

    Args:
        module: the layer.
        view: how it is read so far.
        before: what it read, as it was before the call, of as many elements as ``after``.
        after: what it wrote.
        others: the other tensors of the call, by what they are called in words.
        recorded: calls were measured already.
        thorough: also by the ways that compute most; without them what fits by no other is not decided.
    """
    if view.kind == "linear" or not (before.dtype.is_floating_point and after.dtype.is_floating_point):
        return Identification(view, 0.0, decided=True)
    if before.is_meta or before.is_nested != after.is_nested:
        return Identification(view, 0.0, decided=False)
    # Its components are of different lengths; a norm of the last axis treats their rows alone.
    if before.is_nested:
        before, after = torch.cat(before.unbind()), torch.cat(after.unbind())
    formula_fits = FormulaFits(NormCall(module, before, after, others))
    way, fits = _reproducing_fits(formula_fits, view, thorough=thorough)
    if not fits and not thorough:
        return Identification(view, 0.0, decided=False)
    if not fits:
        return _without_fit(formula_fits, view, recorded)
    # Among equals the kind of the class: a LayerNorm of centred data is as well an RMSNorm.
    best = min(fits, key=lambda fit: (fit.formula.kind != view.kind, fit.error))
    if len({(fit.formula.corrected(view), fit.offset) for fit in fits}) > 1:
        found = _ambiguous(view, fits, best, recorded)
    else:
        found = _corrected(formula_fits, view, best, recorded, by_moments=way == _BY_MOMENTS)
    return replace(found, way=way) if found.normalizes or not found.decided else found


def _reproducing_fits(formula_fits: FormulaFits, view: View, *, thorough: bool) -> tuple[int, list[Fit]]:
    """The fits that reproduce the call, by the first way (see the module) that has any, and which it is."""
    call = formula_fits.call
    of_class = formulas_of_view(view, call.groups)
    formula_fits.find_eps(of_class)
    fits = _reproducing(formula_fits.plain(of_class), view.sample)
    if fits:
        return 0, fits
    every = [*of_class, *other_formulas(call.axes, call.groups, graphs=call.graphs is not None)]
    if formula_fits.uninformative and call.graphs is None:
        return NO_WAY, []
    fits = _reproducing(formula_fits.plain(every), view.sample)
    if fits:
        return 1, fits
    fits = _reproducing(formula_fits.factored(every), view.sample)
    unnormalized = formula_fits.unnormalized_error()
    # Rows of almost one length are almost unchanged by an L2 norm: the nearer of the two.
    if fits and min(fit.error for fit in fits) < unnormalized:
        return 2, fits
    if unnormalized <= TOLERANCE or not thorough:
        return NO_WAY, []
    rowwise = [formula for formula in every if formula.together == "features"]
    with_groups = [*every, *grouped_formulas(call.axes)]
    conditioned = view.unconfirmed == CONDITIONED
    any_scale = formula_fits.fitted_by_example if conditioned else formula_fits.fitted
    # Functions, so that one is computed only where all before it have failed.
    ways: dict[int, Callable[[], list[Fit]]] = {
        4: lambda: _reproducing(formula_fits.activated(every), view.sample),
        5: lambda: _reproducing(formula_fits.gated(rowwise), view.sample),
        6: lambda: _reproducing(formula_fits.scaled_first(rowwise), view.sample),
        7: lambda: _reproducing(formula_fits.plain(with_groups), view.sample),
        8: lambda: _reproducing(any_scale(with_groups), view.sample),
        _BY_MOMENTS: lambda: _first_of_unit_moments(formula_fits.unit_moments(with_groups), view.kind),
    }
    # Codes and embeddings may have unit moments by chance: no proof for what has no norm's name.
    if view.unconfirmed == EPS:
        del ways[_BY_MOMENTS]
    found = ((number, way()) for number, way in ways.items())
    return next(((number, fits) for number, fits in found if fits), (NO_WAY, []))


def _reproducing(fits: Iterable[Fit], sample: str) -> list[Fit]:
    """The fits that reproduce the call, as well as the best does.

    The same numbers may be the features of a position along one axis and the rows of an example along
    another; where the scale does not tell, what the class says of the sample does.
    """
    close = [fit for fit in fits if fit.error <= TOLERANCE]
    best = min((fit.error for fit in close), default=0.0)
    close = [fit for fit in close if fit.error <= _NEAR_BEST * best + _NEAR_BEST_FLOOR]
    return [fit for fit in close if fit.formula.sample == sample] or close


def _first_of_unit_moments(fits: Iterable[Fit], kind: str) -> list[Fit]:
    """The fit of the class's kind, else the first; at most one.

    What has unit moments in each of its parts has them in the whole, so several may fit, and formulas of the
    whole come first. A class of `rms_norm` is not preferred: an output of mean 0 has a unit mean square, too,
    and that it is 0 shows a `layer_norm`.
    """
    close = [fit for fit in fits if fit.error <= TOLERANCE]
    of_kind = [fit for fit in close if fit.formula.kind == kind != "rms_norm"]
    return (of_kind or close)[:1]


def _ambiguous(view: View, fits: list[Fit], best: Fit, recorded: bool) -> Identification:
    """Several formulas reproduce the call: undecided, but for the axis where they have one and it may change.

    Data of mean 0, for example, show where the features lie, and not whether their mean is subtracted.
    """
    views = {replace(fit.formula.corrected(view), kind=view.kind) for fit in fits}
    if recorded or len(views) > 1 or views == {view}:
        return Identification(view, best.offset, decided=False)
    (common,) = views
    reason = f"what it computes shows {_axis_and_sample(common)}"
    return Identification(common, best.offset, decided=False, reason=reason)


def _corrected(
    formula_fits: FormulaFits, view: View, fit: Fit, recorded: bool, *, by_moments: bool
) -> Identification:
    """The view of the one formula that reproduces the call, and what it contradicts."""
    # A batch-normalized feature under any scale and shift is the feature itself under another scale and
    # shift, so such a fit shows no normalization.
    if fit.offset is None and fit.formula.together == "batch" and view.kind != "batch_norm":
        return _without_fit(formula_fits, replace(view, axis=fit.formula.axis), recorded)
    corrected = fit.formula.corrected(view)
    if fit.scales_input:
        corrected = replace(corrected, weight=ones)
    moved = (corrected.axis, corrected.sample, corrected.trailing) != (view.axis, view.sample, view.trailing)
    # Numbers along another axis cannot be merged with those already recorded; a kind is but a word.
    if moved and recorded:
        reason = LATE.format(_axis_and_sample(corrected), _axis_and_sample(view))
        late = replace(view, kind=corrected.kind)
        return Identification(late, fit.offset, decided=True, reason=reason, normalizes="unknown")
    contradictions = []
    if view.kind not in ("norm", corrected.kind):
        contradictions.append(f"its class says {view.kind}, what it computes is {corrected.kind}")
    width = extent_of(corrected, formula_fits.call.before.shape).features
    if several_per_feature(formula_fits.call.module, width):
        contradictions.append(ROWS)
    contradictions += _peculiarities(formula_fits, fit, by_moments=by_moments)
    if moved:
        contradictions.append(f"what it computes shows {_axis_and_sample(corrected)}")
    together = fit.formula.together
    return Identification(
        corrected,
        fit.offset,
        decided=True,
        reason="; ".join(contradictions),
        factor=fit.factor,
        statistics=together if together in ("batch", "running") else "",
        groups=fit.formula.groups or None,
        activation=fit.activation,
        eps=formula_fits.eps,
        normalizes="unknown" if by_moments else "other" if fit.operand or fit.scales_input else "input",
    )


def _peculiarities(formula_fits: FormulaFits, fit: Fit, *, by_moments: bool) -> Iterator[str]:
    """What a reader of the tables would not expect of a norm, though it is one."""
    if fit.operand or fit.scales_input:
        yield OPERAND.format(fit.operand or INPUT_SCALED)
    if fit.activation:
        yield ACTIVATED.format(fit.activation)
    if fit.multiplied.startswith(LENGTH):
        yield MULTIPLIED.format(fit.multiplied)
    if by_moments:
        yield BY_OUTPUT
    if fit.offset is None and formula_fits.call.stores_affine(fit.formula):
        yield OTHERWISE
    if not fit.formula.square:
        yield STD_ONLY
    elif not by_moments and formula_fits.divides_by_fewer(fit):
        yield FEWER


def _without_fit(formula_fits: FormulaFits, view: View, recorded: bool) -> Identification:
    """No formula reproduces the call: it cannot tell, or the layer applies stored numbers, or none at all."""
    unnormalized = not formula_fits.uninformative and formula_fits.unnormalized_error() <= TOLERANCE
    if formula_fits.uninformative or (formula_fits.too_few_rows and not unnormalized):
        # That its class says otherwise is known, if what that says was tried and failed.
        reason = "" if formula_fits.uninformative else UNTOLD
        return Identification(view, 0.0, decided=False, reason=reason)
    if formula_fits.call.stored_statistics:
        return Identification(view, 0.0, decided=True, reason=STORED, normalizes="unknown")
    reason = NO_NORM if unnormalized else UNKNOWN
    scales = view.unconfirmed == MATRIX and formula_fits.call.stores_what_broadcasts
    if view.unconfirmed and not scales:
        refused = UNCONFIRMED.format(view.unconfirmed, reason.partition(", so")[0])
        return Identification(view, None, decided=True, refused=refused)
    call = formula_fits.call
    stored = call.axes_of_stored_sizes
    # What its class says of the axis is less than how many numbers it stores; several say nothing.
    if not recorded and len(stored) == 1 and view.trailing == 1:
        (axis,) = (each % call.before.dim() for each in stored)
        # Norms of channels normalize the rows of an example, but for those called LayerNorm or RMSNorm.
        sample: SampleUnit = "example" if view.kind == "norm" and axis == 1 else view.sample
        if axis != view.axis % call.before.dim():
            reason = f"{reason}; {BY_LENGTH.format(_axis(axis))}"
            view = replace(view, axis=axis)
        view = replace(view, sample=sample)
    return Identification(view, None, decided=True, reason=reason, normalizes="unknown")


def _axis_and_sample(view: View) -> str:
    return f"features along {_axis(view.axis)}, samples of one {'graph' if view.graph else view.sample}"


def _axis(axis: int) -> str:
    return "the last axis" if axis == -1 else f"axis {axis}"
