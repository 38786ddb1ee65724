"""A recording as plain text for a terminal: verdict, findings, and the layers that stand out."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

import pandas as pd

from normprobe.report import facts
from normprobe.report.cards import extent
from normprobe.report.summary import named_layers, standing_out, summarize
from normprobe.report.terminal_table import stand_out_table
from normprobe.wording import format_number, shorten_name, text_width

if TYPE_CHECKING:
    from normprobe.tables import Tables

NARROWEST, WIDEST = 80, 120
_MOST_FINDINGS, _MOST_NAMES = 5, 8
_INDENT = " " * 9
_TAGS = {"error": "error", "warning": "warning", "info": "note"}
_PLAIN = str.maketrans(
    {
        "÷": "/", "×": "x", "…": "...", "→": "->", "–": "-", "−": "-", "≥": ">=", "≤": "<=", "∞": "inf",
        "“": '"', "”": '"', "·": "-", "²": "^2", "␣": " ",
    }
)  # fmt: skip
_SUPERSCRIPTS = "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"


def terminal_text(tables: Tables, findings: pd.DataFrame, *, width: int, unicode: bool) -> str:
    """Write the body of the terminal's report, without colour or control codes.

    Args:
        tables: the tables of a recording.
        findings: its findings, worst first.
        width: columns of the terminal; fewer than 80 count as 80, more than 120 as 120.
        unicode: whether the stream can show `÷ × … →`; if not, `/ x ... ->` stand for them.

    Returns:
        Lines joined by newlines, without one at the end.

    Raises:
        NoSamplesError: nothing was measured.
    """
    facts.check_measured(tables)
    width = min(max(width, NARROWEST), WIDEST)
    blocks = [_head(tables, width), *_findings(tables, findings, width)]
    summary = summarize(tables)
    named = named_layers(findings)
    table = stand_out_table(tables, summary, standing_out(summary, named), named, width)
    text = "\n\n".join("\n".join(block) for block in [*blocks, table] if block)
    return text if unicode else plain(text)


def plain(text: str) -> str:
    """Write a text in ASCII: signs by their usual stand-ins, other letters as escapes."""
    for digit, sign in enumerate(_SUPERSCRIPTS):
        text = text.replace(f"10{sign}", f"10^{'-' if digit == 0 else digit - 1}")
        text = text.replace(sign, "-" if digit == 0 else str(digit - 1))
    return text.translate(_PLAIN).encode("ascii", errors="backslashreplace").decode("ascii")


def _head(tables: Tables, width: int) -> list[str]:
    meta = tables.meta
    run = [f"{meta['dtype']} on {meta['device']}", facts.mode_words(meta["training"])]
    measured = [fact for fact in facts.data_facts(meta) if fact not in run]
    whole = meta["model"] if meta["name"] == meta["model"] else f"{meta['model']} from {meta['name']}"
    lines = [_line(", ".join([facts.one_line_text(whole), *run]), width), *_coverage(tables, width)]
    lines.append(_line(", ".join(measured), width))
    found = facts.first_nonfinite(tables.layers)
    if found:
        layer, site, count = found
        name = shorten_name(facts.display_name(tables, layer), 40)
        lines.append(_line(f"NaN or Inf first in the {site} of {name} ({count:,} values)", width))
    if facts.single_sample(tables):
        lines.append("1 sample: variances across samples are undefined")
    return lines


def _coverage(tables: Tables, width: int) -> list[str]:
    missed = facts.unseen(tables.ledger)
    total = len(tables.ledger)
    counts = ", ".join(f"{n:,} {kind}" for kind, n in facts.kind_counts(tables.ledger).items())
    if missed.empty:
        fired = "the one layer fired" if total == 1 else f"all {total:,} layers fired"
        return [_line(f"{counts}: {fired}", width)]
    lines = [
        _line(counts, width),
        f"{total - len(missed):,} of {total:,} layers fired; {len(missed):,} did not (normprobe layers MODEL says why):",
    ]
    names = [facts.display_name(tables, str(layer)) for layer in missed["layer"][:_MOST_NAMES]]
    lines += [f"  {shorten_name(facts.one_line_text(name), width - 2)}" for name in names]
    if len(missed) > _MOST_NAMES:
        lines.append(f"  and {len(missed) - _MOST_NAMES:,} more in ledger.csv")
    return lines


def _findings(tables: Tables, findings: pd.DataFrame, width: int) -> list[list[str]]:
    if findings.empty:
        return [["No findings: nothing worth acting on."]]
    lines = []
    for _, row in findings.head(_MOST_FINDINGS).iterrows():
        lines += _finding(tables, row, width)
    if len(findings) > _MOST_FINDINGS:
        lines.append(f"and {len(findings) - _MOST_FINDINGS:,} more in findings.csv")
    return [lines]


def _finding(tables: Tables, row: pd.Series, width: int) -> list[str]:
    """One line where that fits a wide terminal, else a heading and a wrapped paragraph."""
    tag = _TAGS[str(row["severity"])].ljust(len(_INDENT))
    shared = extent(tables, str(row["layer"]), int(row["layers_affected"]))
    what, source = _what(tables, row, width), _text(row["source"])
    single = f"{tag}{row['title']}: {', '.join(filter(None, [what, shared]))}; {source}"
    if width >= WIDEST and text_width(single) <= width:
        return [single]
    heading = f"{tag}{row['title']}{f' ({shared})' if shared else ''}"
    if _text(row["written_by"]):
        writer = shorten_name(facts.display_name(tables, str(row["written_by"])), width - 22)
        what = f"{what}, written by {writer}"
    rests = [f"threshold {format_number(row['threshold'])}"] if pd.notna(row["threshold"]) else []
    small = "; ".join([*rests, *filter(None, [source])])
    return [heading, *_wrap(what, width), *_wrap(small, width)]


def _what(tables: Tables, row: pd.Series, width: int) -> str:
    """The statistic, its value and where: `27,347 in feature 507 at model.layers.12.input_layernorm`."""
    value, statistic = format_number(row["value"]), _text(row["statistic"])
    name = shorten_name(facts.one_line_text(facts.display_name(tables, str(row["layer"]))), width - 32)
    feature = "" if pd.isna(row["feature"]) else f" in feature {int(row['feature'])}"
    words = value if statistic == "largest |value|" or not statistic else f"{statistic} {value}"
    return f"{words}{feature} at {name}"


def _wrap(text: str, width: int) -> list[str]:
    return textwrap.wrap(
        text, width, initial_indent=_INDENT, subsequent_indent=_INDENT, break_long_words=False, break_on_hyphens=False
    )


def _line(text: str, width: int) -> str:
    return "\n".join(textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False))


def _text(value: object) -> str:
    return "" if pd.isna(value) else str(value)  # type: ignore[call-overload]
