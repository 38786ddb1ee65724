"""The check of whether samples stay different."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import pandas as pd

from normprobe.findings.check import Check, Finding, Severity
from normprobe.findings.collapse_start import collapsed
from normprobe.formatting import format_number
from normprobe.tables.measures.by_site import rows_at
from normprobe.tables.measures.common import row_of
from normprobe.tables.measures.layers import inputs_and_outputs
from normprobe.tables.measures.samples import example_measures
from normprobe.vocabulary import INPUT, OUTPUT

if TYPE_CHECKING:
    from normprobe.tables.frames import Tables


@dataclass(frozen=True, kw_only=True)
class CollapsedSamples(Check):
    """All samples have become the same: what follows cannot tell them apart.

    Compared are the variance over samples and the mean square, over all features of a site. The first layer
    is named from which on most sites are collapsed; a single layer that reads a constant, such as the
    embedding of one time step, is not. Where the positions of an example differ but the examples are all the
    same, already in what the first layer reads, that layer is named.

    What to do: where the named layer's input varies, look at its own weight and bias; else at what writes its
    input: weights of zero, an attention that averages everything, a large common value added to all samples,
    or data that are all the same.

    Figure: the panel of the layer: variance per feature.
    Source: Noci et al., arXiv:2206.03126.
    When it is wrong: the data are the same sample repeated on purpose.

    Attributes:
        spread: largest share of the mean square that varies over samples that is reported.
        samples: least number of samples at the layer, or of examples.
        rest: least share of the later sites that must be collapsed as well.
        equal: largest such share over examples, at the same position, of the moments of samples: rounding.
    """

    name: ClassVar[str] = "collapsed_samples"
    title: ClassVar[str] = "All samples are the same"
    severity: ClassVar[Severity] = "warning"
    advice: ClassVar[str] = (
        "Look at what writes this input: weights of 0, or a large value common to all samples."
    )
    source: ClassVar[str] = "arXiv:2206.03126"
    rule: ClassVar[str] = (
        "At most a share of {spread} of the mean square varies over samples, at this site and at {rest:%} "
        "of the later ones, of {samples} samples or more; or, already in what the first layer reads, at "
        "most {equal} over examples at the same position."
    )
    fitted: ClassVar[tuple[str, ...]] = ("spread",)

    spread: float = 1e-4
    samples: int = 4
    rest: float = 0.5
    equal: float = 1e-8

    def __call__(self, tables: Tables) -> list[Finding]:
        """The first site from which on samples are the same."""
        # In order of execution, as the first site is named.
        data = example_measures(tables).reindex(inputs_and_outputs(tables).index)
        same = data["example_spread"][data["examples"] >= self.samples] < self.equal
        # First: where examples are equal from the start, what collapses later has that cause.
        if not same.empty and same.iloc[0] and same.mean() >= self.rest:
            return [self._examples(same, float(data.loc[same.index[0], "example_spread"]))]
        lost = collapsed(tables, spread=self.spread, samples=self.samples, rest=self.rest)
        if lost.empty:
            return []
        layer, site = map(str, lost[0])
        value = float(row_of(inputs_and_outputs(tables), layer, site)["spread"])
        return [
            Finding(
                layer=layer,
                site=site,
                statistic="variance over samples ÷ mean square",
                value=value,
                threshold=self.spread,
                message=f"The {site} is the same for every sample, from this layer on"
                + (f": {format_number(value)} of its mean square varies." if value > 0 else "."),
                advice=_advice(tables, layer, site, self.spread),
                evidence=f"{site}:spread",
                # Once, though a layer may be there with both sites.
                affected=tuple(dict.fromkeys(lost.get_level_values("layer"))),
            )
        ]

    def _examples(self, same: pd.Series, value: float) -> Finding:
        layer, site = map(str, same.index[0])
        return Finding(
            layer=layer,
            site=site,
            statistic="variance over examples ÷ mean square, of the moments of samples at one position",
            value=value,
            threshold=self.equal,
            message="The first layer reads the same in all examples: they are the same from the start.",
            advice="Look at the data and how they are batched, and at the embedding or convolution before.",
            evidence=f"{site}:example_spread",
            affected=tuple(dict.fromkeys(same.index[same].get_level_values("layer"))),
        )


_SCALED = 1e-3
"""A Linear that keeps this share of the variance over samples has weights: its bias is what is too large."""


def _advice(tables: Tables, layer: str, site: str, spread: float) -> str | None:
    """What to look at where samples become the same; None where it lies before the layer."""
    layers = inputs_and_outputs(tables)
    if site == INPUT:
        first = (layer, site) == layers.index[0]
        return "Look at the data: no measured layer runs before this one." if first else None
    wrote = row_of(layers, layer, OUTPUT)
    read = row_of(layers, layer, INPUT) if (layer, INPUT) in layers.index else None
    if read is None or not read["spread"] >= spread:
        return None
    if wrote["kind"] != "linear":
        rows = rows_at(tables, "features", layer, OUTPUT)
        if len(rows) and bool(rows["weight"].eq(0).all()):
            return "This norm's own weight is 0 in every feature: compare it with the original checkpoint."
        return "Look at this norm's own weight and bias: its input varies over samples."
    if wrote["within_feature_variance"] > _SCALED * read["within_feature_variance"]:
        return (
            "This layer's bias outweighs what it makes of its input, whose RMS is "
            f"{format_number(read['rms'])}: look at the scale of the input, and at the bias."
        )
    return "This layer's own weights are 0 or nearly so: its input varies over samples."
