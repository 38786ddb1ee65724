"""The page of a comparison: the answer, where the two diverge over depth, and every layer."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from markupsafe import Markup, escape

from normprobe.formatting import format_count
from normprobe.report.comparison_rows import comparison_rows, comparison_title, heads
from normprobe.report.files import COMPARISON_PAGE, FIGURES, marker, write_atomically
from normprobe.report.finding_words import SHAPES, WORDS
from normprobe.report.html.cards import Card, measured, source_markup
from normprobe.report.html.comparison_glossary import comparison_entries
from normprobe.report.html.links import Anchors
from normprobe.report.html.page import assets
from normprobe.report.html.sections import Figure, Section, caption_markup
from normprobe.report.html.templating import environment

if TYPE_CHECKING:
    from normprobe.divergence import Differences


def write_comparison(
    found: Differences,
    said: list[str],
    findings: pd.DataFrame,
    directory: Path,
    *,
    beside: Sequence[str] = (),
) -> Path:
    """Write `comparison.html` and its figure in `figures/`.

    Args:
        found: what the comparison found.
        said: its sentences, the answer first.
        findings: its findings.
        directory: the folder, created with its parents if need be.
        beside: names of the tables that were written into the folder, which the page points at.

    Returns:
        The path of the page.

    Raises:
        RecordingError: the folder is a file or cannot be written.
    """
    build = partial(_render, found, said, findings, beside)
    return write_atomically(directory, build, _drawn, COMPARISON_PAGE)


def _drawn(name: str) -> bool:
    """Whether a file in the folder of figures has the name of one that a comparison draws."""
    return name in {"divergence_profile.png", "divergence_profile.svg"}


def _render(
    found: Differences, said: list[str], findings: pd.DataFrame, beside: Sequence[str], drawn: Path
) -> str:
    """The page as text; its figure is left in the folder `drawn`."""
    anchors = _anchors(found)
    rows, note = comparison_rows(found)
    figure = _figure(found, drawn, anchors)
    template = environment().get_template("comparison.html")
    return template.render(
        what="comparison",
        name=comparison_title(found),
        verdict=anchors.sentence(said[0], [r"−?\d+\sdB"]),
        alert=None,
        facts=_facts(found),
        notes=[anchors.sentence(sentence) for sentence in said[1:]],
        sections=_sections(found, figure),
        cards=[_card(row, anchors) for _, row in findings.iterrows()],
        anchors=anchors,
        rows=rows,
        rows_note=note,
        heads=heads(found),
        kinds=sorted({row.kind for row in rows}),
        unmatched=found.unmatched.to_dict("records"),
        entries=comparison_entries(found),
        files=[*beside, f"{FIGURES}/"],
        marker=marker(comparison_title(found), beside),
        made=_made(found),
        **assets(),
    )


def _anchors(found: Differences) -> Anchors:
    """Where each layer stands on the page: it has no panels, only rows."""
    layers = list(dict.fromkeys(map(str, found.layers["layer"])))
    shown = {layer: layer or str(found.facts["models"][0]) for layer in layers}
    rows = frozenset(row.layer for row in comparison_rows(found)[0])
    return Anchors({layer: at for at, layer in enumerate(layers)}, shown, frozenset(), rows)


def _figure(found: Differences, drawn: Path, anchors: Anchors) -> Figure:
    """The figure of the errors, saved and as the page shows it."""
    from normprobe import figures

    rendered = figures.render_divergence(found)
    rendered.save(drawn)
    svg = Markup(rendered.svg("diverge-", link=anchors.href))
    return Figure(rendered.title, svg, caption_markup(rendered.caption))


def _sections(found: Differences, figure: Figure) -> list[Section]:
    """The sections in order; layers without a counterpart only where there are any."""
    alone = (
        [Section("unseen", "Not compared", "Layers without a counterpart")] if len(found.unmatched) else []
    )
    return [
        Section("diverge", "Over depth", figure.title, figure),
        Section("findings", "Findings", "Findings"),
        Section("layers", "All layers", "All layers"),
        *alone,
        Section("reading", "How to read", "How to read this"),
    ]


def _card(row: pd.Series, anchors: Anchors) -> Card:
    """One finding as the page shows it; where the message names the layer, nothing names it again."""
    severity = str(row["severity"])
    affected = [name for name in str(row["affected"]).split("; ") if name]
    layer, site = str(row["layer"]), str(row["site"])
    where = Markup("{}{}").format(anchors.name(layer), f" ({site})" if site else "")
    if layer and not layer.isdecimal() and layer in str(row["message"]):
        where = Markup("")  # the message names it
    return Card(
        severity=severity,
        shape=SHAPES[severity],
        word=WORDS[severity],
        title=str(row["title"]),
        extent=f"{len(affected):,} layers" if len(affected) > 1 else "",
        message=anchors.sentence(str(row["message"])),
        where=where,
        advice=str(row["advice"]),
        measured=measured(str(row["statistic"]), float(row["value"]), float(row["threshold"])),
        source=source_markup(str(row["source"])),
        affected=[anchors.name(name) for name in affected] if len(affected) > 1 else [],
        line=None,
        evidence="",
    )


def _facts(found: Differences) -> list[Markup]:
    """Which two, over what data, in which dtypes, and how many layers were compared."""
    facts = found.facts
    said = [
        f"{which}: {name}, {dtype}"
        for which, name, dtype in zip(("first", "second"), facts["names"], facts["dtypes"], strict=True)
    ]
    sizes = facts["examples"]
    if facts["same_data"]:
        said.append(f"the same {format_count(sizes[0], 'example')}, paired sample by sample")
    else:
        said.append(f"other data: {sizes[0]:,} and {format_count(sizes[1], 'example')}, nothing paired")
    said.append(f"{format_count(facts['matched'], 'layer')} compared")
    if len(found.unmatched):
        said.append(f"{len(found.unmatched):,} without a counterpart")
    return [escape(fact) for fact in said]


def _made(found: Differences) -> str:
    """When and with which versions the two were recorded."""
    said: dict[str, Any] = {}
    for which, made, versions in zip(
        ("first", "second"), found.facts["created"], found.facts["versions"], strict=True
    ):
        when = datetime.fromisoformat(made).astimezone(UTC)
        known = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
        said[which] = f"{when:%Y-%m-%d %H:%M} UTC with {known}"
    if said["first"] == said["second"]:
        return f"Recorded {said['first']}."
    return f"Recorded {said['first']} (first) and {said['second']} (second)."
