"""Runs killed at a random moment: whether every closed window is there, and nothing half-written is read.

    python -m benchmarks.killed [COUNT [KIND]]

A run closes a window every two steps and reports each step that has ended. Per way of being killed it prints
the runs, how many lost a window that was closed, a step that had ended, or left a file that does not load.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import FrameType
from typing import NoReturn

import torch
from torch import nn

import normprobe
from normprobe.windows import rollups

KINDS = ("SIGKILL", "SIGTERM", "exception")
_WINDOW, _ROLLUP, _LONGEST = 2, 3, 0.4
"""Steps of a window, windows of a rollup, and seconds after which a run is killed at the latest."""


@dataclass
class Killed:
    """What became of the runs that were killed in one way.

    Attributes:
        kind: how.
        runs: how many.
        windows: how many windows they left.
        unreadable: how many of these did not load, or had gaps between their steps.
        lost_windows: runs that lost a window that had been closed.
        lost_steps: runs that lost a step that had ended.
        wrong_status: runs that did not end as the signal ends a process.
    """

    kind: str
    runs: int = 0
    windows: int = 0
    unreadable: int = 0
    lost_windows: int = 0
    lost_steps: int = 0
    wrong_status: int = 0


class RandomError(KeyboardInterrupt):
    """Raised at a random moment of a run."""


def kill_runs(kind: str, count: int, seed: int = 0) -> Killed:
    """Kill so many runs in one way, each at a random moment, and look at what they left."""
    rng, found = random.Random(seed), Killed(kind)
    _load_modules()
    for _ in range(count):
        with tempfile.TemporaryDirectory() as folder:
            steps, status = _killed(kind, Path(folder), rng.uniform(0, _LONGEST))
            found.runs += 1
            _look(found, Path(folder), steps, status)
    return found


def _killed(kind: str, folder: Path, seconds: float) -> tuple[int, int]:
    """Run in a child and kill it so long after its first step: how many steps ended, and how it did."""
    read, write = os.pipe()
    # A fork has torch already: a fresh process would load it for seconds.
    child = os.fork()
    if child == 0:
        os.close(read)
        _run(kind, folder, seconds, write)
    os.close(write)
    with os.fdopen(read, "rb") as ended:
        first = ended.read(1)
        if kind != "exception":
            time.sleep(seconds)
            os.kill(child, getattr(signal, kind))
        steps = len(first + ended.read())
    return steps, os.waitpid(child, 0)[1]


@cache
def _load_modules() -> None:
    """Close a window here: what that loads the children then have."""
    with tempfile.TemporaryDirectory() as folder:
        with normprobe.Probe(nn.Linear(2, 2), out=folder) as probe:
            probe.model(torch.randn(2, 2))
        normprobe.load(folder)


def _run(kind: str, folder: Path, seconds: float, write: int) -> NoReturn:
    """Train and report each step that has ended, until something ends the process."""
    try:
        torch.set_num_threads(1)
        rollups.SIZE = _ROLLUP
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        model = nn.Sequential(nn.Linear(16, 32), nn.LayerNorm(32), nn.Linear(32, 4))
        optimizer = torch.optim.SGD(model.parameters(), 0.01)
        with (
            normprobe.Probe(model, window=_WINDOW, out=folder, samples=32, part="run") as probe,
            _error(kind, seconds),
        ):
            for step in range(10**6):
                model(torch.randn(8, 16)).square().mean().backward()
                optimizer.step()
                optimizer.zero_grad()
                probe.step(step)
                os.write(write, b".")
    except RandomError:
        os._exit(0)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    os._exit(1)


@contextmanager
def _error(kind: str, seconds: float) -> Iterator[None]:
    """A block in which, of this kind, an error is raised between two steps of Python."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise RandomError

    if kind == "exception":
        signal.signal(signal.SIGALRM, interrupt)
        # Again and again: what is raised in a finalizer or a callback of C ends nothing.
        signal.setitimer(signal.ITIMER_REAL, seconds + 0.01, 0.05)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _look(found: Killed, folder: Path, steps: int, status: int) -> None:
    """Hold what a run left against what it reported."""
    files = len(list(folder.glob("window-*.normprobe")))
    found.windows += files
    expected = {"SIGKILL": signal.SIGKILL, "SIGTERM": signal.SIGTERM, "exception": 0}[found.kind]
    found.wrong_status += status != expected
    last = -1
    if files:
        try:
            windows = normprobe.load(folder).windows
            ends = windows["last_step"].tolist()
            begins = windows["first_step"].tolist()
            found.unreadable += begins != [0, *(end + 1 for end in ends[:-1])]
            last = ends[-1]
        except normprobe.RecordingError:
            found.unreadable += 1
    # Steps are counted from 0; of a window the last is odd.
    found.lost_windows += last < steps // _WINDOW * _WINDOW - 1
    found.lost_steps += found.kind != "SIGKILL" and last < steps - 1


def main() -> None:
    """Print a line per way of being killed."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    columns = ("runs", "windows", "unreadable", "lost windows", "lost steps", "status")
    print(f"{'':10}" + "".join(f"{name:>14}" for name in columns))
    for kind in sys.argv[2:] or KINDS:
        found = kill_runs(kind, count)
        steps = "-" if kind == "SIGKILL" else found.lost_steps
        numbers = found.runs, found.windows, found.unreadable, found.lost_windows, steps, found.wrong_status
        print(f"{kind:10}" + "".join(f"{number:>14}" for number in numbers), flush=True)


if __name__ == "__main__":
    main()
