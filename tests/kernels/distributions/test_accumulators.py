"""Distributions of tensors of any layout, by either kernel, against numpy in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from normprobe.kernels import dispatch
from normprobe.kernels.choice import Choice
from normprobe.kernels.distributions.accumulators import CompiledDistribution
from normprobe.kernels.distributions.bins import TABLE, counted_bins, table_index
from normprobe.kernels.distributions.central_moments import CentralMoments
from normprobe.kernels.distributions.options import DistributionOptions
from normprobe.kernels.distributions.torch_distribution import TorchDistribution
from normprobe.kernels.types import AxisRoles

BOTH = DistributionOptions(kurtosis=True, quantiles=True)
RELATIVE = 1e-5
KERNELS = ["torch"] if dispatch.compiled() is None else ["torch", "c"]

Make = Callable[[tuple[int, ...], np.random.Generator], Any]
NUMBERS: dict[str, Make] = {
    "normal": lambda shape, rng: rng.standard_normal(shape),
    "heavy tails": lambda shape, rng: rng.standard_t(3, shape),
    "mean of 1e3 deviations": lambda shape, rng: rng.standard_normal(shape) + 1e3,
    "mean of 1e5 deviations": lambda shape, rng: rng.standard_normal(shape) - 1e5,
    "gradients": lambda shape, rng: rng.standard_normal(shape) * 1e-12,
    "large": lambda shape, rng: rng.standard_normal(shape) * 1e12,
    "zeros": lambda shape, rng: np.maximum(rng.standard_normal(shape), 0),
    "outlier": lambda shape, rng: rng.standard_normal(shape) * np.where(rng.random(shape) < 1e-3, 300, 1),
    "one number": lambda shape, rng: np.full(shape, 0.1),
}


def new(kernel: str, features: int, roles: AxisRoles, options: DistributionOptions = BOTH) -> Any:
    if kernel == "torch":
        return TorchDistribution(features, options, torch.device("cpu"))
    return CompiledDistribution(dispatch.compiled(), features, roles, options)


def kurtosis_of(numbers: Tensor) -> float:
    values = numbers.double()
    values = values[values.isfinite()]
    if len(values) == 0 or bool((values == values[0]).all()):
        return np.nan
    off = values - values.mean()
    return float(off.pow(4).mean() / off.pow(2).mean() ** 2)


def assert_kurtosis(found: CentralMoments, expected: list[float]) -> None:
    """Of equal numbers there is none, and what is left of their variance is rounding."""
    none = np.isnan(expected)
    np.testing.assert_allclose(found.kurtosis[~none], np.array(expected)[~none], rtol=RELATIVE)
    assert (found.m2[none] <= 1e-28 * found.count[none] * found.mean[none] ** 2).all()


def assert_is(accumulator: Any, values: Tensor, kept: Tensor, real: Tensor | None = None) -> None:
    """Hold an accumulator against (samples, rows, features), of which these samples are kept in order."""
    found = accumulator.distribution(len(kept))
    inside = values if real is None else values.double().masked_fill(~real[:, :, None], np.nan)
    features = [kurtosis_of(inside[:, :, at].reshape(-1)) for at in range(values.shape[2])]
    assert_kurtosis(found.features, features)
    samples = [kurtosis_of(inside[at].reshape(-1)) for at in kept]
    assert_kurtosis(CentralMoments(*found.kept.T), samples)
    counted = values if real is None else values[real]
    table = np.bincount(table_index(counted).numpy().reshape(-1), minlength=TABLE)
    np.testing.assert_array_equal(counted_bins(found.counts)[0], counted_bins(table)[0])
    np.testing.assert_array_equal(counted_bins(found.counts)[1], counted_bins(table)[1])


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_rows_of_features(kernel: str, name: str, dtype: torch.dtype) -> None:
    rng = np.random.default_rng(0)
    for shape in ((3, 17, 40), (70, 1, 530), (4, 130, 5)):
        numbers = NUMBERS[name](shape, rng)
        if dtype == torch.float16 and np.abs(numbers).max() > 6e4:
            numbers = numbers / 1e10
        values = torch.from_numpy(numbers).to(dtype)
        keep = np.arange(0, shape[0], 2)
        choice = Choice(shape[0], shape[1], None, keep, np.arange(len(keep)))
        accumulator = new(kernel, shape[2], AxisRoles())
        accumulator.merge(accumulator.measure(values, choice), choice)
        assert_is(accumulator, values, torch.from_numpy(keep))


@pytest.mark.parametrize("kernel", KERNELS)
def test_what_is_not_finite_and_padding_are_left_out(kernel: str) -> None:
    rng = np.random.default_rng(1)
    numbers = rng.standard_normal((6, 9, 30))
    numbers[rng.random(numbers.shape) < 0.02] = np.nan
    numbers[:, :, 3] = np.inf
    real = rng.random((6, 9)) < 0.6
    real[4] = False
    numbers[~real] = rng.choice([1e30, np.nan])
    keep = np.array([0, 2, 5])
    for samples, rows in ((6, 9), (54, 1)):
        values = torch.from_numpy(numbers.reshape(samples, rows, 30)).float()
        mask = real.reshape(samples, rows)
        kept = keep if rows > 1 else np.flatnonzero(real)[::5].copy()
        choice = Choice(samples, rows, mask, kept, np.arange(len(kept)))
        accumulator = new(kernel, 30, AxisRoles())
        accumulator.merge(accumulator.measure(values, choice), choice)
        assert_is(accumulator, values, torch.from_numpy(kept), torch.from_numpy(mask))


@pytest.mark.parametrize("kernel", KERNELS)
def test_batches_add_up_and_slots_are_used_again(kernel: str) -> None:
    rng = np.random.default_rng(2)
    # Each batch drifts away from those before it.
    parts = [torch.from_numpy(rng.standard_t(4, (5, 11, 20)) + 40 * at).float() for at in range(4)]
    accumulator, slots = new(kernel, 20, AxisRoles()), [(0, 1), (2, 3), (1, 4), (0, 5)]
    for part, at in zip(parts, slots, strict=True):
        choice = Choice(5, 11, None, np.array([1, 4]), np.array(at))
        accumulator.merge(accumulator.measure(part, choice), choice)
    # Samples 1 and 4 of each batch of five, in the slots that they were put in last.
    assert_is(accumulator, torch.cat(parts), torch.tensor([16, 11, 6, 9, 14, 19]))


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.skipif(dispatch.compiled() is None, reason="the C kernel is not built here, or not asked for")
def test_tensors_as_they_lie(threads: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = dispatch.compiled()
    monkeypatch.setattr(compiled, "threads", lambda: threads)
    monkeypatch.setattr(compiled, "SMALL", 0)
    images = torch.randn(6, 12, 11, 13).to(dtype)
    images[2, 3] = 0.25
    every = images.flatten(2).transpose(1, 2)
    keep = np.array([0, 2, 3])
    choice = Choice(6, 143, None, keep, np.arange(3))
    for tensor in (images, images.contiguous(memory_format=torch.channels_last)):
        accumulator = new("c", 12, AxisRoles(axis=1))
        accumulator.merge(accumulator.measure_chosen(tensor, accumulator.choice(choice)), choice)
        assert_is(accumulator, every, torch.from_numpy(keep))
    tokens = torch.randn(9, 40, 24).to(dtype).transpose(0, 1)
    by_row = AxisRoles(by_example=False)
    row_choice = Choice(360, 1, None, np.array([7, 100, 359]), np.arange(3))
    accumulator = new("c", 24, by_row)
    accumulator.merge(accumulator.measure_chosen(tokens, accumulator.choice(row_choice)), row_choice)
    assert_is(accumulator, tokens.reshape(360, 1, 24), torch.tensor([7, 100, 359]))


@pytest.mark.parametrize("kernel", KERNELS)
def test_only_what_is_asked_for_is_there(kernel: str) -> None:
    values, choice = torch.randn(4, 3, 6), Choice(4, 3, None, np.array([1]), np.array([0]))
    for options in (DistributionOptions(kurtosis=True), DistributionOptions(quantiles=True)):
        accumulator = new(kernel, 6, AxisRoles(), options)
        accumulator.merge(accumulator.measure(values, choice), choice)
        found = accumulator.distribution(1)
        assert (found.features is not None) == (found.kept is not None) == options.kurtosis
        assert (found.counts is not None) == options.quantiles
        assert 0 < accumulator.nbytes() < 10**5


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("shape", [(0, 3, 4), (2, 0, 4), (2, 3, 0)])
def test_nothing_is_measured_of_nothing(kernel: str, shape: tuple[int, int, int]) -> None:
    choice = Choice(shape[0], shape[1])
    accumulator = new(kernel, shape[2], AxisRoles())
    accumulator.merge(accumulator.measure(torch.zeros(shape), choice), choice)
    found = accumulator.distribution(0)
    assert found.features.count.sum() == found.counts.sum() == 0


@pytest.mark.skipif(dispatch.compiled() is None, reason="the C kernel is not built here, or not asked for")
def test_what_does_not_belong_together_is_refused() -> None:
    from normprobe.kernels import _cpu

    compiled: Any = dispatch.compiled()
    choice = compiled.compiled_choice(Choice(2, 1))
    one = _cpu.Distribution(3, -1, 1, -1, True, True, True)
    with pytest.raises(ValueError, match="rows and features"):
        one.measure(torch.zeros(2, 4), choice, 1, 0)
    with pytest.raises(ValueError, match="another choice or width"):
        one.add(_cpu.Distribution(4, -1, 1, -1, True, True, True), choice)
    with pytest.raises(IndexError, match="not filled"):
        one.fields(5)
    with pytest.raises(TypeError, match="CompiledChoice"):
        one.measure(torch.zeros(2, 3), object(), 1, 0)  # type: ignore[arg-type]
