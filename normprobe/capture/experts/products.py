"""The products of torch's that take a weight of experts: the rows, and which expert each is of."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from normprobe.capture.hooks.torch_internals import base_of
from normprobe.layers.layer import ExpertWeight
from normprobe.layers.module_attributes import attribute

_OF_ONE = {"linear", "matmul", "__matmul__", "mm"}
_OF_ALL = {"_grouped_mm", "grouped_mm", "grouped_mm_fallback"}
_BY_BATCH = {"bmm", "matmul", "__matmul__"}
_NAMES = _OF_ONE | _OF_ALL | _BY_BATCH


class Product(NamedTuple):
    """A product with the weight of one expert, or of all.

    Attributes:
        reads: its rows, shape (rows, features in).
        gives: what it gives, shape (rows, features out).
        expert: of each row its expert, shape (rows,).
        one: the expert, if it is of one; else None.
    """

    reads: Tensor
    gives: Tensor
    expert: Tensor
    one: int | None


def may_be_product(func: Callable[..., Any]) -> bool:
    """Whether a function multiplies matrices."""
    return getattr(func, "__name__", "") in _NAMES


def product_of(
    weight: ExpertWeight, func: Callable[..., Any], given: tuple[Any, ...], result: Any
) -> Product | None:
    """The product that a call of a function is; None where it is none.

    Args:
        weight: the weight of experts that is among the arguments, or a view of which is.
        func: the function.
        given: its arguments, those by name last.
        result: what it gave.
    """
    name, whole = str(getattr(func, "__name__", "")), weight.tensor
    tensors = [value for value in _flat(given) if isinstance(value, Tensor)]
    view = next((t for t in tensors if whole is not None and _is_view(t, whole)), None)
    rows = next((t for t in tensors if t is not view and t.is_floating_point() and t.dim() > 1), None)
    if whole is None or view is None or rows is None or not isinstance(result, Tensor):
        return None
    # Detached, so that nothing that is kept holds the user's graph.
    reads, gives = rows.detach(), result.detach()
    per_expert = whole.numel() // weight.count
    if name in _OF_ALL and view.numel() == whole.numel():
        # Where each expert's rows end: the only whole numbers among the arguments.
        ends = next((t for t in tensors if not t.is_floating_point()), None)
        return None if ends is None else _of_all(weight, reads, gives, ends)
    if name in _BY_BATCH and view.dim() == rows.dim() == 3 and len(rows) == weight.count:
        expert = torch.arange(weight.count, device=rows.device).repeat_interleave(rows.shape[1])
        return Product(reads.flatten(0, 1), gives.flatten(0, 1), expert, None)
    if name in _OF_ONE and view.numel() == per_expert and rows.shape[:-1] == result.shape[:-1]:
        # The index is no argument any more; where the view begins in the parameter's memory tells it.
        one = (view.storage_offset() - whole.storage_offset()) // per_expert
        flat, made = reads.reshape(-1, rows.shape[-1]), gives.reshape(-1, result.shape[-1])
        # A third tensor is the bias as an argument, which is in the result already.
        made = _with_bias(weight, made, one) if len(tensors) < 3 else made
        return Product(flat, made, torch.full((len(flat),), one, device=flat.device), one)
    return None


def _flat(given: tuple[Any, ...]) -> Iterator[Any]:
    for value in given:
        yield from value if isinstance(value, (list, tuple)) else (value,)


def _is_view(tensor: Tensor, whole: Tensor) -> bool:
    """Whether a tensor is the weight or a view of it, and no copy, whose place in it says nothing."""
    here: Tensor | None = tensor
    while here is not None and here is not whole:
        here = base_of(here)
    return here is whole


def _of_all(weight: ExpertWeight, reads: Tensor, gives: Tensor, ends: Tensor) -> Product:
    """A product of all experts, whose rows end where ``ends`` says, one expert after the other."""
    row = torch.arange(len(reads), device=reads.device)
    # Behind the last end lie rows of other processes' experts: they are of none here.
    expert = torch.searchsorted(ends.to(torch.int64), row, right=True)
    return Product(reads, _with_bias(weight, gives, expert), expert, None)


def _with_bias(weight: ExpertWeight, gives: Tensor, expert: Any) -> Tensor:
    """What a product gives with the bias of its expert, which models add apart from it."""
    # Not by getattr, which may run code of the user's or of a parametrization.
    bias = weight.module._parameters.get(f"{weight.parameter}_bias")
    if bias is None or attribute(weight.module, "has_bias", True) is not True or not weight.last:
        return gives
    # Rows of no expert have the number behind the last one; what they give is counted nowhere.
    index = expert.clamp(max=len(bias) - 1) if isinstance(expert, Tensor) else expert
    return gives + bias.detach()[index]
