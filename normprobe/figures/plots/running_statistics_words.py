"""The words of the running statistics: caption, one sentence, and the numbers of one layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from normprobe.formatting import format_count, format_number, format_range, sample_word

if TYPE_CHECKING:
    from normprobe.figures.plots.running_statistics import Audit
    from normprobe.tables import Tables

FEW = 1000  # values per channel; the standard error of a variance is √(2/n) of it, 4 % here


def facts(tables: Tables, norms: pd.DataFrame, count: pd.Series[float]) -> str:
    """Say in which mode the layers ran, and how much they saw.

    Args:
        tables: the tables.
        norms: the BatchNorms' rows of `frames.norms`.
        count: values seen per channel.

    Returns:
        Two sentences.
    """
    training = tables.ledger.set_index("layer")["training"].reindex(norms["layer"])
    trained = int(training.astype("string").str.contains("train").fillna(False).sum())
    if trained:
        mode = (
            f"{trained} of {format_count(len(norms), 'layer')} ran in train mode, where the batch’s own "
            "statistics normalize and the running ones are not used"
        )
    else:
        mode = (
            "In evaluation mode the layer normalizes with the running numbers, so what lies off the line "
            "comes out neither centred nor of unit variance"
        )
    low, high = int(count.min()), int(count.max())
    values = (
        format_count(low, "value") if low == high else f"{format_count(low)} to {format_count(high)} values"
    )
    examples = int(norms["n_samples"].max())
    seen = f"{format_count(examples)} {sample_word(tables.meta, 'example', examples)}"
    noise = "; so few carry sampling error of their own" if low < FEW else ""
    return f"{mode}. {seen} and {values} per channel were seen{noise}."


def caption(found: Audit) -> str:
    """Return what to look at, with the numbers filled in."""
    text = "Each bar is one BatchNorm: **thick** half of its channels, **thin** 90 %, **circle** the median."
    text = f"{text} {found.facts}"
    if found.constant:
        channels = format_count(found.channels, "channel")
        text += f" {format_count(found.constant)} of {channels} do not vary and are left out."
    return text


def aria_label(found: Audit) -> str:
    """Return one sentence for those who do not see the figure."""
    middle = found.variances[0.5]
    return (
        f"Running against observed statistics of {format_count(len(middle), 'BatchNorm')}: the median "
        f"channel’s observed variance ÷ the running one is {format_range(middle.min(), middle.max())}."
    )


def numbers(found: Audit, column: int) -> str:
    """Return what hovering over a layer says."""
    lines = [found.depth.layers[column]]
    for word, frame in (
        ("mean, running standard deviations off", found.means),
        ("variance, observed ÷ running", found.variances),
    ):
        row = frame.iloc[column]
        low, middle, high = (format_number(row[q]) for q in (0.05, 0.5, 0.95))
        lines.append(f"{word}: median {middle}, 90 % {low} to {high}")
    return "\n".join(lines)
