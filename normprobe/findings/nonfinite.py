"""The check of NaN and Inf: where they begin, why and when."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import pandas as pd

from normprobe.findings.check import Check, Finding, Severity
from normprobe.findings.nonfinite_causes import Cause, cause_of, hidden_behind
from normprobe.findings.wording import same_at
from normprobe.formatting import format_number
from normprobe.tables.measures.by_site import rows_at
from normprobe.tables.measures.common import row_of
from normprobe.tables.measures.layers import inputs_and_outputs
from normprobe.vocabulary import INPUT, OUTPUT

if TYPE_CHECKING:
    from normprobe.tables.frames import Tables


_UNSEEN = "Look at the operations before this layer: no probed layer made these values."


@dataclass(frozen=True, kw_only=True)
class Nonfinite(Check):
    """NaN or Inf appears: everything computed from it is wrong.

    The layers are read in order of execution, the input of each before its output, in the first forward that
    has such values. A layer that turns a finite input into NaN or Inf is named, one finding for each such
    layer; in training none that came later, for the next step carries them into every weight. If the first
    such values stand in an *input*, no probed layer made them: an operation between two layers did (a
    division by 0, a logarithm, a softmax over a row that is masked throughout, an overflow in fp16), or the
    data hold them. A layer that is called several times in a forward may read what it made itself: there a
    layer counts as the maker if a larger share of its output than of its input is NaN or Inf.

    The message says why, where it is known: a weight or running statistic that itself holds NaN or Inf (and
    which further ones do, whose effect cannot be seen behind the first), an overflow of the dtype, a running
    variance below 0, a variance of 0 with an eps that rounds to 0 in the dtype. And when: the step, where
    Probe.step tells of steps, the forward and the example of the first such value; on an accelerator, which
    is not waited for, the forward and example of the first among the kept samples.

    What to do: what the finding says of its cause; else look at the weights of the named layer, or at the
    code between it and the layer before. NaN born in padding rows is said to be so: real rows are affected
    only if a later finding counts them.

    Figure: the series of counts over depth beside the finding.
    Source: PyTorch issue 182156; IEEE 754-2019 for what each dtype holds.
    When it is wrong: layers that are meant to carry -inf, as masks do. What a model stores is looked at when
    the recording is taken, so numbers changed since are not those that were used.
    """

    name: ClassVar[str] = "nonfinite"
    title: ClassVar[str] = "NaN or Inf"
    severity: ClassVar[Severity] = "error"
    advice: ClassVar[str] = "Look at this layer's weights, and at the values it reads, before anything else."
    source: ClassVar[str] = "PyTorch issue 182156"
    rule: ClassVar[str] = "One value that is NaN or infinite is enough."

    def __call__(self, tables: Tables) -> list[Finding]:
        """The layers that turn finite values into NaN or Inf, or the first site that holds any."""
        layers = inputs_and_outputs(tables)
        # In padding, too: attention may carry it from there into real rows.
        bad = (layers["nonfinite"] + layers["nonfinite_masked"]).gt(0)
        if not bad.any():
            return []
        began = _in_first_forward(tables, layers, bad)
        first = bad.index[began].tolist()[0]
        makers = list(dict.fromkeys([*_makers(began), *_makers(bad & ~_learned(tables, layers, began))]))
        # A layer called again reads what it wrote the call before: there its input holds NaN, too.
        around = _makers_in_a_loop(layers) if first[1] == INPUT and not makers else []
        sites = [(layer, OUTPUT) for layer in makers or around[:1]]
        if first[1] == INPUT and not around:
            sites.insert(0, first)
        affected = tuple(dict.fromkeys(bad.index[bad].get_level_values("layer")))
        hidden = hidden_behind(tables, [layer for layer, _ in sites])
        return [
            self._finding(
                tables,
                layers,
                site,
                affected,
                hidden=hidden if site == sites[0] else "",
                finite=site[0] in makers,
            )
            for site in sites
        ]

    def _finding(
        self,
        tables: Tables,
        layers: pd.DataFrame,
        where: tuple[str, str],
        affected: tuple[str, ...],
        *,
        hidden: str,
        finite: bool,
    ) -> Finding:
        layer, site = where
        row = row_of(layers, layer, site)
        real, masked = int(row["nonfinite"]), int(row["nonfinite_masked"])
        # In padding alone it may be harmless: masked out before it reaches a real row.
        spread = layers["nonfinite"][layers["depth"] >= row["depth"]].gt(0).any()
        padding, count = " in padding rows only" if not real else "", real or masked
        origin = _before(layers, row) if site == INPUT else _within(layers, layer, finite)
        cause = cause_of(tables, layers, layer, site)
        held = _first(tables, row, layer, site) if real else _NO_TIME
        later = affected[affected.index(layer) :]
        return Finding(
            layer=layer,
            site=site,
            feature=_feature(tables, layer, site),
            example=held.example,
            position=held.position,
            step=held.step,
            statistic="NaN or Inf values" + padding,
            value=count,
            threshold=0,
            message=f"{format_number(count)} {'value is' if count == 1 else 'values are'} NaN or Inf"
            f"{padding}, {origin}{held.words}{_because(cause)}"
            f"{same_at(len(later), 'layer')}{hidden}.",
            advice=cause.advice if cause is not None else _UNSEEN if site == INPUT else None,
            evidence=f"{site}:{'nonfinite' if real else 'nonfinite_masked'}",
            severity="error" if spread else "warning",
            affected=later,
        )


def _makers(bad: pd.Series) -> list[str]:
    """The layers that read finite values only and write others, in order of execution."""
    # With both sites, also where all layers were measured at one of them.
    wide = bad.unstack("site", fill_value=False).reindex(columns=[INPUT, OUTPUT], fill_value=False)
    # unstack sorts layers by name, and the first maker is the first in order of execution.
    wide = wide.reindex(bad.index.get_level_values("layer").drop_duplicates())
    return [str(layer) for layer in wide.index[~wide[INPUT] & wide[OUTPUT]]]


def _in_first_forward(tables: Tables, layers: pd.DataFrame, bad: pd.Series) -> pd.Series:
    """The sites that held NaN or Inf in the first forward with any; all of them where it is not known."""
    calls = layers["nonfinite_call"]
    # Parts number their forwards each by itself; and of padding and accelerators none is known.
    if len(tables.facts["parts"]) > 1 or calls[bad].isna().any():
        return bad
    found: pd.Series = bad & (calls == calls[bad].min()).fillna(False).astype(bool)
    return found


def _learned(tables: Tables, layers: pd.DataFrame, began: pd.Series) -> pd.Series:
    """The sites that a network that trains came to later than that forward: its weights took them over."""
    trains = tables.ledger_base["grad"].fillna("").str.split("; ").map(lambda modes: "grad" in modes)
    # By steps, not forwards: in the same step no weight has changed yet.
    later = layers["nonfinite_step"] > layers["nonfinite_step"][began].min()
    found: pd.Series = later.fillna(False).astype(bool) & bool(trains.any())
    return found


def _because(cause: Cause | None) -> str:
    return "" if cause is None else f": {cause.words}"


def _before(layers: pd.DataFrame, row: Any) -> str:
    earlier = layers.index[layers["depth"] < row["depth"]]
    if earlier.empty:
        return "already in what the first layer reads"
    return f"made by an operation after {earlier[-1][0]}"


def _within(layers: pd.DataFrame, layer: str, finite: bool) -> str:
    if (layer, INPUT) not in layers.index:
        return "written by a layer whose input was not measured"
    return "out of a finite input" if finite else "more than it reads over all its calls"


class _When(NamedTuple):
    """The example, position and step of the first NaN or Inf, and words that say when it was."""

    example: int | None
    position: int | None
    words: str
    step: int | None = None


_NO_TIME = _When(None, None, "")


def _first(tables: Tables, row: Any, layer: str, site: str) -> _When:
    """When the first NaN or Inf of a site was, if it is known."""
    if pd.isna(row["nonfinite_call"]):
        return _first_kept(tables, row, layer, site)
    call, example, position = (int(row[f"nonfinite_{name}"]) for name in ("call", "example", "position"))
    parts = tables.facts["parts"]
    step = "" if row["nonfinite_step"] == call else f"step {row['nonfinite_step']}, "
    part = f" of {row['nonfinite_part']}" if len(parts) > 1 else ""
    at = f", position {position}" if row["sample_unit"] == "position" else ""
    words = f", first in {step}forward {call}{part}, example {example}{at}"
    return _When(example, position, words, int(row["nonfinite_step"]))


def _first_kept(tables: Tables, row: Any, layer: str, site: str) -> _When:
    """Of an accelerator, which is not asked while it works, and of older files: the first kept sample."""
    samples = rows_at(tables, "samples", layer, site)
    if samples.empty or "count" not in samples:
        return _NO_TIME
    # Samples of channel layers have fewer numbers where rows are padding: only those without any tell.
    ragged = row["masked"] > 0 and row["sample_unit"] == "example"
    whole = 1 if ragged else samples["count"].max() if samples["count"].max() else 1
    whole = max(whole, 1 if ragged else int(row["n_features"]))
    bad = samples[samples["count"] < whole].sort_values(["call", "example", "position"])
    if bad.empty:
        return _NO_TIME
    held: Any = bad.iloc[0]
    # Else the first of the kept ones need not be the first of all.
    every = len(samples) >= row["n_samples"]
    named = f", example {held['example']}" if pd.notna(held["example"]) else ""
    when = f", first in forward {held['call']}{named}" + ("" if every else " of those kept")
    example, position = (None if pd.isna(held[name]) else int(held[name]) for name in ("example", "position"))
    return _When(example, position, when)


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
    rows = rows_at(tables, "features", layer, site)
    # Where all features hold as many, none of them is the cause.
    if rows.empty or rows["nonfinite"].nunique() == 1:
        return None
    return int(rows["feature"].iloc[int(rows["nonfinite"].argmax())])
