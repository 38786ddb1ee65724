"""A recording in a notebook cell and as one line; neither draws with matplotlib."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from markupsafe import Markup

from normprobe.formatting import format_count, sample_word, shorten_name
from normprobe.report import display_text, finding_words, run_summary
from normprobe.report.finding_words import extent, verdict_words
from normprobe.report.html.layer_strip import Cell, strip_cells
from normprobe.report.html.templating import environment
from normprobe.report.layer_summary import LINEAR
from normprobe.report.notebook.chart import small_chart
from normprobe.vocabulary import site_of

if TYPE_CHECKING:
    from normprobe.tables.frames import Tables

_MOST_FINDINGS = 3
# Names and messages may be endless; a cell is saved with its notebook, and stays below 40 kB.
_LONGEST = 300


def one_line(tables: Tables, findings: pd.DataFrame) -> str:
    """Write a recording in one line, as `repr` shows it.

    Args:
        tables: the tables of a recording.
        findings: its findings.

    Returns:
        For example `<Recording: 272 layers (61 rms_norm, 211 linear), 2110 samples, 3 findings>`.
    """
    total = len(tables.ledger)
    kinds = ", ".join(f"{n} {kind}" for kind, n in run_summary.kind_counts(tables.ledger).items())
    head = f"{total} layer{'' if total == 1 else 's'} ({kinds})"
    if not run_summary.measured_any(tables):
        return f"<Recording: {head}, nothing measured>"
    rows, found = int(tables.meta["rows"]), len(findings)
    samples = f"{rows} sample{'' if rows == 1 else 's'}"
    return f"<Recording: {head}, {samples}, {found} finding{'' if found == 1 else 's'}>"


def notebook_html(tables: Tables, findings: pd.DataFrame) -> str:
    """Write a recording as HTML for a notebook's cell: no script, no id, at most 40 kB.

    Args:
        tables: the tables of a recording; an empty one gives a sentence that says so.
        findings: its findings, worst first.

    Returns:
        One `<div>` with its own styles, which apply to nothing else.
    """
    chart = small_chart(tables) if run_summary.measured_any(tables) else None
    shown = findings.head(_MOST_FINDINGS)
    cells = strip_cells(tables, findings)
    text: str = (
        environment()
        .get_template("notebook.html")
        .render(
            # Only of sites that are drawn: each cell brings its own rules.
            css=Markup(_stylesheet(chart.sites if chart else ())),
            name=str(tables.meta["name"])[:_LONGEST],
            summary=_summary(tables),
            strip=_paths(cells),
            strip_label=_summary(tables),
            verdict=f"{verdict_words(findings)}." if run_summary.measured_any(tables) else "",
            cards=[_card(tables, row) for _, row in shown.iterrows()],
            more=len(findings) - len(shown),
            chart=chart,
            sites=[(_class(site), site_of(site)) for site in (chart.sites if chart else ())],
            class_of=_class,
            unit=sample_word(tables.meta),
            rows=_rows(tables),
        )
    )
    return text


def _stylesheet(sites: Sequence[str]) -> str:
    """The rules of a cell; a colour that a browser cannot switch with the theme is that of the light one."""
    rules = [(Path(__file__).parents[1] / "html" / "templates" / "notebook.css").read_text("utf-8")]
    for site in sites:
        light, dark = site_of(site).colour
        colours = f"color: {light}; color: light-dark({light}, {dark});"
        rules.append(f".normprobe-recording .{_class(site)} {{ {colours} }}\n")
    return "".join(rules)


def _class(site: str) -> str:
    """The class of what belongs to a site; no name of a site is that of another class."""
    return f"np-site-{re.sub(r'[^A-Za-z0-9_]+', '-', site)}"


def _summary(tables: Tables) -> str:
    """Count norms, Linear layers, gaps, samples and padding."""
    total, missed = len(tables.ledger), len(run_summary.unseen(tables.ledger))
    linear = int((tables.ledger["kind"] == LINEAR).sum())
    counts = [format_count(total - linear, "norm")] if total > linear else []
    counts += [f"{linear:,} Linear"] if linear else []
    seen = f"all {total:,} fired" if not missed else f"{missed:,} of {total:,} not seen"
    layers = ", ".join([*counts, seen])
    if not run_summary.measured_any(tables):
        return f"{layers}; nothing was measured. Call the model inside `with Probe(model) as probe:`."
    meta = tables.meta
    samples = format_count(int(meta["rows"]), sample_word(meta))
    padding = f", {int(meta['padding']):,} padding left out" if meta["padding"] else ""
    changed = run_summary.over_time(tables)
    return f"{layers}; {samples}{padding}" + (f"; {changed[:_LONGEST]}" if changed else "")


def _card(tables: Tables, row: pd.Series) -> dict[str, Any]:
    """A finding as the cell shows it: without advice and small print."""
    severity = str(row["severity"])
    return {
        "severity": severity,
        "shape": finding_words.SHAPES[severity],
        "word": finding_words.WORDS[severity],
        "title": row["title"],
        "extent": extent(tables, row),
        "message": str(row["message"])[:_LONGEST],
        "layer": shorten_name(display_text.display_name(tables, str(row["layer"])), 60),
    }


def _paths(cells: list[Cell]) -> list[tuple[str, str]]:
    """One path per look holds all its cells: 400 rectangles would be half of the cell's bytes."""
    paths: dict[str, list[str]] = {}
    for c in cells:
        paths.setdefault(c.look, []).append(f"M{c.x:g} {c.y}h{c.width:g}v{c.height}h-{c.width:g}z")
    return [(look, "".join(pieces)) for look, pieces in paths.items()]


def _rows(tables: Tables) -> str:
    """How many rows each table has."""
    frames = ("layers", "features", "samples", "ledger")
    return "Rows: " + ", ".join(f"{len(getattr(tables, name)):,} {name}" for name in frames)
