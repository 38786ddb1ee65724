"""A cheap fingerprint of the data that a recording saw: equal digests, same data.

Per example a weighted sum of the bits of the forward's first tensor, in wrapping 64-bit integers, so that
neither the order of summation nor the batch size changes it; summed over the examples after mixing in
their running number. Memory is constant, nothing is read back to the host until the recording is taken.
"""

from __future__ import annotations

import torch
from torch import Tensor

_MOST = 4096
"""Weighted numbers per example; larger ones are strided over, and summed once without weights."""

_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_ODD = -7046029254386353131
"""0x9E3779B97F4A7C15 as a signed integer: the golden ratio in 64 bits, odd."""


def digest(batch: Tensor, first: int) -> Tensor:
    """Digest of a batch (examples, ...) whose first example is number ``first``; int64, shape ()."""
    if batch.is_nested or batch.is_meta or batch.is_complex() or batch.numel() == 0 or batch.is_quantized:
        return torch.zeros((), dtype=torch.int64)
    flat = batch.detach().reshape(len(batch), -1) if batch.dim() else batch.detach().reshape(1, 1)
    bits = flat.view(_BITS[flat.element_size()]) if flat.dtype != torch.bool else flat.to(torch.uint8)
    step = -(-bits.shape[1] // _MOST)
    picked = bits[:, ::step].to(torch.int64)
    weights = _mix(torch.arange(1, picked.shape[1] + 1, device=bits.device)) | 1
    of_example = (picked * weights).sum(1) + _mix(torch.full((), bits.shape[1], device=bits.device))
    if step > 1:
        of_example = of_example + _mix(bits.sum(1, dtype=torch.int64))
    number = torch.arange(first, first + len(of_example), device=bits.device)
    return _mix(of_example ^ _mix(number)).sum()


def _mix(state: Tensor) -> Tensor:
    """Scatter the bits of int64 numbers: wrapping multiplications and shifts of xorshift-multiply."""
    state = (state + 1) * _ODD
    state = (state ^ ((state >> 29) & 0x7FFFFFFFF)) * -4658895280553007687
    return state ^ ((state >> 32) & 0xFFFFFFFF)
