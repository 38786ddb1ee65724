"""Fitted thresholds, each fitted anew with one model left out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmarks.findings.fault_kinds import Fault
from normprobe import Recording
from normprobe.findings import CHECKS, Check, find

TIMES = 2.0 ** (np.arange(-6, 7) / 2)
"""Candidates for a threshold, as multiples of the one that stands in the code."""


@dataclass(frozen=True)
class Measured:
    """A recording of a healthy model, or of one with a fault."""

    model: str
    fault: Fault | None
    recording: Recording


@dataclass(frozen=True)
class Outcomes:
    """What each candidate for one threshold does to each case: an array (cases, candidates) of 0 and 1."""

    wrong: NDArray[np.int64]
    models: NDArray[np.str_]
    faulty: NDArray[np.bool_]

    def chosen(self, among: NDArray[np.bool_]) -> int:
        """Return the candidate with the fewest errors among some cases: the middle one of the best."""
        errors = self.wrong[among].sum(axis=0)
        best = np.flatnonzero(errors == errors.min())
        return int(best[len(best) // 2])


def outcomes(check: Check, field: str, cases: list[Measured]) -> Outcomes:
    """Run a check with each candidate on its own faults, which it must find, and on all healthy models."""
    mine = [case for case in cases if case.fault is None or case.fault.check == check.name]
    value = getattr(check, field)
    candidates = [replace(check, **{field: type(value)(value * times)}) for times in TIMES]
    wrong = [[_wrong(candidate, case) for candidate in candidates] for case in mine]
    return Outcomes(
        np.array(wrong, dtype=np.int64),
        np.array([case.model for case in mine]),
        np.array([case.fault is not None for case in mine]),
    )


def _wrong(check: Check, case: Measured) -> bool:
    """Whether a check misses a fault or its layer, or warns of a healthy model."""
    found = find(case.recording.tables, [check])
    if case.fault is None:
        return bool(len(found)) and check.severity != "info" and bool((found["severity"] != "info").any())
    return not {*found["layer"], *found["written_by"]} & set(case.fault.layers)


def folds(cases: list[Measured]) -> pd.DataFrame:
    """Return a row per fitted threshold: its misses and alarms as it stands, and with models left out."""
    rows = []
    for check, field in [(each, name) for each in CHECKS for name in each.fitted]:
        out = outcomes(check, field, cases)
        stands = int(np.flatnonzero(TIMES == 1)[0])
        held = {model: out.chosen(out.models != model) for model in dict.fromkeys(out.models.tolist())}
        picked = np.array([held[model] for model in out.models.tolist()])
        left = out.wrong[np.arange(len(picked)), picked]
        value = getattr(check, field)
        rows.append(
            {
                "check": check.name,
                "threshold": field,
                "stands at": value,
                "refitted, least": value * TIMES[picked.min()],
                "refitted, most": value * TIMES[picked.max()],
                "faults": int(out.faulty.sum()),
                "missed": int(out.wrong[out.faulty, stands].sum()),
                "missed, left out": int(left[out.faulty].sum()),
                "alarms": int(out.wrong[~out.faulty, stands].sum()),
                "alarms, left out": int(left[~out.faulty].sum()),
            }
        )
    return pd.DataFrame(rows)


def print_folds(cases: Iterable[Measured]) -> None:
    """Print the folds and their totals."""
    table = folds(list(cases))
    print("Each fitted threshold, fitted anew without one model, then tried on that model:")
    print(table.to_string(index=False, float_format="{:.4g}".format))
    first = table.drop_duplicates("check")
    print(f"{len(table)} thresholds of {len(first)} checks, {first['faults'].sum()} faults:", end=" ")
    print(f"missed {table['missed'].sum()}, left out {table['missed, left out'].sum()};", end=" ")
    print(f"false alarms {table['alarms'].sum()}, left out {table['alarms, left out'].sum()}")
