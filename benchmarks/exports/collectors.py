"""What quantizers collect on calibration data, each by its own code's formula in plain hooks, as they do.

Read in SmoothQuant (calibration.py), llm-compressor (modifiers of SmoothQuant and AWQ, observer imatrix_mse),
Model-Optimizer (calib/max.py, model_calib.py), GPTQ (gptq.py) and llama.cpp (tools/imatrix).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

Sums = dict[str, Tensor]
Update = Callable[[Sums, str, Tensor], None]
"""Adds a layer's tensor, its features last, to what is collected by name."""


@dataclass(frozen=True)
class Collector:
    """One consumer's collection.

    Attributes:
        update: adds a tensor.
        wanted: at which modules, by name and module.
        at_output: whether of what they write; else of what they read.
    """

    update: Update
    wanted: Callable[[str, nn.Module], bool]
    at_output: bool = False


def _rows(tensor: Tensor) -> Tensor:
    return tensor.view(-1, tensor.shape[-1])


def _largest(sums: Sums, name: str, tensor: Tensor) -> None:
    """SmoothQuant's act_scales: the largest |x| of each input feature."""
    largest = torch.max(_rows(tensor).abs(), dim=0)[0].float().cpu()
    sums[name] = torch.max(sums[name], largest) if name in sums else largest


def _mean_magnitude(sums: Sums, name: str, tensor: Tensor) -> None:
    """AWQ's scale: the mean |x| of each input feature, as llm-compressor's AWQ adds it up."""
    rows = tensor.abs().flatten(0, -2)
    total = rows.float().sum(dim=0).cpu()
    sums.setdefault(name, torch.zeros_like(total)).add_(total)
    sums[f"{name}.count"] = sums.get(f"{name}.count", torch.tensor(0)) + len(rows)


def _range(sums: Sums, name: str, tensor: Tensor) -> None:
    """llm-compressor's SmoothQuant: the least and largest value of each feature that a norm writes."""
    rows = _rows(tensor)
    least, most = torch.min(rows, dim=0)[0], torch.max(rows, dim=0)[0]
    known = f"{name}.least" in sums
    sums[f"{name}.least"] = torch.minimum(sums[f"{name}.least"], least) if known else least
    sums[f"{name}.most"] = torch.maximum(sums[f"{name}.most"], most) if known else most


def _squares(sums: Sums, name: str, tensor: Tensor) -> None:
    """The sum of squares of each input feature and how many rows: llama.cpp, imatrix_mse."""
    wide = tensor.float()
    total = wide.pow(2).sum(dim=list(range(wide.dim() - 1)))
    sums.setdefault(name, torch.zeros_like(total)).add_(total)
    rows = math.prod(wide.shape[:-1])
    sums[f"{name}.count"] = sums.get(f"{name}.count", torch.tensor(0)) + rows


def _amax(sums: Sums, name: str, tensor: Tensor) -> None:
    """Model-Optimizer's max calibrator of an input quantizer: one largest |x| per tensor."""
    largest = torch.maximum(torch.abs(torch.max(tensor)), torch.abs(torch.min(tensor)))
    # It asserts all three of every tensor.
    assert torch.all(largest >= 0)
    assert not torch.any(torch.isinf(largest))
    assert not torch.any(torch.isnan(largest))
    sums[name] = torch.max(sums[name], largest) if name in sums else largest


def _amax_by_feature(sums: Sums, name: str, tensor: Tensor) -> None:
    """The same calibrator with axis -1, as Model-Optimizer's SmoothQuant sets it."""
    over = tuple(range(tensor.dim() - 1))
    largest = torch.maximum(torch.abs(torch.amax(tensor, over)), torch.abs(torch.amin(tensor, over)))
    assert torch.all(largest >= 0)
    assert not torch.any(torch.isinf(largest))
    assert not torch.any(torch.isnan(largest))
    sums[name] = torch.max(sums[name], largest) if name in sums else largest


def _hessian(sums: Sums, name: str, tensor: Tensor) -> None:
    """GPTQ's matrix 2/n sum x xᵀ, with its running n of examples; a recording knows its diagonal only."""
    added, held = len(tensor), f"{name}.count"
    before = sums.get(held, torch.tensor(0))
    if name not in sums:
        sums[name] = torch.zeros(tensor.shape[-1], tensor.shape[-1])
    sums[name] *= before / (before + added)
    sums[held] = before + added
    columns = math.sqrt(2 / int(sums[held])) * _rows(tensor).t().float()
    sums[name] += columns.matmul(columns.t())


def _hessian_diagonal(sums: Sums, name: str, tensor: Tensor) -> None:
    """The diagonal of GPTQ's matrix, as it orders columns by: all that a recording knows of it."""
    added, held = len(tensor), f"{name}.count"
    before = sums.get(held, torch.tensor(0))
    if name not in sums:
        sums[name] = torch.zeros(tensor.shape[-1])
    sums[name] *= before / (before + added)
    sums[held] = before + added
    columns = math.sqrt(2 / int(sums[held])) * _rows(tensor).float()
    sums[name] += columns.square().sum(0)


def _is_linear(name: str, module: nn.Module) -> bool:
    return isinstance(module, nn.Linear)


def _in_block(name: str, module: nn.Module) -> bool:
    """GPTQ and llama-imatrix leave the head out."""
    return isinstance(module, nn.Linear) and name != "lm_head"


def _first_balanced(name: str, module: nn.Module) -> bool:
    """Where llm-compressor's AWQ hooks Llama: the first of the Linear layers that read the same."""
    return name.endswith(("q_proj", "o_proj", "gate_proj", "down_proj"))


def _smooth_layer(name: str, module: nn.Module) -> bool:
    """Where llm-compressor's SmoothQuant hooks Llama: the norms of blocks."""
    return name.endswith(("input_layernorm", "post_attention_layernorm"))


CONSUMERS: dict[str, Collector] = {
    "SmoothQuant: act_scales": Collector(_largest, _is_linear),
    "AWQ: mean |x|": Collector(_mean_magnitude, _first_balanced),
    "llm-compressor: ranges": Collector(_range, _smooth_layer, at_output=True),
    "Model-Optimizer: amax": Collector(_amax, _is_linear),
    "GPTQ: diagonal alone": Collector(_hessian_diagonal, _in_block),
    "llama.cpp: imatrix": Collector(_squares, _in_block),
}
"""The six that a recording serves, by name: each with the least that it needs for itself."""

OTHERS: dict[str, Collector] = {
    "llm-compressor: imatrix_mse": Collector(_squares, _is_linear),
    "Model-Optimizer: SmoothQuant": Collector(_amax_by_feature, _is_linear),
    "GPTQ: whole matrix": Collector(_hessian, _in_block),
}
"""Further collections of the same tools. GPTQ gathers the whole matrix, which no recording gives."""

COLLECTORS = {**CONSUMERS, **OTHERS}


@contextmanager
def collecting(model: nn.Module, name: str) -> Iterator[Sums]:
    """Collect in the block, for all calls of a model, what one quantizer does.

    Args:
        model: the model.
        name: one of `COLLECTORS`.
    """
    collector = COLLECTORS[name]
    sums: Sums = {}

    def hook_of(layer: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(_: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            collector.update(sums, layer, (output if collector.at_output else args[0]).detach())

        return hook

    handles = [
        module.register_forward_hook(hook_of(layer))
        for layer, module in model.named_modules()
        if collector.wanted(layer, module)
    ]
    try:
        yield sums
    finally:
        for handle in handles:
            handle.remove()
