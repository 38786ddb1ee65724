"""Bins: where each number counts, and that the edges say so."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from normprobe.kernels import dispatch
from normprobe.kernels.distributions.bins import (
    MOST_BIN,
    TABLE,
    bin_edges,
    counted_bins,
    edges,
    table_index,
)

EDGE_CASES = [0.0, -0.0, 1.0, -1.0, 1.125, 1.1249999, 2.0**-126, 2.0**-127, 2.0**-149, -(2.0**-130), 3.4e38]


def table_of(values: Tensor) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.bincount(table_index(values).numpy(), minlength=TABLE).astype(np.int64)


def test_edges_ascend_by_eighths_of_an_octave() -> None:
    found = edges()
    assert len(found) == MOST_BIN + 1
    assert (np.diff(found) > 0).all()
    one = np.searchsorted(found, 1.0)
    assert found[one : one + 9].tolist() == [1 + j / 8 for j in range(9)]
    assert found[0] == 0.0
    assert found[-1] == 2.0**128
    relative = np.diff(found[8:]) / found[8:-1]
    assert relative.max() == 0.125
    assert relative.min() == 1 / 15


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_each_number_lies_between_the_edges_of_its_bin(dtype: torch.dtype) -> None:
    rng = torch.Generator().manual_seed(0)
    spread = torch.exp(10 * torch.randn(2000, generator=rng, dtype=torch.float64))
    signs = torch.randn(2000, generator=rng, dtype=torch.float64).sign()
    # Infinite where the dtype cannot hold them: these are in no bin.
    values = torch.cat([spread * signs, torch.tensor(EDGE_CASES, dtype=torch.float64)]).to(dtype)
    for value in values:
        bins, counts = counted_bins(table_of(value.reshape(1)))
        if not value.isfinite():
            assert len(bins) == 0
            continue
        assert counts.tolist() == [1]
        lower, upper = bin_edges(bins)
        number = float(value)
        if number == 0:
            assert bins.tolist() == [0]
            assert (lower[0], upper[0]) == (0.0, 0.0)
        elif number > 0:
            assert lower[0] <= number < upper[0]
        else:
            assert lower[0] < number <= upper[0]


def test_float64_beyond_float32_counts_at_the_ends() -> None:
    values = torch.tensor([1e300, -1e300, 1e-300, np.inf, np.nan], dtype=torch.float64)
    bins, counts = counted_bins(table_of(values))
    assert bins.tolist() == [-MOST_BIN, 1, MOST_BIN]
    assert counts.tolist() == [1, 1, 1]


def test_bins_are_in_the_order_of_their_values() -> None:
    values = torch.tensor([-8.0, -0.5, -1e-3, 0.0, 1e-3, 0.5, 8.0])
    bins, _ = counted_bins(table_of(values))
    assert len(bins) == 7
    assert (np.diff(bin_edges(bins)[0]) > 0).all()


@pytest.mark.skipif(dispatch.compiled() is None, reason="the C kernel is not built here, or not asked for")
def test_the_lists_in_c_are_those_in_python() -> None:
    from normprobe.kernels import _cpu
    from normprobe.kernels.distributions.central_moments import CENTRAL_FIELDS

    assert _cpu.BINS == TABLE
    assert len(CENTRAL_FIELDS) == _cpu.CENTRAL_FIELDS
