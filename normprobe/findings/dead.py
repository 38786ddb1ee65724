"""Checks of features that carry nothing: zero, constant, or saturated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from normprobe.findings.frame import Check, Finding, Severity, named
from normprobe.findings.measures import CONSTANT, feature_measures, features_with_peaks, layer_measures

if TYPE_CHECKING:
    import pandas as pd

    from normprobe.tables import Tables


def inner(tables: Tables, rows: int) -> pd.DataFrame:
    """Return the measures of the sites that read no raw data and hold at least ``rows`` samples."""
    layers = layer_measures(tables)
    raw = (layers["depth"] == 0).to_numpy() & (layers.index.get_level_values("site") == "input")
    return layers[~raw & (layers["n_samples"] >= rows).to_numpy()]


@dataclass(frozen=True, kw_only=True)
class DeadFeatures(Check):
    """Many of the features that a layer reads are 0 in every sample: their units are dead.

    A unit before a ReLU (or a GELU that rounds to exactly 0) whose value is negative for all data passes on
    nothing and learns nothing. Some always are: a good ReLU network was measured with 23 % of them. The layer
    that reads the zeros is named, and beside it the layer that writes them, whose outputs are never positive.

    What to do: look at the writing layer's bias and learning rate; a large step pushes biases far below 0.

    Figure: the panel of the layer: variance per feature, where dead ones are counted as "near 0".
    Source: Voita, Ferrando, Nalmpantis, arXiv:2309.04827.
    When it is wrong: few samples, or samples all of one sort.

    Attributes:
        share: Least share of dead features that is reported.
        samples: Least number of samples at the layer.
    """

    name: ClassVar[str] = "dead_features"
    title: ClassVar[str] = "Dead features"
    severity: ClassVar[Severity] = "warning"
    advice: ClassVar[str] = "Look at the bias and the learning rate of the layer before the activation."
    source: ClassVar[str] = "arXiv:2309.04827"

    share: float = 0.5
    samples: int = 16

    def __call__(self, tables: Tables) -> list[Finding]:
        """Return the first layer that reads mostly dead features."""
        layers = inner(tables, self.samples)
        share = feature_measures(tables)["zero_features"].reindex(layers.index)
        dead = share[(share >= self.share) & (share.index.get_level_values("site") == "input")]
        if dead.empty:
            return []
        layer = str(dead.index[0][0])
        wrote = _never_positive(tables, layer)
        return [
            Finding(
                layer=layer,
                site="input",
                statistic="share of features that are 0 in every sample",
                value=dead.iloc[0],
                threshold=self.share,
                written_by=wrote,
                message=f"{dead.iloc[0]:.0%} of the features are 0 in every sample"
                + (f"; {wrote} never writes a positive value there." if wrote else "."),
                evidence="input:zero_features",
                affected=tuple(dead.index.get_level_values("layer")),
            )
        ]


def _never_positive(tables: Tables, layer: str) -> str:
    """Return the last layer before ``layer`` whose output is never positive where ``layer`` reads zeros."""
    features = features_with_peaks(tables)
    read = features[(features["layer"] == layer) & (features["site"] == "input")]
    dead = read.loc[read["zero"], "feature"]
    layers = tables.layers[tables.layers["site"] == "output"].set_index("layer")
    depth = tables.layers.set_index(["layer", "site"]).at[(layer, "input"), "depth"]
    before = layers[(layers["depth"] < depth) & (layers["n_features"] == len(read))]
    for name in before.sort_values("depth", ascending=False).index:
        wrote = features[(features["layer"] == name) & (features["site"] == "output")].set_index("feature")
        if (wrote["max"].reindex(dead) <= 0).all():
            return str(name)
    return ""


@dataclass(frozen=True, kw_only=True)
class ConstantFeatures(Check):
    """Many features around a norm do not vary: channels that carry nothing, or that a zero weight removes.

    Before the norm a constant feature says that the layers above write the same value for all data; after it,
    that its weight is 0. Sites that are constant throughout are another check's, ``collapsed_samples``.

    What to do: prune the channels, or find out which layer stopped writing them.

    Figure: the panel of the norm: variance per feature before and after, where they are counted as "near 0".
    Source: Voita, Ferrando, Nalmpantis, arXiv:2309.04827.
    When it is wrong: a network pruned by channels; norms whose weights start at 0 and were never trained.

    Attributes:
        share: Least share of constant features that is reported.
        samples: Least number of samples at the layer.
    """

    name: ClassVar[str] = "constant_features"
    title: ClassVar[str] = "Constant features"
    severity: ClassVar[Severity] = "warning"
    advice: ClassVar[str] = "Find the layer that stopped writing these features, or prune them."
    source: ClassVar[str] = "arXiv:2309.04827"

    share: float = 0.2
    samples: int = 16

    def __call__(self, tables: Tables) -> list[Finding]:
        """Return the first norm with mostly constant features."""
        layers = inner(tables, self.samples)
        norms = layers[layers["kind"] != "linear"]
        share = feature_measures(tables)["constant_features"].reindex(norms.index)
        constant = share[(share >= self.share) & (share < 1)]
        if constant.empty:
            return []
        layer, site = constant.index[0]
        affected = tuple(dict.fromkeys(constant.index.get_level_values("layer")))
        place = "before" if site == "input" else "after"
        return [
            Finding(
                layer=layer,
                site=site,
                statistic="share of features that do not vary",
                value=constant.iloc[0],
                threshold=self.share,
                message=f"{constant.iloc[0]:.0%} of the features {place} the norm do not vary over the "
                f"samples; so it is at {named(affected, 'norm')}.",
                evidence=f"{site}:constant_features",
                affected=affected,
            )
        ]


@dataclass(frozen=True, kw_only=True)
class SaturatedInput(Check):
    """What a Linear reads has lost its shades: an activation writes only its extreme values.

    After a saturated tanh or sigmoid all values stand at the two ends, and no gradient passes; after a ReLU
    driven far below 0 nearly all values are 0. The first is measured by how much mean |value| x largest
    |value| exceeds the mean square (0 when |value| is either 0 or the largest), the second by the share of
    zeros among the features that are not dead. Raw data, which may well be binary, are left out.

    What to do: look at the scale of the weights before the activation, and at the scale of the data.

    Figure: the panel of the layer: values before.
    Source: Glorot and Bengio 2010 (AISTATS 9:249); Voita, Ferrando, Nalmpantis, arXiv:2309.04827.
    When it is wrong: activations that are meant to be binary; large ReLU language models, of whose values
    95 % are 0.

    Attributes:
        shades: Largest share of shades that is reported.
        zeros: Least share of zeros that is reported.
        samples: Least number of samples at the layer.
    """

    name: ClassVar[str] = "saturated_input"
    title: ClassVar[str] = "Saturated activations"
    severity: ClassVar[Severity] = "warning"
    advice: ClassVar[str] = "Scale down the weights before the activation, or the data."
    source: ClassVar[str] = "AISTATS 9:249 (Glorot and Bengio 2010); arXiv:2309.04827"

    shades: float = 0.05
    zeros: float = 0.99
    samples: int = 16

    def __call__(self, tables: Tables) -> list[Finding]:
        """Return the first Linear that reads saturated values."""
        layers = inner(tables, self.samples)
        here = (layers["kind"] == "linear") & (layers.index.get_level_values("site") == "input")
        layers = layers[here & (layers["n_features"] > 1) & (layers["spread"] > CONSTANT)]
        zeros = feature_measures(tables)["live_zeros"].reindex(layers.index)
        wrong = layers[(layers["shades"] < self.shades) | (zeros > self.zeros)]
        if wrong.empty:
            return []
        layer, site = wrong.index[0]
        flat = wrong["shades"].iloc[0] < self.shades
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
