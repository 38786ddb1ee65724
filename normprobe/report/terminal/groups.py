"""The terminal's table of groups of samples."""

from __future__ import annotations

from typing import TYPE_CHECKING

from normprobe.formatting import shorten_text
from normprobe.report.group_rows import group_table
from normprobe.report.terminal.lines import Terminal, padded

if TYPE_CHECKING:
    from normprobe.tables.frames import Tables

_MOST_ROWS = 5
_MOST_LETTERS = 12


def group_lines(tables: Tables, terminal: Terminal) -> list[str]:
    """The largest |value| that each group reads, at 5 layers at most; none where there are no groups."""
    found = group_table(tables, _MOST_ROWS)
    if found is None:
        return []
    heads = [shorten_text(group, _MOST_LETTERS) for group in found.groups]
    cells = [[*row.largest, row.ratio] for row in found.rows]
    texts = [[terminal.show(text) for text in row] for row in [[*heads, "ratio"], *cells]]
    widths = [2 + max(len(row[at]) for row in texts) for at in range(len(heads) + 1)]
    lines = ["".join(text.rjust(width) for text, width in zip(row, widths, strict=True)) for row in texts]
    names, room = terminal.names(["Largest |value| read", *(row.name for row in found.rows)], sum(widths))
    table = [(padded(name, room) + line).rstrip() for name, line in zip(names, lines, strict=True)]
    return [*terminal.wrap(f"{found.intro}:"), *table]
