"""Checks of what floating-point numbers can hold: NaN and Inf, the range of fp16, eps, cancellation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import pandas as pd

from normprobe.findings.frame import Check, Finding, Severity, named, number
from normprobe.findings.measures import layer_measures, sample_measures

if TYPE_CHECKING:
    from normprobe.tables import Tables


@dataclass(frozen=True, kw_only=True)
class Nonfinite(Check):
    """NaN or Inf appears: everything computed from it is wrong.

    The layers are read in order of execution, the input of each before its output. A layer that turns a finite
    input into NaN or Inf is named, one finding for each such layer. If the first such values stand in an
    *input*, no probed layer made them: an operation between two layers did (a division by 0, a logarithm, a
    softmax over a row that is masked throughout, an overflow in fp16), or the data hold them.

    What to do: look at the weights of the named layer, or at the code between it and the layer before. NaN
    born in padding rows is said to be so: real rows are affected only if a later finding counts them.

    Figure: the series of counts over depth beside the finding.
    Source: PyTorch issue 182156.
    When it is wrong: layers that are meant to carry -inf, as masks do.
    """

    name: ClassVar[str] = "nonfinite"
    title: ClassVar[str] = "NaN or Inf"
    severity: ClassVar[Severity] = "error"
    advice: ClassVar[str] = "Look at this layer's weights, and at the values it reads, before anything else."
    source: ClassVar[str] = "PyTorch issue 182156"

    def __call__(self, tables: Tables) -> list[Finding]:
        """Return the layers that turn finite values into NaN or Inf, or the first site that holds any."""
        layers = layer_measures(tables)
        bad = (layers["nonfinite"] + layers["nonfinite_masked"]).gt(0)
        if not bad.any():
            return []
        wide = bad.unstack("site").reindex(columns=["input", "output"], fill_value=False)
        first = bad.index[bad.to_numpy().argmax()]
        makers = wide.index[~wide["input"] & wide["output"]]
        sites = [(layer, "output") for layer in makers]
        if first[1] == "input":
            sites.insert(0, first)
        affected = tuple(dict.fromkeys(bad.index[bad].get_level_values("layer")))
        return [self._finding(tables, layers, site, affected) for site in sites]

    def _finding(
        self, tables: Tables, layers: pd.DataFrame, where: tuple[str, str], affected: tuple[str, ...]
    ) -> Finding:
        layer, site = where
        row = layers.loc[where]
        real, masked = int(row["nonfinite"]), int(row["nonfinite_masked"])
        spread = layers.loc[(layers["depth"] >= row["depth"]).to_numpy(), "nonfinite"].gt(0).any()
        padding = " in padding rows only" if not real else ""
        origin = {
            "output": "out of a finite input",
            "input": self._before(layers, row),
        }[site]
        later = affected[affected.index(layer) :]
        return Finding(
            layer=layer,
            site=site,
            feature=_feature(tables, layer, site),
            statistic="NaN or Inf values" + padding,
            value=real or masked,
            threshold=0,
            message=f"{number(real or masked)} values are NaN or Inf{padding}, {origin}; "
            f"{named(later)} from here on carry them.",
            advice="Look at the operations before this layer: no probed layer made these values."
            if site == "input"
            else None,
            evidence=f"{site}:{'nonfinite' if real else 'nonfinite_masked'}",
            severity="error" if spread else "warning",
            affected=later,
        )

    @staticmethod
    def _before(layers: pd.DataFrame, row: pd.Series) -> str:
        earlier = layers.index[(layers["depth"] < row["depth"]).to_numpy()]
        if earlier.empty:
            return "already in what the first layer reads"
        return f"made by an operation after {earlier[-1][0]}"


def _feature(tables: Tables, layer: str, site: str) -> int | None:
    """Return the feature that holds most NaN or Inf, or None where all features hold as many."""
    rows = tables.features[(tables.features["layer"] == layer) & (tables.features["site"] == site)]
    if rows.empty or rows["nonfinite"].nunique() == 1:
        return None
    return int(rows.loc[rows["nonfinite"].idxmax(), "feature"])


@dataclass(frozen=True, kw_only=True)
class Fp16Overflow(Check):
    """Values leave, or are about to leave, the range of fp16, whose largest number is 65,504.

    In fp32 and bf16 such values are fine; cast to fp16 they become Inf, and the next norm makes NaN of them.
    A model that runs in fp16 is warned of from half that limit on.

    What to do: run in bf16 or fp32, or keep the named layer in fp32.

    Figure: the largest |value| before the norm, where the limit of fp16 is drawn.
    Source: IEEE 754-2019, binary16.
    When it is wrong: a model that will never run in fp16.

    Attributes:
        limit: Largest |value| that fp16 holds.
        margin: A model that runs in fp16 is warned of above ``limit / margin``.
    """

    name: ClassVar[str] = "fp16_overflow"
    title: ClassVar[str] = "Values beyond the range of fp16"
    severity: ClassVar[Severity] = "warning"
    advice: ClassVar[str] = "Run in bf16 or fp32, or keep this layer in fp32."
    source: ClassVar[str] = "IEEE 754-2019 binary16"

    limit: float = 65504.0
    margin: float = 2.0

    def __call__(self, tables: Tables) -> list[Finding]:
        """Return the layer with the largest |value|, if that is beyond the limit."""
        layers = layer_measures(tables)
        half = layers["dtype"].str.contains("float16") & ~layers["dtype"].str.contains("bfloat16")
        limit = pd.Series(self.limit, index=layers.index).where(~half, self.limit / self.margin)
        beyond = layers[layers["abs_max"] > limit]
        if beyond.empty:
            return []
        layer, site = beyond.index[0]
        row = beyond.iloc[0]
        affected = tuple(dict.fromkeys(beyond.index.get_level_values("layer")))
        end = "max" if row["max"] >= -row["min"] else "min"
        return [
            Finding(
                layer=layer,
                site=site,
                feature=row[f"{end}_feature"],
                example=row[f"{end}_example"],
                position=row[f"{end}_position"],
                statistic="largest |value|",
                value=row["abs_max"],
                threshold=limit[(layer, site)],
                message=f"The {site} reaches {number(row['abs_max'])}; fp16 ends at {number(self.limit)}.",
                evidence=f"{site}:abs_max",
                affected=affected,
            )
        ]


@dataclass(frozen=True, kw_only=True)
class VarianceBelowEps(Check):
    """The variance a norm divides by is below its eps: the norm no longer normalizes.

    LayerNorm and GroupNorm divide by sqrt(variance + eps), RMSNorm by sqrt(mean square + eps). With a variance
    below eps the output's variance falls below one half, and the smaller the input, the smaller the output.

    What to do: lower eps, or find what shrinks the input.

    Figure: the panel of the norm: variance per sample before and after.
    Source: Ba, Kiros, Hinton, arXiv:1607.06450.
    When it is wrong: blank samples (padding that is not masked, black images), if they are most of the data.

    Attributes:
        ratio: A sample counts if its variance is below ``ratio`` x eps; the median sample is looked at.
    """

    name: ClassVar[str] = "variance_below_eps"
    title: ClassVar[str] = "Variance below eps"
    severity: ClassVar[Severity] = "warning"
    advice: ClassVar[str] = "Lower this norm's eps, or find out what makes its input so small."
    source: ClassVar[str] = "arXiv:1607.06450"

    ratio: float = 1.0

    def __call__(self, tables: Tables) -> list[Finding]:
        """Return the norm whose median sample lies furthest below eps, if any does."""
        norms = tables.ledger[tables.ledger["kind"].isin(["layer_norm", "rms_norm", "group_norm"])]
        norms = norms.set_index("layer")[["kind", "eps"]].dropna()
        samples = sample_measures(tables)
        inputs = samples[samples.index.get_level_values("site") == "input"].droplevel("site")
        frame = layer_measures(tables).xs("input", level="site")[["n_features"]].join(inputs, how="inner")
        frame = frame.join(norms, how="inner")
        value = frame["sample_variance"].where(frame["kind"] != "rms_norm", frame["sample_square"])
        share = (value / frame["eps"]).where(frame["n_features"] > 1)
        below = share[share < self.ratio]
        if below.empty:
            return []
        layer = str(below.idxmin())
        what = "mean square" if frame.at[layer, "kind"] == "rms_norm" else "variance"
        return [
            Finding(
                layer=layer,
                site="input",
                statistic=f"median {what} of a sample",
                value=value[layer],
                threshold=self.ratio * frame.at[layer, "eps"],
                message=f"The median sample has a {what} of {number(value[layer])}, below this norm's eps of "
                f"{number(frame.at[layer, 'eps'])}.",
                evidence=f"input:{'sample_square' if what == 'mean square' else 'sample_variance'}",
                affected=tuple(below.index),
            )
        ]


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
        offset: Least mean² ÷ variance of the median sample that is reported; a healthy norm has below 10.
    """

    name: ClassVar[str] = "nearly_constant_rows"
    title: ClassVar[str] = "Nearly constant samples before a norm"
    severity: ClassVar[Severity] = "warning"
    advice: ClassVar[str] = "Find the bias or shift that adds the same value to all features, and remove it."
    source: ClassVar[str] = "arXiv:1607.06450"

    offset: float = 1000.0

    def __call__(self, tables: Tables) -> list[Finding]:
        """Return the first norm whose median sample is nearly constant."""
        layers = layer_measures(tables)
        norms = layers[layers["kind"].isin(["layer_norm", "group_norm"]) & (layers["n_features"] > 1)]
        offset = sample_measures(tables)["offset"].reindex(norms.index)
        high = offset[(offset > self.offset) & (offset.index.get_level_values("site") == "input")]
        if high.empty:
            return []
        layer = str(high.index[0][0])
        return [
            Finding(
                layer=layer,
                site="input",
                statistic="median over samples of mean² ÷ variance",
                value=high.iloc[0],
                threshold=self.offset,
                message=f"In the median sample mean² is {number(high.iloc[0])} times the variance: its "
                "features are nearly all equal.",
                evidence="input:offset",
                affected=tuple(high.index.get_level_values("layer")),
            )
        ]
