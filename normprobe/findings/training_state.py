"""Checks of what does not recover while a model trains: running statistics that lag, dead features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from normprobe.findings.check import Finding, Severity
from normprobe.findings.over_time import OverTimeCheck
from normprobe.findings.wording import same_at
from normprobe.formatting import format_number
from normprobe.tables.measures.history import TRAIN
from normprobe.vocabulary import INPUT

if TYPE_CHECKING:
    from normprobe.tables.measures.history import History


@dataclass(frozen=True, kw_only=True)
class RunningStatisticsLag(OverTimeCheck):
    """A BatchNorm's running statistics stay behind what it reads in training.

    In training it normalizes with each batch, so that nothing shows; in evaluation mode it will use running
    statistics that are of other activations. The median channel is held against the data of each window, as
    in ``stale_running_statistics``, window after window: with momentum m they remember some 1 / m forwards.

    What to do: raise the momentum, or recalibrate before evaluating:
    normprobe.batchnorm.recalibrate(model, batches).

    Figure: running against observed statistics, in the BatchNorm section.
    Source: Wu and Johnson, arXiv:2105.07576.
    When it is wrong: a run that has only begun, or weights that still change fast.

    Attributes:
        factor: least median factor between observed and running variance, either way,
        shift: or least median distance of the means in running standard deviations.
        windows: in how many windows, the last one among them.
    """

    name: ClassVar[str] = "running_statistics_lag"
    title: ClassVar[str] = "Running statistics lag behind"
    severity: ClassVar[Severity] = "warning"
    advice: ClassVar[str] = "Raise the momentum of this BatchNorm, or recalibrate before evaluating."
    source: ClassVar[str] = "arXiv:2105.07576"
    rule: ClassVar[str] = (
        "In each of the last {windows} windows of training the variances differ by a factor above "
        "{factor} in the median channel, or the means by more than {shift} running standard deviations."
    )
    fitted: ClassVar[tuple[str, ...]] = ("factor", "shift")

    factor: float = 2.0
    shift: float = 0.8
    windows: int = 3

    def over_time(self, history: History) -> list[Finding]:
        """The first batch norm in order of execution that lags."""
        rows = history.of_phase(TRAIN)
        rows = rows[(rows["kind"] == "batch_norm") & (rows["site"] == INPUT) & rows["trains"]]
        # Running statistics are those at the end of the window: of a window with few forwards that is chance.
        last = rows.sort_values(["depth", "window"]).groupby("layer", sort=False).tail(self.windows)
        off = (last["running_ratio"] > self.factor) | (last["running_shift"] > self.shift)
        lags = off.groupby(last["layer"], sort=False).agg(["sum", "count"])
        # The count, too: in a run of fewer windows all of them are no proof yet.
        names = tuple(map(str, lags.index[(lags["sum"] == self.windows) & (lags["count"] == self.windows)]))
        if not names:
            return []
        row = last[last["layer"] == names[0]].iloc[-1]
        scaled = bool(row["running_ratio"] > self.factor)
        value = float(row["running_ratio" if scaled else "running_shift"])
        what = (
            f"the running variance is {format_number(value)} times off"
            if scaled
            else f"the running mean is {format_number(value)} running standard deviations off"
        )
        return [
            Finding(
                layer=names[0],
                site=INPUT,
                statistic="median factor between observed and running variance in training"
                if scaled
                else "median |observed mean - running mean| ÷ running standard deviation in training",
                value=value,
                threshold=self.factor if scaled else self.shift,
                message=f"In the median channel {what} in each of the last {self.windows} windows of training"
                f"{same_at(len(names), 'BatchNorm layer')}.",
                evidence=f"input:{'running_ratio' if scaled else 'running_shift'}",
                affected=names,
                step=int(row["last_step"]),
            )
        ]


@dataclass(frozen=True, kw_only=True)
class FeaturesStayDead(OverTimeCheck):
    """Many of the features that a layer reads died in the course of training, and stay dead.

    A unit before a ReLU whose value is negative for all data has no gradient, and does not come back. Here
    only those count that once were alive: what is 0 from the start is a finding of ``dead_features``.

    What to do: lower the learning rate or lengthen the warm-up; look at the step at which they died.

    Figure: none.
    Source: Lu et al., Dying ReLU and Initialization, arXiv:1903.06733.
    When it is wrong: features that only rare data switch on, where a window holds few samples.

    Attributes:
        share: least share of features that died.
        windows: for how many windows, the last one among them, each was 0 in every sample.
        samples: fewest samples of a window.
    """

    name: ClassVar[str] = "features_stay_dead"
    title: ClassVar[str] = "Features died and stay dead"
    severity: ClassVar[Severity] = "warning"
    advice: ClassVar[str] = "Lower the learning rate or warm up longer; look at the step at which they died."
    source: ClassVar[str] = "arXiv:1903.06733"
    rule: ClassVar[str] = (
        "At least {share:%} of the features were alive and are 0 in every sample of the last {windows} "
        "windows of training or more, of {samples} samples each."
    )
    fitted: ClassVar[tuple[str, ...]] = ("share",)

    share: float = 0.4
    windows: int = 3
    samples: int = 64

    def over_time(self, history: History) -> list[Finding]:
        """The first layer that reads many features that died."""
        rows = history.of_phase(TRAIN)
        rows = rows[(rows["site"] == INPUT) & (rows["depth"] > 0)].sort_values(["depth", "window"])
        found = []
        for layer, windows in rows.groupby("layer", sort=False):
            streak = history.dead.get((TRAIN, str(layer)))
            # With no more windows than these nothing shows that a feature was ever alive.
            if streak is None or len(windows) <= self.windows or windows["n_samples"].min() < self.samples:
                continue
            died = (streak >= self.windows) & (streak < len(windows))
            if died.mean() >= self.share:
                since = windows["first_step"].iloc[-int(np.median(streak[died]))]
                found.append((str(layer), float(died.mean()), int(since)))
        if not found:
            return []
        layer, share, since = found[0]
        return [
            Finding(
                layer=layer,
                site=INPUT,
                statistic="share of features that died",
                value=share,
                threshold=self.share,
                message=f"{share:.0%} of the features that it reads died, half of them by step {since:,}"
                f"{same_at(len(found), 'layer')}.",
                evidence="input:zero_features",
                affected=tuple(name for name, _, _ in found),
                step=since,
            )
        ]
