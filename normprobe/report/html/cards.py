"""Findings as the page shows them: what, where, what to do, and the evidence as a small line."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd
from markupsafe import Markup, escape

from normprobe.findings.evidence_series import series
from normprobe.formatting import format_count, format_number, name_sample, sample_word
from normprobe.report.display_text import text_or_empty
from normprobe.report.finding_words import SHAPES, WORDS, extent
from normprobe.report.html.sparkline import Sparkline, sparkline
from normprobe.report.layer_summary import LINEAR

if TYPE_CHECKING:
    from normprobe.report.html.links import Anchors
    from normprobe.tables.frames import Tables

# In one group, by which re.split puts references at odd places.
_REFERENCE = re.compile(r"(arXiv:\d{4}\.\d{4,5}|doi:10\.\d{4,}/[^\s;,]+|https?://[^\s;,]+)")


@dataclass(frozen=True)
class Card:
    """One finding, ready for the template; text that is not Markup is escaped there."""

    severity: str
    shape: str
    word: str
    title: str
    extent: str
    message: Markup
    where: Markup
    advice: str
    measured: str
    source: Markup
    affected: list[Markup]
    line: Sparkline | None
    evidence: str


def finding_cards(tables: Tables, findings: pd.DataFrame, anchors: Anchors) -> list[Card]:
    """Turn findings into cards, in the order given."""
    return [_card(tables, row, anchors) for _, row in findings.iterrows()]


def _card(tables: Tables, row: pd.Series, anchors: Anchors) -> Card:
    """One finding as the page shows it."""
    severity, value = str(row["severity"]), float(row["value"])
    affected = [name for name in text_or_empty(row["affected"]).split("; ") if name]
    evidence = text_or_empty(row["evidence"])
    line = _line(tables, row, affected) if evidence else None
    return Card(
        severity=severity,
        shape=SHAPES[severity],
        word=WORDS[severity],
        title=str(row["title"]),
        extent=extent(tables, row),
        message=anchors.sentence(text_or_empty(row["message"]), _strong(row)),
        where=_where(tables, row, anchors),
        advice=text_or_empty(row["advice"]),
        measured=measured(text_or_empty(row["statistic"]), value, float(row["threshold"]))
        + _rests_on(tables, row),
        source=source_markup(text_or_empty(row["source"])),
        # A single one stands in `where` already.
        affected=[anchors.name(name) for name in affected] if len(affected) > 1 else [],
        line=line,
        evidence=text_or_empty(row["statistic"]),
    )


def _line(tables: Tables, row: pd.Series, affected: list[str]) -> Sparkline | None:
    """Draw the evidence over norms or Linear layers, as it concerns; the threshold where it has its unit."""
    drawn, layer = series(tables, str(row["evidence"])), str(row["layer"])
    linear = tables.ledger.loc[tables.ledger["kind"] == LINEAR, "layer"]
    # Over layers of its own sort: norms and Linear layers in turn would make a zigzag.
    sorts = {name in set(linear) for name in [layer, *affected]}
    if len(sorts) == 1:
        drawn = drawn[drawn["layer"].isin(linear) == sorts.pop()]
    here = drawn.loc[drawn["layer"] == layer, "value"].abs()
    value = abs(float(row["value"]))
    # The series may be of another statistic than the finding's, in whose unit the threshold is.
    same = len(here) > 0 and abs(float(here.iloc[0]) - value) <= 0.01 * value
    return sparkline(drawn, float(row["threshold"]) if same else float("nan"), layer)


def measured(statistic: str, value: float, threshold: float) -> str:
    """The small print of a finding: its statistic, value and threshold."""
    words = f"{statistic}: {format_number(value)}" if statistic else format_number(value)
    return words if pd.isna(threshold) else f"{words}; threshold {format_number(threshold)}"


def _rests_on(tables: Tables, row: pd.Series) -> str:
    """Of how many samples a median |value| is: it rests on the raw rows that were kept."""
    if "median |value|" not in text_or_empty(row["message"]):
        return ""
    at = tables.layers[(tables.layers["layer"] == row["layer"]) & (tables.layers["site"] == row["site"])]
    if at.empty:
        return ""
    # Counted: fewer are kept at Linear layers than at norms.
    kept = int((tables.rows["place"] == at.index[0]).sum())
    return f"; median from {format_count(kept, sample_word(tables.meta, str(at['sample_unit'].iloc[0])))}"


def _strong(row: pd.Series) -> list[str]:
    """Patterns of the words of the message to set in bold: the value, and the feature that holds it."""
    # Not within a longer number: no bold 3 in 1,300 or 0.35.
    value = rf"(?<![\w.,]){re.escape(format_number(float(row['value'])))}(?!\w|[.,]\d)"
    if pd.isna(row["feature"]):
        return [value]
    return [value, rf"(?<=[Ff]eature ){int(row['feature'])}\b"]


def _where(tables: Tables, row: pd.Series, anchors: Anchors) -> Markup:
    """Layer and site, and what the message leaves out: feature, sample, the layer that wrote it."""
    message = text_or_empty(row["message"])
    pieces = [
        Markup("{} ({})").format(anchors.name(str(row["layer"])), text_or_empty(row["site"]) or "all sites")
    ]
    if not pd.isna(row["feature"]) and f"feature {int(row['feature'])}" not in message.lower():
        pieces.append(escape(f"feature {int(row['feature'])}"))
    if not pd.isna(row["example"]):
        # Apart from the sentence: the text of a token may run from right to left.
        pieces.append(Markup("<bdi>{}</bdi>").format(_sample(tables, row)))
    if (writer := text_or_empty(row["written_by"])) and writer not in message:
        pieces.append(Markup("written by {}").format(anchors.name(writer)))
    return Markup(", ").join(pieces)


def _sample(tables: Tables, row: pd.Series) -> str:
    """Name the sample that holds a finding's value, with its text where the recording knows it."""
    example, position, part = int(row["example"]), row["position"], _part(tables, row)
    if pd.isna(position):
        return name_sample(tables.meta, (example, 0), "example", part=part)
    labels = tables.labels
    mine = labels[(labels["example"] == example) & (labels["position"] == int(position))]
    texts = mine.loc[mine["part"] == part, "text"]
    text = str(texts.iloc[0]) if len(texts) else None
    units = tables.layers.loc[tables.layers["layer"] == row["layer"], "sample_unit"]
    unit = str(units.iloc[0]) if len(units) else "position"
    return name_sample(tables.meta, (example, int(position)), unit, text, part)


def _part(tables: Tables, row: pd.Series) -> str | None:
    """The part that a finding's sample is of; None where the recording has several that it may be of."""
    parts = list(tables.meta["parts"])
    if len(parts) == 1:
        return str(parts[0])
    # A finding names no part: it is that of the extreme whose sample and size the finding has.
    sample, value = [row["example"], row["position"]], abs(float(row["value"]))
    sites = tables.layers[(tables.layers["layer"] == row["layer"]) & (tables.layers["site"] == row["site"])]
    for _, layer in sites.iterrows():
        for end in sorted(("max", "min"), key=lambda end: abs(abs(layer[end]) - value)):
            held = [layer[f"{end}_example"], layer[f"{end}_position"]]
            if all(pd.isna(one) or one == other for one, other in zip(sample, held, strict=True)):
                return text_or_empty(layer[f"{end}_part"]) or None
    return None


def source_markup(text: str) -> Markup:
    """Escape a source and link the papers in it."""
    pieces = _REFERENCE.split(text)
    return Markup("").join(_reference(p) if i % 2 else escape(p) for i, p in enumerate(pieces))


def _reference(text: str) -> Markup:
    """A paper as a link; `noreferrer`, so that no site learns where the page lies."""
    scheme, _, rest = text.partition(":")
    address = {"arXiv": f"https://arxiv.org/abs/{rest}", "doi": f"https://doi.org/{rest}"}.get(scheme, text)
    return Markup('<a href="{}" rel="noreferrer">{}</a>').format(address, text)
