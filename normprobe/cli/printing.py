"""Printing on stdout: the terminal's report, the ledger, the files written."""

from __future__ import annotations

import io
import os
import re
import sys
import textwrap
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    import pandas as pd

    from normprobe.comparison import Comparison
    from normprobe.recording import Recording

_COLOURS = {"error": "red", "warning": "yellow", "note": "cyan", "gone": "green"}
_TAG = re.compile(r"^(error|warning|note|gone)(?= )", re.MULTILINE)
_MOST_SITES = 12
_REASON = 24  # columns of a terminal that a reason gets at least


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


def print_summary(
    recording: Recording, findings: pd.DataFrame, *, baseline: str | None = None, notes: bool = False
) -> None:
    """Print the terminal's form of the report.

    Args:
        recording: what was measured.
        findings: its findings, those of a baseline that are gone among them.
        baseline: what they were held against.
        notes: whether to print its notes, too: those of a saved recording were not printed while it was made.
    """
    from normprobe.report import stdout_unicode, stdout_width, terminal_text

    text = terminal_text(
        recording.tables.activations,
        findings,
        width=stdout_width(),
        unicode=stdout_unicode(),
        baseline=baseline,
        notes=notes,
    )
    click.echo(_coloured(text) if colourful() else text)


def print_findings(recording: Recording, findings: pd.DataFrame, *, err: bool = False) -> None:
    """Print findings alone, on stdout or stderr."""
    from normprobe.report import findings_text, stdout_unicode, stdout_width

    # Laid out for the stream that it goes to.
    with redirect_stdout(sys.stderr if err else sys.stdout):
        text = findings_text(
            recording.tables.activations, findings, width=stdout_width(), unicode=stdout_unicode()
        )
        click.echo(_coloured(text) if colourful() else text)


def print_comparison(comparison: Comparison) -> None:
    """Print the answer of a comparison, and the layers it rests on."""
    click.echo(str(comparison.summary()))


def print_fit(table: pd.DataFrame) -> None:
    """Print the sites that a format fits worst, those with most noise first, and how many there are."""
    columns = ["layer", "site", "abs_max", "headroom", "below_normal", "scaled_flushed", "snr_db"]
    gains = [name for name in ("channel_gain_db", "block_snr_db") if table[name].notna().any()]
    shown = table.nsmallest(_MOST_SITES, "snr_db")[[*columns, *gains]]
    # What is unknown of this format, or of this recording, takes no room.
    click.echo(shown.dropna(axis=1, how="all").to_string(index=False, float_format="{:.4g}".format))
    if len(table) > len(shown):
        click.echo(f"{len(table) - len(shown):,} more sites fit better.")


def print_report_file(page: Path, earlier: str) -> None:
    """Print where a report is, how much was written in all, and what it replaced.

    Args:
        page: the page.
        earlier: the sentence on a report of something else that was there, or "".
    """
    from normprobe.report import report_files

    files = report_files(page)
    sizes = {file: file.stat().st_size for file in files}
    largest = max(sizes, key=sizes.__getitem__)
    counts = Counter(_sort(file) for file in files if file != page)
    beside = _listed([f"{number:,} {_plural(sort, number)}" for sort, number in counts.items()])
    most = "most in" if 2 * sizes[largest] > sum(sizes.values()) else "the largest"
    said = f"{_megabytes(sum(sizes.values()))} in all, {most} {largest.name}"
    click.echo(f"\nReport   {page}  ({said}{f'; {beside} beside it' if beside else ''})")
    if earlier:
        click.echo(f"{earlier[0].upper()}{earlier[1:]}")


def _sort(file: Path) -> str:
    """What sort of file it is."""
    return {".csv": "CSV file", ".parquet": "Parquet file"}.get(file.suffix, "figure")


def _plural(word: str, number: int) -> str:
    return word if number == 1 else f"{word}s"


def _listed(phrases: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(phrases[:-1]), *phrases[-1:]]))


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size < 1e7 else f"{size / 1e6:,.0f} MB"


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
        # A model that is itself a layer has the empty name.
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
    from normprobe.report import stdout_width

    columns = stdout_width()
    if columns is not None:
        rest = columns - sum(widths[1:]) - 2 * len(widths)
        widths[0] = max(20, min(widths[0], rest - min(room, _REASON)))
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
    from normprobe.report import stdout_unicode

    dots = "…" if stdout_unicode() else "..."
    return name.ljust(columns) if len(name) <= columns else dots + name[len(name) + len(dots) - columns :]
