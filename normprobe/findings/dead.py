"""Checks of features that carry nothing: zero or constant."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pandas as pd

from normprobe.findings.check import Check, Finding, Severity
from normprobe.findings.collapse_start import collapsed
from normprobe.findings.wording import same_at
from normprobe.formatting import in_prose, role_of
from normprobe.tables.measures.by_site import by_site, numbers
from normprobe.tables.measures.common import at_site, row_of
from normprobe.tables.measures.features import CONSTANT, feature_measures, finite_features, norms_untrained
from normprobe.tables.measures.layers import inner_sites, layer_measures
from normprobe.vocabulary import INPUT, OUTPUT

if TYPE_CHECKING:
    from normprobe.tables.frames import Tables


@dataclass(frozen=True, kw_only=True)
class DeadFeatures(Check):
    """Many of the features that a layer reads are 0 in every sample: their units are dead.

    A unit before a ReLU (or a GELU that rounds to exactly 0) whose value is negative for all data passes on
    nothing and learns nothing. Some always are: a good ReLU network was measured with 23 % of them. The layer
    that reads the zeros is named, and beside it the layer that writes them, whose outputs are never positive.
    An input that is 0 throughout, where no layer writes only negative values, is a branch multiplied by 0, as
    adapters are started, and no finding. Between convolutions no probed layer reads the zeros; there the
    batch, group or instance norm is named whose output is never positive in so many channels. Zeros that a
    norm writes itself, by a weight of 0, are another check's, ``constant_features``.

    What to do: look at the writing layer's bias and learning rate; a large step pushes biases far below 0.

    Figure: the panel of the layer: variance per feature, where dead ones are counted as "near 0".
    Source: Voita, Ferrando, Nalmpantis, arXiv:2309.04827.
    When it is wrong: few samples, or samples all of one sort; a norm that no ReLU follows.

    Attributes:
        share: least share of dead features that is reported.
        silent: least share of a norm's channels that are never positive that is reported.
        rows: least number of values per feature.
    """

    name: ClassVar[str] = "dead_features"
    title: ClassVar[str] = "Dead features"
    severity: ClassVar[Severity] = "warning"
    advice: ClassVar[str] = "Look at the bias and the learning rate of the layer before the activation."
    source: ClassVar[str] = "arXiv:2309.04827"
    rule: ClassVar[str] = (
        "At least {share:%} of the features are 0 in every sample, or {silent:%} of a norm's channels are "
        "never positive, over {rows} values per feature or more."
    )
    fitted: ClassVar[tuple[str, ...]] = ("share", "silent")

    share: float = 0.5
    silent: float = 0.55
    rows: int = 16

    def __call__(self, tables: Tables) -> list[Finding]:
        """The first layer that reads mostly dead features, or else the first norm that writes such."""
        layers = inner_sites(tables, self.rows)
        share = feature_measures(tables)["zero_features"].reindex(layers.index)
        dead = share[(share >= self.share) & (share.index.get_level_values("site") == INPUT)]
        if dead.empty:
            return self._silent(tables, layers)
        # Behind a collapse everything is constant: one cause, of which `collapsed_samples` is the finding.
        dead = dead[~dead.index.isin(collapsed(tables)[1:])]
        writers = {name: _never_positive(tables, name) for name in dead.index.get_level_values("layer")}
        # Zeros throughout that no unit wrote are multiplied by 0, as a branch may be started (adapters).
        names = dead.index.get_level_values("layer")
        dead = dead[(dead < 1).to_numpy(bool) | np.array([writers[name] != "" for name in names], dtype=bool)]
        dead = dead[[not _writes_zeros(tables, writers[name]) for name, _ in dead.index]]
        if dead.empty:
            return self._silent(tables, layers)
        layer = str(dead.index[0][0])
        wrote = writers[layer]
        return [
            Finding(
                layer=layer,
                site=INPUT,
                statistic="share of features that are 0 in every sample",
                value=dead.iloc[0],
                threshold=self.share,
                written_by=wrote,
                message=f"{dead.iloc[0]:.0%} of the features are 0 in every sample"
                + (f"; {in_prose(wrote)} never writes a positive value there." if wrote else "."),
                evidence="input:zero_features",
                affected=tuple(dead.index.get_level_values("layer")),
            )
        ]

    def _silent(self, tables: Tables, layers: pd.DataFrame) -> list[Finding]:
        """The first channel norm that most of the channels leave without a positive value."""
        norms = layers[layers["kind"].isin(["batch_norm", "group_norm", "instance_norm"])]
        # A norm that writes the same for all samples is the finding of other checks.
        norms = norms[(norms.index.get_level_values("site") == OUTPUT) & (norms["spread"] > CONSTANT)]
        share = feature_measures(tables)["silent_features"].reindex(norms.index)
        silent = share[share >= self.silent]
        if silent.empty:
            return []
        names = tuple(silent.index.get_level_values("layer"))
        return [
            Finding(
                layer=str(names[0]),
                site=OUTPUT,
                statistic="share of features that are never positive",
                value=silent.iloc[0],
                threshold=self.silent,
                message=f"{silent.iloc[0]:.0%} of what the norm writes is never positive: a ReLU after it "
                f"makes 0 of these channels in every sample{same_at(len(names), 'norm')}.",
                evidence="output:silent_features",
                affected=names,
            )
        ]


def _never_positive(tables: Tables, layer: str) -> str:
    """The last layer before ``layer`` whose output is never positive where ``layer`` reads zeros.

    A layer that itself reads nothing but zeros is not the one.
    """
    features = finite_features(tables)
    read = _of(features, tables, layer, INPUT)
    dead = read.loc[read["zero"], "feature"]
    measures = layer_measures(tables)
    layers, depth = at_site(measures, OUTPUT), measures["depth"][layer].iloc[0]
    idle = at_site(feature_measures(tables), INPUT)["zero_features"].reindex(layers.index) == 1
    # Only where both have as many features can those of the one be the other's.
    before = layers[(layers["depth"] < depth) & (layers["n_features"] == len(read)) & ~idle]
    for name in before.sort_values("depth", ascending=False).index:
        wrote = _of(features, tables, str(name), OUTPUT).set_index("feature")
        # A feature without a finite value is NaN, of which this is false.
        if (wrote["max"].reindex(dead) <= 0).all():
            return str(name)
    return ""


def _of(features: pd.DataFrame, tables: Tables, layer: str, site: str) -> pd.DataFrame:
    """Those of the finite features that are of one layer and site."""
    rows = by_site(tables, "features").rows(layer, site)
    # Where every feature has a finite value a row's place is its name.
    return (
        features.iloc[rows] if len(features) == len(tables.features) else features[features.index.isin(rows)]
    )


def _left_by_activation(tables: Tables, norms: pd.DataFrame) -> pd.Series:
    """The share of features that a ReLU inside a norm's module leaves at 0 in every row.

    Its other features are 0 in some rows and never negative, which nothing normalized is.
    """
    measures = feature_measures(tables).reindex(norms.index)
    outputs = norms.index.get_level_values("site") == OUTPUT
    rectified = outputs & (norms["min"] == 0).to_numpy() & (measures["live_zeros"] > 0).to_numpy()
    # A weight of 0 makes its feature 0 whatever follows: that is the norm's.
    name = norms.index.get_level_values("layer")
    return measures["zero_features"].where(rectified & ~name.isin(_with_weight_0(tables)), 0.0).fillna(0.0)


def _with_weight_0(tables: Tables) -> set[str]:
    """The norms some of whose weights are 0."""
    sites = by_site(tables, "features")
    zero = sites.largest((numbers(tables.features, "weight") == 0).astype(np.float64)) == 1
    return {str(layer) for layer, site in sites.index[zero] if site == OUTPUT}


def _writes_zeros(tables: Tables, layer: str) -> bool:
    """Whether a layer is a norm whose own output is 0 in many features."""
    if not layer:
        return False
    row = row_of(layer_measures(tables), layer, OUTPUT)
    zero = feature_measures(tables)["zero_features"].get((layer, OUTPUT), 0.0)
    return bool(row["kind"] != "linear" and zero > 0)


@dataclass(frozen=True, kw_only=True)
class ConstantFeatures(Check):
    """Many features around a norm do not vary: channels that carry nothing, or that a zero weight removes.

    Before the norm a constant feature says that the layers above write the same value for all data; after it,
    that its weight is 0. A norm that writes only constants, in a branch beside which the samples go on, is
    one too; where all that follows is constant that is another check's, ``collapsed_samples``.

    What to do: prune the channels, or find out which layer stopped writing them.

    Figure: the panel of the norm: variance per feature before and after, where they are counted as "near 0".
    Source: Voita, Ferrando, Nalmpantis, arXiv:2309.04827.
    When it is wrong: a network pruned by channels. Norms whose weights start at 0, as the last of each
    residual block may, are left out where most of their role in the model writes only constants, and a note
    where every norm of the model is yet as initialized.

    Attributes:
        share: least share of constant features that is reported.
        rows: least number of values per feature.
    """

    name: ClassVar[str] = "constant_features"
    title: ClassVar[str] = "Constant features"
    severity: ClassVar[Severity] = "warning"
    advice: ClassVar[str] = "Find the layer that stopped writing these features, or prune them."
    source: ClassVar[str] = "arXiv:2309.04827"
    rule: ClassVar[str] = (
        "At least {share:%} of the features do not vary, over {rows} values per feature or more."
    )
    fitted: ClassVar[tuple[str, ...]] = ("share",)

    share: float = 0.25
    rows: int = 16

    def __call__(self, tables: Tables) -> list[Finding]:
        """The first norm with mostly constant features."""
        layers = inner_sites(tables, self.rows)
        norms = layers[layers["kind"] != "linear"]
        share = feature_measures(tables)["constant_features"].reindex(norms.index)
        if not (share >= self.share).any():
            return []
        whole = share == 1
        # Zeros behind a ReLU are for `dead_features` to judge, which has a threshold of its own.
        share = share - self._after_a_relu(tables, share) - _left_by_activation(tables, norms)
        constant = share[(share >= self.share) & (~whole | self._in_a_branch(tables, whole))]
        started = self._started_at_0(tables, constant)
        # Those are one cause, a harmless one: named only where there is no other.
        severity: Severity = "info" if len(constant) and started.all() else "warning"
        constant = constant if started.all() else constant[~started]
        if constant.empty:
            return []
        layer, site = constant.index[0]
        affected = tuple(dict.fromkeys(constant.index.get_level_values("layer")))
        place = "before" if site == INPUT else "after"
        return [
            Finding(
                layer=layer,
                site=site,
                statistic="share of features that do not vary",
                value=constant.iloc[0],
                threshold=self.share,
                message=f"{constant.iloc[0]:.0%} of the features {place} the norm do not vary over the "
                f"samples{same_at(len(affected), 'norm')}.",
                evidence=f"{site}:constant_features",
                severity=severity,
                affected=affected,
            )
        ]

    @staticmethod
    def _started_at_0(tables: Tables, constant: pd.Series) -> pd.Series:
        """Whether a norm that writes constants is yet as initialized, with a weight of 0 throughout."""
        if not norms_untrained(tables):
            return pd.Series(False, index=constant.index)
        sites = by_site(tables, "features")
        zeros = sites.smallest((numbers(tables.features, "weight") == 0).astype(np.float64)) == 1
        zero = at_site(pd.Series(zeros, index=sites.index), OUTPUT)
        names = constant.index.get_level_values("layer").to_series(index=constant.index)
        return names.map(zero).fillna(False).astype(bool)

    def _after_a_relu(self, tables: Tables, share: pd.Series) -> pd.Series:
        """The part of the share that is zeros whose channels a norm before never writes positive.

        A depthwise convolution hands them on. A few images leave many such channels, and ``dead_features``
        is the one to say when they are too many.
        """
        name = share.index.get_level_values("layer").to_series(index=share.index)
        inputs = at_site(feature_measures(tables), INPUT)["zero_features"]
        zero = inputs.reindex(name).fillna(0.0).set_axis(share.index)
        kind = tables.ledger_base.set_index("layer")["kind"]
        asked = set(name[(share >= self.share) & (zero > 0)])
        after = {layer for layer in asked if kind.get(_never_positive(tables, layer), "linear") != "linear"}
        return zero.where(name.isin(after), 0.0)

    @staticmethod
    def _in_a_branch(tables: Tables, whole: pd.Series) -> pd.Series:
        """Whether the norm itself makes a site constant that is constant throughout."""
        name = whole.index.get_level_values("layer").to_series(index=whole.index)
        output = pd.Series(whole.index.get_level_values("site") == OUTPUT, index=whole.index)
        reads = name.isin(at_site(whole[whole].to_frame(), INPUT).index)
        role = name.map(role_of)
        # The last norm of each residual branch may start at weight 0: then most norms of its role are
        # constant, and none of them is a fault.
        usual = (whole & output).groupby(role).transform("sum") * 2 > output.groupby(role).transform("sum")
        alone = (role == "*") | (role == name)
        lost = name.isin(collapsed(tables).get_level_values("layer"))
        return output & ~reads & ~lost & (alone | ~usual)
