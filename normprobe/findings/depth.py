"""Checks of what depth does to the scale of the activations, and whether samples stay different."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from normprobe.findings.check import Check, Finding, Severity
from normprobe.formatting import format_count, format_number, role_of, spots
from normprobe.tables.measures.common import at_site, cached, row_of
from normprobe.tables.measures.layers import gain_measures, inputs_and_outputs, layer_measures
from normprobe.tables.measures.residual import STREAM, stream_measures
from normprobe.tables.measures.running_statistics import never_updated
from normprobe.tables.measures.samples import sample_measures
from normprobe.vocabulary import INPUT, OUTPUT

if TYPE_CHECKING:
    from normprobe.tables.frames import Tables

SLOPE_SOURCE = "arXiv:1803.01719; arXiv:2502.05795"

_BLOCKS = 3
"""Fewest blocks of a model whose norms say something of depth."""


@dataclass(frozen=True, kw_only=True)
class _VarianceDepth(Check):
    """What the two checks of variance over depth share.

    Attributes:
        trend: least (decades per layer) x (decades in all) of a steady change that is reported.
        jump: least decades between the gain of one Linear and the model's median gain that are reported.
        peers: least decades between its gain and that of the same Linear in the other blocks,
        twin: or in the one other block of a model of two.
        layers: least number of layers that a trend or a median is taken over.
        numbers: least numbers (samples x features) of a typical layer: the variance of fewer is chance.
    """

    source: ClassVar[str] = SLOPE_SOURCE
    rule: ClassVar[str] = (
        "A steady change counts where decades per layer x decades in all exceed {trend}, over {layers} "
        "layers at least. One Linear counts where its factor lies 10^{jump} beyond that of the model's "
        "median Linear, or 10^{peers} beyond that of the same Linear in the other blocks (10^{twin} where "
        "there is one other). A typical layer must have {numbers} numbers."
    )
    fitted: ClassVar[tuple[str, ...]] = ("trend", "jump", "peers", "twin")
    sign: ClassVar[int]
    verb: ClassVar[str]
    what: ClassVar[str]
    measures: ClassVar[tuple[str, ...]]
    by_role: ClassVar[bool] = False

    trend: float = 2.5
    jump: float = 2.2
    peers: float = 1.7
    twin: float = 1.0
    layers: int = 3
    numbers: int = 32

    def __call__(self, tables: Tables) -> list[Finding]:
        """The layer that is out of scale, or else the steepest step of a steady change."""
        measured = inputs_and_outputs(tables)
        # Not `<`: the median of nothing is NaN.
        if not (measured["n_samples"] * measured["n_features"]).median() >= self.numbers:
            return []
        # Batch norms that still hold 0 and 1 do not normalize: a trend follows from that, which is a finding.
        return self._jumps(tables) or ([] if never_updated(tables) else self._trends(tables))

    def _jumps(self, tables: Tables) -> list[Finding]:
        gains = gain_measures(tables).droplevel("site")
        if len(gains) < self.layers:
            return []
        beside = self._beside(gains)
        beyond = beside[beside["beyond"] > 0]
        if self.sign < 0:  # behind the last Linear of a chain nothing can vanish; heads are started small
            inner = np.array([not _is_last(tables, str(name)) for name in beyond.index], dtype=bool)
            beyond = beyond[beyond["peers"].to_numpy(bool) | inner]
        if beyond.empty:
            return []
        layer = str(beyond["beyond"].idxmax())
        row: Any = beyond.loc[layer]
        others = "the same Linear in other blocks" if row["peers"] else "the median Linear of the model"
        return [
            Finding(
                layer=layer,
                site=OUTPUT,
                statistic=f"{self.what} of the output ÷ of the input",
                value=row["gain"],
                threshold=row["bound"],
                message=f"This Linear multiplies the {self.what} by {format_number(row['gain'])}, {others} "
                f"by {format_number(row['usual'])}.",
                evidence=f"output:{self.measures[0]}",
                affected=tuple(beyond.index),
            )
        ]

    def _beside(self, gains: pd.DataFrame) -> pd.DataFrame:
        """Each Linear's gain beside the others', by layer: the model's, or those of its role.

        Columns: ``gain``, ``usual`` (the median it is held against), ``bound``, ``beyond`` (decades beyond
        that; positive is reported) and ``peers`` (whether it is held against its role). All of
        ``self.measures`` must be out of scale; the first is shown.
        """
        # Signed, so that in either check the larger is the worse.
        shown, logs = self.measures[0], self.sign * gains[list(self.measures)].map(np.log10)
        role = pd.Series([role_of(name) for name in gains.index], index=gains.index)
        groups, size = logs.groupby(role), role.map(role.value_counts())
        # The role "*", of the layers of an nn.Sequential, does not mean that they do the same.
        many = (size >= self.layers) & (role != "*")
        # The smallest over the measures: each of them must be out of scale.
        all_of = (logs - logs.median()).min(axis=1) - self.jump
        # Two blocks have no median; a Linear whose twin is as large is no fault.
        pair = (size == 2) & (role != "*")
        all_of = all_of.mask(pair & ((logs - groups.transform("min")) < self.twin).any(axis=1), -1.0)
        same = ((logs - groups.transform("median")).min(axis=1) - self.peers).where(many)
        peers = (same > all_of) | (many & self.by_role)
        usual = groups[shown].transform("median").where(peers, logs[shown].median())
        bound = usual + np.where(peers, self.peers, self.jump)
        return pd.DataFrame(
            {
                "gain": gains[shown],
                "usual": 10 ** (self.sign * usual),
                "bound": 10 ** (self.sign * bound),
                "beyond": same.where(peers, all_of),
                "peers": peers,
            }
        )

    def _trends(self, tables: Tables) -> list[Finding]:
        stream = _stream(tables)
        # Branches that write exactly 0 have no logarithm, and no say.
        values = stream.values[stream.values > 0]
        if len(values) < self.layers:
            return []
        logs = np.log10(values.to_numpy(dtype="float64"))
        slope = self.sign * theil_sen(logs)
        total = slope * (len(logs) - 1)
        # Both conditions: of a slope the other way the product is positive, too.
        trend = self.trend * stream.norms
        if slope <= 0 or slope * total < trend:
            return []
        steps = self.sign * np.diff(logs)
        # Behind the step: the first layer that reads what it led to.
        layer = str(values.index[int(steps.argmax()) + 1])
        return [
            Finding(
                layer=layer,
                site=stream.site,
                statistic=f"factor of the variance over {len(logs)} {stream.noun}s",
                value=10 ** (self.sign * total),
                # The factor in all from which so steep a change is reported.
                threshold=10 ** (self.sign * trend / slope),
                message=f"The variance {self.verb} {format_number(10**slope)} times per {stream.noun}, "
                f"{format_number(10**total)} times over {format_count(len(logs), stream.noun)}; the largest "
                "step is here.",
                evidence=stream.evidence,
                affected=tuple(values.index),
            )
        ]


def _is_last(tables: Tables, layer: str) -> bool:
    """Whether nothing that is measured later reads what a Linear writes, all of it or one of equal parts."""
    layers = layer_measures(tables)
    if (layer, OUTPUT) not in layers.index:
        return False
    wrote = row_of(layers, layer, OUTPUT)
    later = layers[(layers["depth"] > wrote["depth"]) & (layers.index.get_level_values("site") == INPUT)]
    return not (wrote["n_features"] % later["n_features"].where(later["n_features"] > 1) == 0).any()


class _Stream(NamedTuple):
    """The series whose trend counts.

    Attributes:
        site: where its layers have it.
        evidence: what names the series, or all of its kind.
        values: by layer, in order of execution.
        noun: what one of the layers is called.
        norms: how many norms of an ordinary model a step of it passes, in whose steps ``trend`` is.
    """

    site: str
    evidence: str
    values: pd.Series
    noun: str = "layer"
    norms: int = 1


@cached
def _stream(tables: Tables) -> _Stream:
    """The series: what blocks write, where measured; what norms read; or what Linear layers write.

    The first norm is left out: it reads embeddings, which are small by initialization. So is the last Linear
    of a model without norms: a trained classifier's logits are large. What counts is one chain: of Linear
    layers each of which reads as many features as the one before it writes; of norms see `_chain_of_norms`.
    """
    blocks = stream_measures(tables)
    blocks = blocks[blocks["site"] == OUTPUT]
    if len(blocks) >= _BLOCKS:
        values = blocks.set_index("layer")["sample_square"]
        return _Stream(OUTPUT, f"{STREAM}:sample_square", values, "block", norms=2)
    layers = inputs_and_outputs(tables)
    norms = layers[(layers["kind"] != "linear") & (layers.index.get_level_values("site") == INPUT)]
    if not norms.empty:
        chain = _chain_of_norms(layers, norms.iloc[1:])
        squares = sample_measures(tables)["sample_square"].reindex(chain)
        return _Stream(INPUT, f"{INPUT}:sample_square", squares.droplevel("site"))
    outputs = at_site(layers, OUTPUT)
    reads = at_site(layers, INPUT)["n_features"].reindex(outputs.index)
    # A new chain begins where a Linear reads another number of features than the last one wrote.
    begins = (reads != outputs["n_features"].shift()).cumsum()
    in_longest = begins == begins.value_counts(sort=False).idxmax() if len(outputs) else begins.isna()
    linear = outputs.loc[in_longest, "within_feature_variance"]
    return _Stream(OUTPUT, f"{OUTPUT}:within_feature_variance", linear.iloc[:-1])


def _chain_of_norms(layers: pd.DataFrame, norms: pd.DataFrame) -> pd.Index:
    """Those of the norms' inputs that follow one another in the flow of data.

    A norm that reads just what a Linear wrote stands behind a branch where others read a sum: only these are
    the residual stream. Where all stand behind a Linear, those whose Linear layers read the same are
    parallel, and the first of them counts. The norms of one or two blocks are no depth.
    """
    place = spots([str(name) for name in norms.index.get_level_values("layer")])
    roles = Counter(spot.role for spot in place.values() if spot.block is not None and spot.role != "*")
    if roles and max(roles.values()) < _BLOCKS:
        return norms.index[:0]
    moments = ["mean", "variance", "min", "max"]
    linear = layers[layers["kind"] == "linear"]
    wrote, read = at_site(linear, OUTPUT), at_site(linear, INPUT)
    # By the very numbers: what reads a tensor has the moments of what wrote it.
    writer = {tuple(row): name for name, row in zip(wrote.index, wrote[moments].to_numpy(), strict=True)}
    by = [writer.get(tuple(row)) for row in norms[moments].to_numpy()]
    if any(name is None for name in by):
        return norms.index[[name is None for name in by]]
    inputs = {name: tuple(row) for name, row in zip(read.index, read[moments].to_numpy(), strict=True)}
    source = [inputs.get(name, name) for name in by]
    return norms.index[~pd.Series(source, dtype=object).duplicated().to_numpy()]


def theil_sen(values: NDArray[np.float64]) -> float:
    """The median slope over all pairs: one odd layer, or roles that alternate, do not move it."""
    first, second = np.triu_indices(len(values), k=1)
    return float(np.median((values[second] - values[first]) / (second - first)))


@dataclass(frozen=True, kw_only=True)
class VarianceExplodes(_VarianceDepth):
    """The activations grow with depth far faster than in healthy networks, or one layer is out of scale.

    The series is the residual stream of the median sample: what blocks write, where ``Probe(residual=True)``
    measured them, else what norms read (without norms that stand behind a branch); or in a model without
    norms what the Linear layers of its longest chain write. A block counts as two norms. Growth alone
    is healthy: a pre-LN stream grows 1.6 to 1.8 times a norm, a trained MLP up to 7 times a layer over four
    layers. So the slope times the total is held against a threshold, in decades. A single layer counts if its
    gain stands out from the model's median gain, or, in a model of blocks, from that of the same Linear in
    the other blocks.

    What to do: look at the named layer's weights; at initialization, scale weights by the square root of 2 /
    inputs before a ReLU, or put a norm before each block.

    Figure: norms over depth, top chart; Linear by role.
    Source: Hanin and Rolnick, arXiv:1803.01719; for pre-LN growth arXiv:2502.05795.
    When it is wrong: a head that is meant to write large numbers.
    """

    name: ClassVar[str] = "variance_explodes"
    title: ClassVar[str] = "Variance explodes with depth"
    severity: ClassVar[Severity] = "warning"
    advice: ClassVar[str] = (
        "Look at this layer's weights and their initialization, or put a norm before the block."
    )
    sign: ClassVar[int] = 1
    verb: ClassVar[str] = "grows"
    what: ClassVar[str] = "mean square of the median sample"
    measures: ClassVar[tuple[str, ...]] = ("gain", "spread_gain")


@dataclass(frozen=True, kw_only=True)
class VarianceVanishes(_VarianceDepth):
    """The activations shrink with depth until nothing of the input is left, or one layer is out of scale.

    The series is that of ``variance_explodes``; in a model without norms, and for a single layer, it is the
    variance over samples, since biases keep the plain variance up long after the samples have become the
    same. Branches that write exactly 0, as some are initialized, do not count, nor do those that write next
    to nothing in every block: a Linear is held against the same one in the other blocks, where there are.
    The last Linear of a chain, a head, is left out: nothing comes after it, and many are started small.

    What to do: look at the named layer's weights; at initialization, scale weights by the square root of
    2 / inputs before a ReLU, or add norms or residual connections.

    Figure: norms over depth, top chart; Linear by role.
    Source: Hanin and Rolnick, arXiv:1803.01719; arXiv:2502.05795.
    When it is wrong: a branch that is meant to start small.
    """

    name: ClassVar[str] = "variance_vanishes"
    title: ClassVar[str] = "Variance vanishes with depth"
    severity: ClassVar[Severity] = "warning"
    advice: ClassVar[str] = (
        "Look at this layer's weights and their initialization, or add a norm or a residual."
    )
    sign: ClassVar[int] = -1
    verb: ClassVar[str] = "shrinks"
    what: ClassVar[str] = "variance over samples"
    measures: ClassVar[tuple[str, ...]] = ("spread_gain",)
    by_role: ClassVar[bool] = True

    trend: float = 5.0
    jump: float = 3.0
    peers: float = 2.2
