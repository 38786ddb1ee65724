"""A comparison as plain text for a terminal: the answer, what it rests on, and the layers that matter."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from normprobe.divergence import answer_parts, side_names
from normprobe.findings.baseline import NEW
from normprobe.findings.json_document import present_and_gone
from normprobe.formatting import shorten_text
from normprobe.report.comparison_rows import Row, compared_sites, comparison_rows, site_word
from normprobe.report.terminal.findings import change_lines, finding_lines
from normprobe.report.terminal.lines import Terminal, padded
from normprobe.vocabulary import INPUT, OUTPUT

if TYPE_CHECKING:
    import pandas as pd

    from normprobe.divergence import Differences
    from normprobe.tables.frames import Tables

_MOST_ROWS = 8
_AROUND = 2  # layers shown before and after the first divergence
_WIDTH = 12  # columns of a site's errors


def comparison_text(
    found: Differences,
    said: list[str],
    *,
    width: int | None,
    unicode: bool,
    changed: tuple[Tables, pd.DataFrame] | None = None,
) -> str:
    """Write the terminal's form of a comparison, without colour or control codes.

    Args:
        found: what the comparison found.
        said: its sentences, the answer first.
        width: columns of the terminal, fewer than 80 count as 80; None cuts and wraps nothing.
        unicode: whether the stream can show `÷ × … →`; if not, `/ x ... ->` stand for them.
        changed: tables of the second recording, and its findings held against those of the first.

    Returns:
        Lines joined by newlines, without one at the end.
    """
    terminal = Terminal.of(width, unicode)
    answer = [line for part in answer_parts(found) for line in terminal.wrap(part)]
    rest = [line for sentence in said[1:] for line in terminal.wrap(sentence)]
    worse = [] if changed is None else _findings(*changed, terminal)
    blocks = [answer, rest, _table(found, terminal), worse, terminal.wrap(_data(found))]
    return "\n\n".join("\n".join(block) for block in blocks if block)


def _findings(tables: Tables, changed: pd.DataFrame, terminal: Terminal) -> list[str]:
    """The findings that the second has and the first has not, and those that are gone."""
    here, gone = present_and_gone(changed)
    new = here[here["change"] == NEW]
    if new.empty and gone.empty:
        return []
    return [*finding_lines(tables, new, terminal), *change_lines(here, gone, "the first", terminal)]


def _data(found: Differences) -> str:
    """Which two were compared, on what."""
    facts = found.facts
    names = side_names(facts, dtypes=True)
    sizes = facts["examples"]
    data = (
        f"the same {sizes[0]:,} examples" if facts["same_data"] else f"{sizes[0]:,} and {sizes[1]:,} examples"
    )
    return f"{names[0]} against {names[1]}, {facts['matched']:,} layers compared on {data}"


def _table(found: Differences, terminal: Terminal) -> list[str]:
    """The layers around the first divergence, those where more arises, and the one that differs most."""
    every = comparison_rows(found)[0]
    chosen = _chosen(found, every)
    if not chosen:
        return []
    last = "introduced" if found.facts["same_data"] else "p"
    heads = "".join(_head(site).rjust(_WIDTH) for site in compared_sites(found)) + last.rjust(_WIDTH + 1)
    shown = ["In order of execution, dB", *(row.name for row in chosen)]
    names, width = terminal.names(shown, len(heads) + len("  first"))
    lines = [padded(names[0], width) + heads]
    for name, row in zip(names[1:], chosen, strict=True):
        cells = "".join(terminal.show(error.shown).rjust(_WIDTH) for error in row.errors)
        cells += terminal.show(row.split[-1].shown).rjust(_WIDTH + 1)
        mark = f"  {row.mark.split()[0]}" if row.mark else ""
        lines.append(padded(name, width) + cells + mark)
    more = len(every) - len(chosen)
    return [*lines, f"and {more:,} more"] if more > 0 else lines


def _head(site: str) -> str:
    """The heading of a site's errors."""
    words = {INPUT: "error in", OUTPUT: "error out"}
    return words.get(site) or shorten_text(site_word(site), _WIDTH - 2)


def _chosen(found: Differences, rows: list[Row]) -> list[Row]:
    """At most eight rows, in order; of equal models those with an error, of other dtypes all depths."""
    worst = found.layers.groupby("layer", sort=False)["error_db"].max()
    by_error = [str(layer) for layer in worst.sort_values(ascending=False, kind="stable").index]
    first = next((at for at, row in enumerate(rows) if row.mark == "first"), None)
    if first is not None:
        near = rows[max(0, first - _AROUND) : first + _AROUND + 1]
        marked = [row for row in rows if row.mark]
        wanted = [rows[first].layer, *(row.layer for row in near), by_error[0]]
        wanted += [*(row.layer for row in marked), *by_error]
    elif found.facts["precision_differs"]:
        step = max(1, (len(rows) - 1) // (_MOST_ROWS - 1))
        wanted = [row.layer for row in rows[::step]]
    else:
        wanted = [layer for layer in by_error if worst[layer] > -np.inf]
    kept = set(list(dict.fromkeys(wanted))[:_MOST_ROWS])
    return [row for row in rows if row.layer in kept]
