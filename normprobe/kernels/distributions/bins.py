"""Bins of numbers: eight an octave, by sign, exponent and the first three bits of the fraction.

A bin is a whole number in the order of the values in it: 0 holds exact zeros, ``k`` from 1 on the positive
numbers from ``edges()[k - 1]`` to below ``edges()[k]``, and ``-k`` the negative ones of the same sizes. In
an octave the bins are of one width, so that a bin is an eighth to a fifteenth of its lower edge wide. Twin of
``csrc/distributions/bins.h``.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

FRACTION_BITS = 3
"""Of the fraction, so many bits number the bins of an octave."""

MOST_BIN = 255 << FRACTION_BITS
"""The bin of the largest numbers: its upper edge is 2**128, and of float64 tensors it holds all beyond."""

TABLE = (1 << (9 + FRACTION_BITS)) + 1
"""Entries of a table of counts: the upper bits of a float32 number theirs, the last one is of zeros."""

_SIGN, _ZERO = 1 << (8 + FRACTION_BITS), TABLE - 1
_SMALLEST_NORMAL = 2.0**-126


@cache
def edges() -> NDArray[np.float64]:
    """Lower edge of each positive bin from 1 on, and the upper one of the last; shape (MOST_BIN + 1,).

    The first eight bins hold what is below the smallest normal number of float32 and are of one width.
    """
    index = np.arange(MOST_BIN + 1)
    exponent, part = np.maximum(index >> FRACTION_BITS, 1), index & 7
    # Numbers below the smallest normal one have its exponent and no leading 1.
    whole = (index >> FRACTION_BITS > 0) + part / 8
    found: NDArray[np.float64] = np.ldexp(whole, exponent - 127)
    # All callers share the cached array.
    found.setflags(write=False)
    return found


def table_index(values: Tensor) -> Tensor:
    """Which entry of a table each number counts in, int64; NaN and Inf count in entries of their own."""
    if values.dtype == torch.float64:
        size = values.abs()
        # By the bits, as for float32: rounding to float32 first would move numbers over an edge.
        bits = (size.view(torch.int64) >> (52 - FRACTION_BITS)) - ((1023 - 127) << FRACTION_BITS)
        # Below the smallest normal number float32 has steps of one size, which float64 has not.
        tiny = (size * 2.0**129).clamp(max=7).to(torch.int64)
        index = torch.where(size < _SMALLEST_NORMAL, tiny, bits.clamp(max=MOST_BIN - 1))
        index = torch.where(values.isfinite(), index, MOST_BIN)
        index = index + torch.where(values < 0, _SIGN, 0)
    else:
        bits32 = values.to(torch.float32).view(torch.int32) >> (23 - FRACTION_BITS)
        # The shift fills the upper bits with the sign; the mask leaves sign, exponent and three bits.
        index = bits32.to(torch.int64) & (2 * _SIGN - 1)
    # Also -0.0, whose sign bit would put it among the negative numbers.
    return torch.where(values == 0, _ZERO, index)


def counted_bins(table: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The bins of a table that hold a finite number, ascending, and how many each holds.

    Args:
        table: counts, shape (TABLE,).
    """
    positive, negative = table[:MOST_BIN], table[_SIGN : _SIGN + MOST_BIN]
    # Negative numbers of larger size come first: the table has both signs in order of size.
    counts = np.concatenate([negative[::-1], table[_ZERO:], positive])
    at = np.flatnonzero(counts)
    return at - MOST_BIN, counts[at]


def bin_edges(bins: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The lower and the upper edge of bins; both are 0 of the bin of zeros."""
    size = np.abs(bins)
    known = size > 0
    inner = np.where(known, edges()[np.maximum(size - 1, 0)], 0.0)
    outer = np.where(known, edges()[size], 0.0)
    return np.where(bins < 0, -outer, inner), np.where(bins < 0, -inner, outer)
