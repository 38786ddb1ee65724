"""Today's report beside that of another commit: processor time and peak memory, in turn, with an A/A control.

Each build records the same models on the same data, in its own form of file. A report is then timed in a new
process, after a small one that loads what it needs: findings, tables, figures and page, on one thread.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parents[2]
CASES = ("MiniLM-L6", "random Llama", "ResNet-50", "480 norms")

# Both run in the package of either build, so they name nothing that only one of them has. The models are read
# by their file: another commit's benchmarks have other names.
_RECORD = """
import importlib.util, sys
import torch
torch.set_num_threads(1)
import normprobe
spec = importlib.util.spec_from_file_location("models", sys.argv[1])
models = importlib.util.module_from_spec(spec)
spec.loader.exec_module(models)
for name in sys.argv[3:]:
    models.CASES[name]().save(f"{sys.argv[2]}/{name}.normprobe")
"""
_REPORT = """
import resource, sys, tempfile, time
from normprobe.recording import load
with tempfile.TemporaryDirectory() as folder:
    load(sys.argv[1]).report(folder)
recording = load(sys.argv[2])
with tempfile.TemporaryDirectory() as folder:
    start = time.process_time()
    recording.findings()
    found = time.process_time()
    recording.report(folder)
    end = time.process_time()
print(end - start, found - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""
Measured = tuple[float, float, float]
"""Seconds of the whole, seconds of the findings alone, MiB at the peak."""


def print_beside(checkout: Path, rounds: int, cases: Sequence[str]) -> None:
    """Print medians for the build in `checkout` and this one, and the ratios of the rounds."""
    print(f"{'':14} other s  this s    A/A  other/this  findings s  other MiB  this MiB")
    with tempfile.TemporaryDirectory() as scratch:
        files = {build: Path(scratch) / str(at) for at, build in enumerate((checkout, HERE))}
        for build, folder in files.items():
            folder.mkdir()
            models = str(HERE / "benchmarks" / "report" / "models.py")
            _python(build, _RECORD, models, str(folder), "two norms", *cases)
        for case in cases:
            other, this, again = [], [], []
            for _ in range(rounds):
                other.append(_report(checkout, files[checkout], case))
                this.append(_report(HERE, files[HERE], case))
                again.append(_report(HERE, files[HERE], case))
            print(_row(case, other, this, again), flush=True)


def _row(case: str, other: list[Measured], this: list[Measured], again: list[Measured]) -> str:
    """A line of the table; ratios are medians of those of each round."""
    before, now = (statistics.median(seconds for seconds, _, _ in runs) for runs in (other, this))
    control = statistics.median(b[0] / a[0] for a, b in zip(this, again, strict=True))
    ratio = statistics.median(a[0] / b[0] for a, b in zip(other, this, strict=True))
    found = statistics.median(findings for _, findings, _ in this)
    memory = [statistics.median(peak for _, _, peak in runs) for runs in (other, this)]
    return (
        f"{case:14} {before:7.2f} {now:7.2f} {control:6.2f} {ratio:11.2f} {found:11.2f} "
        f"{memory[0]:10.0f} {memory[1]:9.0f}"
    )


def _report(build: Path, folder: Path, case: str) -> Measured:
    """Time one report in a process of its own."""
    files = (str(folder / f"{name}.normprobe") for name in ("two norms", case))
    seconds, findings, peak = map(float, _python(build, _REPORT, *files).split())
    return seconds, findings, peak


def _python(build: Path, code: str, *arguments: str) -> str:
    """Run code with the package of a build; return what it prints."""
    environment = {**os.environ, "PYTHONPATH": str(build), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-P", "-c", code, *arguments]
    run = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return run.stdout
