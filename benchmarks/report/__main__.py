"""How long a report takes and how large its page is, for networks of 2 to 500 norms; twice, as a control.

    python -m benchmarks.report [FILE.gguf]
    python -m benchmarks.report --beside CHECKOUT [--rounds 5] [--only MiniLM-L6,ResNet-50]

Seconds are processor time of this process on one thread, findings included. FILE.gguf is a language model
to be measured too, such as SmolLM2-135M (61 norms, 211 Linear), which the goal of 20 s and 3 MB is about.
With
--beside the reports of this build and of another commit's checkout, its extension built, are timed in turn.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from functools import partial
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import normprobe
from benchmarks.report import beside
from benchmarks.report.models import CASES, read, two_norms


def gguf(file: Path) -> normprobe.Recording:
    where = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
    tokenizer = AutoTokenizer.from_pretrained(**where)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    return read(AutoModelForCausalLM.from_pretrained(**where), tokenizer)


def main() -> None:
    arguments = _arguments()
    if arguments.beside is not None:
        cases = arguments.only.split(",") if arguments.only else beside.CASES
        beside.print_beside(arguments.beside.resolve(), arguments.rounds, cases)
        return
    cases = CASES | ({"GGUF": partial(gguf, arguments.file)} if arguments.file else {})
    torch.set_num_threads(1)
    two_norms().report(tempfile.mkdtemp())  # imports, fonts
    print(f"{'':14} norms Linear  seconds   again  page MB")
    for name, make in cases.items():
        recording = make()
        linear = int((recording.ledger["kind"] == "linear").sum())
        row = f"{name:14} {len(recording.ledger) - linear:5} {linear:6}"
        for _ in range(2):
            with tempfile.TemporaryDirectory() as folder:
                fresh = recording.annotate()  # a copy that has not found its findings yet
                start = time.process_time()
                page = fresh.report(folder)
                row += f" {time.process_time() - start:8.1f}"
                size = page.stat().st_size / 1e6
        print(f"{row} {size:8.2f}", flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("file", nargs="?", type=Path, help="a .gguf file to be measured too")
    parser.add_argument("--beside", type=Path, help="a checkout of another commit, to be timed in turn")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="", help="names of cases for --beside, with commas")
    return parser.parse_args()


if __name__ == "__main__":
    main()
