"""Checks of the few features, values and samples that are far larger than the rest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd

from normprobe.findings.check import Check, Finding, Severity
from normprobe.findings.samples import OutlierSample
from normprobe.formatting import format_count, format_number
from normprobe.tables.measures.by_site import by_site, numbers
from normprobe.tables.measures.common import at_site
from normprobe.tables.measures.layers import inner_sites
from normprobe.tables.measures.outliers import LEAST, ROWS, SHARE, TIMES, outlier_features
from normprobe.tables.measures.writers import writer
from normprobe.vocabulary import INPUT

if TYPE_CHECKING:
    from normprobe.tables.frames import Tables


@dataclass(frozen=True, kw_only=True)
class MassiveActivations(Check):
    """A few samples hold single values thousands of times larger than the median.

    Trained language models use them as fixed biases at the first token or a delimiter; they are known, and
    harm only quantization and fp16. The first norm that reads the largest of them is named, and beside it the
    layer that writes it: the last one executed before whose output already has the value in that feature.
    Where none has it, an operation between layers wrote it, or a hook of one's own, which the probe sees only
    in what the next layer reads.

    What to do: nothing for inference in bf16 or fp32; keep the writing layer out of 8-bit quantization.

    Figure: samples through depth; largest |value| before the norm.
    Source: Sun, Chen, Kolter, Liu, arXiv:2402.17762, whose two thresholds these are.
    When it is wrong: layers after a ReLU have a median of 0, and are left out. What a sample holds that is
    far larger than the rest already in the data is another check's, ``outlier_sample``.

    Attributes:
        least: a massive activation is larger than this,
        times: and larger than this times the median |value| of the kept rows,
        share: in at most this share of the kept samples.
    """

    name: ClassVar[str] = "massive_activations"
    title: ClassVar[str] = "Massive activations"
    severity: ClassVar[Severity] = "info"
    advice: ClassVar[str] = (
        "Nothing to do in bf16 or fp32: trained transformers have such values. Keep the layer that writes it "
        "out of 8-bit quantization."
    )
    source: ClassVar[str] = "arXiv:2402.17762"
    matters: ClassVar[str] = "if you quantize"
    rule: ClassVar[str] = (
        "A |value| is above {least} and {times} times the median |value| of the kept rows, in at most "
        "{share:%} of the kept samples."
    )
    fitted: ClassVar[tuple[str, ...]] = ("share",)

    least: float = 100.0
    times: float = 1000.0
    share: float = 0.25

    def __call__(self, tables: Tables) -> list[Finding]:
        """The first norm (without norms: Linear) that reads the largest massive activation."""
        layers = at_site(inner_sites(tables, 2), INPUT)
        layers = layers[(layers["abs_max"] > self.least) & (layers["abs_ratio"] > self.times)]
        if layers.empty:
            return []
        layers = layers[self._few(tables, layers)]
        # Norms read the residual stream itself; a Linear reads what a norm has made of it.
        norms = layers[layers["kind"] != "linear"]
        layers = layers if norms.empty else norms
        if layers.empty:
            return []
        # The value is handed on from norm to norm; the first that reads half of it is nearest to its source.
        first: Any = layers[layers["abs_max"] >= 0.5 * layers["abs_max"].max()].iloc[0]
        if _is_of_wild_sample(tables, first):
            return []
        layer, feature = str(first.name), int(first["abs_max_feature"])
        wrote = writer(tables, layer, feature, first["abs_max"])
        return [
            Finding(
                layer=layer,
                site=INPUT,
                feature=feature,
                example=first["abs_max_example"],
                position=first["abs_max_position"],
                statistic="largest |value|",
                value=first["abs_max"],
                threshold=max(self.least, self.times * first["abs_median"]),
                written_by=wrote,
                message=f"{format_number(first['abs_max'])} in feature {feature}, "
                f"{format_number(first['abs_ratio'])} times the median |value|"
                + (f", written by {wrote}." if wrote else "; an operation between layers wrote it."),
                evidence="input:abs_max",
                affected=tuple(layers.index),
            )
        ]

    def _few(self, tables: Tables, layers: pd.DataFrame) -> pd.Series:
        """Whether massive activations stand in few of the kept samples, by layer."""
        samples, sites = tables.samples, by_site(tables, "samples")
        least, most = numbers(samples, "min"), numbers(samples, "max")
        limit = (self.times * layers["abs_median"]).clip(lower=self.least)
        limits = limit.reindex(sites.index.get_level_values("layer")).to_numpy(dtype="float64")
        large = np.fmax(-least, most) > sites.of(limits)
        share = at_site(pd.Series(sites.mean(large.astype(np.float64)), index=sites.index), INPUT)
        # Of a layer without a kept sample there is nothing to say against it.
        return share.reindex(layers.index).fillna(0) <= self.share


def _is_of_wild_sample(tables: Tables, row: Any) -> bool:
    """Whether a value is of a sample that is far larger than the rest already in the data."""
    return any(
        not pd.isna(wild.example) and wild.example == row["abs_max_example"]
        for wild in OutlierSample()(tables)
    )


@dataclass(frozen=True, kw_only=True)
class OutlierFeatures(Check):
    """A few features are far larger than the median feature, in whatever sample.

    Trained transformers keep a handful of such features through all layers. They set the scale of 8-bit
    quantization and leave the other features few levels. The worst layer is named, and beside it the layer
    that writes the feature. recording.outliers() and outliers.csv list them all, those of outputs, too.

    What to do: before quantizing to 8 bit keep these features in 16 bit, or divide them by a factor in the
    layer that writes them and multiply this layer's weights for them by the same factor.

    Figure: the outlier map.
    Source: Dettmers et al., arXiv:2208.07339. Their rule, |value| > 6, is one of what to keep in 16 bit:
    alone it fires in nearly every healthy model. So few features and a ratio to the median feature are
    required too. When it is wrong: it is a property of the model, not a fault.

    With few rows the median feature's largest |value| is too small, and too many layers are named: of
    MiniLM-L6 40 of 50 layers at 3 tokens, 25 to 27 at 12, 19 at 24, 16 to 19 at 32, 16 or 17 from 48 to 512
    and 13 or 14 at 2,000; of SmolLM2-135M too few, 97 to 114 of 272 at 3 tokens, 129 to 139 at 24, 130 to 145
    from 32 to 512 and 118 at 1,000 (three draws of texts).

    Attributes:
        least: an outlier feature reaches at least this |value|,
        times: and this times the median feature's largest |value|,
        share: and at most this share of the features (one at least) does.
        rows: least number of values per feature.
    """

    name: ClassVar[str] = "outlier_features"
    title: ClassVar[str] = "Outlier features"
    severity: ClassVar[Severity] = "info"
    advice: ClassVar[str] = (
        "recording.outliers() and outliers.csv list the features of every layer: before quantizing, keep "
        "them in 16 bit, or scale them down where they are written."
    )
    source: ClassVar[str] = "arXiv:2208.07339"
    matters: ClassVar[str] = "if you quantize"
    rule: ClassVar[str] = (
        "A feature is an outlier if it reaches {least} and {times} times the median feature, and at most "
        "{share:%} of the features (one at least) do, over {rows} values per feature or more."
    )
    fitted: ClassVar[tuple[str, ...]] = ("times", "share")

    least: float = LEAST
    times: float = TIMES
    share: float = SHARE
    rows: int = ROWS

    def __call__(self, tables: Tables) -> list[Finding]:
        """The layer whose worst feature stands out most."""
        found = outlier_features(tables, least=self.least, times=self.times, share=self.share, rows=self.rows)
        hits = found[found["site"] == INPUT]
        if hits.empty:
            return []
        worst: Any = hits.iloc[int(hits["ratio"].argmax())]
        layer = str(worst["layer"])
        affected = tuple(dict.fromkeys(map(str, hits["layer"])))
        others = f"; {format_count(len(affected), 'layer')} have such features" if len(affected) > 1 else ""
        return [
            Finding(
                layer=layer,
                site=INPUT,
                feature=int(worst["feature"]),
                statistic="largest |value| ÷ the median feature's",
                value=worst["ratio"],
                threshold=self.times,
                written_by=writer(tables, layer, int(worst["feature"]), worst["abs_max"]),
                message=f"Feature {worst['feature']} reaches {format_number(worst['abs_max'])}, "
                f"{format_number(worst['ratio'])} times the median feature{others}.",
                evidence="input:feature_ratio",
                affected=affected,
            )
        ]
