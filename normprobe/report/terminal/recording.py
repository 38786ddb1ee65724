"""A recording as plain text for a terminal: verdict, findings, and the layers that stand out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from normprobe.findings.json_document import present_and_gone
from normprobe.formatting import format_count
from normprobe.report import display_text, run_summary
from normprobe.report.layer_summary import further_sites, named_layers, standing_out, summarize
from normprobe.report.terminal.findings import change_lines, finding_lines, verdict_lines
from normprobe.report.terminal.groups import group_lines
from normprobe.report.terminal.lines import Terminal
from normprobe.report.terminal.table import stand_out_table
from normprobe.tables.unmeasured import check_measured
from normprobe.vocabulary import site_of

if TYPE_CHECKING:
    from normprobe.tables.frames import Tables

_MOST_NAMES = 8


def terminal_text(
    tables: Tables,
    findings: pd.DataFrame,
    *,
    width: int | None,
    unicode: bool,
    baseline: str | None = None,
    notes: bool = False,
) -> str:
    """Write the body of the terminal's report, without colour or control codes.

    Args:
        tables: the tables of a recording.
        findings: its findings, worst first.
        width: columns of the terminal, fewer than 80 count as 80; None cuts and wraps nothing.
        unicode: whether the stream can show `÷ × … →`; if not, `/ x ... ->` stand for them.
        baseline: what the findings were held against, where they have the column `change`.
        notes: also the warnings of the run, which the command line prints apart while it measures.

    Returns:
        Lines joined by newlines, without one at the end.

    Raises:
        NoSamplesError: nothing was measured.
    """
    check_measured(tables)
    terminal = Terminal.of(width, unicode)
    summary = summarize(tables)
    here, gone = present_and_gone(findings)
    named = named_layers(here)
    blocks = [
        _head(tables, terminal),
        _notes(tables, here, terminal, warned=not notes),
        [*verdict_lines(here, terminal), *finding_lines(tables, here, terminal)],
        [] if baseline is None else change_lines(here, gone, baseline, terminal),
        stand_out_table(tables, summary, standing_out(summary, named), named, terminal),
        group_lines(tables, terminal),
    ]
    return "\n\n".join("\n".join(block) for block in blocks if block)


def _notes(tables: Tables, findings: pd.DataFrame, terminal: Terminal, *, warned: bool) -> list[str]:
    """What was left out of the data, weights that changed, what is not looked for: a note each."""
    return [
        line
        for text in run_summary.notes(tables, findings, warned=warned)
        for line in terminal.wrap(f"Note: {text}")
    ]


def _head(tables: Tables, terminal: Terminal) -> list[str]:
    """What was run on what, which layers fired, and where values are not finite."""
    meta = tables.meta
    run = [f"{meta['dtype']} on {meta['device']}", run_summary.mode_words(meta["training"])]
    # Dtype, device and mode stand in the line above.
    measured = [fact for fact in run_summary.data_facts(meta) if fact not in run]
    whole = meta["model"] if meta["name"] == meta["model"] else f"{meta['model']} from {meta['name']}"
    lines = [*terminal.wrap(", ".join([whole, *run])), *_coverage(tables, terminal)]
    lines += terminal.wrap(", ".join(measured))
    if changed := run_summary.over_time(tables):
        lines += terminal.wrap(changed)
    if further := _further_sites(tables):
        lines += terminal.wrap(f"also measured: {further}")
    if found := run_summary.first_nonfinite(tables.layers):
        layer, site, count = found
        name = terminal.name(display_text.display_name(tables, layer), terminal.width and 40)
        lines += terminal.wrap(f"NaN or Inf first in the {site} of {name} ({format_count(count, 'value')})")
    if run_summary.single_sample(tables):
        lines.append("1 sample: variances across samples are undefined")
    return lines


def _further_sites(tables: Tables) -> str:
    """The sites besides input and output, each with how many layers were measured there."""
    layers = tables.layers
    counts = {site: (layers["site"] == site).sum() for site in further_sites(layers)}
    return ", ".join(f"{site_of(site).label} ({format_count(n, 'layer')})" for site, n in counts.items())


def _coverage(tables: Tables, terminal: Terminal) -> list[str]:
    """How many layers fired, and the names of those that did not."""
    missed = run_summary.unseen(tables.ledger)
    total = len(tables.ledger)
    counts = ", ".join(f"{n:,} {kind}" for kind, n in run_summary.kind_counts(tables.ledger).items())
    if missed.empty:
        fired = "the one layer fired" if total == 1 else f"all {total:,} layers fired"
        return terminal.wrap(f"{counts}: {fired}")
    gap = f"{total - len(missed):,} of {total:,} layers fired; {len(missed):,} did not"
    names = [display_text.display_name(tables, str(layer)) for layer in missed["layer"][:_MOST_NAMES]]
    lines = [*terminal.wrap(counts), f"{gap} (normprobe layers MODEL says why):"]
    lines += [f"  {terminal.name(name, terminal.width and terminal.width - 2)}" for name in names]
    more = len(missed) - _MOST_NAMES
    return [*lines, f"  and {more:,} more in the ledger"] if more > 0 else lines


def findings_text(tables: Tables, findings: pd.DataFrame, *, width: int | None, unicode: bool) -> str:
    """Findings alone, as `terminal_text` shows them."""
    return "\n".join(finding_lines(tables, findings, Terminal.of(width, unicode)))
