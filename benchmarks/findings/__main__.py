"""How often findings are right: recall on injected faults, false warnings on healthy models.

``python -m benchmarks.findings [--set fitted|held_out] [--only NAME] [--folds]`` prints a line per healthy
model and per fault, then the totals of each set. Thresholds were fitted to the first set. The held-out one
was written afterwards, and measured before anything was changed for it. ``--folds`` fits each threshold anew
with one model left out, and prints how that model then fares. Models of packages that are not installed are
skipped.
"""

from __future__ import annotations

import argparse
import copy
import warnings
from collections.abc import Iterator
from typing import Any

import pandas as pd
import torch

import normprobe
from benchmarks.findings.fault_kinds import Fault
from benchmarks.findings.faults_fitted import FAULTS
from benchmarks.findings.faults_held_out import FAULTS_HELD_OUT
from benchmarks.findings.leave_one_model_out import Measured, print_folds
from benchmarks.findings.models_fitted import HEALTHY
from benchmarks.findings.models_held_out import MODELS_HELD_OUT
from benchmarks.findings.random_models_fitted import Case
from benchmarks.findings.random_models_held_out import RANDOM_MODELS_HELD_OUT

SETS = {"fitted": (HEALTHY, FAULTS), "held_out": (MODELS_HELD_OUT | RANDOM_MODELS_HELD_OUT, FAULTS_HELD_OUT)}


def measure(model: torch.nn.Module, batches: list[Any], mode: str = "eval") -> normprobe.Recording:
    """Record a forward over all batches."""
    if mode == "eval":
        return normprobe.record(model, batches)
    if mode == "train":
        model.train()
    with torch.set_grad_enabled(mode == "train"), normprobe.Probe(model) as probe:
        for batch in batches:
            model(**batch) if isinstance(batch, dict) else model(batch)
    return probe.recording


def inject(fault: Fault, case: Case) -> normprobe.Recording:
    """Put a fault into a copy of a model, and measure it."""
    model, batches = copy.deepcopy(case[0]), case[1]
    with torch.no_grad():
        batches = fault.change(model, batches) or batches
    return measure(model, batches, fault.mode)


def judge(fault: Fault, found: pd.DataFrame) -> dict[str, Any]:
    """Whether a fault was found, and where."""
    mine = found[found["check"] == fault.check]
    places = {place for row in mine.itertuples() for place in (row.layer, row.written_by) if place}
    others = found[(found["severity"] != "info") & (found["check"] != fault.check)]
    return {
        "check": fault.check,
        "model": fault.model,
        "fault": fault.what,
        "found": bool(len(mine)),
        "right layer": bool(places & set(fault.layers)),
        "reported at": mine["layer"].iloc[0] if len(mine) else "-",
        "beside it": ", ".join(others["check"].unique()),
    }


def quiet(name: str, found: pd.DataFrame) -> dict[str, Any]:
    """The warnings that a healthy model got."""
    alarms = found[found["severity"] != "info"]
    listed = ", ".join(f"{row.check} at {row.layer}" for row in alarms.itertuples())
    notes = ", ".join(found.loc[found["severity"] == "info", "check"])
    return {"model": name, "false warnings": len(alarms), "which": listed, "notes": notes}


def run(which: str, only: str) -> Iterator[Measured]:
    """Measure the healthy models of a set, each followed by its faults."""
    models, faults = SETS[which]
    for name, build in models.items():
        if only not in name:
            continue
        try:
            case = build()
        except ImportError as error:
            print(f"skipped: {name} ({error})")
            continue
        yield Measured(name, None, measure(copy.deepcopy(case[0]), case[1]))
        yield from (Measured(name, fault, inject(fault, case)) for fault in faults if fault.model == name)


def report(which: str, measured: list[Measured]) -> None:
    """Print both tables and the totals of a set."""
    found = [(case, case.recording.findings()) for case in measured]
    healthy = pd.DataFrame([quiet(case.model, table) for case, table in found if case.fault is None])
    faults = pd.DataFrame([judge(case.fault, table) for case, table in found if case.fault is not None])
    print(healthy.to_string(index=False))
    if len(faults):
        print("\n" + faults.sort_values("check", kind="stable").to_string(index=False))
        print(f"\n{which} set, {len(faults)} faults: recall {faults['found'].mean():.3f},", end=" ")
        print(f"right layer {faults['right layer'].mean():.3f}")
    alarms = healthy["false warnings"]
    print(f"{which} set, {len(healthy)} healthy models: {alarms.mean():.2f} false warnings", end=" ")
    print(f"on average, at most {alarms.max()}\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--set", choices=list(SETS), help="one set only")
    parser.add_argument("--only", default="", help="models whose name contains this")
    parser.add_argument("--folds", action="store_true", help="fit thresholds with each model left out")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    everything: list[Measured] = []
    for which in [asked.set] if asked.set else SETS:
        measured = list(run(which, asked.only))
        report(which, measured)
        everything += measured
    if asked.folds:
        print_folds(everything)


if __name__ == "__main__":
    with (
        warnings.catch_warnings(),
        pd.option_context("display.width", 200, "display.max_colwidth", 60, "display.max_rows", None),
    ):
        warnings.simplefilter("ignore")
        main()
