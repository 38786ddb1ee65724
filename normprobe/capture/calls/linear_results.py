"""Which tensor of several in its result a Linear computed: a router may give its scores before its logits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from normprobe.capture.calls.call_tensors import RESULT, Path, tensors_in


def own_result(module: nn.Module, given: Tensor | None, result: Any) -> Path | None:
    """The path of the product of a Linear's weight among the tensors of its result; None where none is it.

    Args:
        module: the Linear.
        given: what it read.
        result: what its call gave, which is no tensor.
    """
    weight, bias = (module._parameters.get(name) for name in ("weight", "bias"))
    found = list(tensors_in(result, (RESULT,)))
    if weight is None or weight.dim() != 2 or given is None or len(found) < 2:
        return None
    if given.shape[-1] != weight.shape[1] or given.dtype != weight.dtype:
        return None
    product = functional.linear(given.detach(), weight.detach(), None if bias is None else bias.detach())
    for path, tensor in found:
        if tensor.shape == product.shape and torch.allclose(tensor.to(product.dtype), product):
            return path
    return None
