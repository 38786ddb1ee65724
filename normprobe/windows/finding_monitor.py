"""Findings while a run goes on: told once each as windows close, and an end to it where that is asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pandas as pd

from normprobe.errors import FindingError
from normprobe.findings import changes, find
from normprobe.tables.frames import Tables
from normprobe.tables.measures.history import HistoryBuilder
from normprobe.tables.window_facts import WindowFacts, windows_of
from normprobe.vocabulary import SEVERITIES, Severity

OnFinding = Callable[[Mapping[str, Any]], object]
_MOST = 100
"""Windows that checks over time look back on while a run goes on: memory and time are those of so many."""


class FindingMonitor:
    """Runs all checks on each window that closes, and on those before it.

    A finding was told of before if one of the same check and site, no milder, named its layer.
    """

    def __init__(self, on_finding: OnFinding | None, stop_on: Severity | None) -> None:
        """Begin without a window.

        Args:
            on_finding: what to call with each new finding.
            stop_on: how bad a finding must be to end the run; None for none.
        """
        self._on_finding, self._stop_on = on_finding, stop_on
        self._history = HistoryBuilder(_MOST)
        self._reported: pd.DataFrame | None = None

    def look(self, tables: Tables) -> None:
        """Look for findings in a window that was closed.

        Raises:
            FindingError: one is as bad as what the run is to end on.
        """
        (facts,) = windows_of(tables)
        self._history.add(facts, tables)
        found = find(replace(tables.activations, history_source=self._history.history))
        if self._reported is not None:
            known = changes(found, self._reported)
            found = known[known["change"] == "new"].drop(columns="change")
        if found.empty:
            return
        self._reported = (
            found if self._reported is None else pd.concat([self._reported, found], ignore_index=True)
        )
        new = [_mapping(row, facts) for row in found.to_dict("records")]
        # Each is told of before the worst one ends the run: findings are in order of severity.
        for finding in new if self._on_finding is not None else ():
            assert self._on_finding is not None
            self._on_finding(finding)
        if self._stop_on is not None and _rank(new[0]["severity"]) <= _rank(self._stop_on):
            raise FindingError(_sentence(new[0]), new[0])


def _rank(severity: Any) -> int:
    return SEVERITIES.index(severity)


def _mapping(row: Mapping[Any, Any], facts: WindowFacts) -> dict[str, Any]:
    """A finding as a user is told of it: the row of the table, None for what is missing, and its window."""
    plain = {str(name): None if pd.isna(value) else value for name, value in row.items()}
    steps = {"first_step": facts["first_step"], "last_step": facts["last_step"]}
    return {**plain, "phase": facts["phase"], **steps}


def _sentence(finding: Mapping[str, Any]) -> str:
    steps = f"steps {finding['first_step']:,} to {finding['last_step']:,} ({finding['phase']})"
    where = f"at the {finding['site']} of {finding['layer']!r}"
    return f"{finding['title']} in {steps}, {where}: {finding['message']}"
