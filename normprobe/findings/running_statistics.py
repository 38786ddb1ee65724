"""Checks of BatchNorm's running statistics: whether they fit the data, whether they are statistics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd

from normprobe.findings.batchnorm_mode import batch_norms
from normprobe.findings.check import Check, Finding, Severity
from normprobe.findings.stale_causes import RECALIBRATE, collected, stale_cause
from normprobe.findings.stale_channels import StaleChannels
from normprobe.findings.wording import same_at
from normprobe.formatting import format_count, format_number
from normprobe.tables.measures.by_site import rows_of
from normprobe.tables.measures.common import at_site
from normprobe.tables.measures.divisors import divisor_measures
from normprobe.tables.measures.running_statistics import never_updated, running_channels, running_measures
from normprobe.tables.measures.samples import made_by_few
from normprobe.vocabulary import INPUT

if TYPE_CHECKING:
    from normprobe.tables.frames import Tables

_SEE_IT_WORK = (
    "These layers are untrained and pass on what they read. To see them normalize, run the model in training "
    'mode: record(model, batches, mode="train"), or call the model under Probe.'
)

DRIFT = "arXiv:2006.16971; arXiv:2105.07576; PyTorch issues 4741, 19902"


@dataclass(frozen=True, kw_only=True)
class StaleRunningStatistics(Check):
    """A BatchNorm's running statistics do not describe the data it sees.

    In evaluation mode BatchNorm normalizes with the running mean and variance it collected in training. Where
    they are off, its output is shifted or scaled, and everything after it reads something it was not trained
    on. The medians over channels are looked at: on small data single channels are four times off without
    harm. Since a stale BatchNorm moves what every later one sees, the first in order of execution is named.
    Where a few wild samples make up most of what that one sees, its moments are not held against it, nor is
    what it sees behind a norm with single channels that are off (``stale_channels``).

    Named as the cause are too few updates (with momentum m and n batches (1 - m)^n of the initial 0 and 1 is
    left: more than a tenth), a momentum that keeps only the last batch (0.9 and more) or never moves (0),
    steps that the dtype of the buffers rounds away, and images that are 255, 127.5 or 57.6 times too large or
    small (0..255 against 0..1, -1..1, or normalized as ImageNet is) or normalized twice.

    Running statistics of exactly 0 and 1 in every channel were never updated: an error, or a note where all
    batch norms of the model have weight 1 and bias 0 too, that is, are not trained at all.

    What to do: compare the preprocessing with that of training first; if that is right, recalibrate with
    training data: normprobe.batchnorm.recalibrate(model, batches), or --recalibrate on the command line.

    Figure: running against observed statistics, in the BatchNorm section.
    Source: Schneider et al., arXiv:2006.16971; Wu and Johnson, arXiv:2105.07576; PyTorch issue 4741.
    BatchNorm collects n/(n-1) times the variance it normalizes with (PyTorch issue 19902), which is taken
    into account. When it is wrong: data that are meant to differ from those of training; a few examples.

    Attributes:
        factor: least median factor between observed and running variance, either way, that is reported.
        shift: least median distance of the means in running standard deviations that is reported.
        spread: least ratio of the median log factor to its median absolute deviation over channels: other
            data move the channels of deep layers in all directions, a stale BatchNorm all in one.
        samples: least number of examples; below it the medians say little.
    """

    name: ClassVar[str] = "stale_running_statistics"
    title: ClassVar[str] = "Running statistics are stale"
    severity: ClassVar[Severity] = "warning"
    advice: ClassVar[str] = f"Compare the preprocessing with that of training; if it is right, {RECALIBRATE}."
    source: ClassVar[str] = DRIFT
    rule: ClassVar[str] = (
        "In the median channel the variances differ by a factor above {factor}, or the means by more than "
        "{shift} running standard deviations. The log factor must be {spread} times its median deviation "
        "over channels (other data move channels in all directions), and there must be {samples} "
        "examples."
    )
    fitted: ClassVar[tuple[str, ...]] = ("factor", "shift", "spread")

    factor: float = 2.0
    shift: float = 0.8
    spread: float = 2.0
    samples: int = 4

    def __call__(self, tables: Tables) -> list[Finding]:
        """The first stale batch norm, and the first that was never updated."""
        if running_channels(tables).empty:
            return []
        running = running_measures(tables).droplevel("site")
        norms = batch_norms(tables)
        enough = norms["examples"] * norms["calls"] >= self.samples
        # In train mode running statistics are not used, so they cannot be stale there.
        running = running.loc[
            [name for name in norms.index[enough & ~norms["trains"]] if name in running.index]
        ]
        untouched = running["untouched"]
        # Other data move the channels of deep layers in all directions, a stale BatchNorm all in one.
        agree = np.log(running["running_ratio"]) > self.spread * running["running_noise"]
        rescaled = (running["running_ratio"] > self.factor) & agree
        stale = running.index[rescaled | (running["running_shift"] > self.shift)]
        if len(stale) and not untouched[stale[0]] and made_by_few(tables, str(stale[0])):
            stale = stale[:0]
        if len(stale) and _behind(tables, str(stale[0])):
            stale = stale[:0]
        found = []
        if untouched.any():
            severity: Severity = "info" if never_updated(tables) else "error"
            found = [self._never_updated(tables, running, tuple(running.index[untouched]), severity)]
        # Where the first was never updated, that is what moves the others.
        if not stale.empty and not untouched[stale[0]]:
            found.append(self._stale(tables, running, tuple(stale)))
        return found

    def _stale(self, tables: Tables, running: pd.DataFrame, stale: tuple[str, ...]) -> Finding:
        layer = str(stale[0])
        cause = stale_cause(tables, layer)
        same = same_at(len(stale), "BatchNorm layer")
        why = [collected(tables, layer).words, "" if cause is None else cause.words]
        row: Any = running.loc[layer]
        # Named is the one that is farther beyond its threshold.
        scaled = np.log(row["running_ratio"]) / np.log(self.factor) >= row["running_shift"] / self.shift
        way = "larger" if row["running_log_ratio"] > 0 else "smaller"
        what = (
            f"variance is {format_number(row['running_ratio'])} times {way} than the running variance"
            + (" (eps included)" if _moved_by_eps(row) else "")
            if scaled
            else f"mean is {format_number(row['running_shift'])} running standard deviations off"
        )
        return Finding(
            layer=layer,
            site=INPUT,
            statistic="median factor between observed and running variance"
            if scaled
            else "median |observed mean - running mean| ÷ running standard deviation",
            value=row["running_ratio" if scaled else "running_shift"],
            threshold=self.factor if scaled else self.shift,
            message=" ".join(filter(None, [f"In the median channel the observed {what}{same}.", *why])),
            advice=None if cause is None else cause.advice,
            evidence=f"input:{'running_ratio' if scaled else 'running_shift'}",
            affected=stale,
        )

    def _never_updated(
        self, tables: Tables, running: pd.DataFrame, layers: tuple[str, ...], severity: Severity
    ) -> Finding:
        cause = stale_cause(tables, layers[0])
        still = cause is not None and "momentum is 0" in cause.words
        load = f"Load the buffers too (running_mean, running_var), or {RECALIBRATE}."
        return Finding(
            layer=str(layers[0]),
            site=INPUT,
            statistic="median factor between observed and running variance",
            value=float(running["running_ratio"][layers[0]]),
            threshold=self.factor,
            message="The running mean is 0 and the running variance 1 in every channel: they were never "
            f"updated.{f' {cause.words}' if cause is not None and still else ''}",
            advice=cause.advice
            if cause is not None and still
            else (_SEE_IT_WORK if severity == "info" else load),
            evidence="input:running_ratio",
            severity=severity,
            title="Running statistics were never updated",
            affected=layers,
        )


def _moved_by_eps(row: Any) -> bool:
    """Whether eps, which the layer adds to both variances, changes their ratio by more than a tenth."""
    return bool(abs(row["bare_log_ratio"] - row["running_log_ratio"]) > np.log(1.1))


def _behind(tables: Tables, layer: str) -> bool:
    """Whether a norm before this one has single channels that are far off, or an eps above its variance."""
    bad = set(StaleChannels().channels(tables)["layer"])
    divisor = at_site(divisor_measures(tables), INPUT)["divisor"]
    eps = tables.ledger.set_index("layer")["eps"].reindex(divisor.index)
    bad |= set(divisor.index[((divisor > 0) & (divisor < eps)).to_numpy(bool)])
    depth = tables.layers.drop_duplicates("layer").set_index("layer")["depth"]
    return bool((depth.reindex(sorted(bad)) < depth[layer]).any())


def _of_another_width(tables: Tables, tracked: pd.DataFrame) -> list[str]:
    """Batch norms whose running variance is not recorded, as it has no number for each feature.

    One for each quaternion is such. All NaN, it is one that is stored so: then the model's tensors say it.
    """
    missing = tracked["running_var"].isna().groupby(tracked["layer"]).all()
    stored = tables.meta.get("stored_nonfinite") or {}
    names = map(str, missing.index[missing])
    return [name for name in names if ".".join(filter(None, (name, "running_var"))) not in stored]


@dataclass(frozen=True, kw_only=True)
class RunningVarianceInvalid(Check):
    """A running variance is negative, NaN or infinite, and so is the channel in evaluation mode.

    What to do: find the batch that put NaN or Inf into it, or the step that averaged or edited the
    checkpoint.

    Figure: the BatchNorm section.
    Source: PyTorch issue 66073; Ioffe and Szegedy, arXiv:1502.03167 for what it divides by.
    When it is wrong: never.
    """

    name: ClassVar[str] = "running_variance_invalid"
    title: ClassVar[str] = "Running variance is not a variance"
    severity: ClassVar[Severity] = "warning"
    advice: ClassVar[str] = f"Find the batch or the edit that put it there, and {RECALIBRATE}."
    source: ClassVar[str] = "PyTorch issue 66073; arXiv:1502.03167"
    rule: ClassVar[str] = "One running variance that is negative, NaN or infinite is enough."

    def __call__(self, tables: Tables) -> list[Finding]:
        """The first batch norm with a running variance that is negative or not finite."""
        kinds = tables.ledger.set_index("layer")["kind"]
        rows = rows_of(tables, "features", kinds.index[kinds == "batch_norm"], INPUT)
        if rows.empty:
            return []
        # Without running statistics all are NaN, which is no fault.
        tracked = rows[rows.groupby("layer")["running_mean"].transform("count") > 0]
        # Not `< 0`: NaN is neither.
        wrong = tracked[~(tracked["running_var"] >= 0) | ~np.isfinite(tracked["running_var"])]
        wrong = wrong[~wrong["layer"].isin(_of_another_width(tables, tracked))]
        if wrong.empty:
            return []
        depth = tables.layers.drop_duplicates("layer").set_index("layer")["depth"]
        names = tuple(depth[depth.index.isin(wrong["layer"])].sort_values().index)
        here = wrong[wrong["layer"] == names[0]]
        value = float(here["running_var"].iloc[0])
        return [
            Finding(
                layer=names[0],
                site=INPUT,
                feature=int(here["feature"].iloc[0]),
                statistic="running variance",
                value=value,
                threshold=0,
                message=f"The running variance is {'NaN' if np.isnan(value) else format_number(value)} in "
                f"{format_count(len(here), 'channel')}.",
                evidence="input:running_ratio",
                affected=names,
            )
        ]
