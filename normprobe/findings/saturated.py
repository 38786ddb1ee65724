"""The check of activations that have lost their shades."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from normprobe.findings.check import Check, Finding, Severity
from normprobe.findings.dead import inner
from normprobe.tables.measures.features import CONSTANT, feature_measures
from normprobe.vocabulary import INPUT

if TYPE_CHECKING:
    from normprobe.tables.frames import Tables


@dataclass(frozen=True, kw_only=True)
class SaturatedInput(Check):
    """What a Linear reads has lost its shades: an activation writes only its extreme values.

    After a saturated tanh or sigmoid all values stand at the two ends, and no gradient passes; after a ReLU
    driven far below 0 nearly all values are 0. The first is measured by how much mean |value| x largest
    |value| exceeds the mean square (0 when |value| is either 0 or the largest), where many features reach the
    largest: a single huge feature is another matter. The second is the share of zeros among the features that
    are not dead. Raw data, which may well be binary, are left out.

    What to do: look at the scale of the weights before the activation, and at the scale of the data.

    Figure: the panel of the layer: values before.
    Source: Glorot and Bengio 2010 (AISTATS 9:249); Voita, Ferrando, Nalmpantis, arXiv:2309.04827.
    When it is wrong: activations that are meant to be binary; large ReLU language models, of whose values
    95 % are 0.

    Attributes:
        shades: largest share of shades that is reported.
        zeros: least share of zeros that is reported.
        ends: least share of the features (two at least) that reach half of the largest |value|.
        rows: least number of values per feature.
    """

    name: ClassVar[str] = "saturated_input"
    title: ClassVar[str] = "Saturated activations"
    severity: ClassVar[Severity] = "warning"
    advice: ClassVar[str] = "Scale down the weights before the activation, or the data."
    source: ClassVar[str] = "AISTATS 9:249 (Glorot and Bengio 2010); arXiv:2309.04827"
    fitted: ClassVar[tuple[str, ...]] = ("shades", "zeros", "ends")

    shades: float = 0.05
    zeros: float = 0.99
    ends: float = 0.1
    rows: int = 16

    def __call__(self, tables: Tables) -> list[Finding]:
        """The first Linear that reads saturated values."""
        layers = inner(tables, self.rows)
        here = (layers["kind"] == "linear") & (layers.index.get_level_values("site") == INPUT)
        layers = layers[here & (layers["n_features"] > 1) & (layers["spread"] > CONSTANT)]
        measures = feature_measures(tables).reindex(layers.index)
        zeros, ends = measures["live_zeros"], measures["high_features"] * layers["n_features"]
        at_ends = (layers["shades"] < self.shades) & (
            ends >= (self.ends * layers["n_features"]).clip(lower=2)
        )
        wrong = layers[at_ends | (zeros > self.zeros)]
        if wrong.empty:
            return []
        layer, site = wrong.index[0]
        flat = bool(at_ends[(layer, site)])
        value = wrong["shades"].iloc[0] if flat else zeros[(layer, site)]
        return [
            Finding(
                layer=layer,
                site=site,
                statistic="1 - mean square ÷ (mean |value| x largest |value|)" if flat else "share of zeros",
                value=value,
                threshold=self.shades if flat else self.zeros,
                message="Nearly all values stand at the ends of their range."
                if flat
                else f"{value:.1%} of the values of the features that are not dead are 0.",
                evidence=f"{site}:{'shades' if flat else 'live_zeros'}",
                affected=tuple(wrong.index.get_level_values("layer")),
            )
        ]
