"""How fast tensors are measured: GB/s of the kernels beside `memcpy` and `torch.var_mean`.

    python -m benchmarks.overhead.kernel [--threads 1] [--seconds 0.3]

A row is a shape, how its tensor lies and its dtype. `features`: the moments, extremes and zeros of each
feature and the variance within each sample. `+ kept`: also the moments of 1,024 kept samples. `+ padding`: a
quarter of the rows is padding, whose bytes count. `torch`: the same as `+ kept` by plain torch. `var_mean`:
torch's, over all axes but the features. Ways run interleaved; figures are bytes over the median time.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor

from normprobe.kernels.choice import Choice
from normprobe.kernels.dispatch import compiled
from normprobe.kernels.numpy_accumulator import NumpyAccumulator
from normprobe.kernels.types import AxisRoles

KEPT = 1024
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
ROWS = AxisRoles(-1, 1, None, by_example=True)
PLANES = AxisRoles(1, 1, None, by_example=True)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=0.3)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(f"GB/s, torch {torch.__version__} on {arguments.threads} threads")
    print("shape | lies | dtype | memcpy | var_mean | features | + kept | + padding | torch")
    for rows, width in ((2048, 384), (1024, 3072), (8192, 768)):
        for dtype in DTYPES:
            show("rows", torch.randn(rows, width).to(dtype), ROWS, arguments.seconds)
        show("transposed", torch.randn(width, rows).T, ROWS, arguments.seconds)
    for sizes in ((8, 64, 56, 56), (8, 512, 7, 7)):
        show("planes", torch.randn(sizes), PLANES, arguments.seconds)
        channels_last = torch.randn(sizes).contiguous(memory_format=torch.channels_last)
        show("channels last", channels_last, PLANES, arguments.seconds)


def show(lies: str, tensor: Tensor, axis_roles: AxisRoles, seconds: float) -> None:
    """Print the row of one tensor."""
    samples, rows = tensor.shape[0], tensor[0].numel() // tensor.shape[axis_roles.axis]
    keep = np.sort(np.random.default_rng(0).permutation(samples)[:KEPT]).astype(np.int64)
    some = Choice(samples, rows, keep=keep, slots=np.arange(len(keep)))
    real = np.random.default_rng(0).random((samples, rows)) > 0.25
    padded = Choice(samples, rows, real=real)
    copy, over = (
        torch.empty_like(tensor),
        [axis for axis in range(tensor.dim()) if axis != axis_roles.axis % tensor.dim()],
    )
    ways: dict[str, Callable[[], object]] = {
        "memcpy": lambda: copy.copy_(tensor),
        "var_mean": lambda: torch.var_mean(tensor, over),
        **_compiled(tensor, axis_roles, Choice(samples, rows), some, padded),
        "torch": _plain(tensor, axis_roles, some),
    }
    fast = measure(ways, tensor.nbytes, seconds)
    figures = (f"{fast[way]:.1f}" for way in ways)
    print(" | ".join(["x".join(map(str, tensor.shape)), lies, str(tensor.dtype)[6:], *figures]), flush=True)


def measure(ways: dict[str, Callable[[], object]], size: int, seconds: float) -> dict[str, float]:
    """Median GB/s of each way, run interleaved for this long each."""
    spent: dict[str, list[float]] = {name: [] for name in ways}
    end = time.perf_counter() + seconds * len(ways)
    while time.perf_counter() < end or len(spent["memcpy"]) < 3:
        for name, call in random.sample(list(ways.items()), len(ways)):
            start = time.perf_counter()
            call()
            spent[name].append(time.perf_counter() - start)
    return {name: size / statistics.median(found) / 1e9 for name, found in spent.items()}


def _compiled(tensor: Tensor, axis_roles: AxisRoles, *choices: Choice) -> dict[str, Callable[[], object]]:
    kernel = compiled()
    names = ("features", "+ kept", "+ padding")
    if kernel is None:
        return {name: lambda: None for name in names}
    state = kernel.CompiledAccumulator(tensor.shape[axis_roles.axis], axis_roles).state
    # A fresh memory each time, or the tensor would be known from the time before.

    def measure(choice: Choice) -> object:
        return state.observe(
            tensor,
            kernel.compiled_choice(choice),
            None,
            kernel.RecentMoments(),
            kernel.threads(),
            kernel.SMALL,
        )

    return {name: partial(measure, choice) for name, choice in zip(names, choices, strict=True)}


def _plain(tensor: Tensor, axis_roles: AxisRoles, choice: Choice) -> Callable[[], object]:
    values = tensor.movedim(axis_roles.axis, -1).reshape(choice.samples, choice.rows, -1)
    sums = NumpyAccumulator(values.shape[-1])
    return lambda: sums.add(values, choice)


if __name__ == "__main__":
    main()
