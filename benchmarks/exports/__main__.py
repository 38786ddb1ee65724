"""The time of one recording, from which every quantizer's file comes, beside what each collects alone.

    python -m benchmarks.exports [--rounds 4]

Each of six consumers (SmoothQuant, AWQ, llm-compressor, Model-Optimizer, GPTQ, llama.cpp) runs the model over
the same batches with hooks of its own, by its own formula; a recording runs it once. Seconds of wall time,
medians of rounds in which all are timed in turn; the bare model twice, as a control. The recording's share is
of the sum of the six, each with the least that it needs; by processor time, too, which says more where others
use the machine. Further collections of the same tools, GPTQ's whole
matrix among them, are in a sum of all. Writing the files is timed, too.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

import normprobe
from benchmarks.exports.collectors import COLLECTORS, CONSUMERS, collecting

Batches = list[dict[str, torch.Tensor]]
FORMATS = ("act-scales", "awq", "llm-compressor", "imatrix", "imatrix-dat")


def model_and_batches() -> tuple[nn.Module, Batches]:
    torch.manual_seed(0)
    shape = LlamaConfig(
        hidden_size=576,
        num_hidden_layers=4,
        num_attention_heads=9,
        num_key_value_heads=3,
        intermediate_size=1536,
        vocab_size=2000,
    )
    model = LlamaForCausalLM(shape).eval()
    return model, [{"input_ids": torch.randint(0, 2000, (8, 128))} for _ in range(3)]


def run(model: nn.Module, batches: Batches) -> None:
    with torch.no_grad():
        for batch in batches:
            model(**batch)


def collect(model: nn.Module, batches: Batches, name: str) -> None:
    with collecting(model, name):
        run(model, batches)


def record(model: nn.Module, batches: Batches) -> None:
    normprobe.record(model, batches)


def timed(call: Callable[[], None]) -> tuple[float, float]:
    """Seconds of wall time and of processor time, all threads together."""
    start, used = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - start, time.process_time() - used


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=4)
    rounds = parser.parse_args().rounds
    model, batches = model_and_batches()
    calls: dict[str, Callable[[], None]] = {
        "bare": partial(run, model, batches),
        "one recording": partial(record, model, batches),
        **{name: partial(collect, model, batches, name) for name in COLLECTORS},
        "bare again": partial(run, model, batches),
    }
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    for number in range(rounds + 1):
        for name, call in calls.items():
            took = timed(call)
            if number:  # the first round is to warm up
                seconds[name].append(took)
    middle = {name: statistics.median(wall for wall, _ in taken) for name, taken in seconds.items()}
    for name, value in middle.items():
        print(f"{name:30} {value:7.3f} s {value / middle['bare']:7.3f} of bare")
    for what, names in (("six consumers", CONSUMERS), ("all collections", COLLECTORS)):
        for clock, at in (("wall", 0), ("processor", 1)):
            # Round by round: a machine that others use is slow for a while, not for one call.
            summed = [sum(seconds[name][turn][at] for name in names) for turn in range(rounds)]
            share = [seconds["one recording"][turn][at] / summed[turn] for turn in range(rounds)]
            print(
                f"{what:30} {statistics.median(summed):7.3f} s by {clock}, of which one recording is "
                f"{statistics.median(share):.3f} ({min(share):.3f} to {max(share):.3f})"
            )
    recording = normprobe.record(model, batches)
    with tempfile.TemporaryDirectory() as folder:
        for form in FORMATS:
            took, _ = timed(partial(_write, recording, Path(folder) / form, form))
            print(f"writing {form:22} {took:7.3f} s")


def _write(recording: normprobe.Recording, path: Path, form: str) -> None:
    recording.export(path, form)


if __name__ == "__main__":
    main()
