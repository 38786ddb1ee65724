"""Checks of BatchNorm in train mode: whether it should be, on how many values, how often it is updated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import pandas as pd

from normprobe.findings.check import Check, Finding, Severity
from normprobe.formatting import format_count, format_number
from normprobe.tables.columns.tables import BASE
from normprobe.tables.measures.by_site import by_site, numbers
from normprobe.tables.measures.common import at_site, cached
from normprobe.vocabulary import INPUT

if TYPE_CHECKING:
    from normprobe.tables.frames import Tables


@cached
def batch_norms(tables: Tables) -> pd.DataFrame:
    """The ledger of the batch norms that fired, by layer and in order of execution.

    Added columns: ``trains`` (whether it normalized with a batch's own statistics in train mode; a frozen
    one does not), ``grads`` (whether gradients were on), ``odd`` (whether it did so in a forward of a model
    in evaluation mode), ``values`` (values per channel and call, those of all processes that it says it
    takes), ``examples`` (likewise per call) and ``synchronized`` (of other processes, whose number is
    not known).
    """
    inputs = tables.layers[tables.layers["site"] == INPUT].set_index("layer").sort_values("depth")
    ledger = fired(tables)
    ledger = ledger[ledger["kind"] == "batch_norm"].copy()
    # Of the fullest channel: NaN in some channels makes no batch small.
    sites = by_site(tables, "features")
    count = pd.Series(sites.largest(numbers(tables.features, "count")), index=sites.index)
    count = at_site(count, INPUT)
    processes = _column(ledger, "processes").fillna(1).astype("float64")
    ledger["values"] = processes * count.reindex(ledger.index) / ledger["calls"]
    ledger["examples"] = processes * inputs["n_samples"].reindex(ledger.index) / ledger["calls"]
    sync = ledger["type"].str.lower().str.contains("sync").fillna(False).astype(bool)
    ledger["synchronized"] = sync & (processes == 1)
    order = [name for name in inputs.index if name in ledger.index]
    return ledger.reindex(order)


@cached
def fired(tables: Tables) -> pd.DataFrame:
    """The ledger of all layers that fired, with ``trains``, ``grads`` and ``odd`` of `batch_norms`."""
    # Not the public ledger, which does not tell whether parameters are trained and buffers moved.
    ledger = tables.ledger_base[tables.ledger_base["calls"] > 0].set_index("layer")
    training, grad = (ledger[name].fillna("").str.split("; ") for name in ("training", "grad"))
    statistics = _column(ledger, "statistics").fillna("").astype(str)
    # Recordings of before it was known what a call normalized with have no more than the mode.
    of_batch = statistics.str.contains("batch") | (statistics == "")
    train = pd.Series([("train" in modes) for modes in training], index=ledger.index, dtype=bool)
    evaluated = any("eval" in modes for modes in training)
    odd = _column(ledger, "train_in_eval")
    return ledger.assign(
        trains=train & of_batch,
        grads=[("grad" in modes) for modes in grad],
        odd=train & of_batch & (odd > 0).where(odd.notna(), evaluated).fillna(False).astype(bool),
    )


def _column(ledger: pd.DataFrame, name: str) -> pd.Series:
    """A column of the ledger that recordings of older versions lack: missing there."""
    # Of the column's own dtype: pandas 2 warns where it turns objects into numbers.
    kind = BASE["ledger_base"][name]
    return ledger[name] if name in ledger else pd.Series(pd.NA, index=ledger.index, dtype=kind)


@dataclass(frozen=True, kw_only=True)
class BatchnormTrainMode(Check):
    """A BatchNorm ran in train mode where the model was evaluated.

    In train mode it normalizes with the moments of the batch: an example's result depends on its neighbours,
    and every forward moves the running statistics. One such layer in a forward of a model that is in
    evaluation mode is a warning; a whole model in train mode without gradients, or with every parameter
    frozen, is a note, since measuring a training batch is legitimate. With gradients on it is training, and
    no finding, and so is a loop that trains and evaluates in turn. A frozen BatchNorm, which applies running
    statistics in train mode too, is none either.

    What to do: call model.eval() before evaluating, and look for code that calls train() on parts.

    Figure: the BatchNorm section says which layers ran in train mode.
    Source: PyTorch issues 4741 and 5406.
    When it is wrong: test-time adaptation does this on purpose.
    """

    name: ClassVar[str] = "batchnorm_train_mode"
    title: ClassVar[str] = "BatchNorm in train mode"
    severity: ClassVar[Severity] = "warning"
    advice: ClassVar[str] = "Call model.eval() before evaluating; look for code that calls train() on parts."
    source: ClassVar[str] = "PyTorch issues 4741, 5406"
    rule: ClassVar[str] = (
        "One BatchNorm that normalizes with a batch's own statistics while the model is evaluated is enough."
    )

    def __call__(self, tables: Tables) -> list[Finding]:
        """The first batch norm in train mode, if the model was evaluated."""
        norms = batch_norms(tables)
        trains = norms[norms["trains"]]
        odd = trains[trains["odd"]]
        frozen = tables.meta.get("trainable") is False
        if tables.meta.get("mode") == "train":  # as `record` was asked to, which leaves the model as it was
            return []
        if trains.empty or (odd.empty and trains["grads"].any() and not frozen):
            return []
        wrong = trains if odd.empty else odd
        names = tuple(wrong.index)
        if not odd.empty:
            rest = "while the rest of the model is in evaluation mode"
        else:
            why = "every parameter frozen" if trains["grads"].any() else "gradients switched off"
            rest = f"with {why}: nothing is trained, but each forward moves the running statistics"
        return [
            Finding(
                layer=names[0],
                site=INPUT,
                statistic="batch norms in train mode",
                value=len(names),
                threshold=0,
                message=f"{format_count(len(names), 'batch norm')} ran in train mode, {rest}.",
                evidence="input:variance",
                severity="info" if odd.empty else "warning",
                affected=names,
            )
        ]


@dataclass(frozen=True, kw_only=True)
class SmallBatchStatistics(Check):
    """A BatchNorm in train mode normalizes with the moments of very few values.

    Mean and variance of a batch are estimates; with a handful of values, or of examples (the pixels of one
    image are alike), they are noise, and differ from what the running statistics will apply later.

    What to do: use larger batches, or GroupNorm or LayerNorm; freeze the BatchNorm in its running statistics.

    Figure: the BatchNorm section, whose caption states the number of values.
    Source: Singh and Shrivastava, EvalNorm, arXiv:1904.06031.
    When it is wrong: statistics are synchronized over processes of which this recording is one, by a layer
    that does not say so. Of one that does (SyncBatchNorm) the values of all its processes count, if
    torch.distributed says how many these are; else the message says that they are this process's.

    Attributes:
        values: least number of values per channel and call that is enough,
        examples: and least number of examples per call.
    """

    name: ClassVar[str] = "small_batch_statistics"
    title: ClassVar[str] = "BatchNorm over few values"
    severity: ClassVar[Severity] = "warning"
    advice: ClassVar[str] = (
        "Use larger batches, or a GroupNorm or LayerNorm, or freeze the running statistics."
    )
    source: ClassVar[str] = "arXiv:1904.06031"
    rule: ClassVar[str] = (
        "A call has fewer than {values} values per channel, or fewer than {examples} examples."
    )
    fitted: ClassVar[tuple[str, ...]] = ("values", "examples")

    values: int = 16
    examples: int = 4

    def __call__(self, tables: Tables) -> list[Finding]:
        """The batch norm in train mode with the fewest values per channel and call."""
        norms = batch_norms(tables)
        few = norms[norms["trains"] & ((norms["values"] < self.values) | (norms["examples"] < self.examples))]
        if few.empty:
            return []
        # Too few values are the plainer fault: examples are named only where there are values enough.
        by_values = bool((few["values"] < self.values).any())
        layer = str(few["values" if by_values else "examples"].idxmin())
        row: Any = few.loc[layer]
        values, examples = float(row["values"]), float(row["examples"])
        return [
            Finding(
                layer=layer,
                site=INPUT,
                statistic=f"{'values per channel' if by_values else 'examples'} per call",
                value=values if by_values else examples,
                threshold=self.values if by_values else self.examples,
                message=f"In train mode a call normalizes with {format_number(values)} "
                f"{'value' if values == 1 else 'values'} per channel, from {format_number(examples)} "
                f"{'example' if examples == 1 else 'examples'}"
                f"{', beside those of other processes' if row['synchronized'] else ''}"
                f"{f'; so do {len(few) - 1:,} more BatchNorm layers' if len(few) > 1 else ''}.",
                evidence="input:n_samples",
                severity="info" if row["synchronized"] else "warning",
                affected=tuple(few.index),
            )
        ]


@dataclass(frozen=True, kw_only=True)
class FrozenButUpdating(Check):
    """A BatchNorm's scale and shift are frozen, but its running statistics go on moving.

    ``requires_grad_(False)`` stops the optimizer, not the running statistics: these follow the new data in
    every forward in train mode, and the frozen part is no longer what was trained.

    What to do: put the frozen batch norms into evaluation mode after each model.train().

    Figure: the BatchNorm section.
    Source: PyTorch issues 66073 and 96136.
    When it is wrong: a model frozen as a whole, to recalibrate it, is no finding.
    """

    name: ClassVar[str] = "frozen_but_updating"
    title: ClassVar[str] = "Frozen BatchNorm goes on updating"
    severity: ClassVar[Severity] = "warning"
    advice: ClassVar[str] = "Put the frozen batch norms into evaluation mode after each model.train()."
    source: ClassVar[str] = "PyTorch issues 66073, 96136"
    rule: ClassVar[str] = (
        "One BatchNorm whose scale and shift are frozen and whose running statistics moved is enough."
    )

    def __call__(self, tables: Tables) -> list[Finding]:
        """The first batch norm whose running statistics move although its parameters are frozen."""
        norms = batch_norms(tables)
        if not {"trainable", "moved"} <= set(norms.columns):
            return []
        others = fired(tables)["trainable"].astype("boolean").fillna(False)
        trained = bool(others.any()) or tables.meta.get("trainable") is True
        # What is not known, as after merging parts that differ, is taken for trained and for not moved.
        known = norms[["trainable", "moved"]].astype("boolean")
        frozen = norms[known["trainable"].eq(False).fillna(False) & known["moved"].fillna(False)]
        if frozen.empty or not trained:
            return []
        names = tuple(frozen.index)
        return [
            Finding(
                layer=names[0],
                site=INPUT,
                statistic="frozen batch norms whose running statistics moved",
                value=len(names),
                threshold=0,
                message=f"{format_count(len(names), 'batch norm')} with frozen scale and shift moved the "
                "running statistics.",
                evidence="input:mean",
                affected=names,
            )
        ]


@dataclass(frozen=True, kw_only=True)
class UpdatedTwice(Check):
    """A BatchNorm updates its running statistics more often than the model runs forward.

    Activation checkpointing runs the forward again inside backward, and BatchNorm updates again: its momentum
    is in effect twice as large.

    What to do: take the square root of (1 - momentum) for the checkpointed layers, or leave them out of the
    checkpointed part.

    Figure: the BatchNorm section.
    Source: PyTorch issues 66073 and 96136.
    When it is wrong: code that updates statistics on purpose, outside the forward that was measured.

    Attributes:
        ratio: least number of updates per forward that is reported.
    """

    name: ClassVar[str] = "updated_twice"
    title: ClassVar[str] = "Running statistics updated more than once per forward"
    severity: ClassVar[Severity] = "warning"
    advice: ClassVar[str] = "Leave batch norms out of what is checkpointed, or lower their momentum."
    source: ClassVar[str] = "PyTorch issues 66073, 96136"
    rule: ClassVar[str] = "The running statistics moved {ratio} times per forward or more."

    ratio: float = 1.5

    def __call__(self, tables: Tables) -> list[Finding]:
        """The first batch norm with more updates than firings."""
        norms = batch_norms(tables)
        if not {"updates", "firings"} <= set(norms.columns):
            return []
        # Of updates by firings, not by forwards: a layer may rightly be called several times in one.
        often = (norms["updates"] / norms["firings"]).astype("float64")
        twice = often[often >= self.ratio]
        if twice.empty:
            return []
        return [
            Finding(
                layer=str(twice.index[0]),
                site=INPUT,
                statistic="updates of the running statistics per forward",
                value=float(twice.iloc[0]),
                threshold=self.ratio,
                message=f"The running statistics moved {format_number(twice.iloc[0])} times per forward.",
                evidence="input:mean",
                affected=tuple(twice.index),
            )
        ]
