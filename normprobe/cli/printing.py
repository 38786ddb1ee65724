"""Printing on stdout: the terminal's report, the ledger, the files written."""

from __future__ import annotations

import io
import os
import re
import shutil
import sys
import textwrap
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    import pandas as pd

    from normprobe.comparison import Comparison
    from normprobe.recording import Recording

# As `report.terminal.lines` has them; to import that would load pandas for --help.
_NARROWEST, _WIDEST = 80, 120
_COLOURS = {"error": "red", "warning": "yellow", "note": "cyan"}
_TAG = re.compile(r"^(error|warning|note)(?= )", re.MULTILINE)
_SIGNS = "÷×…→–−━"


def width() -> int:
    """The columns to use: the terminal's, from 80 to 120."""
    return min(max(shutil.get_terminal_size((_NARROWEST, 24)).columns, _NARROWEST), _WIDEST)


def unicode() -> bool:
    """Whether stdout can show the signs that the report uses."""
    try:
        # A stream in memory has no encoding.
        _SIGNS.encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def colourful() -> bool:
    """Whether stdout is a terminal that may get colours."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _coloured(text: str) -> str:
    """Colour the word that says how severe a finding is."""
    # In the finished text, where codes of colours count in no width.
    return _TAG.sub(lambda tag: click.style(tag[0], fg=_COLOURS[tag[0]], bold=True), text)


def escape_what_cannot_be_encoded() -> None:
    """Have stdout write a character it cannot encode as an escape, rather than fail on it."""
    # Nothing else has `reconfigure`; tests and notebooks put other streams here.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def print_summary(recording: Recording, findings: pd.DataFrame) -> None:
    """Print the terminal's form of the report."""
    from normprobe.report import terminal_text

    text = terminal_text(recording.tables, findings, width=width(), unicode=unicode())
    click.echo(_coloured(text) if colourful() else text)


def print_json(recording: Recording, findings: pd.DataFrame) -> None:
    """Print the findings as one JSON document."""
    from normprobe.findings import to_json

    click.echo(to_json(findings, recording.tables))


def print_comparison(comparison: Comparison) -> None:
    """Print the answer of a comparison, and the layers it rests on."""
    from normprobe.divergence import sentences
    from normprobe.report import comparison_text

    differences = comparison.differences
    text = comparison_text(differences, sentences(differences), width=width(), unicode=unicode())
    click.echo(text)


def print_report_file(page: Path) -> None:
    """Print where the report is, how large, and what lies beside it."""
    tables = len(list(page.parent.glob("*.csv")))
    figures = len([file for file in page.parent.glob("figures/*") if file.is_file()])
    beside = [f"{tables} CSV files" if tables else "", f"{figures} figures" if figures else ""]
    also = f"; also {' and '.join(filter(None, beside))}" if any(beside) else ""
    click.echo(f"\nReport   {page}  ({_size(page)}{also})")


def print_files(paths: Iterable[Path], what: str) -> None:
    """Print the files that were written, with their sizes."""
    for path in paths:
        click.echo(f"{what}   {path}  ({_size(path)})")


def _size(path: Path) -> str:
    size = path.stat().st_size
    return f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size / 1e3:.1f} kB"


def print_ledger(ledger: pd.DataFrame) -> None:
    """Print a line per layer, and before it how many fired."""
    # As objects: a nullable integer column cannot hold an empty string.
    rows = ledger.astype(object).where(ledger.notna(), "")
    status = Counter(str(value) for value in rows["status"])
    fired = status.pop("fired", 0)
    others = "".join(f", {number:,} {name}" for name, number in status.items())
    click.echo(f"{fired:,} of {len(rows):,} layers fired{others}\n")
    table = [["layer", "kind", "features", "status", "reason"]]
    for row in rows.to_dict("records"):
        name = str(row["layer"]) or f"({row['type']})"
        features = f"{row['n_features']:,}" if row["n_features"] != "" else ""
        via = " via functional" if row["via"] == "functional" else ""
        table.append([name, str(row["kind"]), features, f"{row['status']}{via}", str(row["reason"])])
    for line in _aligned(table):
        click.echo(line)


def _aligned(table: Sequence[Sequence[str]]) -> list[str]:
    """Align columns; on a terminal names are shortened at the front and reasons wrapped, else neither."""
    widths = [max(len(row[column]) for row in table) for column in range(4)]
    room = max(len(row[4]) for row in table)
    # Into a file or a pipe nothing is cut: a program may read it.
    if sys.stdout.isatty():
        rest = width() - sum(widths[1:]) - 2 * len(widths)
        widths[0] = max(20, min(widths[0], rest - min(room, 24)))
        room = max(12, rest - widths[0])
    lines = []
    for row in table:
        first = [
            _shortened(row[0], widths[0]),
            row[1].ljust(widths[1]),
            row[2].rjust(widths[2]),
            row[3].ljust(widths[3]),
        ]
        reason = textwrap.wrap(row[4], max(room, 1), break_on_hyphens=False) or [""]
        start = "  ".join(first)
        lines.append(f"{start}  {reason[0]}".rstrip())
        lines += [" " * (len(start) + 2) + more for more in reason[1:]]
    return lines


def _shortened(name: str, columns: int) -> str:
    """A name in so many columns, shortened at the front."""
    dots = "…" if unicode() else "..."
    return name.ljust(columns) if len(name) <= columns else dots + name[len(name) + len(dots) - columns :]
