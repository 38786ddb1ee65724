"""How often findings over time are right: recall on faults put into runs, false warnings of healthy runs.

``python -m benchmarks.findings.over_time [--held-out] [--only NAME] [--seeds N]`` trains each healthy run,
with validation in between, and each with its faults; with ``--held-out`` those that no threshold was fitted
on.
"""

from __future__ import annotations

import argparse
import time
import warnings
from typing import Any

import pandas as pd
import torch

from benchmarks.findings.runs import HEALTHY_RUNS, RUN_FAULTS, WINDOW, RunFault, train
from benchmarks.findings.runs_held_out import HELD_OUT_RUN_FAULTS, HELD_OUT_RUNS

OVER_TIME = {fault.check for fault in RUN_FAULTS}


def judge(fault: RunFault, found: pd.DataFrame) -> dict[str, Any]:
    """Whether a fault was found, at the right layer and step."""
    mine = found[found["check"] == fault.check]
    layers, steps = set(mine["layer"]), mine["step"].dropna()
    # NaN is told to the step; what shows in a window's moments, to the window.
    apart = 0 if fault.check == "nonfinite" else WINDOW
    others = found[(found["severity"] != "info") & (found["check"] != fault.check)]
    return {
        "check": fault.check,
        "run": fault.recipe,
        "fault": fault.what,
        "found": bool(len(mine)),
        "right layer": bool(len(mine)) and (not fault.layers or bool(layers & set(fault.layers))),
        "right step": bool(len(mine))
        and (fault.step is None or bool((abs(steps - fault.step) <= apart).any())),
        "at": ", ".join(f"{row.layer}@{row.step}={row.value:.3g}" for row in mine.itertuples()),
        "beside it": ", ".join(others["check"].unique()),
    }


def quiet(name: str, seed: int, found: pd.DataFrame) -> dict[str, Any]:
    """The warnings that a healthy run got."""
    alarms = found[found["severity"] != "info"]
    listed = ", ".join(f"{row.check} at {row.layer} ({row.value:.3g})" for row in alarms.itertuples())
    new = alarms["check"].isin(OVER_TIME)
    return {
        "run": name,
        "seed": seed,
        "false warnings": len(alarms),
        "over time": int(new.sum()),
        "which": listed,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="runs whose name contains this")
    parser.add_argument("--seeds", type=int, default=2, help="how often each healthy run is trained")
    parser.add_argument("--held-out", action="store_true", help="runs that no threshold was fitted on")
    asked = parser.parse_args()
    runs, all_faults = (HELD_OUT_RUNS, HELD_OUT_RUN_FAULTS) if asked.held_out else (HEALTHY_RUNS, RUN_FAULTS)
    torch.set_num_threads(1)
    begun = time.process_time()
    names = [name for name in runs if asked.only in name]
    healthy = pd.DataFrame(
        quiet(name, seed, train(runs[name], seed=seed).findings())
        for name in names
        for seed in range(asked.seeds)
    )
    print(healthy.to_string(index=False))
    mine = [fault for fault in all_faults if fault.recipe in names]
    faults = pd.DataFrame(judge(fault, train(runs[fault.recipe], fault).findings()) for fault in mine)
    print("\n" + faults.to_string(index=False))
    totals = faults.groupby("check", sort=False)[["found", "right layer", "right step"]].agg(["sum", "count"])
    print("\n" + totals.to_string())
    print(f"\n{len(healthy)} healthy runs: {healthy['false warnings'].sum()} false warnings,", end=" ")
    print(
        f"{healthy['over time'].sum()} of checks over time; {time.process_time() - begun:.0f} s of CPU time"
    )


if __name__ == "__main__":
    with (
        warnings.catch_warnings(),
        pd.option_context("display.width", 250, "display.max_colwidth", 90, "display.max_rows", None),
    ):
        warnings.simplefilter("ignore")
        main()
