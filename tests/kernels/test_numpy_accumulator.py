"""What is added up on the CPU without the extension, tensor after tensor, against the oracle."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from normprobe.kernels.choice import Choice
from normprobe.kernels.numpy_accumulator import NumpyAccumulator
from tests.helpers.oracle import RELATIVE, two_pass, worst

WIDTH = 6


def tensors(*sizes: int) -> list[torch.Tensor]:
    """Tensors (samples, 1, features) of so many samples each, whose scale and mean drift."""
    rng = np.random.default_rng(0)
    found = []
    for at, samples in enumerate(sizes):
        numbers = rng.standard_normal((samples, 1, WIDTH)) * (1 + at % 3) + at
        numbers[rng.random(numbers.shape) < 0.1] = 0
        found.append(torch.from_numpy(numbers.astype(np.float32)))
    return found


def check(sums: NumpyAccumulator, rows: np.ndarray) -> None:
    totals = sums.totals(0, 0)
    found, truth, finite = totals.features, two_pass(rows), np.isfinite(rows)
    for name, expected in (
        ("count", truth["count"]),
        ("minimum", truth["min"]),
        ("maximum", truth["max"]),
        ("zeros", (rows == 0).sum(0)),
        ("nonfinite", (~finite).sum(0)),
    ):
        np.testing.assert_array_equal(getattr(found, name), expected, err_msg=name)
    assert worst(found.mean, found.variance, truth["mean"], truth["variance"]) <= RELATIVE
    np.testing.assert_allclose(found.abs_sum, np.where(finite, np.abs(rows), 0).sum(0), rtol=RELATIVE)
    within = two_pass(rows, 1)
    assert totals.within_count == (within["count"] > 0).sum()
    np.testing.assert_allclose(totals.within_sum, np.nansum(within["variance"]), rtol=RELATIVE)


@pytest.mark.parametrize(
    "sizes",
    [(1,) * 20, (3, 1, 4, 1, 5, 9, 2, 6), (1, 1, 40, 1, 300, 16, 17, 1)],
    ids=["tokens", "few", "few and many"],
)
def test_every_prefix_of_a_run_is_exact_though_few_rows_wait(sizes: tuple[int, ...]) -> None:
    given = tensors(*sizes)
    for end in range(1, len(given) + 1):
        sums = NumpyAccumulator(WIDTH)
        for values in given[:end]:
            sums.add(values, Choice(len(values), 1))
        check(sums, torch.cat(given[:end])[:, 0].double().numpy())


def test_reading_the_totals_in_between_changes_nothing_that_follows() -> None:
    given, sums = tensors(*(1,) * 30), NumpyAccumulator(WIDTH)
    for end, values in enumerate(given, 1):
        sums.add(values, Choice(1, 1))
        check(sums, torch.cat(given[:end])[:, 0].double().numpy())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_waits_is_a_copy(dtype: torch.dtype) -> None:
    values, sums = tensors(1)[0].to(dtype), NumpyAccumulator(WIDTH)
    sums.add(values, Choice(1, 1))
    before = values.clone()
    values.fill_(7)
    check(sums, before[:, 0].double().numpy())


def test_rows_with_numbers_that_are_not_finite_are_counted_among_those_that_wait() -> None:
    given, sums = tensors(*(1,) * 9), NumpyAccumulator(WIDTH)
    given[2][0, 0, 1], given[5][0, 0, 3] = torch.nan, -torch.inf
    for values in given:
        sums.add(values, Choice(1, 1))
    check(sums, torch.cat(given)[:, 0].double().numpy())


def test_new_extremes_are_said_at_once() -> None:
    sums = NumpyAccumulator(2)
    said = [sums.add(torch.tensor([[[low, high]]]), Choice(1, 1)) for low, high in ((1, 2), (1, 3), (0, 2))]
    assert [(one.low, one.high) for one in said] == [
        ((1.0, 0, 0), (2.0, 0, 1)),
        (None, (3.0, 0, 1)),
        ((0.0, 0, 0), None),
    ]
    many = torch.full((40, 1, 2), 1.0)
    many[7, 0, 1], many[9, 0, 0] = 5, -5
    assert sums.add(many, Choice(40, 1)) == ((-5.0, 9, 0), (5.0, 7, 1), None)
    assert sums.add(many, Choice(40, 1)) == (None, None, None)


def test_kept_samples_and_raw_rows_lie_in_their_slots() -> None:
    given, sums = tensors(1, 1, 40), NumpyAccumulator(WIDTH)
    for slot, values in enumerate(given):
        last = np.array([len(values) - 1])
        choice = Choice(len(values), 1, keep=last, slots=np.array([2 - slot]))
        sums.add(values, choice)
        sums.keep(values, Choice(len(values), 1, raw=last, raw_slots=np.array([2 - slot])))
    totals = sums.totals(3, 3)
    rows = np.stack([values[-1, 0].double().numpy() for values in reversed(given)])
    truth = two_pass(rows, 1)
    np.testing.assert_array_equal(totals.raw, rows)
    expected = np.stack(
        [truth["count"], truth["mean"], truth["variance"] * WIDTH, truth["min"], truth["max"]], 1
    )
    np.testing.assert_allclose(totals.kept, expected, rtol=1e-12)


def test_its_size_is_told_with_the_rows_that_wait() -> None:
    sums, values = NumpyAccumulator(WIDTH), tensors(1)[0]
    empty = sums.nbytes()
    sizes = []
    for _ in range(16):
        sums.add(values, Choice(1, 1))
        sizes.append(sums.nbytes() - empty)
    assert max(sizes) == 7 * WIDTH * 8
    assert sizes[7] == sizes[15] == 0
