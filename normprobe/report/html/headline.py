"""The sentence under the model's name: is it fine, and was every layer seen."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd
from markupsafe import Markup, escape

from normprobe.formatting import format_number
from normprobe.report.finding_words import consequences, verdict_parts
from normprobe.report.html.templating import polished
from normprobe.report.run_summary import unseen, unseen_reasons

if TYPE_CHECKING:
    from normprobe.report.html.links import Anchors
    from normprobe.tables.frames import Tables

_MOST_NAMED = 3


def verdict(tables: Tables, findings: pd.DataFrame, anchors: Anchors) -> Markup:
    """Whether anything is worth acting on, in one or two sentences; gaps come first.

    Args:
        tables: the tables of a recording.
        findings: its findings, worst first.
        anchors: the places of layers on the page.
    """
    total, missed = len(tables.ledger), len(unseen(tables.ledger))
    judged = _judgement(findings, anchors)
    if not missed:
        seen = "The one layer was seen." if total == 1 else f"All {total:,} layers were seen."
        return Markup("{} {}").format(judged, seen)
    gap = Markup("{:,} of {:,} layers {} <strong>not</strong> seen ({}).").format(
        missed, total, "was" if missed == 1 else "were", unseen_reasons(tables.ledger)
    )
    return Markup("{} {}").format(gap, judged)


def _judgement(findings: pd.DataFrame, anchors: Anchors) -> Markup:
    """Whether there is a fault, with the findings of the worst severity."""
    strong, rest = verdict_parts(findings)
    said = Markup("<strong>{}</strong>{}").format(strong, rest) if strong else escape(rest)
    if findings.empty:
        return Markup("{}.").format(said)
    causes = findings[~consequences(findings)]
    # Findings come worst first.
    worst = causes[causes["severity"] == causes["severity"].iloc[0]]
    return Markup("{}: {}.").format(said, _phrases(worst, anchors))


def _phrases(findings: pd.DataFrame, anchors: Anchors) -> Markup:
    """Name the findings: the first with its layer, at most three in all."""
    # A check may have found several things; its title is said once.
    titles = list(dict.fromkeys(map(str, findings["title"])))
    shown: list[Markup] = [escape(polished(lower_first(title))) for title in titles[:_MOST_NAMED]]
    worst = findings.iloc[0]
    # Of other statistics a bare number says nothing.
    value = f", {format_number(worst['value'])}" if worst["statistic"] == "largest |value|" else ""
    shown[0] = Markup("{}{} at {}").format(shown[0], value, anchors.name(str(worst["layer"])))
    if len(titles) > _MOST_NAMED:
        shown.append(Markup("and {} more").format(len(titles) - _MOST_NAMED))
    return Markup("; ").join(shown)


def lower_first(title: str) -> str:
    """Start a title in lower case unless its first word is a name such as `BatchNorm` or `NaN`."""
    word = title.split(" ", 1)[0]
    return title if any(c.isupper() for c in word[1:]) else title[:1].lower() + title[1:]
