"""Checks of what floating-point numbers can hold: NaN and Inf, the range of fp16, eps, cancellation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import pandas as pd

from normprobe.findings.check import Check, Finding, Severity
from normprobe.formatting import format_count, format_number
from normprobe.tables.measures.common import row_of
from normprobe.tables.measures.layers import inputs_and_outputs
from normprobe.vocabulary import INPUT, OUTPUT

if TYPE_CHECKING:
    from normprobe.tables.frames import Tables


@dataclass(frozen=True, kw_only=True)
class Nonfinite(Check):
    """NaN or Inf appears: everything computed from it is wrong.

    The layers are read in order of execution, the input of each before its output. A layer that turns a
    finite input into NaN or Inf is named, one finding for each such layer. If the first such values stand in
    an *input*, no probed layer made them: an operation between two layers did (a division by 0, a logarithm,
    a softmax over a row that is masked throughout, an overflow in fp16), or the data hold them. A layer that
    is called several times in a forward may read what it made itself: there a layer counts as the maker if a
    larger share of its output than of its input is NaN or Inf.

    What to do: look at the weights of the named layer, or at the code between it and the layer before. NaN
    born in padding rows is said to be so: real rows are affected only if a later finding counts them.

    A hook of one's own that changes what a layer writes counts as an operation after it: the probe measures
    what the layer itself wrote.

    Figure: the series of counts over depth beside the finding.
    Source: PyTorch issue 182156.
    When it is wrong: layers that are meant to carry -inf, as masks do.
    """

    name: ClassVar[str] = "nonfinite"
    title: ClassVar[str] = "NaN or Inf"
    severity: ClassVar[Severity] = "error"
    advice: ClassVar[str] = "Look at this layer's weights, and at the values it reads, before anything else."
    source: ClassVar[str] = "PyTorch issue 182156"

    def __call__(self, tables: Tables) -> list[Finding]:
        """The layers that turn finite values into NaN or Inf, or the first site that holds any."""
        layers = inputs_and_outputs(tables)
        bad = (layers["nonfinite"] + layers["nonfinite_masked"]).gt(0)
        if not bad.any():
            return []
        wide = bad.unstack("site", fill_value=False).reindex(columns=[INPUT, OUTPUT], fill_value=False)
        first = bad.index[bad].tolist()[0]
        makers = list(wide.index[~wide[INPUT] & wide[OUTPUT]])
        # A layer called again reads what it wrote the call before: there its input holds NaN, too.
        around = _makers_in_a_loop(layers) if first[1] == INPUT and not makers else []
        sites = [(layer, OUTPUT) for layer in makers or around[:1]]
        if first[1] == INPUT and not around:
            sites.insert(0, first)
        affected = tuple(dict.fromkeys(bad.index[bad].get_level_values("layer")))
        return [self._finding(tables, layers, site, affected) for site in sites]

    def _finding(
        self, tables: Tables, layers: pd.DataFrame, where: tuple[str, str], affected: tuple[str, ...]
    ) -> Finding:
        layer, site = where
        row = row_of(layers, layer, site)
        real, masked = int(row["nonfinite"]), int(row["nonfinite_masked"])
        spread = layers["nonfinite"][layers["depth"] >= row["depth"]].gt(0).any()
        padding, count = " in padding rows only" if not real else "", real or masked
        origin = self._before(layers, row) if site == INPUT else self._within(layers, layer)
        later = affected[affected.index(layer) :]
        return Finding(
            layer=layer,
            site=site,
            feature=_feature(tables, layer, site),
            statistic="NaN or Inf values" + padding,
            value=count,
            threshold=0,
            message=f"{format_number(count)} {'value is' if count == 1 else 'values are'} NaN or Inf"
            f"{padding}, {origin}; so it is at {format_count(len(later), 'layer')} from here on.",
            advice="Look at the operations before this layer: no probed layer made these values."
            if site == INPUT
            else None,
            evidence=f"{site}:{'nonfinite' if real else 'nonfinite_masked'}",
            severity="error" if spread else "warning",
            affected=later,
        )

    @staticmethod
    def _before(layers: pd.DataFrame, row: Any) -> str:
        earlier = layers.index[layers["depth"] < row["depth"]]
        if earlier.empty:
            return "already in what the first layer reads"
        return f"made by an operation after {earlier[-1][0]}"

    @staticmethod
    def _within(layers: pd.DataFrame, layer: str) -> str:
        read = layers["nonfinite"].get((layer, INPUT))
        if read is None:
            return "written by a layer whose input was not measured"
        return "out of a finite input" if read == 0 else "more than it reads over all its calls"


def _makers_in_a_loop(layers: pd.DataFrame) -> list[str]:
    """The layers, called more often than others, that write a larger share of NaN or Inf than read."""
    share = (layers["nonfinite"] / (layers["n_samples"] * layers["n_features"])).unstack("site")
    share = share.reindex(columns=[INPUT, OUTPUT])
    again = layers["calls"].groupby(level="layer").max().reindex(share.index) > layers["calls"].min()
    more = again & (share[OUTPUT] > share[INPUT])
    order = layers.index.get_level_values("layer").drop_duplicates()
    return [str(name) for name in order if more[name]]


def _feature(tables: Tables, layer: str, site: str) -> int | None:
    """The feature that holds most NaN or Inf, or None where all features hold as many."""
    rows = tables.features[(tables.features["layer"] == layer) & (tables.features["site"] == site)]
    if rows.empty or rows["nonfinite"].nunique() == 1:
        return None
    return int(rows["feature"].iloc[int(rows["nonfinite"].argmax())])


@dataclass(frozen=True, kw_only=True)
class Fp16Overflow(Check):
    """Values leave, or are about to leave, the range of fp16, whose largest number is 65,504.

    In fp32 and bf16 such values are fine; cast to fp16 they become Inf, and the next norm makes NaN of them.
    Layers that run in 16 bit, and models whose configuration says that they are meant to, are warned of from
    half that limit on.

    What to do: run in bf16 or fp32, or keep the named layer in fp32.

    Figure: the largest |value| before the norm, where the limit of fp16 is drawn.
    Source: IEEE 754-2019, binary16.
    When it is wrong: a model that will never run in fp16.

    Attributes:
        limit: largest |value| that fp16 holds.
        margin: a model that runs in, or is meant for, 16 bit is warned of above ``limit / margin``.
    """

    name: ClassVar[str] = "fp16_overflow"
    title: ClassVar[str] = "Values beyond the range of fp16"
    severity: ClassVar[Severity] = "warning"
    advice: ClassVar[str] = "Run in bf16 or fp32, or keep this layer in fp32."
    source: ClassVar[str] = "IEEE 754-2019 binary16"

    limit: float = 65504.0
    margin: float = 2.0

    def __call__(self, tables: Tables) -> list[Finding]:
        """The first layer in order of execution with a value beyond the limit."""
        layers = inputs_and_outputs(tables)
        meant = "float16" in str(tables.meta.get("meant_dtype"))
        half = layers["dtype"].str.contains("float16") | meant
        limit = pd.Series(self.limit, index=layers.index).where(~half, self.limit / self.margin)
        beyond = layers[layers["abs_max"] > limit]
        if beyond.empty:
            return []
        layer, site = beyond.index[0]
        row = row_of(beyond, layer, site)
        affected = tuple(dict.fromkeys(beyond.index.get_level_values("layer")))
        return [
            Finding(
                layer=layer,
                site=site,
                feature=row["abs_max_feature"],
                example=row["abs_max_example"],
                position=row["abs_max_position"],
                statistic="largest |value|",
                value=row["abs_max"],
                threshold=limit[(layer, site)],
                message=f"The {site} reaches {format_number(row['abs_max'])}; "
                f"fp16 ends at {format_number(self.limit)}.",
                evidence=f"{site}:abs_max",
                affected=affected,
            )
        ]
