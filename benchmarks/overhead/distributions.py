"""What kurtosis and quantiles cost: the time of a probed forward over that of the bare one, with and without.

    python -m benchmarks.overhead.distributions [--rounds 8] [--threads 1] [--only minilm-small,resnet-64]
        [--clock wall]

As in `benchmarks.overhead`, each way is timed beside a bare forward of its own, and the bare one against
itself (A/A). Both are off unless a probe is asked for them.
"""

from __future__ import annotations

import argparse
import time
from contextlib import nullcontext
from functools import partial

import torch

import normprobe
from benchmarks.overhead import __main__ as overhead
from benchmarks.overhead.models import MODELS, Case

WAYS = {
    "probe": {},
    "kurtosis": {"kurtosis": True},
    "quantiles": {"quantiles": True},
    "both": {"kurtosis": True, "quantiles": True},
}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", default="minilm-small,resnet-64")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    overhead._CLOCK[0] = time.process_time if arguments.clock == "cpu" else time.perf_counter
    print(" | ".join(["model", "bare ms", "A/A", *WAYS]))
    for name in arguments.only.split(","):
        case = MODELS[name]()
        bare, ratios = overhead.measure(case, _ways(case), arguments.rounds)
        figures = [f"{ratios[way]:.3f}" for way in ("A/A", *WAYS)]
        print(" | ".join([name, f"{bare * 1e3:.1f}", *figures]), flush=True)


def _ways(case: Case) -> dict[str, overhead.Way]:
    """A probe for each way, which goes on counting as a user's does."""
    probes = {name: normprobe.Probe(case.model, **options) for name, options in WAYS.items()}
    return {"A/A": nullcontext, **{name: partial(_same, probe) for name, probe in probes.items()}}


def _same(probe: normprobe.Probe) -> normprobe.Probe:
    return probe


if __name__ == "__main__":
    main()
