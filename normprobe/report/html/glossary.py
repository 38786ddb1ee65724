"""The page's last section: terms, method and thresholds in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from normprobe.findings import page_of
from normprobe.formatting import format_count, format_number
from normprobe.report.layer_summary import further_sites
from normprobe.vocabulary import site_of

if TYPE_CHECKING:
    import pandas as pd

    from normprobe.tables.frames import Tables

_ENTRIES = [
    (
        "Before and after",
        "The input and the output of a layer. “After” a norm includes its own scale and shift. "
        "Blue with a hollow marker is before, orange with a filled marker is after.",
    ),
    (
        "Variance",
        "The population variance: divided by n, as LayerNorm and BatchNorm divide. Every mean and variance "
        "is exact over all real rows, not over a choice of them.",
    ),
    (
        "÷ median feature",
        "The largest |value| of the worst feature divided by that of the median feature of the same tensor. "
        "1 means that all features reach equally far; above 10 one feature stands out.",
    ),
    (
        "Spread, in the terminal's table",
        "The 95th percentile of the samples' variances divided by the 5th, before → after a norm. 1 means "
        "that all samples vary alike, as behind a LayerNorm without weight.",
    ),
    (
        "Block and role",
        "The first integer in a layer's name is its block; the name without it is its role. Layers of one "
        "role share a line.",
    ),
]


def glossary_entries(tables: Tables, findings: pd.DataFrame) -> list[tuple[str, str]]:
    """Pairs of term and explanation, with this recording's units, choices and thresholds filled in."""
    entries = [
        _ENTRIES[0],
        *_site_entries(tables),
        *_ENTRIES[1:],
        _sample_term(tables),
        _kept_term(tables),
        *_threshold_term(findings),
    ]
    return [*entries, *_pages(findings)]


def _site_entries(tables: Tables) -> list[tuple[str, str]]:
    """A term for each site besides input and output."""
    layers = tables.layers
    entries = []
    for name in further_sites(layers):
        site, count = site_of(name), layers.loc[layers["site"] == name, "layer"].nunique()
        where = (
            f"A further site, `{name}`, measured at {format_count(count, 'layer')}: marked {site.sign} in "
        )
        where += (
            "a colour of its own. The table has its variance and largest |value| in columns of their own."
        )
        entries.append((site.label[:1].upper() + site.label[1:], where))
    return entries


def _pages(findings: pd.DataFrame) -> list[tuple[str, str]]:
    """The page of each check that found something: what it means, its source, when it is wrong."""
    # Not of every check: the terms above would be lost among them.
    used = dict.fromkeys(findings["check"])
    return [(name.replace("_", " ").capitalize(), " ".join(page_of(name))) for name in used if page_of(name)]


def _sample_term(tables: Tables) -> tuple[str, str]:
    """What a sample is, for each kind of layer that there is."""
    unit, example = tables.meta["unit"], tables.meta["example_unit"]
    units = set(tables.layers["sample_unit"])
    lines = []
    if "position" in units:
        lines.append(f"For layers that work on the last axes a sample is one {unit}.")
    if "example" in units:
        lines.append(
            f"For layers with a channel axis it is one {example}, and the features are the channels."
        )
    lines.append("Padding enters no statistic.")
    return "Sample", " ".join(lines)


def _kept_term(tables: Tables) -> tuple[str, str]:
    """Of how many samples what is kept."""
    options = tables.meta["options"]
    kept, rows = options["samples"], options["values"]
    samples = (
        "every sample" if kept == "all" else f"at most {kept:,}, chosen by a hash, the same in every layer"
    )
    return (
        "What is kept",
        f"Percentiles over samples come from the kept samples: {samples}. Histograms and the median |value| "
        f"come from the raw rows of {rows} of them. Smallest and largest values are over everything.",
    )


def _threshold_term(findings: pd.DataFrame) -> list[tuple[str, str]]:
    """The thresholds of the checks that found something."""
    seen = findings.dropna(subset=["threshold"]).drop_duplicates("check")
    if seen.empty:
        return []
    rows = zip(seen["title"], seen["statistic"], seen["threshold"], strict=True)
    each = [f"{title} ({statistic}, {format_number(limit)})" for title, statistic, limit in rows]
    below = f"What each means, and when it is wrong, is below; `normprobe explain {seen['check'].iloc[0]}`"
    below += " prints it too." if len(seen) == 1 else " and so on print it too."
    return [("Thresholds of the findings above", f"{'; '.join(each)}. {below}")]
