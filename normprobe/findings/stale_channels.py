"""The check of single BatchNorm channels whose running statistics are not theirs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd

from normprobe.findings.batchnorm_mode import batch_norms
from normprobe.findings.check import Check, Finding, Severity
from normprobe.formatting import format_number
from normprobe.tables.measures.by_site import rows_at
from normprobe.tables.measures.common import at_site, row_of
from normprobe.tables.measures.running_statistics import running_channels, running_measures
from normprobe.tables.measures.samples import made_by_few
from normprobe.vocabulary import INPUT, OUTPUT

if TYPE_CHECKING:
    from normprobe.tables.frames import Tables


@dataclass(frozen=True, kw_only=True)
class StaleChannels(Check):
    """The running statistics of a few BatchNorm channels are far off, while the layer's others fit.

    A running variance near 0 of a channel that is alive makes it explode: it is divided by next to nothing
    (a channel that had died in training, an eps of 0, a spliced or edited checkpoint). A running mean that is
    another channel's shifts it. On small data a channel is four times off without harm, a thousand times it
    is not. The first such layer in order of execution is named; what later batch norms see follows from it.

    What to do: correct these entries (compare with the original checkpoint), or recalibrate this layer; for
    channels that died in training use an eps that is not 0.

    Figure: running against observed statistics, in the BatchNorm section.
    Source: torchvision issues 1947 and 2169; Ioffe and Szegedy, arXiv:1502.03167.
    When it is wrong: data that hold what training hardly ever did.

    Attributes:
        factor: least factor by which a channel's observed variance exceeds its running one, beyond the
            layer's median channel, that is reported,
        shift: or least distance of its means in running standard deviations,
        times: which must be so many times the median channel's.
        samples: least number of examples,
        means: and least number for a distance of means to count: those of a few images lie far apart.
    """

    name: ClassVar[str] = "stale_channels"
    title: ClassVar[str] = "Single channels' running statistics are off"
    severity: ClassVar[Severity] = "warning"
    advice: ClassVar[str] = (
        "Compare these entries of running_mean and running_var with the original checkpoint, or recalibrate "
        "this layer alone; for channels that died in training use an eps that is not 0."
    )
    source: ClassVar[str] = "torchvision issues 1947, 2169; arXiv:1502.03167"
    rule: ClassVar[str] = (
        "A channel has more than {factor} times the variance that its running one says, beyond the "
        "layer's median channel; or, from {means} examples on, a mean that is more than {shift} running "
        "standard deviations off and {times} times as far as the median channel's. There must be "
        "{samples} examples."
    )
    fitted: ClassVar[tuple[str, ...]] = ("factor", "shift", "times")

    factor: float = 100.0
    shift: float = 1.0
    times: float = 25.0
    samples: int = 4
    means: int = 16

    def __call__(self, tables: Tables) -> list[Finding]:
        """The first layer with such a channel, and of it the channel that is worst."""
        if running_channels(tables).empty:
            return []
        bad = self.channels(tables)
        if bad.empty:
            return []
        layer = str(bad["layer"].iloc[0])
        here = bad[bad["layer"] == layer]
        worst: Any = here.sort_values("beyond", kind="stable").iloc[-1]
        scaled = bool(worst["scaled"])
        found = row_of(running_measures(tables), layer, INPUT)
        value = float(found["channel_ratio" if scaled else "channel_shift"])
        more = f"; {len(here):,} channels of this layer are off" if len(here) > 1 else ""
        channel = f"Channel {worst['feature']}"
        what = (
            f"{channel}: the running variance is {format_number(worst['running_var'])}, the observed one "
            f"{format_number(worst['seen_variance'])}, {format_number(value)} times as much (eps included)"
            if scaled
            else f"{channel}: the running mean is {format_number(worst['running_mean'])}, the observed one "
            f"{format_number(worst['seen_mean'])}, {format_number(value)} running standard deviations off"
        )
        return [
            Finding(
                layer=layer,
                site=INPUT,
                feature=int(worst["feature"]),
                statistic="observed ÷ running variance of the worst channel"
                if scaled
                else "|observed mean - running mean| ÷ running standard deviation, of the worst channel",
                value=value,
                threshold=self.factor if scaled else self.shift,
                message=f"{what}{self._written(tables, layer, worst) if scaled else ''}{more}.",
                evidence=f"input:{'channel_ratio' if scaled else 'channel_shift'}",
                affected=(layer,),
            )
        ]

    def channels(self, tables: Tables) -> pd.DataFrame:
        """The channels that are off, in order of execution; none behind a batch norm that was never updated.

        Columns: those of `running_channels` and the statistics themselves, ``scaled`` (by its variance) and
        ``beyond`` (how far beyond its threshold, as a logarithm).
        """
        norms = batch_norms(tables)
        measures = at_site(running_measures(tables), INPUT)
        enough = norms["examples"] * norms["calls"] >= self.samples
        order = [name for name in norms.index[enough & ~norms["trains"]] if name in measures.index]
        # Behind one that was never updated all see something else than in training.
        fresh = [at for at, name in enumerate(order) if measures["untouched"][name]]
        order = [name for name in order[: fresh[0] if fresh else None] if not made_by_few(tables, str(name))]
        rows = running_channels(tables)
        rows = rows[rows["layer"].isin(order) & ~rows["constant"]]
        layer = rows["layer"].astype(object)
        # Not below 0: that a layer sees less than in training makes none of its channels worse.
        middle = layer.map(measures["running_log_ratio"]).astype("float64").clip(lower=0.0)
        ratio = rows["log_variance_ratio"] - middle - np.log(self.factor)
        usual = layer.map(measures["running_shift"]).astype("float64")
        apart = rows["shift"].abs() / (self.times * usual).clip(lower=self.shift)
        shift = np.log(apart.clip(lower=1e-12))
        examples = layer.map(norms["examples"] * norms["calls"]).astype("float64")
        shift = shift.where(examples >= self.means, -np.inf)
        columns = ["running_mean", "running_var", "seen_mean", "seen_variance"]
        rows = rows.join(tables.features[columns]).assign(
            scaled=ratio >= shift, beyond=pd.concat([ratio, shift], axis=1).max(axis=1)
        )
        bad = rows[rows["beyond"] > 0]
        return bad.loc[bad["layer"].map({name: at for at, name in enumerate(order)}).sort_values().index]

    @staticmethod
    def _written(tables: Tables, layer: str, worst: Any) -> str:
        """Words for the variance that the channel has behind the norm."""
        rows = rows_at(tables, "features", layer, OUTPUT)
        wrote = rows.set_index("feature")["variance"]
        if worst["feature"] not in wrote.index:
            return ""
        own, others = wrote[worst["feature"]], wrote.drop(worst["feature"]).median()
        return f"; its output has variance {format_number(own)}, the median channel's {format_number(others)}"
