"""Checks of the data as the first layer reads them: one wild sample, features on different scales."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from normprobe.findings.check import Check, Finding, Severity
from normprobe.formatting import format_number
from normprobe.tables.measures.by_site import rows_at
from normprobe.tables.measures.common import row_of
from normprobe.tables.measures.features import feature_measures
from normprobe.tables.measures.layers import first_to_read, inputs_and_outputs
from normprobe.tables.measures.samples import distinct_samples, made_by_few, sized
from normprobe.vocabulary import INPUT

if TYPE_CHECKING:
    from normprobe.tables.frames import Tables


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
        times: least RMS of a sample ÷ the median sample's that is reported,
        share: in at most this share of the examples (one at least).
    """

    name: ClassVar[str] = "outlier_sample"
    title: ClassVar[str] = "A wild sample"
    severity: ClassVar[Severity] = "warning"
    advice: ClassVar[str] = "Look at this sample and at how the data were prepared."
    source: ClassVar[str] = "Huber 1981, Robust Statistics"
    rule: ClassVar[str] = (
        "The RMS of a sample is more than {times} times the median sample's, in at most {share:%} of the "
        "examples (one at least)."
    )
    fitted: ClassVar[tuple[str, ...]] = ("times",)

    times: float = 10.0
    share: float = 0.05

    def __call__(self, tables: Tables) -> list[Finding]:
        """The largest sample at the input of the first layer, if it is wild."""
        layers = inputs_and_outputs(tables)
        layer = first_to_read(layers)
        if layer is None:
            return []
        row = row_of(layers, layer, INPUT)
        samples = sized(rows_at(tables, "samples", layer, INPUT))
        rms = samples["rms"].dropna()
        # Of fewer samples the median is itself one of the few.
        if len(rms) < 8 or not rms.median() > 0:
            return []
        times = rms / rms.median()
        wild = samples.loc[times.index[times > self.times], ["part", "example"]].drop_duplicates()
        examples = len(samples[["part", "example"]].drop_duplicates())
        worst: Any = samples.loc[times.index[int(times.argmax())]]
        value, example, position = float(times.max()), worst["example"], worst["position"]
        count = rows_at(tables, "features", layer, INPUT)["count"].sum() / row["n_samples"]
        # The largest value of all may belong to a sample that was not kept: its RMS is at least this.
        if row["abs_max"] / np.sqrt(max(count, 1)) > value * rms.median():
            value = float(row["abs_max"] / np.sqrt(count) / rms.median())
            example, position = row["abs_max_example"], row["abs_max_position"]
        if value <= self.times or len(wild) > max(1, self.share * examples):
            return []
        return [
            Finding(
                layer=layer,
                site=INPUT,
                example=example,
                position=position,
                statistic="RMS of the largest sample ÷ the median sample's",
                value=value,
                threshold=self.times,
                message=f"One sample is {format_number(value)} times as large as the median sample (RMS).",
                evidence="input:sample_ratio",
                affected=(layer,),
            )
        ]


@dataclass(frozen=True, kw_only=True)
class InputScale(Check):
    """The features of the data are on wildly different scales, and the first layer is a Linear.

    The features with large units drown the others, and the best learning rate differs from weight to weight.
    Constant features are left out. A first layer that is a norm is the cure, and no finding. Where a few wild
    samples make the standard deviations, that is another check's, ``outlier_sample``.

    What to do: standardize the features with the training data's mean and deviation, or start with a
    BatchNorm.

    Figure: the panel of the layer: variance per feature.
    Source: LeCun, Bottou, Orr, Mueller 1998, Efficient BackProp; standard practice.
    When it is wrong: scales that carry meaning; features that are nearly always 0.

    Attributes:
        ratio: least ratio of the largest standard deviation to the lower quartile that is reported.
        rows: least number of values per feature, and of kept samples that differ: two time steps say nothing
            of the scale of their embedding.
    """

    name: ClassVar[str] = "input_scale"
    title: ClassVar[str] = "Inputs on different scales"
    severity: ClassVar[Severity] = "warning"
    advice: ClassVar[str] = "Standardize the features, or let the model start with a BatchNorm."
    source: ClassVar[str] = "LeCun et al. 1998, Efficient BackProp"
    rule: ClassVar[str] = (
        "The largest standard deviation of a feature is more than {ratio} times the lower quartile, over "
        "{rows} different samples or more."
    )
    fitted: ClassVar[tuple[str, ...]] = ("ratio",)

    ratio: float = 100.0
    rows: int = 16

    def __call__(self, tables: Tables) -> list[Finding]:
        """The first layer, if it is a Linear and its features differ wildly in scale."""
        layers = inputs_and_outputs(tables)
        layer = first_to_read(layers)
        if layer is None:
            return []
        row = row_of(layers, layer, INPUT)
        value = feature_measures(tables)["scale_ratio"].get((layer, INPUT), 0.0)
        # Not `<=`: NaN, of features that do not vary, is no finding.
        if row["kind"] != "linear" or not value > self.ratio or made_by_few(tables, layer):
            return []
        if min(row["n_samples"], distinct_samples(tables, layer, INPUT)) < self.rows:
            return []
        features = rows_at(tables, "features", layer, INPUT)
        feature = int(features["feature"].iloc[int(features["variance"].argmax())])
        return [
            Finding(
                layer=layer,
                site=INPUT,
                feature=feature,
                statistic="largest standard deviation of a feature ÷ the lower quartile",
                value=value,
                threshold=self.ratio,
                message=f"Feature {feature} varies {format_number(value)} times as much as a quarter of the "
                f"features.",
                evidence="input:scale_ratio",
                affected=(layer,),
            )
        ]
