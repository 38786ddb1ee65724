"""Quantiles and histograms from counts, against numpy on the values themselves."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from normprobe.kernels.distributions.bins import TABLE, counted_bins, table_index
from normprobe.tables.distributions.quantiles import SHARES, histogram_of, quantiles_of

Numbers = NDArray[np.float32]


def counted(values: Numbers) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    index = table_index(torch.from_numpy(values)).numpy()
    return counted_bins(np.bincount(index, minlength=TABLE).astype(np.int64))


numbers = st.lists(
    st.one_of(
        st.just(0.0),
        st.floats(width=32, allow_nan=False, allow_infinity=False),
        st.floats(-4, 4, width=32),
    ),
    min_size=1,
    max_size=60,
).map(lambda values: np.array(values, np.float32))


@given(numbers)
def test_a_quantile_is_off_by_its_bound_at_most(values: Numbers) -> None:
    low, high = float(values.min()), float(values.max())
    found = quantiles_of(*counted(values), low=low, high=high)
    assert found["count"] == len(values)
    assert found["zeros"] == (values == 0).sum()
    exact = np.quantile(values.astype(np.float64), list(SHARES.values()), method="inverted_cdf")
    for name, value in zip(SHARES, exact, strict=True):
        assert low <= found[name] <= high
        # Numbers below the smallest normal one lie in bins of one width.
        # Of a bin that begins at 0 the bound is infinite.
        share = found["bound"] * abs(value) if value else 0.0
        assert abs(found[name] - value) <= share + 2.0**-129, name


@given(numbers)
def test_a_histogram_is_that_of_numpy(values: Numbers) -> None:
    counts, edges = histogram_of(*counted(values))
    assert (np.diff(edges) > 0).all()
    assert counts.sum() == len(values)
    # Negative bins are closed above, where numpy's are below.
    positive = edges >= 0
    if positive.sum() > 1:
        at_least = values[values >= 0].astype(np.float64)
        np.testing.assert_array_equal(
            counts[-(positive.sum() - 1) :], np.histogram(at_least, edges[positive])[0]
        )
    if (~positive).any():
        mirrored = -edges[edges <= 0][::-1]
        below = -values[values < 0].astype(np.float64)
        if len(mirrored) > 1:
            np.testing.assert_array_equal(counts[: len(mirrored) - 1][::-1], np.histogram(below, mirrored)[0])


def test_of_many_values_a_quantile_is_closer_than_its_bound() -> None:
    values = np.random.default_rng(0).standard_normal(100_000).astype(np.float32)
    found = quantiles_of(*counted(values), low=float(values.min()), high=float(values.max()))
    exact = np.quantile(values, list(SHARES.values()))
    np.testing.assert_allclose([found[name] for name in SHARES], exact, atol=5e-3, rtol=0.015)
    assert 0.1 < found["bound"] <= 0.125


def test_one_value_is_every_quantile() -> None:
    found = quantiles_of(*counted(np.full(7, 0.3, np.float32)), low=0.3, high=0.3)
    assert {found[name] for name in SHARES} == {0.3}
    assert found["bound"] == 0
    assert list(SHARES.values()) == pytest.approx([0.001, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 0.999])
