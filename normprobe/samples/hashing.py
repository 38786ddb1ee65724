"""Which samples are kept: the k smallest of a hash of (seed, example, position).

The same data give the same samples in every layer, whatever the batch size or the order of layers, and
the kept samples of a union are found among those of its parts. The hash cannot change once files exist.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from normprobe.kernels import dispatch

Hashes = NDArray[np.uint64]
Whole = NDArray[np.int64]

_WORD = (1 << 64) - 1
_ROW = 0x726F77
"""Salt that sets the choice of a channel layer's row apart from the choice of samples ("row" in ASCII)."""


def _mix(state: Hashes) -> Hashes:
    """The output function of splitmix64 (Steele, Lea, Flood 2014): every input bit moves every output bit."""
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


def hashes(seed: int, example: Whole, position: Whole) -> Hashes:
    """Hash of each (seed, example, position): uint64 below 2**63, broadcast over the inputs."""
    if example.shape == position.shape == (1,):  # a decoded token: Python's numbers are faster than arrays
        return np.array([_hash(seed, int(example[0]), int(position[0]))], np.uint64)
    kernel = dispatch.compiled()
    if kernel is not None and example.shape == position.shape:
        given = (np.ascontiguousarray(numbers, np.int64) for numbers in (example, position))
        return np.frombuffer(kernel.hashes(seed & _WORD, *given), np.uint64)
    step = np.uint64(0x9E3779B97F4A7C15)
    with np.errstate(over="ignore"):
        state = _mix(np.asarray([seed & 0xFFFFFFFFFFFFFFFF], np.uint64) + step)
        state = _mix((state ^ example.astype(np.uint64)) + step)
        state = _mix((state ^ position.astype(np.uint64)) + step)
    return state >> np.uint64(1)


def _hash(*numbers: int) -> int:
    """The same of one (seed, example, position)."""
    state = 0
    for number in numbers:
        state = ((state ^ (number & _WORD)) + 0x9E3779B97F4A7C15) & _WORD
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _WORD
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _WORD
        state ^= state >> 31
    return state >> 1


def smallest(values: Hashes, k: int | None) -> NDArray[np.intp]:
    """Indices of the k smallest hashes in ascending order, ties by index; of all if k is None."""
    if len(values) <= 1:
        return np.arange(len(values) if k is None else min(k, len(values)))
    if k is not None and k < len(values):
        # Partition first: sorting only the candidates keeps a long forward cheap.
        limit = np.partition(values, k - 1)[k - 1] if k > 0 else None
        candidates = np.flatnonzero(values <= limit) if limit is not None else np.empty(0, np.intp)
    else:
        candidates = np.arange(len(values))
    order = np.argsort(values[candidates], kind="stable")
    return candidates[order][:k]


def row_of(seed: int, example: Whole, rows: Whole) -> Whole:
    """For each kept example of a channel layer, which of its ``rows`` real rows to keep (0-based).

    Args:
        seed: the probe's seed.
        example: running numbers of the examples, shape (kept,).
        rows: how many real rows each has, shape (kept,).
    """
    drawn = hashes(seed ^ _ROW, example, np.zeros_like(example))
    return (drawn % np.maximum(rows, 1).astype(np.uint64)).astype(np.int64)
