"""Checks of a layer's variance beside its own history: a spike, or a drift that does not end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from normprobe.findings.check import Finding, Severity
from normprobe.findings.depth import theil_sen
from normprobe.findings.over_time import OverTimeCheck
from normprobe.findings.wording import same_at
from normprobe.formatting import format_number, steps_words
from normprobe.tables.measures.history import TRAIN
from normprobe.vocabulary import GRADIENT_SITES

if TYPE_CHECKING:
    from normprobe.tables.measures.history import History


@dataclass(frozen=True, kw_only=True)
class VarianceSpike(OverTimeCheck):
    """The variance of a layer leaves its own history within one window.

    Of every layer and site the logarithm of the variance in a window of training is held against the median
    of the windows before it; and its step from the window before against the largest step between those, so
    that growth which goes on, as where a network begins to learn, is none. The first layer in order of
    execution of the first window that shows a spike is named, the others are counted with it.

    What to do: look at the data of the named steps, and at the loss there; clip gradients, lower the learning
    rate, or lengthen the warm-up.

    Figure: variance over steps.
    Source: Takase et al., Spike No More, arXiv:2312.16903; Wortsman et al., arXiv:2309.14322.
    When it is wrong: a change that is meant: other data, a schedule that begins anew, unfrozen layers; a
    network that begins to learn at once after a long plateau.

    Attributes:
        factor: least factor between the variance and the median of the windows before,
        steps: and least number of times that the step from the window before is larger than any before.
        windows: fewest windows before.
        memory: how many windows before count at most.
    """

    name: ClassVar[str] = "variance_spike"
    title: ClassVar[str] = "Variance leaves its history"
    severity: ClassVar[Severity] = "warning"
    advice: ClassVar[str] = "Look at the data and the loss of these steps; clip gradients or warm up longer."
    source: ClassVar[str] = "arXiv:2312.16903; arXiv:2309.14322"
    rule: ClassVar[str] = (
        "The variance in a window is {factor} times that of the median window before, or as many times "
        "smaller, and its step {steps} times as large as any before; {windows} to {memory} windows count."
    )
    fitted: ClassVar[tuple[str, ...]] = ("factor", "steps")

    factor: float = 5.0
    steps: float = 2.0
    windows: int = 5
    memory: int = 20

    def over_time(self, history: History) -> list[Finding]:
        """The first layer of the first window with a spike."""
        series = _series(history)
        if series is None or len(series.logs) <= self.windows:
            return []
        logs = series.logs
        for at in range(self.windows, len(logs)):
            before = logs[max(0, at - self.memory) : at]
            off, step, usual = _beside(logs[at], before)
            known = np.isfinite(before).sum(0) >= self.windows
            far = known & (np.abs(off) >= np.log10(self.factor)) & (step >= self.steps * usual)
            if far.any():
                return [self._finding(series, at, off, far)]
        return []

    def _finding(self, series: _Series, at: int, off: NDArray[np.float64], far: NDArray[np.bool_]) -> Finding:
        which = int(np.flatnonzero(far)[0])
        layer, site = series.places[which]
        names = tuple(dict.fromkeys(series.places[i][0] for i in np.flatnonzero(far)))
        factor = 10 ** float(off[which])
        shown = format_number(factor if factor > 1 else 1 / factor)
        return Finding(
            layer=layer,
            site=site,
            statistic="variance ÷ that of the median window before",
            value=factor,
            threshold=self.factor if factor > 1 else 1 / self.factor,
            message=f"In {steps_words(series.first[at], series.last[at])} the variance is {shown} times "
            f"{'larger' if factor > 1 else 'smaller'} than in the windows before"
            f"{same_at(len(names), 'layer')}.",
            evidence=f"{site}:variance",
            affected=names,
            step=series.first[at],
        )


@dataclass(frozen=True, kw_only=True)
class VarianceDrift(OverTimeCheck):
    """The variance of a layer goes on growing, or shrinking, as fast in the latter half of a run as before.

    While a network learns its activations grow, fast at first and ever more slowly. What changes by a power
    of ten within the latter half of the windows, in one direction, does not settle: logits that grow until
    they overflow, a stream that dies out. The layer that drifts most is named.

    What to do: weight decay or a norm before the named layer; a z-loss where it is the logits; a lower
    learning rate.

    Figure: variance over steps.
    Source: Wortsman et al., arXiv:2309.14322; Chowdhery et al., arXiv:2204.02311.
    When it is wrong: a run that has only begun.

    Attributes:
        factor: least factor of the variance over the latter half of the windows.
        steady: least share of neighbouring windows between which it moves that way.
        windows: fewest windows of training.
    """

    name: ClassVar[str] = "variance_drift"
    title: ClassVar[str] = "Variance drifts"
    severity: ClassVar[Severity] = "warning"
    advice: ClassVar[str] = "Add weight decay or a norm before this layer, or lower the learning rate."
    source: ClassVar[str] = "arXiv:2309.14322; arXiv:2204.02311"
    rule: ClassVar[str] = (
        "In the latter half of {windows} windows or more the variance changes by a factor of {factor}, in "
        "the same direction between {steady:%} of neighbouring windows."
    )
    fitted: ClassVar[tuple[str, ...]] = ("factor", "steady")

    factor: float = 10.0
    steady: float = 0.8
    windows: int = 10

    def over_time(self, history: History) -> list[Finding]:
        """The layer that drifts most."""
        series = _series(history)
        if series is None or len(series.logs) < self.windows:
            return []
        half = series.logs[len(series.logs) // 2 :]
        whole = np.isfinite(half).all(0)
        moves = np.diff(np.where(whole, half, 0.0), axis=0)
        slopes = np.array([theil_sen(column) for column in np.where(whole, half, 0.0).T])
        total = slopes * (len(half) - 1)
        steady = (np.sign(moves) == np.sign(total)).mean(0) >= self.steady
        drifts = whole & steady & (np.abs(total) >= np.log10(self.factor))
        if not drifts.any():
            return []
        which = int(np.where(drifts, np.abs(total), -1).argmax())
        layer, site = series.places[which]
        names = tuple(dict.fromkeys(series.places[i][0] for i in np.flatnonzero(drifts)))
        factor, at = 10 ** float(total[which]), len(series.logs) // 2
        shown = format_number(factor if factor > 1 else 1 / factor)
        return [
            Finding(
                layer=layer,
                site=site,
                statistic="factor of the variance over the latter half of the run",
                value=factor,
                threshold=self.factor if factor > 1 else 1 / self.factor,
                message=f"From step {series.first[at]:,} to {series.last[-1]:,} the variance "
                f"{'grows' if factor > 1 else 'shrinks'} {shown} times and does not settle"
                f"{same_at(len(names), 'layer')}.",
                evidence=f"{site}:variance",
                affected=names,
                step=series.first[at],
            )
        ]


@dataclass(frozen=True)
class _Series:
    """The variance of all layers and sites over the windows of training.

    Attributes:
        logs: decimal logarithms, shape (windows, places); NaN where it is 0 or was not measured.
        places: layer and site of each column, in order of execution.
        first: first step of each window.
        last: last step of each window.
    """

    logs: NDArray[np.float64]
    places: list[tuple[str, str]]
    first: list[int]
    last: list[int]


def _series(history: History) -> _Series | None:
    """The variance over the windows of training; None where there are none."""
    rows = history.of_phase(TRAIN)
    rows = rows[~rows["site"].isin(GRADIENT_SITES)]
    if rows.empty:
        return None
    wide = rows.pivot_table(index="window", columns=["layer", "site"], values="variance", sort=False)
    wide = wide.sort_index()
    depth = rows.groupby(["layer", "site"], sort=False)["depth"].min()
    order: list[Any] = sorted(wide.columns, key=lambda place: (depth[place], place[1] != "input"))
    values = wide[order].to_numpy(np.float64)
    steps: Any = history.windows.set_index("window").loc[wide.index]
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.where(values > 0, np.log10(values), np.nan)
    places = [(str(layer), str(site)) for layer, site in order]
    return _Series(logs, places, steps["first_step"].tolist(), steps["last_step"].tolist())


def _beside(
    now: NDArray[np.float64], before: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """How far a window is from the median of those before, how large its step is, and the largest before."""
    known = pd.DataFrame(before)
    # The last known value, so that a window in which a place was not measured hides no step.
    middle, last = known.median().to_numpy(), known.ffill().iloc[-1].to_numpy()
    usual = known.ffill().diff().abs().max().to_numpy()
    # Where no step was seen before, none can be held to be unusual.
    return np.nan_to_num(now - middle), np.nan_to_num(np.abs(now - last)), np.nan_to_num(usual, nan=np.inf)
