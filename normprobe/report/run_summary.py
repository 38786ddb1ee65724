"""What a recording saw and what it did not, in the words that page, notebook and terminal share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd

from normprobe.findings.outliers import OutlierFeatures
from normprobe.formatting import change_words, format_count, in_prose, steps_words
from normprobe.report.layer_summary import LINEAR
from normprobe.tables.measures.history import history
from normprobe.tables.measures.outliers import too_few_values
from normprobe.tables.measures.over_time import changes, main_phase
from normprobe.vocabulary import INPUT, OUTPUT, in_order

if TYPE_CHECKING:
    from normprobe.tables.frames import Tables


def measured_any(tables: Tables) -> bool:
    """Whether any layer saw a sample."""
    return bool((tables.layers["n_samples"] > 0).any())


def kind_counts(ledger: pd.DataFrame) -> dict[str, int]:
    """Count the layers of each kind, norms first, the commonest kind first."""
    counts = {str(kind): int(n) for kind, n in ledger["kind"].value_counts().items()}
    return dict(sorted(counts.items(), key=lambda item: (item[0] == LINEAR, -item[1], item[0])))


def unseen(ledger: pd.DataFrame) -> pd.DataFrame:
    """The ledger's rows of layers that were not measured."""
    return ledger[ledger["status"] != "fired"]


def unseen_reasons(ledger: pd.DataFrame) -> str:
    """Count the unseen layers by status: `2 never fired, 1 bypassed`."""
    counts = unseen(ledger)["status"].value_counts(sort=False)
    return ", ".join(f"{n:,} {status}" for status, n in counts.items())


def data_facts(meta: Mapping[str, Any]) -> list[str]:
    """What was run: data, samples, padding, dtype, device, mode, and `every` where it is not 1."""
    every = int(meta["options"].get("every", 1))
    unit, example = str(meta["unit"]), str(meta["example_unit"])
    data = meta.get("data") or format_count(int(meta["examples"]), example)
    facts = [str(data)]
    # Where an example is one row its count is said already.
    if meta["rows"] != meta["examples"]:
        facts.append(f"{format_count(int(meta['rows']), unit)} measured")
    if meta["padding"]:
        facts.append(f"{int(meta['padding']):,} padding left out")
    facts += [f"{meta['dtype']} on {meta['device']}", mode_words(meta["training"])]
    if every != 1:
        facts.append(f"every {ordinal(every)} forward ({meta['measured']:,} of {meta['forwards']:,})")
    return facts


def mode_words(training: list[str]) -> str:
    """Name the modes that layers ran in."""
    words = {"eval": "evaluation", "train": "training"}
    return " and ".join(words.get(mode, mode) for mode in training) + " mode"


def ordinal(number: int) -> str:
    """Write 2 as `2nd` and 11 as `11th`."""
    suffix = "th" if number % 100 in {11, 12, 13} else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{suffix}"


def single_sample(tables: Tables) -> bool:
    """Whether no layer saw more than one sample, so that variances across samples say nothing."""
    return int(tables.layers["n_samples"].max()) == 1


def notes(tables: Tables, findings: pd.DataFrame, *, warned: bool = False) -> list[str]:
    """What is to be known of a run beside its numbers: its warnings, and what is not looked for.

    Args:
        tables: the tables of a recording.
        findings: its findings; one of outlier features was looked for with a threshold of the reader's own.
        warned: whether the reader has been told of the warnings already.
    """
    warnings = [] if warned else [str(warning) for warning in tables.meta["warnings"]]
    few = "" if (findings["check"] == OutlierFeatures.name).any() else too_few_values(tables)
    return [*warnings, few] if few else warnings


def over_time(tables: Tables) -> str:
    """What changed most over the windows of a run, and when; "" of a single window."""
    phase, moved = main_phase(tables), changes(tables)
    if phase is None or not moved:
        return ""
    windows, most = history(tables).windows, moved[0]
    windows = windows[windows["phase"] == phase]
    steps = steps_words(int(windows["first_step"].iloc[0]), int(windows["last_step"].iloc[-1]))
    place = f"{'before' if most.site == INPUT else 'after'} {in_prose(most.layer)}"
    words = change_words(place, (most.begin, most.end), (most.first, most.last), most.factor)
    return f"{len(windows):,} windows of {phase}, {steps}: {words}"


def first_nonfinite(layers: pd.DataFrame) -> tuple[str, str, int] | None:
    """Find where values that are not finite begin.

    Returns:
        The first layer, in order of execution, whose output has one while its input has none, with the
        site `output` and the count; else the first layer that has any, with its first such site; else None.
    """
    ordered = layers.sort_values("depth", kind="stable")
    # sort=False: by default the first layer would be that of the first name.
    counts = ordered.pivot_table(index="layer", columns="site", values="nonfinite", sort=False, aggfunc="sum")
    # A site that was not measured is NaN, which is neither above 0 nor 0.
    counts = counts.reindex(columns=list(in_order([*counts.columns, INPUT, OUTPUT])))
    made = counts[(counts[OUTPUT] > 0) & (counts[INPUT] == 0)]
    if len(made):
        return str(made.index[0]), OUTPUT, int(made[OUTPUT].iloc[0])
    dirty = counts[(counts > 0).any(axis=1)]
    if dirty.empty:
        return None
    first = dirty.iloc[0]
    site = str(first.index[first > 0][0])
    return str(dirty.index[0]), site, int(first[site])
