"""Checks of what depth does to the scale of the activations, and whether samples stay different."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from normprobe.findings.frame import Check, Finding, Severity, number
from normprobe.findings.measures import gain_measures, layer_measures, sample_measures

if TYPE_CHECKING:
    from normprobe.tables import Tables

SLOPE_SOURCE = "arXiv:1803.01719; arXiv:2502.05795"


@dataclass(frozen=True, kw_only=True)
class _VarianceDepth(Check):
    """What the two checks of variance over depth share.

    Attributes:
        trend: Least (decades per layer) x (decades in all) of a steady change that is reported.
        jump: Least decades between the gain of one Linear and the model's median gain that are reported.
        layers: Least number of layers that a trend or a median is taken over.
        numbers: Least numbers (samples x features) of a typical layer: the variance of fewer is chance.
    """

    source: ClassVar[str] = SLOPE_SOURCE
    sign: ClassVar[int]
    verb: ClassVar[str]

    trend: float = 3.5
    jump: float = 2.2
    layers: int = 3
    numbers: int = 32

    def __call__(self, tables: Tables) -> list[Finding]:
        """Return the layer that is out of scale, or else the steepest step of a steady change."""
        measured = layer_measures(tables)
        if not (measured["n_samples"] * measured["n_features"]).median() >= self.numbers:
            return []
        return self._jumps(tables) or self._trends(tables)

    def _jumps(self, tables: Tables) -> list[Finding]:
        gains = gain_measures(tables).droplevel("site")
        if len(gains) < self.layers:
            return []
        gain, decades = gains["gain"], (self.sign * np.log10(gains / gains.median())).min(axis=1)
        if not decades.max() > self.jump:
            return []
        layer = str(decades.idxmax())
        far = tuple(decades.index[decades > self.jump])
        return [
            Finding(
                layer=layer,
                site="output",
                statistic="mean square of the output ÷ of the input, median sample",
                value=gain[layer],
                threshold=gain.median() * 10 ** (self.sign * self.jump),
                message=f"This Linear multiplies the mean square by {number(gain[layer])}, the median "
                f"Linear of "
                f"the model by {number(gain.median())}.",
                evidence="output:gain",
                affected=far,
            )
        ]

    def _trends(self, tables: Tables) -> list[Finding]:
        site, measure, values = _stream(tables)
        values = values[values > 0]
        if len(values) < self.layers:
            return []
        logs = np.log10(values.to_numpy(dtype="float64"))
        slope = self.sign * _theil_sen(logs)
        total = slope * (len(logs) - 1)
        if slope <= 0 or slope * total < self.trend:
            return []
        steps = self.sign * np.diff(logs)
        layer = str(values.index[int(steps.argmax()) + 1])
        return [
            Finding(
                layer=layer,
                site=site,
                statistic=f"factor of the variance over {len(logs)} layers",
                value=10 ** (self.sign * total),
                threshold=10 ** (self.sign * self.trend / slope),
                message=f"The variance {self.verb} {number(10**slope)} times per layer, "
                f"{number(10**total)} times "
                f"over {len(logs)} layers; the largest step is here.",
                evidence=f"{site}:{measure}",
                affected=tuple(values.index),
            )
        ]


def _stream(tables: Tables) -> tuple[str, str, pd.Series]:
    """Return the series whose trend counts: what norms read, or what Linear layers write if there is none.

    The first norm is left out: it reads embeddings, which are small by initialization. So is the last Linear
    of a model without norms: a trained classifier's logits are large.
    """
    layers = layer_measures(tables)
    norms = layers[(layers["kind"] != "linear") & (layers.index.get_level_values("site") == "input")]
    if not norms.empty:
        squares = sample_measures(tables)["sample_square"].reindex(norms.index)
        return "input", "sample_square", squares.droplevel("site").iloc[1:]
    linear = layers[layers.index.get_level_values("site") == "output"]
    return "output", "within_feature_variance", linear["within_feature_variance"].droplevel("site").iloc[:-1]


def _theil_sen(values: NDArray[np.float64]) -> float:
    """Return the median slope over all pairs: one odd layer, or roles that alternate, do not move it."""
    first, second = np.triu_indices(len(values), k=1)
    return float(np.median((values[second] - values[first]) / (second - first)))


@dataclass(frozen=True, kw_only=True)
class VarianceExplodes(_VarianceDepth):
    """The activations grow with depth far faster than in healthy networks, or one layer is out of scale.

    The series is what norms read (the residual stream) of the median sample, or in a model without norms what
    its Linear layers write. Growth alone is healthy: a pre-LN stream grows 1.6 to 1.8 times a norm, a trained
    MLP up to 7 times a layer over four layers. So the slope times the total is held against a threshold, in
    decades. A single layer counts if its gain stands out from the model's median gain.

    What to do: look at the named layer's weights; at initialization, scale weights by the square root of 2 /
    inputs before a ReLU, or put a norm before each block.

    Figure: norms over depth, top chart; Linear by role.
    Source: Hanin and Rolnick, arXiv:1803.01719; for pre-LN growth arXiv:2502.05795.
    When it is wrong: a head that is meant to write large numbers.

    Attributes:
        trend: Least (decades per layer) x (decades in all) of a steady change that is reported.
        jump: Least decades between the gain of one Linear and the model's median gain that are reported.
        layers: Least number of layers that a trend or a median is taken over.
    """

    name: ClassVar[str] = "variance_explodes"
    title: ClassVar[str] = "Variance explodes with depth"
    severity: ClassVar[Severity] = "warning"
    advice: ClassVar[str] = (
        "Look at this layer's weights and their initialization, or put a norm before the block."
    )
    sign: ClassVar[int] = 1
    verb: ClassVar[str] = "grows"


@dataclass(frozen=True, kw_only=True)
class VarianceVanishes(_VarianceDepth):
    """The activations shrink with depth until nothing of the input is left, or one layer is out of scale.

    The series is that of ``variance_explodes``; in a model without norms it is the variance over samples,
    since biases keep the plain variance up long after the samples have become the same. Branches that write
    exactly 0, as some are initialized, do not count.

    What to do: look at the named layer's weights; at initialization, scale weights by the square root of
    2 / inputs before a ReLU, or add norms or residual connections.

    Figure: norms over depth, top chart; Linear by role.
    Source: Hanin and Rolnick, arXiv:1803.01719; arXiv:2502.05795.
    When it is wrong: a branch that is meant to start small.

    Attributes:
        trend: Least (decades per layer) x (decades in all) of a steady change that is reported.
        jump: Least decades between the gain of one Linear and the model's median gain that are reported.
        layers: Least number of layers that a trend or a median is taken over.
    """

    name: ClassVar[str] = "variance_vanishes"
    title: ClassVar[str] = "Variance vanishes with depth"
    severity: ClassVar[Severity] = "warning"
    advice: ClassVar[str] = (
        "Look at this layer's weights and their initialization, or add a norm or a residual."
    )
    sign: ClassVar[int] = -1
    verb: ClassVar[str] = "shrinks"

    trend: float = 5.0
    jump: float = 3.0


@dataclass(frozen=True, kw_only=True)
class CollapsedSamples(Check):
    """All samples have become the same: what follows cannot tell them apart.

    Compared are the variance over samples and the mean square, over all features of a site. The first layer
    is named from which on most sites are collapsed; a single layer that reads a constant, such as the
    embedding of one time step, is not.

    What to do: look at what the named layer reads: weights of zero, an attention that averages everything, a
    large common value added to all samples, or data that are all the same.

    Figure: the panel of the layer: variance per feature.
    Source: Noci et al., arXiv:2206.03126.
    When it is wrong: the data are the same sample repeated.

    Attributes:
        spread: Largest share of the mean square that varies over samples that is reported.
        samples: Least number of samples at the layer.
        rest: Least share of the later sites that must be collapsed as well.
    """

    name: ClassVar[str] = "collapsed_samples"
    title: ClassVar[str] = "All samples are the same"
    severity: ClassVar[Severity] = "warning"
    advice: ClassVar[str] = "Look at the weights just before: zeros, or a large value common to all samples."
    source: ClassVar[str] = "arXiv:2206.03126"

    spread: float = 1e-4
    samples: int = 4
    rest: float = 0.5

    def __call__(self, tables: Tables) -> list[Finding]:
        """Return the first site from which on samples are the same."""
        layers = layer_measures(tables)
        layers = layers[layers["n_samples"] >= self.samples]
        same = (layers["spread"] < self.spread).to_numpy()
        later = same[::-1].cumsum()[::-1] / np.arange(len(same), 0, -1)
        lost = layers[same & (later >= self.rest)]
        if lost.empty:
            return []
        layer, site = lost.index[0]
        affected = tuple(dict.fromkeys(layers.index[same].get_level_values("layer")))
        return [
            Finding(
                layer=layer,
                site=site,
                statistic="variance over samples ÷ mean square",
                value=lost["spread"].iloc[0],
                threshold=self.spread,
                message=f"Of the mean square of the {site} only a share of "
                f"{number(lost['spread'].iloc[0])} varies "
                "over samples: they are all the same from here on.",
                evidence=f"{site}:spread",
                affected=affected,
            )
        ]
