"""The report page: what the template is given, and the files beside it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from markupsafe import Markup

from normprobe.formatting import format_count
from normprobe.report import display_text, run_summary
from normprobe.report.files import FIGURES, marker, write_atomically
from normprobe.report.finding_words import nothing_found
from normprobe.report.garbage import uncollected
from normprobe.report.group_rows import group_table
from normprobe.report.html.cards import finding_cards
from normprobe.report.html.expert_rows import expert_rows
from normprobe.report.html.glossary import glossary_entries
from normprobe.report.html.headline import verdict
from normprobe.report.html.layer_strip import MOST_CELLS, strip_cells
from normprobe.report.html.layer_table import MOST_ROWS, further_columns, layer_rows
from normprobe.report.html.links import Anchors, number_layers, shown_names
from normprobe.report.html.sections import (
    PANEL_FILE,
    check_choice,
    figure_sections,
    norm_panels,
    ordered_sections,
    panel_layers,
)
from normprobe.report.html.stylesheet import TEMPLATES, stylesheet
from normprobe.report.html.templating import environment
from normprobe.report.layer_summary import LINEAR, named_layers, standing_out, summarize
from normprobe.tables.unmeasured import check_measured
from normprobe.vocabulary import OUTPUT

if TYPE_CHECKING:
    from os import PathLike

    from normprobe.tables.frames import Tables

_UNSEEN_HELP = {
    "unmeasured": "Unmeasured: it was called, but none of its calls could be measured; its reason says why.",
    "never fired": "Never fired: this data did not reach the layer. Run what calls it, or leave it out.",
    "bypassed": "Bypassed: its weight was read without a call of the module, so no hook sees its tensors.",
    "refused": "Refused: it does not read as rows and features; normprobe.register_view says how to.",
}


def write_report(
    tables: Tables,
    findings: pd.DataFrame,
    directory: str | PathLike[str],
    *,
    panels: str | None = None,
    beside: Sequence[str] = (),
) -> Path:
    """Write `report.html` and the folder `figures/`.

    Everything is built under another name in the same folder and moved into place at the end, the page
    last, so that an existing report is never lost. Files of other names in the folder stay as they are.

    Args:
        tables: the tables of a recording.
        findings: its findings, worst first.
        directory: the folder, created with its parents if need be.
        panels: None for a before/after panel of at most 64 norms, "all" for every norm, "files" for
            the former and a PNG of each.
        beside: names of the tables that were written into the folder, which the page points at.

    Returns:
        The path of `report.html`.

    Raises:
        NoSamplesError: nothing was measured; nothing is written.
        NormprobeError: `panels` is not a choice; nothing is written.
        RecordingError: the folder is a file or cannot be written.
    """
    check_choice(panels)
    check_measured(tables)
    folder = Path(directory)
    with uncollected():
        return write_atomically(folder, partial(_render, tables, findings, panels, beside), _drawn)


def _drawn(name: str) -> bool:
    """Whether a file in the folder of figures has the name of one that a report draws."""
    from normprobe.figures import registry  # loads matplotlib, which notebook and terminal do without

    stem, _, ending = name.rpartition(".")
    if ending in {"png", "svg"} and registry.entry_of(stem) is not None:
        return True
    return PANEL_FILE.fullmatch(name) is not None


def _render(
    tables: Tables, findings: pd.DataFrame, panels: str | None, beside: Sequence[str], drawn: Path
) -> str:
    """The page as text; its figures are left in the folder `drawn`."""
    summary = summarize(tables)
    ranked = standing_out(summary, named_layers(findings))
    anchors = _anchors(
        tables, frozenset(panel_layers(summary, ranked, panels)), frozenset(ranked[:MOST_ROWS])
    )
    figures = figure_sections(tables, drawn, anchors)
    each = norm_panels(tables, summary, anchors, drawn if panels == "files" else None)
    rows = layer_rows(tables, summary, ranked)
    template = environment().get_template("page.html")
    return template.render(
        what="report",
        anchors=anchors,
        sections=ordered_sections(tables, figures, each),
        groups=group_table(tables, MOST_ROWS),
        cards=finding_cards(tables, findings, anchors),
        rows=rows,
        further=further_columns(summary),
        rows_note=_rows_note(len(rows), len(summary), beside),
        kinds=sorted({row.kind for row in rows}),
        panels=each.shown,
        panels_open=each.opened,
        panels_note=each.note,
        experts=expert_rows(tables),
        entries=glossary_entries(tables, findings),
        files=[*beside, f"{FIGURES}/"] if any(drawn.iterdir()) else list(beside),
        marker=marker(str(tables.meta["name"]), beside),
        **_header(tables, findings, anchors),
        **_unseen(tables),
        **assets(),
    )


def _anchors(tables: Tables, panels: frozenset[str], rows: frozenset[str]) -> Anchors:
    """Where each layer stands on the page."""
    number = number_layers(tables)
    return Anchors(number, shown_names(tables, number), panels, rows)


def assets() -> dict[str, Markup]:
    """The style and script of a page."""
    # Our own files, so nothing in them is to be escaped.
    return {"css": Markup(stylesheet()), "js": Markup((TEMPLATES / "page.js").read_text("utf-8"))}


def _header(tables: Tables, findings: pd.DataFrame, anchors: Anchors) -> dict[str, Any]:
    """What stands above the sections: name, verdict, facts, ledger strip."""
    cells = strip_cells(tables, findings)
    key = _key(tables, {cell.look for cell in cells})
    whole = str(tables.meta["name"])
    name = display_text.heading(whole)
    return {
        "name": name,
        "verdict": verdict(tables, findings, anchors),
        "alert": _alert(tables, anchors),
        # Of a path the heading has the end; then the whole stands here.
        "facts": [*run_summary.data_facts(tables.meta), *([] if name == whole else [f"read from {whole}"])],
        "nothing_found": nothing_found(findings),
        "notes": _notes(tables, findings),
        "cells": cells,
        "key": key,
        "strip_label": "Layers: " + "; ".join(words for _, words in key),
        "made": _made(tables),
    }


def _key(tables: Tables, looks: set[str]) -> list[tuple[str, str]]:
    """The strip in words: pairs of the look of a cell (empty for none) and what it stands for."""
    fired = tables.ledger[tables.ledger["status"] == "fired"]
    counts = run_summary.kind_counts(fired)
    key = [(LINEAR if kind == LINEAR else "norm", f"{n:,} {kind}") for kind, n in counts.items()]
    if "flag" in looks:
        key.append(("flag", "named by an error or a warning"))
    missed = run_summary.unseen_reasons(tables.ledger)
    order = "in order of execution; "
    key.append(("unseen", f"{missed}, at the end") if missed else ("", order + "all ran"))
    if missed:
        key.append(("", order.removesuffix("; ")))
    if len(tables.ledger) > MOST_CELLS:
        group = -(-len(tables.ledger) // MOST_CELLS)
        key.append(("", f"{group} layers a cell: the worst shown, else a norm"))
    return key


def _alert(tables: Tables, anchors: Anchors) -> Markup | None:
    """Where values that are not finite begin, None without any."""
    found = run_summary.first_nonfinite(tables.layers)
    if found is None:
        return None
    layer, site, count = found
    what = "already has NaN or Inf ({})."
    if site == OUTPUT:
        what = "is the first with NaN or Inf ({}); its input has none."
    text = Markup("<strong>NaN or Inf.</strong> The {} of {} " + what + " {}")
    ending = "All statistics are over the finite values."
    # Markup.format escapes what is put in.
    return text.format(site, anchors.name(layer), format_count(count, "value"), ending)


def _notes(tables: Tables, findings: pd.DataFrame) -> list[str]:
    """What a reader should know before reading any number."""
    notes = []
    if (tables.ledger["kind"] == LINEAR).all():
        notes.append("No normalization layer: Linear layers only.")
    if run_summary.single_sample(tables):
        notes.append("1 sample: variances across samples are undefined.")
    return notes + run_summary.notes(tables, findings)


def _made(tables: Tables) -> str:
    """When, and with which versions, the recording was made."""
    versions = [f"{name} {version}" for name, version in tables.meta["versions"].items() if version]
    # In UTC whatever the zone that it was written in: readers are elsewhere.
    made = datetime.fromisoformat(tables.meta["created"]).astimezone(UTC)
    return f"Recorded {made:%Y-%m-%d %H:%M} UTC with {', '.join(versions)}; measured by {_kernels(tables)}."


def _kernels(tables: Tables) -> str:
    """What added the numbers up: the C kernel, plain torch, or in a merged recording both."""
    names = str(tables.meta["kernel"]).split("; ")
    return " and ".join({"c": "the C kernel", "torch": "plain torch"}.get(name, name) for name in names)


def _rows_note(shown: int, total: int, beside: Sequence[str]) -> str:
    """The sentence above a table that does not hold all layers."""
    if shown == total:
        return ""
    whole = next((name for name in beside if name.startswith("layers.")), "the recording's table of layers")
    return f"The {shown:,} of {total:,} layers that stand out most; {whole} has them all."


def _unseen(tables: Tables) -> dict[str, Any]:
    """The section of the layers that were not measured."""
    rows = [
        {
            "name": display_text.display_name(tables, str(r.layer)),
            "kind": r.kind,
            "status": r.status,
            "reason": r.reason,
        }
        for r in run_summary.unseen(tables.ledger).itertuples()
    ]
    reasons = run_summary.unseen_reasons(tables.ledger)
    return {
        "unseen": rows,
        "unseen_help": [
            help_ for status, help_ in _UNSEEN_HELP.items() if status in {r["status"] for r in rows}
        ],
        "unseen_note": f"{reasons}. They are in no figure and no statistic.",
    }
