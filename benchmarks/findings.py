"""How often findings are right: recall on injected faults, false warnings on healthy models.

``python benchmarks/findings.py [--only NAME]`` prints a line per healthy model and per fault, then the
totals. Models from packages that are not installed are skipped and named.
"""

from __future__ import annotations

import argparse
import copy
import warnings
from typing import Any

import pandas as pd
import torch
from findings_faults import Fault
from findings_injected import FAULTS
from findings_models import HEALTHY
from findings_random import Case

import normprobe


def measure(model: torch.nn.Module, batches: list[Any], mode: str = "eval") -> pd.DataFrame:
    """Record a forward over all batches, and return the findings."""
    if mode == "eval":
        return normprobe.record(model, batches).findings()
    if mode == "train":
        model.train()
    with torch.set_grad_enabled(mode == "train"), normprobe.Probe(model) as probe:
        for batch in batches:
            model(**batch) if isinstance(batch, dict) else model(batch)
    return probe.recording.findings()


def inject(fault: Fault, case: Case) -> dict[str, Any]:
    """Put a fault into a copy of a model, and say whether it was found, and where."""
    model, batches = copy.deepcopy(case[0]), case[1]
    with torch.no_grad():
        batches = fault.change(model, batches) or batches
    found = measure(model, batches, fault.mode)
    mine = found[found["check"] == fault.check]
    places = {place for row in mine.itertuples() for place in (row.layer, row.written_by) if place}
    others = found[(found["severity"] != "info") & (found["check"] != fault.check)]
    named = mine["layer"].iloc[0] if len(mine) else "-"
    return {
        "check": fault.check,
        "model": fault.model,
        "fault": fault.what,
        "found": bool(len(mine)),
        "right layer": bool(places & set(fault.layers)),
        "reported at": named,
        "beside it": ", ".join(others["check"].unique()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="models whose name contains this")
    only = parser.parse_args().only
    torch.set_num_threads(1)
    healthy, faults, missing = [], [], []
    for name, build in HEALTHY.items():
        if only not in name:
            continue
        try:
            case = build()
        except ImportError as error:
            missing.append(f"{name} ({error})")
            continue
        found = measure(copy.deepcopy(case[0]), case[1])
        alarms = found[found["severity"] != "info"]
        notes = ", ".join(found.loc[found["severity"] == "info", "check"])
        listed = ", ".join(f"{row.check} at {row.layer}" for row in alarms.itertuples())
        healthy.append({"model": name, "false warnings": len(alarms), "which": listed, "notes": notes})
        faults += [inject(fault, case) for fault in FAULTS if fault.model == name]
    report(pd.DataFrame(faults), pd.DataFrame(healthy), missing)


def report(faults: pd.DataFrame, healthy: pd.DataFrame, missing: list[str]) -> None:
    """Print both tables and the totals."""
    with pd.option_context("display.width", 200, "display.max_colwidth", 60, "display.max_rows", None):
        print(healthy.to_string(index=False))
        if len(faults):
            print("\n" + faults.sort_values("check", kind="stable").to_string(index=False))
    alarms = healthy["false warnings"]
    if len(faults):
        print(f"\n{len(faults)} faults: recall {faults['found'].mean():.2f}, right layer", end=" ")
        print(f"{faults['right layer'].mean():.2f}")
    print(f"{len(healthy)} healthy models: {alarms.mean():.2f} false warnings on average", end=", ")
    print(f"at most {alarms.max()}")
    for name in missing:
        print(f"skipped: {name}")


if __name__ == "__main__":
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        main()
