"""Findings as lines: what is wrong and where, what to do, and the name by which `explain` knows the check."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pandas as pd

from normprobe.findings.baseline import NEW
from normprobe.formatting import format_count
from normprobe.report.display_text import display_name, text_or_empty
from normprobe.report.finding_words import WORDS, extent, nothing_found, verdict_words
from normprobe.report.terminal.lines import Terminal

if TYPE_CHECKING:
    from normprobe.tables.frames import Tables

_MOST = 12
# As wide as `warning`, the longest severity, and two blanks.
_INDENT = " " * 9


def finding_lines(tables: Tables, findings: pd.DataFrame, terminal: Terminal) -> list[str]:
    """The findings in one layout, at most 12 of them.

    Args:
        tables: the tables they were found in.
        findings: worst first; a column `change` (new, known, gone), where there is one, is said of each.
        terminal: the room there is.
    """
    shown = findings.head(_MOST)
    lines = [line for _, row in shown.iterrows() for line in _finding(tables, row, terminal)]
    more = len(findings) - len(shown)
    return [*lines, f"and {format_count(more, 'more finding')}"] if more else lines


def verdict_lines(findings: pd.DataFrame, terminal: Terminal) -> list[str]:
    """What the findings come to, in a line."""
    return terminal.wrap(nothing_found(findings) if findings.empty else f"{verdict_words(findings)}.")


def change_lines(here: pd.DataFrame, gone: pd.DataFrame, baseline: str, terminal: Terminal) -> list[str]:
    """How many findings are new, known and gone, and which are gone.

    Args:
        here: the findings that there are, each with its `change`.
        gone: those that the baseline has and that are no longer there.
        baseline: what they were held against.
        terminal: the room there is.
    """
    new = int((here["change"] == NEW).sum())
    lines = terminal.wrap(f"Against {baseline}: {new:,} new, {len(here) - new:,} known, {len(gone):,} gone.")
    for title, layer in zip(gone["title"], gone["layer"], strict=True):
        lines += terminal.wrap(f"{'gone'.ljust(len(_INDENT))}{title} at {layer or 'the model'}")
    return lines


def _finding(tables: Tables, row: pd.Series, terminal: Terminal) -> Iterator[str]:
    """A heading, the sentence, the advice, and how to learn more."""
    tag = WORDS[str(row["severity"])].lower().ljust(len(_INDENT))
    change = text_or_empty(row.get("change", ""))
    brackets = ", ".join(filter(None, [extent(tables, row), change]))
    rest = f" ({brackets})" if brackets else ""
    start = terminal.show(f"{tag}{row['title']} at ")
    name = display_name(tables, text_or_empty(row["layer"]))
    room = None if terminal.width is None else max(terminal.width - len(start) - len(rest), 20)
    yield f"{start}{terminal.name(name, room)}{terminal.show(rest)}"
    message, writer = text_or_empty(row["message"]), text_or_empty(row["written_by"])
    if writer and writer not in message:
        message += f" Written by {display_name(tables, writer)}."
    yield from terminal.wrap(message, _INDENT)
    yield from terminal.wrap(f"-> {row['advice']}", _INDENT, "   ")
    # Not through `wrap`: a command is copied.
    yield f"{_INDENT}normprobe explain {row['check']}"
