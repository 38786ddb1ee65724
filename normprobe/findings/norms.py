"""Checks of what norms divide by, and of their weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd

from normprobe.findings.check import Check, Finding, Severity
from normprobe.findings.wording import same_at
from normprobe.formatting import format_number, role_of
from normprobe.tables.measures.by_site import by_site, divided, numbers
from normprobe.tables.measures.common import at_site
from normprobe.tables.measures.divisors import divisor_measures
from normprobe.tables.measures.features import norms_untrained
from normprobe.tables.measures.layers import layer_measures
from normprobe.tables.measures.samples import sample_measures
from normprobe.vocabulary import INPUT, OUTPUT

if TYPE_CHECKING:
    from normprobe.tables.frames import Tables


@dataclass(frozen=True, kw_only=True)
class VarianceBelowEps(Check):
    """The variance a norm divides by is below its eps: the norm no longer normalizes.

    LayerNorm, GroupNorm, InstanceNorm and BatchNorm divide by sqrt(variance + eps), RMSNorm by sqrt(mean
    square + eps): of a sample, of a group of its features, of a channel of an example, of a channel. With a
    variance below eps the output's variance falls below one half, and the smaller the input, the smaller the
    output. Either eps is too large, or the input is too small: an eps above ``usual`` is named as the cause,
    apart from the norms whose input is small. Of each cause the first norm in order of execution is named,
    since what it writes too small may be too small for the next.

    A norm that multiplies its input by a gate before it normalizes is judged by what it writes. A batch norm
    counts where the running variance and the variance it sees are both so small.

    Small inputs in a model whose norms all have weight 1 and bias 0 are a note where they are small in most
    blocks: branches start small where weights are initialized so, and the model is yet to be trained. Samples
    of exactly 0 are left out: no eps would help, and ``collapsed_samples`` reports them.

    What to do: lower eps, or find what shrinks the input.

    Figure: the panel of the norm: variance per sample before and after.
    Source: Ba, Kiros, Hinton, arXiv:1607.06450; torch's default of eps, 1e-5.
    When it is wrong: blank samples (padding that is not masked, black images), if they are most of the data.

    Attributes:
        ratio: a sample counts if its variance is below ``ratio`` x eps; the median sample, group or channel
            is looked at.
        usual: largest eps that is not itself suspect: torch's default.
    """

    name: ClassVar[str] = "variance_below_eps"
    title: ClassVar[str] = "Variance below eps"
    severity: ClassVar[Severity] = "warning"
    advice: ClassVar[str] = "Find out what makes this norm's input so small."
    source: ClassVar[str] = "arXiv:1607.06450"
    rule: ClassVar[str] = (
        "The median sample (group, channel) has less variance than {ratio} times the norm's eps; eps "
        "itself is suspected where it is above {usual}, torch's default."
    )

    ratio: float = 1.0
    usual: float = 1e-5

    def __call__(self, tables: Tables) -> list[Finding]:
        """The first norm whose median sample lies below an eps that is large, and one that is not."""
        # An eps that is not known is nothing to hold a variance against.
        norms = tables.ledger.set_index("layer")[["kind", "eps"]].dropna()
        measured = at_site(layer_measures(tables), INPUT)[["n_features"]]
        frame = at_site(divisor_measures(tables), INPUT).join(norms, how="inner")
        frame = measured.join(frame, how="inner")
        # 0 is another finding, of samples that are all the same.
        small = (frame["divisor"] > 0) & (frame["divisor"] < self.ratio * frame["eps"])
        whole = frame["of"] == "sample"
        below = frame[small & ((frame["n_features"] > 1) | ~whole)]
        # An eps that went through float32 or through text is still torch's default.
        large = below["eps"] > self.usual * (1 + 1e-6)
        found = [self._finding(below[large], "Lower this norm's eps.", "warning")] if large.any() else []
        if not large.all():
            starts_small = norms_untrained(tables) and _in_most_blocks(below[~large].index, frame.index)
            found.append(self._finding(below[~large], None, "info" if starts_small else "warning"))
        return found

    def _finding(self, below: pd.DataFrame, advice: str | None, severity: Severity) -> Finding:
        row: Any = below.iloc[0]
        what = "mean square" if row["kind"] == "rms_norm" else "variance"
        of = {"group": "group of features", "output": "sample as it is normalized"}.get(row["of"], row["of"])
        return Finding(
            layer=str(below.index[0]),
            site=INPUT,
            statistic=f"median {what} of a {of}",
            value=row["divisor"],
            threshold=self.ratio * row["eps"],
            message=f"The median {of} has a {what} of {format_number(row['divisor'])}, below this norm's "
            f"eps of {format_number(row['eps'])}{same_at(len(below), 'norm')}.",
            advice=advice,
            severity=severity,
            evidence="input:divisor",
            affected=tuple(below.index),
        )


def _in_most_blocks(these: pd.Index, norms: pd.Index) -> bool:
    """Whether some norm is among these in at least half of the blocks of a model."""
    role = pd.Series([role_of(str(name)) for name in norms], index=norms)
    among = role.index.isin(these)
    share = pd.Series(among, index=norms).groupby(role).mean()
    # Roles in blocks: outside any block a role is the layer's own name, and "*" of a Sequential is none.
    blocks = share.index != "*"
    return bool((share[blocks & ~share.index.isin(norms)] >= 0.5).any())


@dataclass(frozen=True, kw_only=True)
class NearlyConstantRows(Check):
    """The samples a LayerNorm or GroupNorm reads are nearly constant: a large common value drowns the rest.

    The norm subtracts the mean. Where mean² is far above the variance, what is left is made of the last
    digits of the input: in fp32 a mean of 1,000 standard deviations costs three of seven digits, in bf16 all.

    What to do: find the layer that adds a constant to all features (a bias), and take the constant out.

    Figure: the panel of the norm: values before.
    Source: Ba, Kiros, Hinton, arXiv:1607.06450; Chan, Golub, LeVeque 1983 for the digits lost.
    When it is wrong: blank samples, if they are most of the data.

    Attributes:
        offset: least mean² ÷ variance of the median sample that is reported; a healthy norm has below 10.
    """

    name: ClassVar[str] = "nearly_constant_rows"
    title: ClassVar[str] = "Nearly constant samples before a norm"
    severity: ClassVar[Severity] = "warning"
    advice: ClassVar[str] = "Find the bias or shift that adds the same value to all features, and remove it."
    source: ClassVar[str] = "arXiv:1607.06450"
    rule: ClassVar[str] = (
        "In the median sample mean² is more than {offset} times the variance; a healthy norm has below 10."
    )
    fitted: ClassVar[tuple[str, ...]] = ("offset",)

    offset: float = 1000.0

    def __call__(self, tables: Tables) -> list[Finding]:
        """The first norm whose median sample is nearly constant."""
        layers = layer_measures(tables)
        norms = layers[layers["kind"].isin(["layer_norm", "group_norm"]) & (layers["n_features"] > 1)]
        offset = sample_measures(tables)["offset"].reindex(norms.index)
        high = offset[(offset > self.offset) & (offset.index.get_level_values("site") == INPUT)]
        if high.empty:
            return []
        layer = str(high.index[0][0])
        return [
            Finding(
                layer=layer,
                site=INPUT,
                statistic="median over samples of mean² ÷ variance",
                value=high.iloc[0],
                threshold=self.offset,
                message=f"In the median sample mean² is {format_number(high.iloc[0])} times the variance: "
                "its features are nearly all equal.",
                evidence="input:offset",
                affected=tuple(high.index.get_level_values("layer")),
            )
        ]


@dataclass(frozen=True, kw_only=True)
class OutlierNormWeight(Check):
    """A norm's weight is far larger in a few features than in the median feature.

    Such weights make outlier features out of normalized values, and with them trouble for quantization.

    What to do: nothing in 16 bit; before quantizing to 8 bit, move the weight into the following Linear.

    Figure: the outlier map; the panel of the norm: variance per feature.
    Source: Wei et al., Outlier Suppression, arXiv:2209.13325.
    When it is wrong: it is a property of the model, not a fault. Norms whose median weight is 0 are left out.

    Attributes:
        times: least |weight| ÷ the median |weight| that is reported,
        share: in at most this share of the features (one at least).
        features: least number of features of the norm.
    """

    name: ClassVar[str] = "outlier_norm_weight"
    title: ClassVar[str] = "Outlier in a norm's weight"
    severity: ClassVar[Severity] = "info"
    advice: ClassVar[str] = "Before quantizing to 8 bit, move the weight into the Linear that follows."
    source: ClassVar[str] = "arXiv:2209.13325"
    matters: ClassVar[str] = "if you quantize"
    rule: ClassVar[str] = (
        "A |weight| is more than {times} times the median, in at most {share:%} of the features (one at "
        "least) of a norm of {features} features or more."
    )
    fitted: ClassVar[tuple[str, ...]] = ("times", "share")

    times: float = 8.0
    share: float = 0.02
    features: int = 8

    def __call__(self, tables: Tables) -> list[Finding]:
        """The norm whose worst weight stands out most."""
        sites = by_site(tables, "features")
        size = np.abs(numbers(tables.features, "weight"))
        size[~sites.at(OUTPUT)] = np.nan
        # Of a median of 0 every other weight would be an infinite multiple.
        times = divided(size, sites.of(sites.median(size)))
        many = sites.number(~np.isnan(size))
        out = (times > self.times) & sites.of(many >= self.features)
        few = sites.number(out) <= np.maximum(1, self.share * many)
        found = np.flatnonzero(out & sites.of(few))
        if not len(found):
            return []
        hits = tables.features.iloc[found]
        worst: Any = hits.iloc[int(times[found].argmax())]
        affected = tuple(dict.fromkeys(hits["layer"]))
        value = float(times[found].max())
        others = f"; {len(affected):,} norms have such a weight" if len(affected) > 1 else ""
        return [
            Finding(
                layer=worst["layer"],
                site=OUTPUT,
                feature=int(worst["feature"]),
                statistic="|weight| ÷ the median |weight|",
                value=value,
                threshold=self.times,
                message=f"The weight of feature {worst['feature']} is {format_number(worst['weight'])}, "
                f"{format_number(value)} times the median{others}.",
                evidence="output:weight_ratio",
                affected=affected,
            )
        ]
