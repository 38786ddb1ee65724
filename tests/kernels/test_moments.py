"""The one merging formula: exact, commutative, associative, and neutral on empty sets."""

from __future__ import annotations

from dataclasses import replace
from functools import reduce

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from normprobe.kernels.moments import MOMENT_FIELDS, Moments, merge, over, pool
from normprobe.kernels.types import SampleMoments
from tests.helpers.oracle import two_pass

FIELDS = tuple(MOMENT_FIELDS)
EXACT = ("count", "minimum", "maximum", "zeros", "nonfinite")


def moments_of(data: np.ndarray) -> Moments:
    """Moments of each column of ``data``, shape (rows, columns), by the oracle."""
    truth = two_pass(data)
    finite = np.isfinite(data)
    inside = np.where(finite, data, 0.0)
    filled = truth["count"] > 0
    return replace(
        Moments.empty(len(filled)),
        count=truth["count"],
        mean=np.where(filled, truth["mean"], 0.0),
        m2=np.where(filled, truth["variance"], 0.0) * truth["count"],
        minimum=np.where(filled, truth["min"], np.inf),
        maximum=np.where(filled, truth["max"], -np.inf),
        abs_sum=np.abs(inside).sum(0),
        zeros=(finite & (data == 0)).sum(0),
        nonfinite=(~finite).sum(0),
    )


def assert_same(a: Moments, b: Moments, scale: np.ndarray | float, tolerance: float = 1e-12) -> None:
    """Equal to the last bits: means relative to ``scale``, sums of squares to count x scale squared."""
    for name in EXACT:
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)
    count = np.maximum(np.asarray(a.count, float), 1)
    assert (np.abs(a.mean - b.mean) <= tolerance * scale).all()
    assert (np.abs(a.abs_sum - b.abs_sum) <= tolerance * scale * count).all()
    assert (np.abs(a.m2 - b.m2) <= tolerance * (np.asarray(b.m2) + tolerance * scale**2 * count)).all()


def size_of(data: np.ndarray) -> np.ndarray:
    """Per column the largest finite magnitude, at least the smallest normal number."""
    return np.abs(np.where(np.isfinite(data), data, 0.0)).max(0, initial=1e-300)


def split(data: np.ndarray, cuts: list[int]) -> list[Moments]:
    return [moments_of(piece) for piece in np.split(data, sorted(cuts))]


@st.composite
def columns(draw: st.DrawFn) -> tuple[np.ndarray, list[int]]:
    """Random data of shape (rows, 3), scaled, shifted, with zeros and non-finite numbers; where to cut it."""
    rows = draw(st.integers(0, 60))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    std = 10.0 ** draw(st.integers(-6, 6))
    data = rng.normal(draw(st.sampled_from([0.0, 1.0, -1e3, 1e5])) * std, std, (rows, 3))
    for value in (0.0, np.nan, np.inf, -np.inf):
        data[rng.random(data.shape) < draw(st.sampled_from([0.0, 0.1]))] = value
    cuts = draw(st.lists(st.integers(0, rows), max_size=4))
    return data, cuts


def test_two_standard_normals_three_apart_merge_to_variance_3_25() -> None:
    half = np.array([-1.0, 1.0])
    merged = merge(moments_of(half[:, None]), moments_of(half[:, None] + 3))
    assert merged.mean[0] == 1.5
    assert merged.variance[0] == 3.25
    drawn = np.random.default_rng(0).normal(size=(2, 200_000, 1))
    drawn = (drawn - drawn.mean(1, keepdims=True)) / drawn.std(1, keepdims=True)
    merged = merge(moments_of(drawn[0]), moments_of(drawn[1] + 3))
    assert merged.variance[0] == pytest.approx(3.25, rel=1e-12)


@given(columns())
def test_merging_any_split_equals_one_pass(case: tuple[np.ndarray, list[int]]) -> None:
    data, cuts = case
    whole = reduce(merge, split(data, cuts), Moments.empty(3))
    assert_same(whole, moments_of(data), size_of(data), 2e-11)


def test_a_hard_split_agrees_to_the_twelfth_digit() -> None:
    rng = np.random.default_rng(1)
    data = rng.normal(1e5, 1.0, (10_000, 4))
    truth = two_pass(data)
    whole = reduce(merge, split(data, list(range(7, 10_000, 7))))
    np.testing.assert_allclose(whole.mean, truth["mean"], rtol=1e-12)
    # At mean / std = 1e5 a mean known to half an ulp, 7e-12, moves a difference of means by as much.
    np.testing.assert_allclose(whole.variance, truth["variance"], rtol=1e-11)
    near = data - 1e5
    whole = reduce(merge, split(near, list(range(7, 10_000, 7))))
    np.testing.assert_allclose(whole.variance, two_pass(near)["variance"], rtol=1e-12)


@given(columns(), columns())
def test_merging_is_commutative(a: tuple[np.ndarray, list[int]], b: tuple[np.ndarray, list[int]]) -> None:
    x, y = moments_of(a[0]), moments_of(b[0])
    scale = np.maximum(size_of(a[0]), size_of(b[0]))
    assert_same(merge(x, y), merge(y, x), scale)


@given(columns(), columns(), columns())
def test_merging_is_associative(
    x: tuple[np.ndarray, list[int]], y: tuple[np.ndarray, list[int]], z: tuple[np.ndarray, list[int]]
) -> None:
    a, b, c = (moments_of(data) for data, _ in (x, y, z))
    scale = np.max([size_of(data) for data, _ in (x, y, z)], axis=0)
    assert_same(merge(merge(a, b), c), merge(a, merge(b, c)), scale)


@given(columns())
def test_an_empty_set_is_neutral_to_the_bit(case: tuple[np.ndarray, list[int]]) -> None:
    held = moments_of(case[0])
    for merged in (merge(held, Moments.empty(3)), merge(Moments.empty(3), held)):
        for name in FIELDS:
            np.testing.assert_array_equal(getattr(merged, name), getattr(held, name), err_msg=name)


@settings(max_examples=30)
@given(columns())
def test_torch_tensors_merge_like_numpy_arrays(case: tuple[np.ndarray, list[int]]) -> None:
    data, cuts = case
    parts = split(data, cuts)
    by_torch = [part.map(lambda x: torch.from_numpy(np.asarray(x, np.float64))) for part in parts]
    merged = reduce(merge, by_torch).map(lambda x: x.numpy())
    assert_same(merged, reduce(merge, parts), size_of(data))


@given(columns())
def test_pool_is_the_union_of_the_columns(case: tuple[np.ndarray, list[int]]) -> None:
    data, _ = case
    flat = data.reshape(-1, 1)
    assert_same(pool(moments_of(data)), moments_of(flat), size_of(flat), 2e-11)


@pytest.mark.parametrize("size", [0, 1, 2, 3, 7, 64, 1001])
def test_pool_takes_any_number_of_sets(size: int) -> None:
    data = np.random.default_rng(size).normal(3.0, 2.0, (5, size))
    pooled = pool(moments_of(data))
    assert pooled.count.shape == (1,)
    if size == 0:
        assert pooled.count[0] == 0
        assert np.isnan(pooled.variance[0])
    else:
        np.testing.assert_allclose(pooled.mean[0], data.mean(), rtol=1e-12)
        np.testing.assert_allclose(pooled.variance[0], data.var(), rtol=1e-12)


def test_the_extension_lists_the_same_fields_in_the_same_order() -> None:
    extension = pytest.importorskip("normprobe.kernels._cpu")
    of_samples = tuple(name for name, field in MOMENT_FIELDS.items() if field.of_samples)
    assert extension.MOMENT_FIELDS == FIELDS == Moments.__match_args__
    assert extension.MOMENT_FIELDS[: extension.SAMPLE_FIELDS] == of_samples == SampleMoments.__match_args__


def test_a_field_that_old_files_lack_can_say_so() -> None:
    assert not [name for name, field in MOMENT_FIELDS.items() if field.optional and field.whole]


def test_the_statistics_of_an_empty_set_are_nan_without_a_warning() -> None:
    empty = Moments.empty(2)
    for values in (empty.variance, empty.abs_mean, empty.zero_fraction):
        assert np.isnan(values).all()


def test_over_divides_in_float64() -> None:
    quotient = over(np.array([1, 7]), np.array([3, 0]))
    assert quotient.dtype == np.float64
    assert quotient[0] == 1 / 3
    assert np.isnan(quotient[1])


def test_counts_beyond_float32_stay_exact() -> None:
    # torch divides int64 in float32; counts above 2**24 would lose their last digits there.
    big = 2**24 + 1
    ones = {"count": big, "mean": 1.0, "minimum": 1.0, "maximum": 1.0, "abs_sum": big}
    numbers = {name: torch.tensor([value], dtype=torch.float64) for name, value in ones.items()}
    one = replace(Moments.empty(1).map(lambda field: torch.from_numpy(field).double()), **numbers)
    merged = merge(one, one)
    assert float(merged.count) == 2 * big
    assert float(merged.mean) == 1.0


def test_constant_sets_merge_to_a_variance_of_exactly_zero() -> None:
    parts = [moments_of(np.full((size, 1), 0.1)) for size in (4, 2, 8)]
    merged = reduce(merge, parts)
    assert merged.m2[0] == 0
    assert merged.mean[0] == 0.1
