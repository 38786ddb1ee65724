"""A recording as plain text for a terminal: verdict, findings, and the layers that stand out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from normprobe.formatting import format_count, format_number
from normprobe.report import display_text, run_summary
from normprobe.report.display_text import text_or_empty
from normprobe.report.finding_words import WORDS, extent
from normprobe.report.layer_summary import further_sites, named_layers, standing_out, summarize
from normprobe.report.terminal.lines import NARROWEST, WIDEST, Terminal
from normprobe.report.terminal.table import stand_out_table
from normprobe.vocabulary import site_of

if TYPE_CHECKING:
    from normprobe.tables.frames import Tables

_MOST_FINDINGS, _MOST_NAMES = 5, 8
# As wide as `warning`, the longest severity, and two blanks.
_INDENT = " " * 9


def terminal_text(tables: Tables, findings: pd.DataFrame, *, width: int, unicode: bool) -> str:
    """Write the body of the terminal's report, without colour or control codes.

    Args:
        tables: the tables of a recording.
        findings: its findings, worst first.
        width: columns of the terminal; fewer than 80 count as 80, more than 120 as 120.
        unicode: whether the stream can show `÷ × … →`; if not, `/ x ... ->` stand for them.

    Returns:
        Lines joined by newlines, without one at the end.

    Raises:
        NoSamplesError: nothing was measured.
    """
    run_summary.check_measured(tables)
    terminal = Terminal(min(max(width, NARROWEST), WIDEST), unicode)
    summary = summarize(tables)
    named = named_layers(findings)
    blocks = [
        _head(tables, terminal),
        _findings(tables, findings, terminal),
        stand_out_table(tables, summary, standing_out(summary, named), named, terminal),
    ]
    return "\n\n".join("\n".join(block) for block in blocks if block)


def _head(tables: Tables, terminal: Terminal) -> list[str]:
    """What was run on what, which layers fired, and where values are not finite."""
    meta = tables.meta
    run = [f"{meta['dtype']} on {meta['device']}", run_summary.mode_words(meta["training"])]
    # Dtype, device and mode stand in the line above.
    measured = [fact for fact in run_summary.data_facts(meta) if fact not in run]
    whole = meta["model"] if meta["name"] == meta["model"] else f"{meta['model']} from {meta['name']}"
    lines = [*terminal.wrap(", ".join([whole, *run])), *_coverage(tables, terminal)]
    lines += terminal.wrap(", ".join(measured))
    if further := _further_sites(tables):
        lines += terminal.wrap(f"also measured: {further}")
    if found := run_summary.first_nonfinite(tables.layers):
        layer, site, count = found
        name = terminal.name(display_text.display_name(tables, layer), 40)
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
    lines += [f"  {terminal.name(name, terminal.width - 2)}" for name in names]
    more = len(missed) - _MOST_NAMES
    return [*lines, f"  and {more:,} more in ledger.csv"] if more > 0 else lines


def _findings(tables: Tables, findings: pd.DataFrame, terminal: Terminal) -> list[str]:
    """The first findings, and how many more there are."""
    if findings.empty:
        return ["No findings: nothing worth acting on."]
    lines = [
        line
        for _, row in findings.head(_MOST_FINDINGS).iterrows()
        for line in _finding(tables, row, terminal)
    ]
    more = len(findings) - _MOST_FINDINGS
    return [*lines, f"and {more:,} more in findings.csv"] if more > 0 else lines


def _finding(tables: Tables, row: pd.Series, terminal: Terminal) -> list[str]:
    """One line where that fits a wide terminal, else a heading above what was measured and its source."""
    tag = WORDS[str(row["severity"])].lower().ljust(len(_INDENT))
    shared = extent(tables, row)
    what, source, statistic = _what(tables, row, terminal), text_or_empty(row["source"]), _statistic(row)
    single = f"{tag}{row['title']}: {', '.join(filter(None, [what, statistic, shared]))}; {source}"
    if terminal.width >= WIDEST and terminal.fits(single):
        return [terminal.show(single)]
    heading = terminal.show(f"{tag}{row['title']}{f' ({shared})' if shared else ''}")
    wheres = [what]
    if writer := text_or_empty(row["written_by"]):
        wheres.append(
            f"written by {terminal.name(display_text.display_name(tables, writer), terminal.width - 22)}"
        )
    limit = f"threshold {format_number(row['threshold'])}" if pd.notna(row["threshold"]) else ""
    measured = ", ".join(filter(None, [statistic, limit]))
    return [heading, *_joined(wheres, ",", terminal), *_joined([measured, source], ";", terminal)]


def _what(tables: Tables, row: pd.Series, terminal: Terminal) -> str:
    """The value and where: `27,347 in feature 507 at model.layers.12.input_layernorm`."""
    name = terminal.name(display_text.display_name(tables, str(row["layer"])), terminal.width - 32)
    feature = "" if pd.isna(row["feature"]) else f" in feature {int(row['feature'])}"
    return f"{format_number(row['value'])}{feature} at {name}"


def _statistic(row: pd.Series) -> str:
    """What the value is, unless it is the plainest: the largest |value|."""
    return "" if row["statistic"] == "largest |value|" else text_or_empty(row["statistic"])


def _joined(phrases: list[str], mark: str, terminal: Terminal) -> list[str]:
    """Put phrases on one indented line where they fit, else each on lines of its own."""
    known = [phrase for phrase in phrases if phrase]
    whole = f"{_INDENT}{f'{mark} '.join(known)}"
    if terminal.fits(whole):
        return [terminal.show(whole)] if known else []
    ends = [*[f"{phrase}{mark}" for phrase in known[:-1]], known[-1]]
    return [line for phrase in ends for line in terminal.wrap(phrase, _INDENT)]
