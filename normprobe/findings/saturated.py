"""The check of activations that take only their extreme values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pandas as pd

from normprobe.errors import NoSamplesError
from normprobe.findings.batchnorm_mode import batch_norms
from normprobe.findings.check import Check, Finding, Severity
from normprobe.tables.measures.by_site import rows_at
from normprobe.tables.measures.features import CONSTANT, feature_measures
from normprobe.tables.measures.layers import inner_sites
from normprobe.vocabulary import INPUT

if TYPE_CHECKING:
    from normprobe.tables.frames import Tables


@dataclass(frozen=True, kw_only=True)
class SaturatedInput(Check):
    """What a Linear reads takes only extreme values: the activation before it is saturated.

    After a saturated tanh or sigmoid all values stand at the two ends, and no gradient passes; after a ReLU
    driven far below 0 nearly all values are 0. The first is measured by how much mean |value| x largest
    |value| exceeds the mean square (0 when |value| is either 0 or the largest), where many features reach the
    largest: a single huge feature is another matter. The second is the share of zeros among the features that
    are not dead. Raw data, which may well be binary, are left out, and so are codes (no more than four
    distinct values in the kept rows), the probabilities of a softmax, values that are all at one and the same
    end, and what follows from a BatchNorm over two or three values, which another check reports,
    ``small_batch_statistics``.

    What to do: look at the scale of the weights before the activation, and at the scale of the data.

    Figure: the panel of the layer: values before.
    Source: Glorot and Bengio 2010 (AISTATS 9:249); Voita, Ferrando, Nalmpantis, arXiv:2309.04827.
    When it is wrong: activations that are meant to be binary; large ReLU language models, of whose values
    95 % are 0.

    Attributes:
        shades: largest share by which the mean square may fall short of that of extreme values alone.
        zeros: least share of zeros that is reported.
        ends: least share of the features (two at least) that reach half of the largest |value|.
        rows: least number of values per feature.
    """

    name: ClassVar[str] = "saturated_input"
    title: ClassVar[str] = "Saturated activations"
    severity: ClassVar[Severity] = "warning"
    advice: ClassVar[str] = "Scale down the weights before the activation, or the data."
    source: ClassVar[str] = "AISTATS 9:249 (Glorot and Bengio 2010); arXiv:2309.04827"
    rule: ClassVar[str] = (
        "More than {zeros:%} of the values of live features are 0; or the mean square falls short of mean "
        "|value| x largest |value| by less than {shades:%} (by 0 % where every |value| is 0 or the largest), "
        "while {ends:%} of the features, two at least, reach half of the largest. Over {rows} values per "
        "feature or more."
    )
    fitted: ClassVar[tuple[str, ...]] = ("shades", "zeros", "ends")

    shades: float = 0.05
    zeros: float = 0.99
    ends: float = 0.1
    rows: int = 16

    def __call__(self, tables: Tables) -> list[Finding]:
        """The first Linear that reads saturated values."""
        layers = inner_sites(tables, self.rows)
        here = (layers["kind"] == "linear") & (layers.index.get_level_values("site") == INPUT)
        # One feature is all ends; a site that is constant is another check's.
        layers = layers[here & (layers["n_features"] > 1) & (layers["spread"] > CONSTANT)]
        measures = feature_measures(tables).reindex(layers.index)
        zeros, ends = measures["live_zeros"], measures["high_features"] * layers["n_features"]
        # Values that are all alike are at one end: nothing was saturated to tell two of them apart.
        two_ends = layers["variance"] > _ALIKE * layers["mean_square"]
        at_ends = (layers["shades"] < self.shades) & two_ends
        at_ends &= ends >= (self.ends * layers["n_features"]).clip(lower=2)
        wrong = layers[at_ends | (zeros > self.zeros)]
        wrong = wrong[[not _by_design(tables, wrong.loc[where], str(where[0])) for where in wrong.index]]
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


_ALIKE = 0.01
"""Values whose variance is a smaller share of their mean square are taken for one and the same."""
_CODES, _ENOUGH = 4, 32
"""Most distinct values of codes (binary, ternary), among at least so many kept values."""
_FEW_VALUES = 4
"""A batch norm over fewer values writes little else than its two ends."""


def _by_design(tables: Tables, row: pd.Series, layer: str) -> bool:
    """Whether what a Linear reads stands at its ends for another reason than saturation."""
    return _are_codes(tables, layer) or _is_softmax(tables, row, layer) or _after_few_values(tables, row)


def _are_codes(tables: Tables, layer: str) -> bool:
    """Whether the kept rows hold very few distinct values, none in between: signs, levels of a quantizer."""
    try:
        values = tables.values(layer, INPUT)
    except NoSamplesError:
        return False
    values = values[np.isfinite(values)]
    # A straight-through estimator adds and subtracts, so levels are equal to rounding only.
    largest = np.abs(values).max(initial=0.0)
    levels = np.unique(np.round(values / largest, 5)) if largest else values
    return values.size >= _ENOUGH and len(levels) <= _CODES


def _is_softmax(tables: Tables, row: pd.Series, layer: str) -> bool:
    """Whether the values are probabilities: of each sample they add up to 1, or over the samples alike."""
    if row["min"] < 0 or row["max"] > 1 + 1e-3:
        return False
    samples = rows_at(tables, "samples", layer, INPUT)
    sums = samples["mean"] * row["n_features"]
    # A softmax over positions (attention) gives every feature the mean 1 / positions.
    features = rows_at(tables, "features", layer, INPUT)
    means = features["mean"]
    alike = bool(means.max() - means.min() <= 1e-3 * means.mean())
    return bool(len(sums)) and (bool((np.abs(sums - 1) < 1e-2).all()) or alike)


def _after_few_values(tables: Tables, row: pd.Series) -> bool:
    """Whether a batch norm before, of as many features, normalized over two or three values in train mode."""
    norms = batch_norms(tables)
    few = norms[
        norms["trains"] & (norms["values"] < _FEW_VALUES) & (norms["n_features"] == row["n_features"])
    ]
    depth = tables.layers.drop_duplicates("layer").set_index("layer")["depth"]
    return bool((depth.reindex(few.index) < row["depth"]).any())
