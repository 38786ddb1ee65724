"""A cheap fingerprint of the data that a recording saw: equal digests, same data.

Per example a weighted sum of the bits of the forward's first tensor, in wrapping 64-bit integers, so that
neither the order of summation nor the batch size nor padding changes it; summed over the examples after
mixing in their running number. Memory is constant, and nothing is read back to the host.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from normprobe.kernels.splitmix64 import mix_signed

_MOST = 64
"""Weighted features per position; more are strided over, and summed once without weights."""

_AT_ONCE = 1 << 16
"""Numbers looked at together, so that their 64-bit copies stay small."""

_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def digest(
    batch: Tensor, first: int, *, time_first: bool = False, real: NDArray[np.bool_] | None = None
) -> Tensor:
    """Fingerprint of a batch whose first example is number ``first``; int64, shape ().

    Args:
        batch: shape (examples, ...); a 1-D floating tensor is one example.
        first: running number of the first example.
        time_first: its shape is (positions, examples, ...), or (positions, features) of one example.
        real: shape (examples, positions), True where a position is not padding; padding does not count.
    """
    if batch.is_nested or batch.is_meta or batch.is_complex() or batch.numel() == 0 or batch.is_quantized:
        # 0 says that there is none: `same_data` pairs nothing by it.
        return torch.zeros((), dtype=torch.int64)
    batch = _examples_first(batch.detach(), time_first)
    if batch.device.type == "cpu":
        return _on_host(batch, first, real)
    bits = _bits(batch)
    picked = bits[:, :, :: -(-bits.shape[2] // _MOST)]
    held = torch.ones(bits.shape[:2], dtype=torch.int64, device=bits.device)
    if real is not None and real.shape == bits.shape[:2]:
        held = torch.from_numpy(real).to(bits.device, torch.int64)
    index = torch.arange(1, bits.shape[1] * picked.shape[2] + 1, device=bits.device)
    # Odd: times an even number a bit would be lost, and with it changes of one bit.
    weights = (mix_signed(index) | 1).reshape(bits.shape[1], -1)[(held.cumsum(1) - 1).clip(0)]
    total = (bits.sum(2, dtype=torch.int64) * held).sum(1)
    size = mix_signed(held.sum(1)) ^ bits.shape[2]
    of_example = (
        ((picked.to(torch.int64) * weights).sum(2) * held).sum(1) + mix_signed(total) + mix_signed(size)
    )
    number = torch.arange(first, first + len(bits), device=bits.device)
    mixed: Tensor = mix_signed(of_example ^ mix_signed(number))
    return mixed.sum()


def _on_host(batch: Tensor, first: int, real: NDArray[np.bool_] | None) -> Tensor:
    """The same by numpy, whose calls cost a tenth (a decoded token is a forward), in parts of examples."""
    # A mask of other sizes says nothing of these positions.
    real = real if real is not None and real.shape == batch.shape[:2] else None
    step = max(1, _AT_ONCE // max(1, batch[0].numel()))
    sums = [
        _of_few(
            _bits(batch[at : at + step]).numpy(), first + at, None if real is None else real[at : at + step]
        )
        for at in range(0, len(batch), step)
    ]
    # Wrapping round 64 bits is what is wanted; of scalars numpy would warn.
    with np.errstate(over="ignore"):
        return torch.tensor(int(np.sum(sums, dtype=np.int64)))


def _of_few(bits: NDArray[Any], first: int, real: NDArray[np.bool_] | None) -> np.int64:
    """Fingerprint of some examples, of which this is the first."""
    examples, positions, features = bits.shape
    stride = -(-features // _MOST)
    weights, numbers = _constants(examples, positions, -(-features // stride))
    with np.errstate(over="ignore"):
        total = bits.sum(2, dtype=np.int64)
        weighted = bits[:, :, ::stride].astype(np.int64)
        if real is not None and not real.all():
            held = real.astype(np.int64)
            weighted = weighted * weights[(held.cumsum(1) - 1).clip(0)]
            weighted, total, count = weighted * held[:, :, None], total * held, held.sum(1)
        else:
            weighted *= weights
            count = np.int64(positions)
        of_example = (
            weighted.sum((1, 2)) + mix_signed(total.sum(1)) + mix_signed(mix_signed(count) ^ features)
        )
        return np.int64(mix_signed(of_example ^ mix_signed(numbers + first)).sum())


@lru_cache(maxsize=16)
def _constants(examples: int, positions: int, features: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """The weight of each feature at each position, and the examples counted from 0."""
    # Cached: a loop of decoding asks for the same sizes at each token.
    index = np.arange(1, positions * features + 1)
    with np.errstate(over="ignore"):
        return (mix_signed(index) | 1).reshape(positions, features), np.arange(examples)


def _examples_first(batch: Tensor, time_first: bool) -> Tensor:
    """The tensor as (examples, positions, features)."""
    if batch.dim() == 0 or (batch.dim() == 1 and batch.is_floating_point()):
        return batch.reshape(1, -1, 1)
    if time_first:
        batch = batch.transpose(0, 1) if batch.dim() > 2 else batch.unsqueeze(0)
    return batch.reshape(*batch.shape[:2], -1) if batch.dim() > 1 else batch.reshape(-1, 1, 1)


def _bits(values: Tensor) -> Tensor:
    """Numbers as integers of their size."""
    return (
        values.to(torch.uint8)
        if values.dtype == torch.bool
        else values.contiguous().view(_BITS[values.element_size()])
    )
