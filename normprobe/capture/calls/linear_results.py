"""Which tensor of several in its result a Linear computed: a router may give its scores before its logits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from normprobe.capture.calls.call_tensors import RESULT, Path, tensors_in


def own_result(module: nn.Module, given: Tensor | None, result: Any) -> Path | None:
    """The path of the product of a Linear's weight among several results, else that of the first of these.

    None where there are not several.

    Args:
        module: the Linear.
        given: what it read.
        result: what its call gave, which is no tensor.
    """
    found = list(tensors_in(result, (RESULT,)))
    if len(found) < 2:
        return None
    product = _product(module, given)
    for path, tensor in found:
        if (
            product is not None
            and tensor.shape == product.shape
            # Not to the bit: the model's own kernel may have added in another order.
            and torch.allclose(tensor.to(product.dtype), product)
        ):
            return path
    # What it hands through is not what it made.
    return next((path for path, tensor in found if tensor is not given), found[0][0])


def _product(module: nn.Module, given: Tensor | None) -> Tensor | None:
    """What a Linear computes of its input; None where its weight does not say it."""
    weight, bias = (module._parameters.get(name) for name in ("weight", "bias"))
    if weight is None or weight.dim() != 2 or given is None:
        return None
    # Under autocast the two differ, and rounding would decide.
    if given.shape[-1] != weight.shape[1] or given.dtype != weight.dtype:
        return None
    return functional.linear(given.detach(), weight.detach(), None if bias is None else bias.detach())
