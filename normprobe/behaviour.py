"""What a norm's call shows of how it must be read: along which axis, as which kind, scaled by what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from normprobe.affine import observe
from normprobe.views import View, arrange


@dataclass(frozen=True)
class Verdict:
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


def judge(
    module: nn.Module,
    view: View,
    before: Tensor,
    after: Tensor,
    arguments: Sequence[Any] = (),
    *,
    recorded: bool = False,
) -> Verdict:
    """Decide from one call of a layer how it is to be read.

    Args:
        module: the layer.
        view: how it is read so far.
        before: its first tensor argument as it was before the call, of as many elements as ``after``.
        after: its first output tensor.
        arguments: all it was called with.
        recorded: calls were measured already, so that the axis can no longer change.
    """
    if view.sample == "position" and view.kind != "linear" and before.dtype.is_floating_point:
        return _formula(module, view, before, after)
    return Verdict(view, 0.0, decided=True)


def _formula(module: nn.Module, view: View, before: Tensor, after: Tensor) -> Verdict:
    """Of the feature axes it may have, take the one along which a formula reproduces the output."""
    for axis in [view.axis] + [axis for axis in (-1, 1) if axis != view.axis and before.dim() > 2]:
        candidate = replace(view, axis=axis, trailing=view.trailing if axis == view.axis else 1)
        x, y = arrange(candidate, before).values, arrange(candidate, after).values
        seen = observe(module, x, y, centred=view.kind == "layer_norm")
        if seen is not None:
            kind = "layer_norm" if seen.centred else "rms_norm"
            return Verdict(replace(candidate, kind=kind), seen.offset, decided=True)
    return Verdict(view, None, decided=True)
