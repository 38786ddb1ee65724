"""Trained checkpoints from packages, every layer held to a float64 two-pass reference.

``python -m benchmarks.survey.checkpoints [NAME ...]`` prints a line per checkpoint that is installed; the
others are named with what they want.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections import Counter

import torch

from benchmarks.survey.check import check
from benchmarks.survey.checkpoint_models import CHECKPOINTS
from normprobe.layers.find import find_layers

COLUMNS = ("layers", "fired", "declared", "exact")


def main() -> None:
    """Check them all, or those named."""
    warnings.simplefilter("ignore")
    print(
        f"{'checkpoint':20}" + "".join(f"{name:>10}" for name in (*COLUMNS, "worst", "seconds")) + "  kinds"
    )
    for name in sys.argv[1:] or CHECKPOINTS:
        try:
            model, run, mask = CHECKPOINTS[name]()
        except ImportError as error:
            print(f"{name:20} {error}")
            continue
        kinds = Counter(layer.view.kind for layer in find_layers(model).layers)
        start = time.perf_counter()
        with torch.no_grad():
            found = check(model, run, mask)
        counts = [getattr(found, column) for column in COLUMNS]
        told = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
        spent = f"{found.worst:10.1e}{time.perf_counter() - start:10.1f}"
        print(f"{name:20}" + "".join(f"{count:10}" for count in counts) + f"{spent}  {told}")
        print(*(f"  {fault}" for fault in found.faults), sep="\n" if found.faults else "", end="")


if __name__ == "__main__":
    main()
