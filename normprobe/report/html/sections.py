"""The sections of the page, in order, each only where the recording has something to show in it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
from markupsafe import Markup, escape

from normprobe.errors import NormprobeError
from normprobe.formatting import format_count, format_number
from normprobe.report.display_text import display_name
from normprobe.report.html.templating import polished
from normprobe.report.layer_summary import LINEAR
from normprobe.report.run_summary import unseen
from normprobe.tables.measures.groups import group_measures

if TYPE_CHECKING:
    from normprobe.figures import Rendered
    from normprobe.report.html.links import Anchors
    from normprobe.tables.frames import Tables

# As many as make a depth profile: with fewer the panels are what there is to see.
_FEW_NORMS = 4
MOST_PANELS = 64
CHOICES = (None, "all", "files")
PANEL_FILE = re.compile(r"norm_\d{4,}_[A-Za-z0-9_.]*\.png")  # what `_file_name` gives, with its ending


@dataclass(frozen=True)
class Figure:
    """A figure as the page shows it: heading, inline SVG and caption."""

    title: str
    svg: Markup
    caption: Markup


@dataclass(frozen=True)
class Section:
    """One section: its id, the word of its link, its heading, and its figure if it is one."""

    id: str
    link: str
    title: str
    figure: Figure | None = None


@dataclass(frozen=True)
class Panel:
    """The before/after panel of one norm; `numbers` stand in its closed heading."""

    layer: str
    name: str
    numbers: str
    figure: Figure


@dataclass(frozen=True)
class Panels:
    """All panels of a page, whether they start open, and the sentence above them."""

    shown: list[Panel] = field(default_factory=list)
    opened: bool = False
    note: str = ""


def check_choice(panels: str | None) -> None:
    """Raise unless `panels` is None, "all" or "files".

    Raises:
        NormprobeError: it is something else.
    """
    if panels not in CHOICES:
        raise NormprobeError(
            f"panels={panels!r} is not a choice: pass None (at most {MOST_PANELS} norms), "
            "'all' (a panel for every norm) or 'files' (also a PNG of each panel)."
        )


def panel_layers(summary: pd.DataFrame, ranked: list[str], panels: str | None) -> list[str]:
    """Choose the norms that get a panel, in order of execution.

    Args:
        summary: the frame of `summarize`.
        ranked: layers in the order in which they stand out, those in findings first.
        panels: "all" for every norm; otherwise at most 64.
    """
    norms = [str(layer) for layer in summary.index[summary["kind"] != LINEAR]]
    if panels == "all" or len(norms) <= MOST_PANELS:
        return norms
    inside = set(norms)
    # With the ends of the network, between which all others can be placed.
    wanted = [norms[0], norms[-1], *(layer for layer in ranked if layer in inside)]
    chosen = set(list(dict.fromkeys(wanted))[:MOST_PANELS])
    return [layer for layer in norms if layer in chosen]


def figure_sections(tables: Tables, directory: Path, anchors: Anchors) -> list[Section]:
    """Draw the figures that the recording supports, in the page and as files.

    Args:
        tables: the tables of a recording.
        directory: receives a PNG and an SVG of each figure.
        anchors: the places of layers on the page.
    """
    # Loads matplotlib and seaborn, which terminal and notebook do without.
    from normprobe import figures
    from normprobe.figures import registry

    sections = []
    for name in figures.available(tables):
        rendered = figures.render(tables, name)
        rendered.save(directory)
        entry = registry.entry_of(name)
        assert entry is not None, "what is available is in the registry"
        drawn = _figure(rendered, f"{entry.section}-", anchors)
        sections.append(Section(entry.section, entry.link, drawn.title, drawn))
    return sections


def norm_panels(tables: Tables, summary: pd.DataFrame, anchors: Anchors, directory: Path | None) -> Panels:
    """Draw a panel for each norm that has a place on the page.

    Args:
        tables: the tables of a recording.
        summary: its frame of `summarize`.
        anchors: says which layers have a panel.
        directory: receives a PNG of each panel; None for no files.
    """
    from normprobe.figures.rendering import render_panels

    chosen = [str(layer) for layer in summary.index if layer in anchors.panels]
    shown = []
    for layer, rendered in zip(chosen, render_panels(tables, chosen), strict=True):
        if directory is not None:
            replace(rendered, name=_file_name(anchors.number[layer], layer)).save(directory, svg=False)
        drawn = _figure(rendered, f"p{anchors.number[layer]}-", anchors)
        shown.append(Panel(layer, display_name(tables, layer), _numbers(summary, layer), drawn))
    total = int((summary["kind"] != LINEAR).sum())
    return Panels(shown, total < _FEW_NORMS, _panels_note(len(chosen), total, total < _FEW_NORMS))


def ordered_sections(tables: Tables, drawn: list[Section], panels: Panels) -> list[Section]:
    """Put the sections in order; the panels of fewer than four norms come right after the findings."""
    each = [Section("panels", "Each norm", "Each norm, before and after")] if panels.shown else []
    missed = (
        [Section("unseen", "Not seen", "Layers that were not seen")] if len(unseen(tables.ledger)) else []
    )
    first = Section("findings", "Findings", "Findings")
    apart = [] if group_measures(tables).empty else [Section("groups", "Groups", "Groups of samples")]
    experts = [Section("experts", "Experts", "Experts")] if len(tables.experts) else []
    table = Section("layers", "All layers", "All layers")
    last = Section("reading", "How to read", "How to read this")
    behind = [*drawn, *apart, *experts, table]
    if panels.opened:
        return [first, *each, *behind, *missed, last]
    return [first, *behind, *each, *missed, last]


def _figure(rendered: Rendered, prefix: str, anchors: Anchors) -> Figure:
    """A drawn figure as the page shows it, its layers linked to their panels."""
    # Escaped already, by the writer of XML.
    svg = Markup(rendered.svg(prefix, link=anchors.panel))
    return Figure(rendered.title, svg, caption_markup(rendered.caption))


def _file_name(number: int, layer: str) -> str:
    """A file name for a panel: its number and what of the layer's name is safe in a file name."""
    # The end of a name says most, and a file's name may have 255 bytes.
    # The number keeps files in order, and apart where two names come to the same.
    return f"norm_{number:04d}_{re.sub(r'[^A-Za-z0-9_.]+', '_', layer)[-80:]}"


def caption_markup(caption: str) -> Markup:
    """Escape a caption and set its `**words**` in bold."""
    pieces = re.split(r"\*\*(.+?)\*\*", polished(caption))
    return Markup("").join(
        Markup("<b>{}</b>").format(piece) if i % 2 else escape(piece) for i, piece in enumerate(pieces)
    )


def _numbers(summary: pd.DataFrame, layer: str) -> str:
    """What the closed heading of a panel says."""
    columns = ("variance_in", "variance_out", "max_in")
    before, after, largest = (format_number(float(summary[c][layer])) for c in columns)
    return f"{summary['kind'][layer]}, variance {before} → {after}, largest |value| before {largest}"


def _panels_note(shown: int, total: int, opened: bool) -> str:
    """The sentence above the panels: how many there are, and how to have the others."""
    if opened:
        return ""
    if shown == total:
        return (
            f"{format_count(total, 'norm')}, in order of execution. Open one for its values before and after."
        )
    return (
        f"{shown} of {total:,}: those in findings, the first, the last, then the largest ÷ median feature; "
        "the others with `recording.report(..., panels='all')`."
    )
