"""What quantizers collect on calibration data, each by its own formula in plain hooks, as they do."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

Sums = dict[str, Tensor]
Update = Callable[[Sums, str, Tensor], None]
"""Adds a layer's rows, shape (rows, features), to what is collected by name."""


def _largest(sums: Sums, name: str, rows: Tensor) -> None:
    """SmoothQuant's act_scales: the largest |x| of each input feature."""
    largest = rows.abs().amax(0).float()
    sums[name] = torch.maximum(sums[name], largest) if name in sums else largest


def _mean_magnitude(sums: Sums, name: str, rows: Tensor) -> None:
    """AWQ's scale: the mean |x| of each input feature, as a sum and a count."""
    total = rows.abs().float().sum(0)
    sums[name] = sums[name] + total if name in sums else total
    sums[f"{name}.count"] = sums.get(f"{name}.count", torch.zeros(())) + len(rows)


def _range(sums: Sums, name: str, rows: Tensor) -> None:
    """llm-compressor's observer of a norm's output: the least and largest value of each feature."""
    least, most = rows.amin(0), rows.amax(0)
    known = f"{name}.least" in sums
    sums[f"{name}.least"] = torch.minimum(sums[f"{name}.least"], least) if known else least
    sums[f"{name}.most"] = torch.maximum(sums[f"{name}.most"], most) if known else most


def _squares(sums: Sums, name: str, rows: Tensor) -> None:
    """llama.cpp's importance matrix: the sum of squares of each input feature, and how many rows."""
    total = rows.float().square().sum(0)
    sums[name] = sums[name] + total if name in sums else total
    sums[f"{name}.count"] = sums.get(f"{name}.count", torch.zeros(())) + len(rows)


def _is_norm(module: nn.Module) -> bool:
    return type(module).__name__.endswith("Norm")


COLLECTORS: Mapping[str, tuple[Update, Callable[[nn.Module], bool], bool]] = {
    "act-scales (SmoothQuant)": (_largest, lambda module: isinstance(module, nn.Linear), True),
    "mean |x| (AWQ)": (_mean_magnitude, lambda module: isinstance(module, nn.Linear), True),
    "ranges (llm-compressor)": (_range, _is_norm, False),
    "imatrix (llama.cpp)": (_squares, lambda module: isinstance(module, nn.Linear), True),
}
"""By name: what is added, at which modules, and whether it is of their input or their output."""


@contextmanager
def collecting(model: nn.Module, name: str) -> Iterator[Sums]:
    """Collect in the block, for all calls of a model, what one quantizer does.

    Args:
        model: the model.
        name: one of `COLLECTORS`.
    """
    update, wanted, of_input = COLLECTORS[name]
    sums: Sums = {}

    def hook_of(layer: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(_: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            tensor = args[0] if of_input else output
            update(sums, layer, tensor.detach().reshape(-1, tensor.shape[-1]))

        return hook

    handles = [
        module.register_forward_hook(hook_of(layer))
        for layer, module in model.named_modules()
        if wanted(module)
    ]
    try:
        yield sums
    finally:
        for handle in handles:
            handle.remove()
