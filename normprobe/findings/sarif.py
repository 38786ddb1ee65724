"""Findings as SARIF 2.1.0 (OASIS, Static Analysis Results Interchange Format), which code scanning shows."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pandas as pd

from normprobe.findings.baseline import KNOWN, NEW
from normprobe.findings.check import Check
from normprobe.findings.json_document import dumps, plain_value, present_and_gone
from normprobe.findings.registry import CHECKS, page_of

if TYPE_CHECKING:
    from normprobe.tables.frames import Tables

_SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
_HOME = "https://github.com/normprobe/normprobe"
_LEVELS = {"error": "error", "warning": "warning", "info": "note"}
_STATES = {NEW: "new", KNOWN: "unchanged"}


def to_sarif(
    findings: pd.DataFrame,
    tables: Tables,
    *,
    uri: str,
    line: int = 1,
    checks: Iterable[Check] | None = None,
) -> str:
    """Findings as a SARIF log of one run, for code scanning.

    A rule is a check, with its page as help. A result is a finding: its message and advice, the layer as its
    logical location, and a file as its physical one, without which GitHub shows nothing. Fingerprints rest on
    model, check, layer and site, so that a finding stays the same alert while numbers move.

    Args:
        findings: the table of `normprobe.findings.find`, or of `normprobe.findings.changes`, of which those
            that are gone are left out: code scanning closes what it no longer gets.
        tables: the tables they were found in.
        uri: the file that stands for the model, as seen from the repository's root.
        line: the line in it, from 1.
        checks: those that ran; all by default.
    """
    rules = tuple(CHECKS if checks is None else checks)
    index = {check.name: at for at, check in enumerate(rules)}
    name = _name(tables)
    here = present_and_gone(findings)[0]
    place = {
        "artifactLocation": {"uri": quote(uri), "uriBaseId": "%SRCROOT%"},
        "region": {"startLine": line},
    }
    results = [_result(row, index, name, place) for row in here.to_dict("records")]
    run = {
        "tool": {"driver": _driver(rules, tables)},
        # Of several models, each with its own, none closes the alerts of another.
        "automationDetails": {"id": f"normprobe/{quote(name, safe='')}/"},
        "columnKind": "utf16CodeUnits",
        "results": results,
    }
    return dumps({"$schema": _SCHEMA, "version": "2.1.0", "runs": [run]})


def _name(tables: Tables) -> str:
    """What the model is called without its weights: its next checkpoint is the same model."""
    name = str(tables.meta.get("name")).removesuffix(f" + {tables.meta.get('weights')}")
    # From a subfolder the same file has these before its name, and is the same model.
    return re.sub(r"^(\.{1,2}/)+(?=.)", "", name)


def _driver(rules: tuple[Check, ...], tables: Tables) -> dict[str, Any]:
    """The tool, and its rules."""
    version = (tables.meta.get("versions") or {}).get("normprobe")
    driver = {"name": "normprobe", "informationUri": _HOME, "rules": [_rule(check) for check in rules]}
    return driver | ({"version": str(version)} if version else {})


def _rule(check: Check) -> dict[str, Any]:
    """A check as a rule: its title, its page and where that stands."""
    page = page_of(check.name)
    return {
        "id": check.name,
        "name": "".join(word.capitalize() for word in check.name.split("_")),
        "shortDescription": {"text": check.title},
        "fullDescription": {"text": page[0] if page else check.title},
        "help": {"text": "\n\n".join([*page, f"What to do: {check.advice}", f"Source: {check.source}"])},
        "helpUri": f"{_HOME}/blob/main/docs/checks.md#the-checks",
        "defaultConfiguration": {"level": _LEVELS[check.severity]},
        "properties": {"tags": ["normalization"]},
    }


def _result(row: dict[Any, Any], index: dict[str, int], name: str, place: dict[str, Any]) -> dict[str, Any]:
    """A finding as a result."""
    layer, check = str(row["layer"]), str(row["check"])
    shown = layer or name
    where = f"{shown} ({row['site']})" if row["site"] else shown
    affected = [part for part in str(row["affected"]).split("; ") if part and part != layer]
    more = f" {len(affected) + 1:,} layers show it." if affected else ""
    result: dict[str, Any] = {
        "ruleId": check,
        "level": _LEVELS[str(row["severity"])],
        "message": {"text": f"{row['title']} at {where}: {row['message']}{more} {row['advice']}"},
        "locations": [{"physicalLocation": place, "logicalLocations": [_logical(shown)]}],
        "partialFingerprints": _fingerprints(name, check, layer, str(row["site"])),
        "properties": {
            "statistic": plain_value(row["statistic"]),
            "value": plain_value(row["value"]),
            "threshold": plain_value(row["threshold"]),
            "affected": [layer, *affected],
        },
    }
    # A check of the user's own is no rule of this run.
    if check in index:
        result["ruleIndex"] = index[check]
    state = _STATES.get(str(row.get("change", "")))
    return result | ({"baselineState": state} if state else {})


def _logical(layer: str) -> dict[str, str]:
    return {"name": layer.rpartition(".")[2], "fullyQualifiedName": layer, "kind": "module"}


def _fingerprints(*parts: str) -> dict[str, str]:
    """What makes two results one alert; GitHub reads the first and would take it from the file's line."""
    digest = hashlib.sha256("\0".join(parts).encode("utf-8", errors="backslashreplace")).hexdigest()
    return {"primaryLocationLineHash": f"{digest[:16]}:1", "normprobe/v1": digest}
