"""What a norm's call shows of how it must be read: along which axis, as which kind, scaled by what.

Names lie: `T5LayerNorm` does not centre, Gemma scales by 1 + weight, `VitDetLayerNorm` reads axis 1. So input
and output decide: of the ways in which norms work, the one that makes this output of this input.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from normprobe.layers.norms.call import AGREES, NormCall
from normprobe.layers.norms.fitting import Fit, FormulaFits
from normprobe.layers.norms.formulas import grouped, named, others
from normprobe.layers.view import View

NO_NORM = "its output is its input, scaled and shifted by numbers that do not depend on it: not normalized"
UNKNOWN = "what it computes is no known normalization, so it is read as its class says"
LATE = "what it computes shows {}, but calls that could not tell were read as {}, and so are all"


@dataclass(frozen=True)
class Identification:
    """How a layer is to be read from now on.

    Attributes:
        view: the view on entry, corrected by what the call showed.
        offset: what the layer adds to its stored weight before scaling; None where unknown.
        decided: the call could tell; otherwise the next one is asked again.
        reason: what contradicts the layer's name, in words for the ledger, or "".
    """

    view: View
    offset: float | None
    decided: bool
    reason: str = ""


def identify(
    module: nn.Module,
    view: View,
    before: Tensor,
    after: Tensor,
    arguments: Sequence[Any] = (),
    *,
    recorded: bool = False,
) -> Identification:
    """Decide from one call of a layer how it is to be read.

    A call that cannot tell (constant or all-zero input, weights of zero, too few rows) leaves the view as it
    is and the verdict open. A later one may still correct the kind and the offset; the axis and the sample
    only while nothing was ``recorded``, and says so where it comes too late.

    Args:
        module: the layer.
        view: how it is read so far.
        before: its first tensor argument as it was before the call, of as many elements as ``after``.
        after: its first output tensor.
        arguments: all it was called with.
        recorded: calls were measured already.
    """
    if view.kind == "linear" or not (before.dtype.is_floating_point and after.dtype.is_floating_point):
        return Identification(view, 0.0, decided=True)
    if before.is_meta or before.is_nested != after.is_nested:
        return Identification(view, 0.0, decided=False)
    if before.is_nested:
        before, after = torch.cat(before.unbind()), torch.cat(after.unbind())
    formula_fits = FormulaFits(NormCall(module, before, after, arguments))
    fits = _fitting(formula_fits, view)
    if not fits:
        return _without_fit(formula_fits, view)
    best = min(fits, key=lambda fit: (fit.formula.kind != view.kind, fit.error))
    if len({(fit.formula.of(view), fit.offset) for fit in fits}) > 1:
        return _agreed(view, fits, best, recorded)
    return _corrected(formula_fits, view, best, recorded)


def _fitting(formula_fits: FormulaFits, view: View) -> list[Fit]:
    """The ways of working that agree with the call: those of the name if any does, else the simplest."""
    mine = named(view, formula_fits.call.groups)
    found = _agreeing(formula_fits.plain(mine), view.sample)
    if found or formula_fits.uninformative:
        return found
    every = [*mine, *others(formula_fits.call.axes, formula_fits.call.groups)]
    rowwise = [formula for formula in every if formula.together == "features"]
    wide = [*every, *grouped(formula_fits.call.axes)]
    found = _agreeing(formula_fits.plain(every), view.sample)
    if found or formula_fits.passed() <= AGREES:
        return found
    tries: tuple[Callable[[], list[Fit]], ...] = (
        lambda: _agreeing(formula_fits.gated(rowwise), view.sample),
        lambda: _agreeing(formula_fits.scaled_first(rowwise), view.sample),
        lambda: _agreeing(formula_fits.plain(wide), view.sample),
        lambda: _agreeing(formula_fits.fitted(wide), view.sample),
        lambda: _first(formula_fits.moments(wide), view.kind),
    )
    return next(filter(None, (ask() for ask in tries)), [])


def _agreeing(fits: Iterable[Fit], sample: str) -> list[Fit]:
    """Those that reproduce the call, as well as the best does.

    The same numbers may be the features of a position along one axis and the rows of an example along
    another; where the scale does not tell, what the class says of the sample does.
    """
    found = [fit for fit in fits if fit.error <= AGREES]
    best = min((fit.error for fit in found), default=0.0)
    found = [fit for fit in found if fit.error <= 3 * best + 1e-6]
    return [fit for fit in found if fit.formula.sample == sample] or found


def _first(fits: Iterable[Fit], kind: str) -> list[Fit]:
    """The one of the name, else the first: what has unit moments in parts has them in the whole."""
    found = [fit for fit in fits if fit.error <= AGREES]
    mine = [fit for fit in found if fit.formula.kind == kind != "rms_norm"]
    return (mine or found)[:1]


def _agreed(view: View, fits: list[Fit], best: Fit, recorded: bool) -> Identification:
    """What fits agree on that differ: where the features lie, while that can still be corrected."""
    found = {replace(fit.formula.of(view), kind=view.kind) for fit in fits}
    if recorded or len(found) > 1 or found == {view}:
        return Identification(view, best.offset, decided=False)
    (place,) = found
    return Identification(place, best.offset, decided=False, reason=f"what it computes shows {_place(place)}")


def _corrected(formula_fits: FormulaFits, view: View, fit: Fit, recorded: bool) -> Identification:
    """The view that a fit stands for, and what it contradicts."""
    if fit.offset is None and fit.formula.together == "batch" and view.kind != "batch_norm":
        return _without_fit(formula_fits, replace(view, axis=fit.formula.axis))
    found = fit.formula.of(view)
    if fit.unscaled:
        found = replace(found, weight=_ones)
    moved = (found.axis, found.sample, found.trailing) != (view.axis, view.sample, view.trailing)
    if moved and recorded:
        reason = LATE.format(_place(found), _place(view))
        return Identification(replace(view, kind=found.kind), fit.offset, decided=True, reason=reason)
    said = []
    if view.kind not in ("norm", found.kind):
        said.append(f"its class says {view.kind}, what it computes is {found.kind}")
    if moved:
        said.append(f"what it computes shows {_place(found)}")
    return Identification(found, fit.offset, decided=True, reason="; ".join(said))


def _without_fit(formula_fits: FormulaFits, view: View) -> Identification:
    """No normalization by this call's numbers: by stored ones, none at all, or one that is not known."""
    passed = not formula_fits.uninformative and formula_fits.passed() <= AGREES
    if formula_fits.uninformative or (formula_fits.short and not passed):
        return Identification(view, 0.0, decided=False)
    if formula_fits.call.stored_statistics:
        return Identification(view, 0.0, decided=True)
    return Identification(view, None, decided=True, reason=NO_NORM if passed else UNKNOWN)


def _place(view: View) -> str:
    axis = "the last axis" if view.axis == -1 else f"axis {view.axis}"
    return f"features along {axis}, samples of one {view.sample}"


def _ones(module: nn.Module) -> Tensor | None:
    weight = getattr(module, "weight", None)
    return torch.ones_like(weight) if isinstance(weight, Tensor) else None
