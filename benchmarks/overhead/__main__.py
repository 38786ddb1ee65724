"""What a probe costs: the time of a probed forward over that of the bare one, beside what peers cost.

    python -m benchmarks.overhead [--rounds 30] [--peer-rounds 8] [--threads 2] [--only bert,llama]
    python -m benchmarks.overhead --beside CHECKOUT [--rounds 30] [--threads 2] [--only bert,llama]
        [--built FOLDER] [--clock cpu] [--fallback]
    python -m benchmarks.overhead --groups first,halves [--rounds 30] [--threads 2] [--only bert,llama]

Each way is timed beside a bare forward of its own, in random order, after one that is not timed: what a
peer left behind in caches and allocator falls on nobody. The bare forward is also timed against itself
(A/A): a row whose A/A is off by more than 2 % was disturbed and says nothing. Figures are medians of the
ratios of each pair. "fallback" is the probe without the compiled kernel; "one thread" both the probed and
the bare forward on one. With --beside only the probe is timed, of this build and of another commit's
checkout, in turn, beside hooks that call `torch.sum` and hooks that do nothing; `probe/nothing` is what the
probe adds over what the latter add. With --groups only the probe is timed, without groups of samples and with
them: by a rule that `Probe` has, or "halves", a function that tells every other position from the rest. On a
machine that others use, --clock cpu counts the seconds that this process has computed, best on one thread.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

import normprobe
from benchmarks.overhead import other_build
from benchmarks.overhead.models import MODELS, Case
from benchmarks.overhead.peers import PEERS, nothing, torch_sum

Way = Callable[[], AbstractContextManager[object]]

_CLOCK = [time.perf_counter]
"""What seconds are counted by."""


def main() -> None:
    """Print the table."""
    arguments = _arguments()
    if arguments.clock == "cpu":
        _CLOCK[0] = time.process_time
    torch.set_num_threads(arguments.threads)
    machine = f"{platform.machine()}, {os.cpu_count()} cores"
    print(f"{machine}, torch {torch.__version__} on {arguments.threads} threads")
    names = [name for name in MODELS if not arguments.only or name in arguments.only.split(",")]
    if arguments.beside is not None:
        with tempfile.TemporaryDirectory() as scratch:
            other = other_build.load(arguments.beside, arguments.built or Path(scratch))
            _print_beside(names, other, arguments)
        return
    if arguments.groups:
        _print_groups(names, arguments)
        return
    header = ["model", "bare ms", "A/A", "probe", "every=100", "samples=0", "fallback", *PEERS, "one thread"]
    print(" | ".join(header))
    for name in names:
        case = MODELS[name]()
        ways: dict[str, Way] = {
            "A/A": nullcontext,
            "probe": _probed(case),
            "every=100": _probed(case, every=100),
        }
        beside: dict[str, Way] = {
            "samples=0": _probed(case, samples=0, values=0),
            "fallback": _without_kernel(case),
            **{peer: partial(make, case.model) for peer, make in PEERS.items()},
        }
        if name == "training" or name.endswith(
            "token"
        ):  # TorchLens gives its record, not the output; and is slow
            beside.pop("TorchLens", None)
        bare, ratios = measure(case, ways, arguments.rounds)
        ratios["one thread"] = _on_one_thread(case, arguments)
        ratios |= measure(case, beside, arguments.peer_rounds)[1]
        ratios.setdefault("TorchLens", float("nan"))
        print(
            " | ".join([name, f"{bare * 1e3:.1f}", *(f"{ratios[way]:.3f}" for way in header[2:])]), flush=True
        )


def _print_beside(names: list[str], other: ModuleType, arguments: argparse.Namespace) -> None:
    """Print what the probe of this build and that of another cost, timed in turn."""
    columns = ["A/A", "probe", "other", "sum", "nothing"]
    if arguments.fallback:
        columns += ["fallback", "other, fallback"]
    print(" | ".join(["model", "bare ms", *columns, "probe/nothing", "other/nothing"]))
    for name in names:
        case = MODELS[name]()
        ways: dict[str, Way] = {
            "A/A": nullcontext,
            "probe": _probed(case),
            "other": _probed(case, of=other),
            "sum": partial(torch_sum, case.model),
            "nothing": partial(nothing, case.model),
            "fallback": _without_kernel(case),
            "other, fallback": _without_kernel(case, of=other),
        }
        bare, ratios = measure(case, {column: ways[column] for column in columns}, arguments.rounds)
        least = ratios["nothing"] - 1
        figures = [f"{ratios[column]:.3f}" for column in columns]
        figures += [f"{(ratios[way] - 1) / least:.2f}" for way in ("probe", "other")]
        print(" | ".join([name, f"{bare * 1e3:.2f}", *figures]), flush=True)


def _print_groups(names: list[str], arguments: argparse.Namespace) -> None:
    """Print what the probe costs with and without groups, timed in turn."""
    rules = arguments.groups.split(",")
    print(" | ".join(["model", "bare ms", "A/A", "probe", *rules]))
    for name in names:
        case = MODELS[name]()
        ways: dict[str, Way] = {"A/A": nullcontext, "probe": _probed(case)}
        ways |= {rule: _probed(case, groups=_halves if rule == "halves" else rule) for rule in rules}
        bare, ratios = measure(case, ways, arguments.rounds)
        print(
            " | ".join([name, f"{bare * 1e3:.1f}", *(f"{ratio:.3f}" for ratio in ratios.values())]),
            flush=True,
        )


def _halves(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Every other position of the first argument, as of one group and of another."""
    ids = next(value for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor))
    return torch.arange(ids.shape[1]).remainder(2).expand(ids.shape[:2])


def measure(case: Case, ways: dict[str, Way], rounds: int) -> tuple[float, dict[str, float]]:
    """Median seconds of the bare forward, and of each way the median ratio to one just before or after."""
    for make in (nullcontext, *ways.values()):
        for _ in range(3):
            _timed(case, make)
    bare: list[float] = []
    ratios: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, make in random.sample(list(ways.items()), len(ways)):
            pair: list[Way] = [nullcontext, make]
            order = random.sample((0, 1), 2)
            _timed(case, nullcontext)
            seconds = dict(zip(order, [_timed(case, pair[way]) for way in order], strict=True))
            bare.append(seconds[0])
            ratios[name].append(seconds[1] / seconds[0])
    return statistics.median(bare), {name: statistics.median(found) for name, found in ratios.items()}


def _timed(case: Case, make: Way) -> float:
    with make() as other:
        call = other if callable(other) else case.model
        start = _CLOCK[0]()
        for _ in range(case.repeats):
            case.run(call)
        return (_CLOCK[0]() - start) / case.repeats


def _probed(case: Case, of: ModuleType = normprobe, **options: Any) -> Way:
    """One probe that goes on counting, as a user's does; its first forwards are not timed."""
    probe = of.Probe(case.model, **options)
    return lambda: probe


def _without_kernel(case: Case, of: ModuleType = normprobe) -> Way:
    """The same measured by plain torch, as where no compiler built the kernel."""
    made: list[Any] = []
    # Older commits choose the kernel in the package itself.
    names = (f"{of.__name__}.kernels.dispatch", f"{of.__name__}.kernels")
    kernels = importlib.import_module(next(name for name in names if importlib.util.find_spec(name)))

    @contextmanager
    def way() -> Iterator[None]:
        kernels.compiled.cache_clear()
        os.environ["NORMPROBE_KERNEL"] = "torch"
        try:
            if not made:
                made.append(of.Probe(case.model))
            with made[0]:
                yield
        finally:
            os.environ.pop("NORMPROBE_KERNEL")
            kernels.compiled.cache_clear()

    return way


def _on_one_thread(case: Case, arguments: argparse.Namespace) -> float:
    """The ratio of a probed forward to the bare one where torch has one thread."""
    torch.set_num_threads(1)
    _, ratios = measure(case, {"probe": _probed(case)}, arguments.rounds)
    torch.set_num_threads(arguments.threads)
    return ratios["probe"]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--peer-rounds", type=int, default=8)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--only", default="")
    parser.add_argument(
        "--built", type=Path, help="a folder that keeps that commit's build for the next time"
    )
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--fallback", action="store_true", help="with --beside: without the kernel, too")
    parser.add_argument("--groups", default="", help="rules, or halves, to be timed beside a plain probe")
    parser.add_argument("--beside", type=Path, help="a checkout of another commit, to be timed in turn")
    return parser.parse_args()


if __name__ == "__main__":
    main()
