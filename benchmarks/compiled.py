"""What a probe costs a compiled model: its graphs with the probe's operators over the bare graphs.

    python -m benchmarks.compiled [--rounds 20] [--threads 2] [--layers 6] [--only bert,llama]

Copies of one model, each compiled by inductor with fullgraph=True, run 16 x 128 tokens in random order, each
after a bare one that is not timed, and each is divided by a bare one timed beside it: a second bare copy
(A/A), one that is measured at every forward, one at each hundredth (the forwards between are timed), and the
bare model as written. Printed are medians, the number of graphs of bare and probed copy, and whether their
outputs are equal bit for bit.
"""

from __future__ import annotations

import argparse
import copy
import random
import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack
from itertools import count
from types import FunctionType
from typing import Any

import torch
from torch import nn
from transformers import AutoModel, AutoModelForCausalLM, BertConfig, LlamaConfig

import normprobe

Call = Callable[[torch.Tensor], Any]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--only", default="bert,llama")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(f"torch {torch.__version__} on {arguments.threads} threads, inductor, 16 x 128 tokens")
    print(
        "model | bare ms | A/A | every=1 | every=100 | as written | graphs bare, probed | sites | bits equal"
    )
    for name in arguments.only.split(","):
        torch.manual_seed(0)
        _print_row(name, _MODELS[name](arguments.layers).eval(), arguments.rounds)


def _bert(layers: int) -> Any:
    shape = {"hidden_size": 384, "num_attention_heads": 12, "intermediate_size": 1536, "vocab_size": 2000}
    return AutoModel.from_config(BertConfig(num_hidden_layers=layers, **shape))


def _llama(layers: int) -> Any:
    shape = {"hidden_size": 576, "num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": 2000}
    return AutoModelForCausalLM.from_config(
        LlamaConfig(num_hidden_layers=layers, intermediate_size=1536, **shape)
    )


_MODELS = {"bert": _bert, "llama": _llama}


def _print_row(name: str, model: nn.Module, rounds: int) -> None:
    tokens = torch.randint(0, 2000, (16, 128))
    with ExitStack() as block, torch.no_grad():
        calls: dict[str, Call] = {way: _compiled(copy.deepcopy(model)) for way in ("bare", "A/A")}
        for way, every in (("every=1", 1), ("every=100", 100)):
            own = copy.deepcopy(model)
            probe = block.enter_context(normprobe.Probe(own, every=every))
            calls[way] = _compiled(own)
            if every == 1:
                measured = probe
        calls["as written"] = model
        graphs = {way: _graphs(call, tokens) for way, call in calls.items() if way != "as written"}
        equal = torch.equal(calls["bare"](tokens)[0], calls["every=1"](tokens)[0])
        bare, ratios = _ratios(calls, tokens, rounds)
        sites = len(measured.recording.layers)
    figures = [f"{ratios[way]:.3f}" for way in ("A/A", "every=1", "every=100", "as written")]
    print(
        " | ".join(
            [
                name,
                f"{bare * 1e3:.1f}",
                *figures,
                f"{graphs['bare']}, {graphs['every=1']}",
                f"{sites}",
                f"{equal}",
            ]
        ),
        flush=True,
    )


def _compiled(model: nn.Module) -> Call:
    """A compiled call of a model, by code of its own: dynamo keeps graphs by code, for all of a class."""

    def forward(tokens: torch.Tensor) -> Any:
        return model(tokens)

    own = FunctionType(
        forward.__code__.replace(co_firstlineno=next(_NUMBERS)),
        globals(),
        "forward",
        None,
        forward.__closure__,
    )
    return torch.compile(own, fullgraph=True)


_NUMBERS = count(1)


def _graphs(call: Call, tokens: torch.Tensor) -> int:
    """How many graphs the first calls of a compiled model make."""
    counters = torch._dynamo.utils.counters["stats"]
    before = counters["unique_graphs"]
    for _ in range(3):
        call(tokens)
    return int(counters["unique_graphs"] - before)


def _ratios(calls: dict[str, Call], tokens: torch.Tensor, rounds: int) -> tuple[float, dict[str, float]]:
    """Median seconds of the bare model, and of each way the median ratio to a bare call beside it."""
    bare: list[float] = []
    ratios: dict[str, list[float]] = {way: [] for way in calls if way != "bare"}
    for _ in range(rounds):
        for way in random.sample(list(ratios), len(ratios)):
            calls["bare"](tokens)
            order = random.sample(("bare", way), 2)
            seconds = {turn: _seconds(calls[turn], tokens) for turn in order}
            bare.append(seconds["bare"])
            ratios[way].append(seconds[way] / seconds["bare"])
    return statistics.median(bare), {way: statistics.median(found) for way, found in ratios.items()}


def _seconds(call: Call, tokens: torch.Tensor) -> float:
    start = time.perf_counter()
    call(tokens)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
