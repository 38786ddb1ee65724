"""How often a comparison names the right layer, and how often it names one where nothing differs.

``python -m benchmarks.compare [--only MODEL] [--times N]`` puts faults of one layer into a trained MiniLM and
random GPT-2 and Llama models, compares each with the sound model, and prints which layer is named first. Then
it compares each sound model with itself: run again, in other batches, on another number of threads, in
bfloat16, and N times on other data.
"""

from __future__ import annotations

import argparse
import copy
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

import normprobe
from benchmarks.compare.faults import FAULTS
from benchmarks.findings.models_fitted import TEXTS, minilm_files

Batch = dict[str, torch.Tensor]


def minilm() -> tuple[nn.Module, Batch]:
    """Return the trained MiniLM-L6 and 32 texts."""
    from transformers import AutoModel, AutoTokenizer

    words = AutoTokenizer.from_pretrained(minilm_files())
    model = AutoModel.from_pretrained(minilm_files(), attn_implementation="eager").eval()
    texts = [f"{text} {other}" for text in TEXTS for other in TEXTS[:4]]
    return model, dict(words(texts, padding=True, return_tensors="pt"))


def random(family: str, **options: Any) -> Callable[[], tuple[nn.Module, Batch]]:
    """Return what builds a random model of a family of transformers, with random tokens."""

    def build() -> tuple[nn.Module, Batch]:
        import transformers

        torch.manual_seed(0)
        config = getattr(transformers, f"{family}Config")(vocab_size=500, **options)
        model = transformers.AutoModel.from_config(config, attn_implementation="eager").eval()
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):  # zero in new models
                parameter.data.normal_(0, 0.02)
            elif "norm" in name or "ln_" in name:  # one
                parameter.data.uniform_(0.5, 1.5)
        return model, {"input_ids": torch.randint(3, 500, (32, 24))}

    return build


MODELS: dict[str, Callable[[], tuple[nn.Module, Batch]]] = {
    "minilm": minilm,
    "gpt2": random("GPT2", n_embd=96, n_layer=6, n_head=4),
    "llama": random(
        "Llama",
        hidden_size=96,
        intermediate_size=256,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
    ),
}


def recorded(model: nn.Module, batch: Batch, size: int = 16, threads: int = 1) -> normprobe.Recording:
    """Record a model on batches of this size."""
    torch.set_num_threads(threads)
    try:
        count = len(batch["input_ids"])
        return normprobe.record(
            model, [{k: v[at : at + size] for k, v in batch.items()} for at in range(0, count, size)]
        )
    finally:
        torch.set_num_threads(1)


def fault_rows(
    name: str, model: nn.Module, batch: Batch, sound: normprobe.Recording
) -> Iterator[dict[str, Any]]:
    """Compare the sound model with each faulty copy of it."""
    for fault in FAULTS:
        if fault.model != name:
            continue
        faulty = copy.deepcopy(model)
        with torch.no_grad():
            fault.change(faulty)
        started = time.perf_counter()
        comparison = normprobe.compare(sound, recorded(faulty, batch, size=8))
        found = comparison.first_divergence
        yield {
            "model": name,
            "fault": fault.what,
            "layer": fault.layer,
            "site": fault.site,
            "named": "-" if found is None else found.layer,
            "at": "-" if found is None else found.site,
            "error": np.nan if found is None else found.error_db,
            "right": found is not None and (found.layer, found.site) == (fault.layer, fault.site),
            "seconds": time.perf_counter() - started,
        }


def equal_rows(
    name: str, model: nn.Module, batch: Batch, sound: normprobe.Recording
) -> Iterator[dict[str, Any]]:
    """Compare the sound model with itself."""
    fused = copy.deepcopy(model)
    fused.set_attn_implementation("sdpa")  # type: ignore[operator]
    half = {k: v.bfloat16() if v.is_floating_point() else v for k, v in batch.items()}
    again = {
        "again": recorded(model, batch),
        "batches of 1": recorded(model, batch, size=1),
        "batches of 5": recorded(model, batch, size=5),
        "batches of 32": recorded(model, batch, size=32),
        "2 threads": recorded(model, batch, threads=2),
        "2 threads, batches of 3": recorded(model, batch, size=3, threads=2),
        "attention by sdpa": recorded(fused, batch),
        "bfloat16": recorded(copy.deepcopy(model).bfloat16(), half),
    }
    for what, other in again.items():
        yield _equal(name, what, normprobe.compare(sound, other))


def _equal(name: str, what: str, comparison: normprobe.Comparison) -> dict[str, Any]:
    found, errors = comparison.first_divergence, comparison.layers["error_db"]
    return {
        "model": name,
        "run": what,
        "named": "-" if found is None else f"{found.layer} ({found.site})",
        "largest error": errors.max(),
        "largest, over noise": (errors - comparison.layers["noise_db"]).max(),
    }


def halves(name: str, model: nn.Module, times: int) -> dict[str, Any]:
    """Compare a model with itself on other data, many times, and count how often a layer is named."""
    draw, named = np.random.default_rng(0), 0
    for _ in range(times):
        sides = [other_data(name, draw, 24) for _ in range(2)]
        named += normprobe.compare(*(recorded(model, side) for side in sides)).first_divergence is not None
    return {"model": name, "comparisons": times, "named": named, "share": named / times}


def large_faults(name: str, model: nn.Module) -> Iterator[dict[str, Any]]:
    """Compare a model on some data with faulty copies of it on other data: only large faults show."""
    draw = np.random.default_rng(1)
    sound = recorded(model, other_data(name, draw, 96))
    for fault in FAULTS:
        if fault.model != name or not fault.what.startswith(("int4", "no bias", "swapped", "eps", "gain")):
            continue
        faulty = copy.deepcopy(model)
        with torch.no_grad():
            fault.change(faulty)
        found = normprobe.compare(sound, recorded(faulty, other_data(name, draw, 96))).first_divergence
        right = found is not None and (found.layer, found.site) == (fault.layer, fault.site)
        yield {
            "model": name,
            "fault": fault.what,
            "layer": fault.layer,
            "named": "-" if found is None else f"{found.layer} ({found.site})",
            "right": right,
        }


def other_data(name: str, draw: np.random.Generator, count: int) -> Batch:
    """Return examples of a length of their own, whose tokens hang together."""
    ids = []
    for _ in range(count):
        topic = draw.integers(3, 480, 6)  # an example repeats its own few tokens
        ids.append(draw.choice(topic, 16) + (draw.random(16) < 0.3) * draw.integers(0, 20, 16))
    return {"input_ids": torch.tensor(np.array(ids))} | (
        {"attention_mask": torch.ones(count, 16, dtype=torch.int64)} if name == "minilm" else {}
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="models whose name contains this")
    parser.add_argument("--times", type=int, default=0, help="comparisons on other data per model")
    asked = parser.parse_args()
    faults, equal, other, large = [], [], [], []
    for name, build in MODELS.items():
        if asked.only not in name:
            continue
        model, batch = build()
        sound = recorded(model, batch)
        faults += list(fault_rows(name, model, batch, sound))
        equal += list(equal_rows(name, model, batch, sound))
        if asked.times:
            other.append(halves(name, model, asked.times))
            large += list(large_faults(name, model))
    report(pd.DataFrame(faults), pd.DataFrame(equal), pd.DataFrame(other), pd.DataFrame(large))


def report(faults: pd.DataFrame, equal: pd.DataFrame, other: pd.DataFrame, large: pd.DataFrame) -> None:
    """Print the tables and the totals."""
    with pd.option_context(
        "display.width",
        220,
        "display.max_colwidth",
        60,
        "display.max_rows",
        None,
        "display.max_columns",
        None,
    ):
        print(faults.round(1).to_string(index=False))
        print("\n" + equal.round(1).to_string(index=False))
        if len(other):
            print("\nA model with itself on other data, at level 1 %:\n" + other.to_string(index=False))
            print("\nOther data, 96 examples each:\n" + large.to_string(index=False))
    print(
        f"\n{len(faults)} faults: the layer and site named is right in {faults['right'].mean():.1%}, ", end=""
    )
    print(f"the layer in {(faults['layer'] == faults['named']).mean():.1%}")
    print(f"{len(equal)} comparisons of a model with itself: {(equal['named'] != '-').sum()} name a layer")


if __name__ == "__main__":
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        main()
