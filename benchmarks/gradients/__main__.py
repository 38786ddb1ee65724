"""What gradients cost: a training step under a probe with gradients over the bare step, with an A/A control.

    python -m benchmarks.gradients [--rounds 12] [--threads 1] [--batch 16] [--time 128]

A step is forward, backward and optimizer of a model of MiniLM's shape, with random weights. Every way is
timed beside a bare step, in random order, by the processor time of this process; figures are medians of the
ratios. "probe" measures activations alone, "every=1" and "every=100" gradients and parameters, too.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from transformers import AutoModel, BertConfig

import normprobe

Way = Callable[[], AbstractContextManager[object]]
OPTIMIZERS: dict[str, Callable[[nn.Module], torch.optim.Optimizer]] = {
    "SGD": lambda model: torch.optim.SGD(model.parameters(), lr=1e-6),
    "AdamW": lambda model: torch.optim.AdamW(model.parameters(), lr=1e-6),
}


def main() -> None:
    """Print the table."""
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    config = BertConfig(
        hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536, vocab_size=2000
    )
    model = AutoModel.from_config(config).train()
    tokens = torch.randint(0, 2000, (arguments.batch, arguments.time))
    print(
        f"torch {torch.__version__}, {arguments.threads} threads, {arguments.batch} x {arguments.time} tokens"
    )
    print(" | ".join(["optimizer", "bare ms", "A/A", "probe", "every=1", "every=100"]))
    for name, make in OPTIMIZERS.items():
        optimizer = make(model)
        ways: dict[str, Way] = {
            "A/A": nullcontext,
            "probe": _probed(model),
            "every=1": _probed(model, gradients=True),
            "every=100": _probed(model, gradients=True, every=100),
        }
        bare, ratios = measure(
            lambda optimizer=optimizer: step(model, optimizer, tokens), ways, arguments.rounds
        )
        print(
            " | ".join([name, f"{bare * 1e3:.0f}", *(f"{ratio:.3f}" for ratio in ratios.values())]),
            flush=True,
        )


def step(model: nn.Module, optimizer: torch.optim.Optimizer, tokens: Tensor) -> None:
    """One step of training."""
    optimizer.zero_grad()
    states = model(input_ids=tokens, attention_mask=torch.ones_like(tokens)).last_hidden_state
    # Against fixed targets: of the mean square of a norm's output the gradient would be nothing but rounding.
    targets = torch.randn(states.shape, generator=torch.Generator().manual_seed(0))
    nn.functional.mse_loss(states, targets).backward()
    optimizer.step()


def _probed(model: nn.Module, **options: int) -> Way:
    """One probe that goes on counting, as a user's does."""
    probe = normprobe.Probe(model, **options)
    return lambda: probe


def measure(run: Callable[[], None], ways: dict[str, Way], rounds: int) -> tuple[float, dict[str, float]]:
    """Median seconds of the bare step, and of each way the median ratio to the one beside it."""
    for make in (nullcontext, *ways.values()):
        _timed(run, make)
    bare: list[float] = []
    ratios: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, make in random.sample(list(ways.items()), len(ways)):
            pair: list[Way] = [nullcontext, make]
            order = random.sample((0, 1), 2)
            seconds = dict(zip(order, [_timed(run, pair[way]) for way in order], strict=True))
            bare.append(seconds[0])
            ratios[name].append(seconds[1] / seconds[0])
    return statistics.median(bare), {name: statistics.median(found) for name, found in ratios.items()}


def _timed(run: Callable[[], None], make: Way) -> float:
    with make():
        start = time.process_time()
        run()
        return time.process_time() - start


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--time", type=int, default=128)
    return parser.parse_args()


if __name__ == "__main__":
    main()
