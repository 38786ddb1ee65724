"""Central sums up to the fourth power: merged in any way they are those of the whole."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from normprobe.kernels.distributions.central_moments import (
    CENTRAL_FIELDS,
    CentralMoments,
    kurtosis,
    merge_central,
    pool_central,
)

Numbers = NDArray[np.float64]


def central(numbers: Numbers) -> CentralMoments:
    """The oracle: two passes along the first axis of (rows, sets)."""
    if len(numbers) == 0:
        return CentralMoments.empty(numbers.shape[1])
    mean = numbers.mean(0)
    off = numbers - mean
    count = np.full(numbers.shape[1], float(len(numbers)))
    return CentralMoments(count, mean, *((off**power).sum(0) for power in (2, 3, 4)))


def assert_close(found: CentralMoments, expected: CentralMoments, relative: float = 1e-11) -> None:
    """Powers relative to what sums of their magnitudes would be."""
    np.testing.assert_array_equal(found.count, expected.count)
    scale = np.sqrt(expected.m2 / expected.count.clip(1))
    np.testing.assert_allclose(found.mean, expected.mean, atol=relative * float(scale.max()) + 1e-300)
    for power, name in ((2, "m2"), (3, "m3"), (4, "m4")):
        size = expected.count * scale**power + expected.m4 ** (power / 4)
        off = np.abs(getattr(found, name) - getattr(expected, name)) / np.where(size > 0, size, 1.0)
        assert off.max() < relative * 100, name


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("shift", [0.0, 1e3])
def test_any_split_merges_to_the_whole(seed: int, shift: float) -> None:
    rng = np.random.default_rng(seed)
    numbers = rng.standard_t(3, (200, 7)) + shift * rng.standard_normal(7)
    cuts = np.sort(rng.integers(0, 200, 6))
    merged = CentralMoments.empty(7)
    # Parts of any size, none among them.
    for part in np.split(numbers, cuts):
        merged = merge_central(merged, central(part))
    assert_close(merged, central(numbers), 1e-9 if shift else 1e-11)


def test_the_order_does_not_matter_and_an_empty_set_adds_nothing() -> None:
    rng = np.random.default_rng(0)
    a, b = central(rng.standard_normal((50, 3))), central(rng.exponential(size=(20, 3)) + 5)
    assert_close(merge_central(a, b), merge_central(b, a))
    far = CentralMoments(np.ones(1), np.full(1, 1e300), *np.zeros((3, 1)))
    for merged in (
        merge_central(CentralMoments.empty(1), far),
        merge_central(far, CentralMoments.empty(1)),
    ):
        assert vars(merged) == vars(far)


def test_sets_of_unlike_size_pool_to_one() -> None:
    rng = np.random.default_rng(1)
    parts = [rng.standard_normal((size, 1)) * size for size in (3, 50, 700)]
    stacked = CentralMoments(
        *(
            np.array([getattr(central(part), name)[0] for part in [*parts, parts[0][:0]]])
            for name in CENTRAL_FIELDS
        )
    )
    assert_close(pool_central(stacked), central(np.concatenate(parts)))


def test_tensors_merge_as_arrays_do() -> None:
    rng = np.random.default_rng(2)
    a, b = central(rng.standard_normal((50, 3))), central(rng.standard_normal((20, 3)) + 5)
    of_tensors = merge_central(a.map(torch.from_numpy), b.map(torch.from_numpy))
    assert_close(of_tensors.map(lambda field: field.numpy()), merge_central(a, b))


def test_kurtosis_is_that_of_known_distributions() -> None:
    rng = np.random.default_rng(3)
    shapes = np.stack([rng.standard_normal(400_000), rng.uniform(size=400_000), rng.laplace(size=400_000)], 1)
    np.testing.assert_allclose(central(shapes).kurtosis, [3.0, 1.8, 6.0], rtol=0.03)
    two_points = central(np.array([[-1.0], [1.0]]))
    assert two_points.kurtosis.tolist() == [1.0]


def test_kurtosis_of_what_does_not_vary_or_leaves_the_range_is_unknown() -> None:
    count, m2, m4 = np.array([5.0, 5.0, 5.0]), np.array([0.0, 1e-200, 1e200]), np.array([0.0, 0.0, np.inf])
    assert np.isnan(kurtosis(count, m2, m4)).all()
