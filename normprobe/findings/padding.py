"""Checks of padding: averaged into a norm, or not left out at all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd

from normprobe.findings.check import Check, Finding, Severity
from normprobe.findings.wording import same_at
from normprobe.formatting import format_count, format_number
from normprobe.tables.measures.by_site import rows_at, rows_of
from normprobe.tables.measures.common import at_site
from normprobe.tables.measures.layers import first_to_read, inputs_and_outputs, layer_measures
from normprobe.tables.measures.samples import example_measures
from normprobe.vocabulary import INPUT, OUTPUT

if TYPE_CHECKING:
    from normprobe.tables.frames import Tables


VECTOR = ["mean", "variance", "min", "max"]
"""What is kept of a sample: two samples that agree in all four are taken for the same."""
SAME = 1e-8
"""Examples of which a smaller share varies are the same throughout: data, not padding."""


@dataclass(frozen=True, kw_only=True)
class PaddingInNorm(Check):
    """A norm over positions averages padding into its statistics.

    BatchNorm over (examples, channels, positions) knows no mask. In train mode the padding shifts what the
    real positions are normalized with; in evaluation mode the running statistics were collected with it, if
    they lie nearer to the moments with padding than to those without. GroupNorm and InstanceNorm take each
    example with its padding: what they write of the real positions then has not mean square 1, scale and
    shift aside.

    What to do: normalize real positions only, or use LayerNorm, which treats every position on its own.

    Figure: the BatchNorm section.
    Source: PyTorch issues 70529 and 81985.
    When it is wrong: the same amount of padding in training and use does little harm.

    Attributes:
        factor: least median factor between the variance with padding and without,
        shift: or least median distance of the means in standard deviations, that is reported.
    """

    name: ClassVar[str] = "padding_in_norm"
    title: ClassVar[str] = "A norm averages padding in"
    severity: ClassVar[Severity] = "warning"
    advice: ClassVar[str] = "Normalize real positions only, or use a LayerNorm, which treats each on its own."
    source: ClassVar[str] = "PyTorch issues 70529, 81985"
    rule: ClassVar[str] = (
        "In the median channel padding changes the variance by a factor above {factor}, or the mean by "
        "more than {shift} standard deviations."
    )
    fitted: ClassVar[tuple[str, ...]] = ("factor", "shift")

    factor: float = 1.1
    shift: float = 0.1

    def __call__(self, tables: Tables) -> list[Finding]:
        """The first channel norm whose statistics hold padding."""
        if not (layer_measures(tables)["masked"] > 0).any():
            return []
        effect = pd.concat([_padding_effect(tables), _example_effect(tables)])
        # Both kinds of norms in order of execution: one stands behind the other until here.
        order = at_site(layer_measures(tables), INPUT).index
        effect = effect.reindex([name for name in order if name in effect.index])
        inside = (effect["factor"] > self.factor) | (effect["shift"] > self.shift)
        wrong = effect[inside & (effect["trains"] | ~effect["trained_without"])]
        if wrong.empty:
            return []
        row: Any = wrong.iloc[0]
        names = tuple(wrong.index)
        scaled = row["factor"] > self.factor
        what = (
            f"the variance this norm uses by a factor of {format_number(row['factor'])}"
            if scaled
            else f"the mean this norm uses by {format_number(row['shift'])} standard deviations"
        )
        return [
            Finding(
                layer=names[0],
                site=INPUT,
                statistic="median factor between the variance with padding and without"
                if scaled
                else "median distance of the means with padding and without, in standard deviations",
                value=row["factor" if scaled else "shift"],
                threshold=self.factor if scaled else self.shift,
                message=f"Padding changes {what}{same_at(len(names), 'norm')}.",
                evidence="input:masked",
                affected=names,
            )
        ]


def _padding_effect(tables: Tables) -> pd.DataFrame:
    """What padding does to each batch norm that saw some, by layer and in order of execution.

    Columns: ``factor`` and ``shift`` (medians over channels of how far the moments with padding lie from
    those without), ``trains`` and ``trained_without`` (running statistics nearer to the moments without
    padding).
    """
    layers = at_site(layer_measures(tables), INPUT)
    masked = layers.index[layers["masked"] > 0]
    rows = rows_of(tables, "features", masked, INPUT)
    # A channel that is constant without padding would be infinitely far off with it.
    rows = rows[(rows["variance"] > 0) & (rows["seen_variance"] > 0)]
    running = _distance(rows["running_mean"], rows["running_var"], rows)
    seen = _distance(rows["seen_mean"], rows["seen_variance"], rows)
    channels = seen.abs().assign(
        layer=rows["layer"], to_real=running.abs().sum(axis=1), to_seen=(running - seen).abs().sum(axis=1)
    )
    effect = (
        channels.groupby("layer").median().reindex([name for name in masked if name in set(rows["layer"])])
    )
    trains = tables.ledger.set_index("layer")["training"].str.contains("train").astype("boolean")
    return effect.assign(
        factor=np.exp(effect["factor"]),
        trains=trains.reindex(effect.index).fillna(False).astype(bool),
        trained_without=effect["to_real"] < effect["to_seen"],
    )


def _example_effect(tables: Tables) -> pd.DataFrame:
    """What padding does to each norm over the channels of an example, as `_padding_effect` does.

    ``factor`` is how far the mean square of what the norm writes of real positions, before its scale and
    shift, lies from 1.
    """
    layers = at_site(layer_measures(tables), OUTPUT)
    names = layers.index[layers["kind"].isin(["group_norm", "instance_norm"]) & (layers["masked"] > 0)]
    rows = rows_of(tables, "features", names, OUTPUT)
    weight, bias = rows["weight"].fillna(1.0), rows["bias"].fillna(0.0)
    square = (rows["variance"] + (rows["mean"] - bias) ** 2) / weight.where(weight != 0) ** 2
    middle = square.groupby(rows["layer"]).mean().reindex(names)
    factor = np.exp(np.abs(np.log(middle.where(middle > 0))))
    # Without running statistics they normalize each example by itself, in either mode.
    return pd.DataFrame({"factor": factor, "shift": 0.0, "trains": True, "trained_without": False})


def _distance(mean: pd.Series, variance: pd.Series, rows: pd.DataFrame) -> pd.DataFrame:
    """Distances of moments from those of real rows, by channel: log factor and distance of means."""
    positive = variance.where(variance > 0)
    return pd.DataFrame(
        {
            "factor": np.log(positive / rows["variance"]),
            "shift": (mean - rows["mean"]) / np.sqrt(rows["variance"]),
        }
    )


@dataclass(frozen=True, kw_only=True)
class PaddingUnmasked(Check):
    """The inputs hold padding, but no mask said so: it is in every statistic, and in the model's attention.

    Padding is known by its token where the model says which that is: runs of it at either end of a text are
    counted (``pad_tokens`` in the facts of the recording). Or by its text, where samples are labelled.
    Otherwise it is recognised in what the first layer reads: several examples end in runs of positions that
    are the same in all of them, or begin in runs of one and the same vector. A probe that is to use no mask
    (``mask=None``) is left alone, and so is a model that pads by itself.

    Or a mask said so, but does not fit what some layers read: they have other numbers of positions, and by
    which of them are padding is not certain. Padding is in the statistics of these layers then.

    What to do: pass the tokenizer's attention_mask to the model, or give the probe a mask; to layers of other
    sizes one by their names.

    Figure: none; the header says how much padding was left out.
    Source: PyTorch issue 81985; the attention_mask of Hugging Face's documentation of padding.
    When it is wrong: texts that end in the same words at the same positions; layers that read a summary of
    the positions, in which padding had no part.

    Attributes:
        share: least share of the positions (of the first layer's kept ones, if the token is not known) that
            is reported.
        run: least length of a run of same positions at an end of an example.
        texts: what padding tokens are called.
    """

    name: ClassVar[str] = "padding_unmasked"
    title: ClassVar[str] = "Padding without a mask"
    severity: ClassVar[Severity] = "warning"
    advice: ClassVar[str] = "Pass the tokenizer's attention_mask to the model, or give the probe a mask."
    source: ClassVar[str] = "PyTorch issue 81985; huggingface.co/docs/transformers/pad_truncation"
    rule: ClassVar[str] = (
        "At least {share:%} of the positions are padding tokens; where the token is not known, the same "
        "position at least {run} times in a row at an end of an example."
    )
    fitted: ClassVar[tuple[str, ...]] = ("share",)

    share: float = 0.02
    run: int = 3
    texts: tuple[str, ...] = ("[PAD]", "<pad>", "<|pad|>", "<|padding|>", "<PAD>", "[pad]")

    def __call__(self, tables: Tables) -> list[Finding]:
        """The first layer that reads padding which no mask leaves out, or whose positions no mask fits."""
        if (tables.meta.get("options") or {}).get("mask", "auto") is None:
            return []
        return [*self._without_a_mask(tables), *_unfit(tables)]

    def _without_a_mask(self, tables: Tables) -> list[Finding]:
        """The first layer, if the inputs hold padding and nothing said so."""
        # Equal ends of anything but texts are no sign of padding.
        if tables.meta.get("unit") != "token":
            return []
        layers = inputs_and_outputs(tables)
        if first_to_read(layers) is None:
            return []
        first = layers.reset_index().iloc[0]
        share = self._share(tables, first)
        if share < self.share:
            return []
        return [
            Finding(
                layer=str(first["layer"]),
                site=INPUT,
                statistic="share of positions that are padding",
                value=share,
                threshold=self.share,
                message=f"{share:.0%} of what the model reads is padding, and no mask says so.",
                evidence="input:n_samples",
                affected=tuple(tables.layers["layer"].unique()),
            )
        ]

    def _share(self, tables: Tables, first: Any) -> float:
        """The share of padding among what the first layer reads, or 0 where a mask is known."""
        rows = int(tables.meta.get("rows") or first["n_samples"])
        # Counted in the inputs themselves, so it goes before what is only recognised.
        known = int(tables.meta.get("pad_tokens") or 0)
        if known:
            return known / max(rows, 1)
        masked = tables.ledger["masked_by"].fillna("").ne("").any()
        by_itself = first["n_samples"] > rows  # to a multiple of the model's window
        spread = example_measures(tables)["example_spread"].get((first["layer"], INPUT), np.nan)
        if masked or by_itself or float(spread) < SAME:
            return 0.0
        samples = rows_at(tables, "samples", first["layer"], INPUT)
        return (self._by_text(tables) or self._by_repetition(samples)) / max(len(samples), 1)

    def _by_text(self, tables: Tables) -> int:
        return int(tables.labels["text"].isin(self.texts).sum())

    def _by_repetition(self, samples: pd.DataFrame) -> int:
        """How many kept samples begin or end an example in a run of padding."""
        rows = samples.dropna(subset=["example", "position"]).sort_values(["part", "example", "position"])
        return self._ends(rows) or self._beginnings(rows)

    def _ends(self, rows: pd.DataFrame) -> int:
        """How many samples end an example in a run that other examples share.

        All such runs must end in the same vector, as padding does; texts that happen to end alike do not.
        """
        # What a single example reaches cannot be shared.
        positions = rows.groupby("position")["example"].transform("nunique") > 1
        shared = rows.groupby(["position", *VECTOR], dropna=False)["example"].transform("nunique") > 1
        total, last = 0, []
        for _, unlike in (positions & ~shared).groupby([rows["part"], rows["example"]]):
            odd = np.flatnonzero(unlike.to_numpy())
            tail = len(unlike) - 1 - odd[-1] if len(odd) else 0
            if tail >= self.run:
                total += tail
                last.append(unlike.index[-1])
        # Rounding differs from batch to batch: vectors within a thousandth of the spread are the same.
        ends = rows.loc[last].groupby("position")[VECTOR]
        apart = (ends.max() - ends.min()).max()
        return total if last and (apart <= 1e-3 * rows[VECTOR].std()).all() else 0

    def _beginnings(self, rows: pd.DataFrame) -> int:
        """How many samples begin several examples in runs of one and the same vector."""
        runs: dict[tuple[float, ...], list[int]] = {}
        for _, text in rows.groupby(["part", "example"])[VECTOR]:
            values = text.to_numpy()
            # Another example must begin in the same vector, or a text that repeats itself would count.
            odd = np.flatnonzero((values != values[0]).any(axis=1))
            if len(odd) and odd[0] >= self.run:
                runs.setdefault(tuple(values[0]), []).append(int(odd[0]))
        return max((sum(lengths) for lengths in runs.values() if len(lengths) > 1), default=0)


def _unfit(tables: Tables) -> list[Finding]:
    """The first layer that a mask was there for and did not fit."""
    ledger = tables.ledger_base
    if "unmasked" not in ledger.columns:
        return []
    unfit = set(ledger.loc[ledger["unmasked"].fillna(0) > 0, "layer"])
    order = tables.layers.sort_values("depth")["layer"].astype(str).unique()
    names = tuple(name for name in order if name in unfit)
    if not names:
        return []
    layers = format_count(len(names), "layer")
    return [
        Finding(
            layer=names[0],
            site=INPUT,
            statistic="layers whose padding the mask does not leave out",
            value=len(names),
            threshold=0,
            message=f"Padding is in the statistics of {layers}: the mask does not fit their positions.",
            evidence="input:n_samples",
            affected=names,
            title="A mask that does not fit",
            advice='Give the probe masks of their sizes, by name: mask={"encoder.*": tensor}.',
        )
    ]
