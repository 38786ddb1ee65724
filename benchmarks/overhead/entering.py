"""What a block costs once: entering it, its first two forwards, leaving it, beside another commit's build.

    python -m benchmarks.overhead.entering [--layers 300] [--rounds 15] [--beside CHECKOUT] [--built FOLDER]

The model is a stack of Linear and norm layers so narrow that its bare forward is little beside. Figures are
milliseconds of this process's computing, medians of rounds in random order; of forwards, less a bare one.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from types import ModuleType

import torch
from torch import nn

import normprobe
from benchmarks.overhead import other_build

STEPS = ("enter", "first forward", "second forward", "leave", "enter again", "leave again")


def main() -> None:
    """Print a row for each build."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--layers", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--beside", type=Path, help="a checkout of another commit, to be timed in turn")
    parser.add_argument("--built", type=Path, help="a folder that keeps that commit's build")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    builds: dict[str, ModuleType] = {"this build": normprobe}
    with tempfile.TemporaryDirectory() as scratch:
        if arguments.beside is not None:
            builds["other"] = other_build.load(arguments.beside, arguments.built or Path(scratch))
        print(" | ".join([f"{arguments.layers} layers", *STEPS]))
        found: dict[str, dict[str, list[float]]] = {name: defaultdict(list) for name in builds}
        for _ in range(arguments.rounds + 1):
            for name, build in random.sample(list(builds.items()), len(builds)):
                _add(found[name], build, arguments.layers)
        for name, steps in found.items():
            print(" | ".join([name, *(f"{statistics.median(steps[step][1:]) * 1e3:.2f}" for step in STEPS)]))


def stack(layers: int) -> nn.Module:
    """Blocks of a norm and two Linears, as many as make so many layers."""
    width = 16
    blocks = [
        nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.Linear(width, width))
        for _ in range(layers // 3)
    ]
    return nn.Sequential(*blocks).eval()


def _add(steps: dict[str, list[float]], build: ModuleType, layers: int) -> None:
    """Time one life of a probe on a model that no probe was on before."""
    model, x = stack(layers), torch.randn(2, 8, 16)
    probe = build.Probe(model)
    with torch.no_grad():
        bare = min(_timed(model, x) for _ in range(3))
        steps["enter"].append(_timed(probe.__enter__))
        steps["first forward"].append(_timed(model, x) - bare)
        steps["second forward"].append(_timed(model, x) - bare)
        steps["leave"].append(_timed(probe.__exit__, None, None, None))
        steps["enter again"].append(_timed(probe.__enter__))
        steps["leave again"].append(_timed(probe.__exit__, None, None, None))


def _timed(call: object, *args: object) -> float:
    assert callable(call)
    start = time.process_time()
    call(*args)
    return time.process_time() - start


if __name__ == "__main__":
    main()
