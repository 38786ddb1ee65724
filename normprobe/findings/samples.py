"""Checks of the data as the first layer reads them, and of norm weights: what is out of scale with the rest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from normprobe.findings.frame import Check, Finding, Severity, named, number
from normprobe.findings.measures import feature_measures, layer_measures

if TYPE_CHECKING:
    from normprobe.tables import Tables


@dataclass(frozen=True, kw_only=True)
class OutlierSample(Check):
    """One or a few samples are far larger than the rest, already in what the first layer reads.

    A broken record, a wrong unit, an image that was not scaled: in training it dominates the gradient, in a
    BatchNorm it spoils the statistics of all others.

    What to do: look at the named sample, and at how the data were prepared.

    Figure: samples through depth.
    Source: Huber 1981, Robust Statistics: a ratio to the median, which the outliers do not move.
    When it is wrong: data with heavy tails, such as amounts of money, that are fed without a logarithm.

    Attributes:
        times: Least RMS of a sample ÷ the median sample's that is reported,
        share: in at most this share of the samples (one at least).
    """

    name: ClassVar[str] = "outlier_sample"
    title: ClassVar[str] = "A wild sample"
    severity: ClassVar[Severity] = "warning"
    advice: ClassVar[str] = "Look at this sample and at how the data were prepared."
    source: ClassVar[str] = "Huber 1981, Robust Statistics"

    times: float = 10.0
    share: float = 0.05

    def __call__(self, tables: Tables) -> list[Finding]:
        """Return the largest sample at the input of the first layer, if it is wild."""
        layers = layer_measures(tables)
        layer = layers.index[0][0]
        row = layers.loc[(layer, "input")]
        samples = tables.samples[(tables.samples["layer"] == layer) & (tables.samples["site"] == "input")]
        rms = np.sqrt(samples["variance"] + samples["mean"] ** 2).dropna()
        if len(rms) < 8 or not rms.median() > 0:
            return []
        times = rms / rms.median()
        wild = times > self.times
        worst = samples.loc[times.idxmax()]
        value, example, position = float(times.max()), worst["example"], worst["position"]
        end = "max" if row["max"] >= -row["min"] else "min"
        count = tables.features.query("layer == @layer and site == 'input'")["count"].sum() / row["n_samples"]
        if row["abs_max"] / np.sqrt(max(count, 1)) > value * rms.median():
            value = float(row["abs_max"] / np.sqrt(count) / rms.median())
            example, position = row[f"{end}_example"], row[f"{end}_position"]
        if value <= self.times or wild.sum() > max(1, self.share * len(rms)):
            return []
        return [
            Finding(
                layer=layer,
                site="input",
                example=example,
                position=position,
                statistic="RMS of the largest sample ÷ the median sample's",
                value=value,
                threshold=self.times,
                message=f"One sample is {number(value)} times as large as the median sample (RMS).",
                evidence="input:sample_ratio",
                affected=(layer,),
            )
        ]


@dataclass(frozen=True, kw_only=True)
class InputScale(Check):
    """The features of the data are on wildly different scales, and the first layer is a Linear.

    The features with large units drown the others, and the best learning rate differs from weight to weight.
    Constant features are left out. A first layer that is a norm is the cure, and no finding.

    What to do: standardize the features with the training data's mean and deviation, or start with a BatchNorm.

    Figure: the panel of the layer: variance per feature.
    Source: LeCun, Bottou, Orr, Mueller 1998, Efficient BackProp; standard practice.
    When it is wrong: scales that carry meaning; features that are nearly always 0.

    Attributes:
        ratio: Least ratio of the largest standard deviation to the lower quartile that is reported.
    """

    name: ClassVar[str] = "input_scale"
    title: ClassVar[str] = "Inputs on different scales"
    severity: ClassVar[Severity] = "warning"
    advice: ClassVar[str] = "Standardize the features, or let the model start with a BatchNorm."
    source: ClassVar[str] = "LeCun et al. 1998, Efficient BackProp"

    ratio: float = 100.0

    def __call__(self, tables: Tables) -> list[Finding]:
        """Return the first layer, if it is a Linear and its features differ wildly in scale."""
        layers = layer_measures(tables)
        layer, row = layers.index[0][0], layers.iloc[0]
        value = feature_measures(tables).at[(layer, "input"), "scale_ratio"]
        if row["kind"] != "linear" or not value > self.ratio:
            return []
        features = tables.features.query("layer == @layer and site == 'input'")
        feature = int(features.loc[features["variance"].idxmax(), "feature"])
        return [
            Finding(
                layer=layer,
                site="input",
                feature=feature,
                statistic="largest standard deviation of a feature ÷ the lower quartile",
                value=value,
                threshold=self.ratio,
                message=f"Feature {feature} varies {number(value)} times as much as a quarter of the features.",
                evidence="input:scale_ratio",
                affected=(layer,),
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
        times: Least |weight| ÷ the median |weight| that is reported,
        share: in at most this share of the features (one at least).
        features: Least number of features of the norm.
    """

    name: ClassVar[str] = "outlier_norm_weight"
    title: ClassVar[str] = "Outlier in a norm's weight"
    severity: ClassVar[Severity] = "info"
    advice: ClassVar[str] = "Before quantizing to 8 bit, move the weight into the Linear that follows."
    source: ClassVar[str] = "arXiv:2209.13325"

    times: float = 8.0
    share: float = 0.02
    features: int = 8

    def __call__(self, tables: Tables) -> list[Finding]:
        """Return the norm whose worst weight stands out most."""
        rows = tables.features[tables.features["weight"].notna() & (tables.features["site"] == "output")]
        size = rows["weight"].abs()
        by_layer = rows["layer"]
        middle = size.groupby(by_layer).transform("median")
        times = size / middle.where(middle > 0)
        out = (times > self.times) & (size.groupby(by_layer).transform("size") >= self.features)
        number_of = out.groupby(by_layer).transform("sum")
        few = number_of <= np.maximum(1, self.share * size.groupby(by_layer).transform("size"))
        hits = rows[out & few]
        if hits.empty:
            return []
        worst = rows.loc[times[hits.index].idxmax()]
        affected = tuple(dict.fromkeys(hits["layer"]))
        value = float(times[worst.name])
        return [
            Finding(
                layer=worst["layer"],
                site="output",
                feature=int(worst["feature"]),
                statistic="|weight| ÷ the median |weight|",
                value=value,
                threshold=self.times,
                message=f"The weight of feature {worst['feature']} is {number(worst['weight'])}, {number(value)} "
                f"times the median; such weights stand in {named(affected, 'norm')}.",
                evidence="output:weight_ratio",
                affected=affected,
            )
        ]
