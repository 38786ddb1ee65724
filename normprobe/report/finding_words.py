"""How findings are spoken of: signs and words of their severity, counts, and how many layers share one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from normprobe.findings import CHECKS
from normprobe.formatting import format_count
from normprobe.report.display_text import text_or_empty
from normprobe.report.layer_summary import LINEAR

if TYPE_CHECKING:
    from normprobe.tables.frames import Tables

# Worst first: counts of findings come in this order.
SHAPES = {"error": "■", "warning": "▲", "info": "●"}
WORDS = {"error": "Error", "warning": "Warning", "info": "Note"}


def severity_counts(findings: pd.DataFrame) -> dict[str, int]:
    """Count findings by severity, worst first, those without any left out."""
    return {s: int(n) for s in SHAPES if (n := (findings["severity"] == s).sum())}


def nothing_found(findings: pd.DataFrame) -> str:
    """What to say where there are no findings: how many checks ran, where the table tells."""
    ran = int(findings.attrs.get("checks", 0))
    if not ran:
        return "No findings."
    return f"No findings: none of {ran} checks found anything." if ran > 1 else "No findings of this check."


def notes(findings: pd.DataFrame) -> str:
    """Count the notes, and say when they matter: `3 notes that matter if you quantize`."""
    found = findings[findings["severity"] == "info"]
    count = format_count(len(found), "note")
    when = {check.name: check.matters for check in CHECKS}
    for reason in dict.fromkeys(filter(None, map(when.get, found["check"]))):
        some = int((found["check"].map(when) == reason).sum())
        verb = "matters" if some == 1 else "matter"
        # Of one reason, as there is: a second would be named behind it.
        which = f" that {verb}" if some == len(found) else f", {some:,} of which {verb}"
        count += f"{which} {reason}"
    return count


def verdict_words(findings: pd.DataFrame) -> str:
    """Whether there is a fault, in words that page, terminal and notebook share; without a full stop.

    Args:
        findings: the findings of a recording, worst first.
    """
    return "".join(verdict_parts(findings))


def verdict_parts(findings: pd.DataFrame) -> tuple[str, str]:
    """The verdict's first words, which a page emphasises where there is a fault, and the rest.

    Findings that follow from others are counted apart: to mend the cause mends them.
    """
    if findings.empty:
        return "", "No faults found"
    effects = consequences(findings)
    if set(findings["severity"]) == {"info"}:
        return "", f"No faults. {notes(findings)}"
    counts = severity_counts(findings[~effects])
    first, *rest = [format_count(n, WORDS[severity].lower()) for severity, n in counts.items()]
    ending = f" and {rest[-1]}" if rest else ""
    if number := int(effects.sum()):
        ending += f"; {number:,} more {'follows' if number == 1 else 'follow'} from that"
    return first, "".join(f", {words}" for words in rest[:-1]) + ending


def consequences(findings: pd.DataFrame) -> pd.Series:
    """Which findings follow from another one; none of a table that does not say so."""
    if "follows_from" not in findings:
        return pd.Series(False, index=findings.index)
    return findings["follows_from"].fillna("").ne("").astype(bool)


def extent(tables: Tables, row: pd.Series) -> str:
    """How many layers share a finding: `36 of 61 norms`; empty where it is one layer or none."""
    affected = int(row["layers_affected"])
    if affected < 2:
        return ""
    # Of what fired, as only that can share a finding.
    ledger = tables.ledger[tables.ledger["status"] == "fired"]
    linear = ledger["kind"] == LINEAR
    named = ledger["layer"].isin([str(row["layer"]), *text_or_empty(row["affected"]).split("; ")])
    if not named.any():
        return f"{affected:,} layers"
    # Of both sorts: it is a share of neither.
    if linear[named].nunique() > 1:
        return f"{affected:,} of {len(ledger):,} layers"
    same = linear == linear[named].iloc[0]
    return f"{affected:,} of {same.sum():,} {'Linear' if linear[named].iloc[0] else 'norms'}"
