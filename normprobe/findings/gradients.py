"""Checks of what depth does to gradients, and of the steps that an optimizer takes from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pandas as pd

from normprobe.findings.check import Finding, Severity
from normprobe.findings.depth import theil_sen
from normprobe.findings.over_time import OverTimeCheck
from normprobe.findings.wording import same_at
from normprobe.formatting import format_number, role_of
from normprobe.vocabulary import OUTPUT, OUTPUT_GRADIENT

if TYPE_CHECKING:
    from normprobe.tables.measures.history import History

_LOOKED = 16
_SOURCE = "arXiv:1801.03744; arXiv:1211.5063"


@dataclass(frozen=True, kw_only=True)
class _GradientDepth(OverTimeCheck):
    """What the two checks of gradients over depth share.

    Attributes:
        decades: least change from the last layer to the first, in powers of ten, that is reported.
        layers: fewest layers of one role.
    """

    source: ClassVar[str] = _SOURCE
    rule: ClassVar[str] = (
        "Over the layers of one role, {layers} at least, the root mean square of the gradient changes by "
        "10^{decades} or more in the median slope from the last to the first, in the last window or in half "
        "of them."
    )
    fitted: ClassVar[tuple[str, ...]] = ("decades",)
    sign: ClassVar[int]
    verb: ClassVar[str]

    decades: float = 3.0
    layers: int = 4

    def over_time(self, history: History) -> list[Finding]:
        """The steepest change in the last window, or in the last that shows one where half of them do."""
        # Once a run is lost to NaN its gradients have no size: what led there lies in the windows before.
        finite = history.rms.notna().to_numpy()
        rows = history.sites[finite & (history.sites["site"] == OUTPUT_GRADIENT)]
        if rows.empty:
            return []
        windows = rows["window"].unique()
        # So many, spread over the run, the last one among them: what comes and goes is not looked for.
        looked = windows[np.unique(np.linspace(0, len(windows) - 1, _LOOKED).round().astype(int))]
        steep = {}
        for window in looked:
            here = rows[rows["window"] == window]
            found = self._steepest(here, history.rms[here.index].set_axis(here["layer"]))
            if found is not None:
                steep[window] = here, *found
        if not steep or (windows[-1] not in steep and len(steep) * 2 < len(looked)):
            return []
        return [self._finding(*steep[max(steep)])]

    def _steepest(self, rows: pd.DataFrame, rms: pd.Series) -> tuple[pd.Series, float] | None:
        """The chain of layers of one window whose gradient changes most, and by how many decades."""
        chains = [chain for chain in _chains(rows, rms) if len(chain) >= self.layers]
        # A median of slopes: by least squares a single layer far off could decide.
        totals = [-self.sign * theil_sen(np.log10(chain.to_numpy())) * (len(chain) - 1) for chain in chains]
        if not totals or max(totals) < self.decades:
            return None
        worst = int(np.argmax(totals))
        return chains[worst], totals[worst]

    def _finding(self, rows: pd.DataFrame, chain: pd.Series, total: float) -> Finding:
        return Finding(
            layer=str(chain.index[0]),
            site=OUTPUT_GRADIENT,
            statistic=f"factor of the gradient over {len(chain)} layers",
            value=10 ** (self.sign * total),
            threshold=10 ** (self.sign * self.decades),
            message=f"From the last to the first of {len(chain)} layers the gradient {self.verb} "
            f"{format_number(10**total)} times, to {format_number(float(chain.iloc[0]))} here.",
            evidence=f"{OUTPUT}:variance",
            affected=tuple(map(str, chain.index)),
            step=int(rows["last_step"].iloc[0]),
        )


def _chains(rows: pd.DataFrame, rms: pd.Series) -> list[pd.Series]:
    """The gradients of layers of one role in order of execution: of like layers in all blocks, or of all.

    What the layers of an `nn.Sequential` do is told by their kind alone.
    """
    ordered = rows.sort_values("depth")
    role = [(role_of(name), kind) for name, kind in zip(ordered["layer"], ordered["kind"], strict=True)]
    chains = pd.Series(ordered["layer"].to_numpy()).groupby(pd.MultiIndex.from_tuples(role), sort=False)
    found = [rms.reindex(list(names)) for _, names in chains]
    # A gradient of exactly 0, as behind a frozen or an unused part, has no logarithm and no say.
    return [chain[chain > 0] for chain in found]


@dataclass(frozen=True, kw_only=True)
class GradientsVanish(_GradientDepth):
    """The gradient that reaches the first layers is far smaller than that of the last ones.

    Of the layers that do the same in different blocks, or of all Linear layers or norms of a chain, the root
    mean square of the gradient at the output is followed from the last to the first. Each saturated or badly
    scaled layer multiplies it by less than 1, and what reaches the first layers is too small to learn from.

    What to do: put norms or residual connections in; scale weights by the square root of 2 / inputs before a
    ReLU (torch's default is smaller); look for saturated sigmoids.

    Figure: gradients over depth and steps.
    Source: Hanin, arXiv:1801.03744; Pascanu, Mikolov, Bengio, arXiv:1211.5063.
    When it is wrong: Adam divides the scale of gradients out, so that a net may learn all the same; parts
    that are meant to learn slowly.
    """

    name: ClassVar[str] = "gradients_vanish"
    title: ClassVar[str] = "Gradients vanish with depth"
    severity: ClassVar[Severity] = "warning"
    advice: ClassVar[str] = "Add norms or residual connections, or scale the weights at initialization."
    sign: ClassVar[int] = -1
    verb: ClassVar[str] = "shrinks"


@dataclass(frozen=True, kw_only=True)
class GradientsExplode(_GradientDepth):
    """The gradient that reaches the first layers is far larger than that of the last ones.

    The series is that of ``gradients_vanish``. Each layer multiplies the gradient by more than 1: a step that
    suits the last layers throws the first ones far off.

    What to do: clip gradients, lower the learning rate, scale weights down at initialization, or add norms.

    Figure: gradients over depth and steps.
    Source: Hanin, arXiv:1801.03744; Pascanu, Mikolov, Bengio, arXiv:1211.5063.
    When it is wrong: Adam divides the scale of gradients out, so that a net may learn all the same.
    """

    name: ClassVar[str] = "gradients_explode"
    title: ClassVar[str] = "Gradients explode with depth"
    severity: ClassVar[Severity] = "warning"
    advice: ClassVar[str] = "Clip gradients, lower the learning rate, or scale the weights at initialization."
    sign: ClassVar[int] = 1
    verb: ClassVar[str] = "grows"


@dataclass(frozen=True, kw_only=True)
class UpdateOutOfRange(OverTimeCheck):
    """A step changes the weights of a Linear by a large part of themselves, or by next to nothing.

    The rule of thumb is a step of about a thousandth of the weights, within an order of magnitude. Adam takes
    larger ones of small weights, and a schedule ends in smaller ones: what is reported lies far beyond.

    What to do: lower the learning rate, or raise it, of the named layer, or of all if all are affected.

    Figure: none.
    Source: Hinton, A Practical Guide to Training Restricted Boltzmann Machines, 2010, section 7.1.
    When it is wrong: weights that begin at 0; warm-up and the end of a schedule; parts meant to learn
    slowly.

    Attributes:
        high: root mean square of a step ÷ that of the weights from which on it is too large, in one window.
        low: below which it is too small,
        windows: in each of so many windows, the last one among them.
    """

    name: ClassVar[str] = "update_out_of_range"
    title: ClassVar[str] = "Update out of range"
    severity: ClassVar[Severity] = "warning"
    advice: ClassVar[str] = "Change the learning rate, of this layer or of all."
    source: ClassVar[str] = "Hinton, UTML TR 2010-003, section 7.1"
    rule: ClassVar[str] = (
        "In a window of training a step changes the weights by more than {high} of their root mean square, "
        "or by less than {low} in each of the last {windows}."
    )
    fitted: ClassVar[tuple[str, ...]] = ("high", "low")

    high: float = 0.1
    low: float = 1e-7
    windows: int = 3

    def over_time(self, history: History) -> list[Finding]:
        """The worst layer of either side."""
        if history.parameters.empty:
            return []
        rows = history.parameters
        rows = rows[(rows["kind"] == "linear") & (rows["parameter"] == "weight") & (rows["updates"] > 0)]
        found = []
        # One window tells: with Adam the weights soon grow until the steps look small beside them.
        large = rows[rows["update_ratio"] > self.high]
        if not large.empty:
            first = large[large["window"] == large["window"].iloc[0]]
            found.append(self._finding(first.sort_values("update_ratio", ascending=False), "large"))
        last = rows.groupby("layer", sort=False).tail(self.windows)
        worst = last.groupby("layer", sort=False)["update_ratio"].agg(["max", "count"])
        names = worst.index[(worst["max"] < self.low) & (worst["max"] > 0) & (worst["count"] >= self.windows)]
        if len(names):
            small = last[last["layer"].isin(names) & (last["window"] == last["window"].max())]
            found.append(self._finding(small.sort_values("update_ratio"), "small"))
        return found

    def _finding(self, rows: pd.DataFrame, side: str) -> Finding:
        value, names = float(rows["update_ratio"].iloc[0]), tuple(map(str, rows["layer"]))
        return Finding(
            layer=names[0],
            site=OUTPUT,
            statistic="root mean square of a step ÷ of the weights",
            value=value,
            threshold=self.high if side == "large" else self.low,
            message=f"A step changes the weights by {format_number(value)} of themselves"
            f"{same_at(len(names), 'layer')}.",
            evidence=f"{OUTPUT}:variance",
            severity="warning" if side == "large" else "info",
            advice=f"{'Lower' if side == 'large' else 'Raise'} the learning rate, of this layer or of all.",
            affected=names,
            step=int(rows["first_step"].iloc[0]),
        )
