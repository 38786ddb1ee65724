"""Which samples are kept: the k smallest of a hash of (seed, example, position).

The same data give the same samples in every layer, whatever the batch size or the order of layers, and
the kept samples of a union are found among those of its parts. A part that was named hashes by a seed of its
own. The hash cannot change once files exist.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import distributed

from normprobe.kernels import dispatch
from normprobe.kernels.splitmix64 import WORD, mix

Hashes = NDArray[np.uint64]
Whole = NDArray[np.int64]

_ROW = 0x726F77
"""Salt that sets the choice of a channel layer's row apart from the choice of samples ("row" in ASCII)."""


def process_name() -> str | None:
    """The name of this process among those of torch.distributed, such as rank3; None where it is alone."""
    alone = not (distributed.is_available() and distributed.is_initialized())
    return None if alone or distributed.get_world_size() == 1 else f"rank{distributed.get_rank()}"


def seed_of(seed: int, part: str | None) -> int:
    """The seed by which a part of this name keeps samples; the probe's own where the part has no name.

    Parts number their examples alike, from 0. By one seed the parts of 64 processes would keep the same few
    numbers, all of one moment.
    """
    if part is None:
        return seed
    digest = blake2b(part.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    drawn: int = mix(mix(0, seed & WORD), int.from_bytes(digest, "little"))
    return drawn


def hashes(seed: int, example: Whole, position: Whole) -> Hashes:
    """Hash of each (seed, example, position): uint64 below 2**63, broadcast over the inputs."""
    if example.shape == position.shape == (1,):  # a decoded token: Python's numbers are faster than arrays
        return np.array([_hash(seed & WORD, int(example[0]) & WORD, int(position[0]) & WORD)], np.uint64)
    kernel = dispatch.compiled()
    if kernel is not None and example.shape == position.shape:
        given = (np.ascontiguousarray(numbers, np.int64) for numbers in (example, position))
        return np.frombuffer(kernel.hashes(seed & WORD, *given), np.uint64)
    found: Hashes = _hash(seed & WORD, example.astype(np.uint64), position.astype(np.uint64))
    return found


def _hash(seed: int, example: Any, position: Any) -> Any:
    """The hash of unsigned 64-bit numbers, whichever `normprobe.kernels.splitmix64.mix` takes."""
    # Below 2**63, so that tables can hold it as int64.
    return mix(mix(mix(0, seed), example), position) >> 1


def smallest(values: Hashes, k: int | None) -> NDArray[np.intp]:
    """Indices of the k smallest hashes in ascending order, ties by index; of all if k is None."""
    # A decoded token has one, and there is nothing to sort.
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
    # An example without a row gets 0, not a division by 0.
    return (drawn % np.maximum(rows, 1).astype(np.uint64)).astype(np.int64)
