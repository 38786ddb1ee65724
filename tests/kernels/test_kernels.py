"""Kernels against the oracle: every dtype, shape, stride, mask and kind of number."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from normprobe.kernels import choice, chunked, dispatch, few_rows, reference, types
from normprobe.kernels.moments import Moments
from normprobe.kernels.types import Measured
from tests.helpers.oracle import RELATIVE, two_pass, worst

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
COMPILED = dispatch.compiled() is not None
BUILT = importlib.util.find_spec("normprobe.kernels._cpu") is not None


class Kernel:
    """A way to measure, and the relative error it is held to.

    The contract asks for `RELATIVE`; float64 in two passes reaches far more with ease.
    """

    def __init__(self, measure: Callable[..., Measured], held_to: float) -> None:
        self.measure, self.held_to = measure, held_to


def quickly(values: Tensor, keep: Tensor, real: Tensor | None = None) -> Measured:
    """Plain torch, as `normprobe.kernels.numpy_accumulator` chooses between two of its ways."""
    return chunked.measure(values, keep, real) or reference.measure(values, keep, real)


def in_numpy(values: Tensor, keep: Tensor, real: Tensor | None = None) -> Measured:
    """The same of few rows, which here may be many."""
    found = few_rows.measure(values, keep.numpy()) if real is None else None
    return reference.measure(values, keep, real) if found is None else found.measured()


@pytest.fixture(
    params=[
        "reference",
        "reference in small blocks",
        "quick",
        "quick in blocks",
        "few",
        "compiled",
        "compiled on one thread",
    ]
)
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Kernel:
    """Each kernel in turn; every test below holds it to the same contract."""
    if request.param.startswith("quick"):
        monkeypatch.setattr(chunked, "_BLOCK", 1 << 17 if request.param == "quick" else 24)
        return Kernel(quickly, RELATIVE)
    if request.param == "few":
        monkeypatch.setattr(few_rows, "_FEW", 1 << 20)
        return Kernel(in_numpy, 1e-9)
    if not request.param.startswith("compiled"):
        if request.param == "reference in small blocks":
            monkeypatch.setattr(reference, "_BLOCK", 24)
        return Kernel(reference.measure, 1e-9)
    if not COMPILED:
        pytest.skip("the C kernel is not built here, or not asked for")
    from normprobe.kernels import cpu

    # Parts are made for the threads asked for, whether or not the machine has as many cores.
    monkeypatch.setattr(cpu, "SMALL", 1 << 60 if request.param.endswith("one thread") else 0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    return Kernel(cpu.measure, RELATIVE)


def check(kernel: Kernel, values: Tensor, real: Tensor | None = None) -> float:
    """Hold one measurement against numpy; return the largest relative error of a mean or variance."""
    samples, _, width = values.shape
    data = values.to(torch.float64).numpy()
    mask = np.ones(data.shape[:2], bool) if real is None else real.numpy()
    inside = np.where(mask[:, :, None], data, np.nan)
    keep = np.random.default_rng(0).permutation(np.flatnonzero(mask.any(1)))[: samples // 2 + 1]
    measured = kernel.measure(values, torch.from_numpy(keep), real)

    found = measured.features.map(np.asarray)
    truth = two_pass(inside.reshape(-1, width))
    error = check_moments(found, truth)
    rows = data[mask]
    finite = np.isfinite(rows)
    np.testing.assert_allclose(found.abs_sum, np.where(finite, np.abs(rows), 0).sum(0), rtol=kernel.held_to)
    np.testing.assert_array_equal(found.zeros, (finite & (rows == 0)).sum(0))
    np.testing.assert_array_equal(found.nonfinite, (~finite).sum(0))
    assert float(measured.nonfinite_masked) == (~np.isfinite(data[~mask])).sum()

    of_samples = two_pass(inside.reshape(samples, inside.shape[1] * width), axis=1)
    kept = {name: value[keep] for name, value in of_samples.items()}
    error = max(error, check_moments(measured.kept, kept))
    filled = of_samples["count"] > 0
    assert float(measured.within_count) == filled.sum()
    np.testing.assert_allclose(
        float(measured.within_sum), of_samples["variance"][filled].sum(), rtol=kernel.held_to, atol=1e-290
    )
    check_holders(measured, inside)
    assert error < RELATIVE
    return error


def check_moments(found: object, truth: dict[str, np.ndarray]) -> float:
    count, mean, m2, low, high = (
        np.asarray(getattr(found, name)) for name in ("count", "mean", "m2", "minimum", "maximum")
    )
    assert {array.dtype for array in (count, mean, m2, low, high)} == {np.dtype(np.float64)}
    np.testing.assert_array_equal(count, truth["count"])
    empty = truth["count"] == 0
    np.testing.assert_array_equal(low, np.where(empty, np.inf, truth["min"]))
    np.testing.assert_array_equal(high, np.where(empty, -np.inf, truth["max"]))
    np.testing.assert_array_equal(mean[empty], 0)
    np.testing.assert_array_equal(m2[empty], 0)
    filled = ~empty
    variance = m2[filled] / count[filled]
    return worst(mean[filled], variance, truth["mean"][filled], truth["variance"][filled])


def check_holders(measured: Measured, inside: np.ndarray) -> None:
    """The first sample that holds an extreme, and of it the first feature."""
    width = inside.shape[2]
    if not np.isfinite(inside).any():
        return
    for at, extreme, neutral in (
        (measured.minimum_at, np.min, np.inf),
        (measured.maximum_at, np.max, -np.inf),
    ):
        held = np.where(np.isfinite(inside), inside, neutral)
        by_row = extreme(held, axis=1) if inside.shape[1] else held[:, 0]
        sample = np.flatnonzero((by_row == extreme(held)).any(1))[0]
        feature = np.flatnonzero(by_row[sample] == extreme(held))[0]
        assert divmod(int(at), width) == (sample, feature)


def drawn(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def mask_of(samples: int, rows: int, share: float = 0.4) -> Tensor:
    real = torch.rand(samples, rows, generator=torch.Generator().manual_seed(1)) > share
    real[samples // 2] = True
    return real


SHAPES = [
    (1, 1, 1),
    (1, 1, 10_000),
    (10_000, 1, 1),
    (1, 50, 1),
    (7, 1, 5),
    (23, 1, 48),
    (5, 9, 3),
    (2, 24, 1),
]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_shape_and_dtype(
    kernel: Kernel, shape: tuple[int, ...], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    if max(shape) > 1000:
        monkeypatch.setattr(reference, "_BLOCK", 1000)
    assert check(kernel, drawn(*shape, dtype=dtype)) < kernel.held_to
    assert check(kernel, drawn(*shape, dtype=dtype), mask_of(*shape[:2])) < kernel.held_to


@pytest.mark.parametrize("shape", [(0, 1, 4), (0, 3, 4), (3, 0, 4), (3, 1, 0), (3, 2, 0), (0, 0, 0)], ids=str)
@pytest.mark.parametrize("masked", [False, True])
def test_nothing_to_measure_gives_neutral_moments(
    kernel: Kernel, shape: tuple[int, ...], masked: bool
) -> None:
    real = torch.ones(shape[:2], dtype=torch.bool) if masked else None
    measured = kernel.measure(torch.zeros(shape), torch.zeros(0, dtype=torch.int64), real)
    empty = Moments.empty(shape[2])
    for name in Moments.__match_args__:
        np.testing.assert_array_equal(getattr(measured.features, name), getattr(empty, name), err_msg=name)
    assert float(measured.within_count) == float(measured.within_sum) == 0
    assert int(measured.minimum_at) == int(measured.maximum_at) == 0


@pytest.mark.parametrize("samples", [5, 6, 7, 12])
@pytest.mark.parametrize("rows", [1, 2])
def test_edges_of_blocks(monkeypatch: pytest.MonkeyPatch, samples: int, rows: int) -> None:
    for block in (1, 4 * rows, 12 * rows, 23 * rows, 24 * rows, 25 * rows):
        monkeypatch.setattr(reference, "_BLOCK", block)
        plain = Kernel(reference.measure, 1e-9)
        check(plain, drawn(samples, rows, 4))
        check(plain, drawn(samples, rows, 4), mask_of(samples, rows))


@pytest.mark.parametrize("rows", [1, 2, 63, 64, 65, 129, 255, 256, 257, 513])
@pytest.mark.parametrize("width", [1, 7, 1023, 1024, 1025, 2049])
def test_edges_of_blocks_and_tiles_of_the_compiled_kernel(kernel: Kernel, rows: int, width: int) -> None:
    values = drawn(rows, 1, width) * 3 + 50
    check(kernel, values)
    check(kernel, values, mask_of(rows, 1))
    check(kernel, drawn(2, rows, width))


def test_zeros_are_counted_to_the_last_one_where_float32_cannot() -> None:
    values = torch.zeros(1, (1 << 24) + 2, 1)
    values[0, -1] = 1.0
    found = chunked.measure(values, torch.zeros(0, dtype=torch.int64))
    assert found is not None
    assert found.features.zeros.tolist() == [(1 << 24) + 1]


def test_the_blocks_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    values, keep = drawn(100, 3, 8) + 100, torch.arange(100)
    whole = reference.measure(values, keep)
    monkeypatch.setattr(reference, "_BLOCK", 50)
    cut = reference.measure(values, keep)
    torch.testing.assert_close(cut.features.mean, whole.features.mean, rtol=1e-13, atol=0)
    torch.testing.assert_close(cut.features.m2, whole.features.m2, rtol=1e-11, atol=0)
    assert int(cut.minimum_at) == int(whole.minimum_at)


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x.transpose(0, 2),
        lambda x: x.movedim(1, -1),
        lambda x: x[::2, :, 1::3],
        lambda x: x.flip(0),
        lambda x: x[:1].expand(6, -1, -1),
        lambda x: x[:, :1].expand(-1, 4, -1),
    ],
    ids=["transposed", "channels first", "sliced", "flipped", "expanded samples", "expanded rows"],
)
def test_any_strides(kernel: Kernel, view: Callable[[Tensor], Tensor]) -> None:
    values = view(drawn(9, 6, 7))
    before = values.clone()
    assert check(kernel, values) < kernel.held_to
    assert check(kernel, values, mask_of(*values.shape[:2])) < kernel.held_to
    assert torch.equal(values, before)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_tensor_is_left_as_it_was(kernel: Kernel, dtype: torch.dtype) -> None:
    values = drawn(9, 1, 7, dtype=dtype)
    before = values.clone()
    kernel.measure(values, torch.arange(9))
    assert torch.equal(values, before)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("place", [0, -1, 4])
@pytest.mark.parametrize("rows", [1, 3])
def test_nonfinite_numbers_are_counted_and_left_out(
    kernel: Kernel, value: float, place: int, rows: int
) -> None:
    values = drawn(9, rows, 6)
    values[place, place % rows, place] = value
    assert check(kernel, values) < kernel.held_to
    measured = kernel.measure(values, torch.arange(9))
    assert float(measured.features.nonfinite.sum()) == 1
    assert float(measured.features.count.sum()) == values.numel() - 1
    assert check(kernel, values, mask_of(9, rows)) < kernel.held_to


def test_both_infinities_in_one_feature_do_not_hide_each_other(kernel: Kernel) -> None:
    values = drawn(9, 1, 6)
    values[0, 0, 2], values[5, 0, 2] = float("inf"), float("-inf")
    assert check(kernel, values) < kernel.held_to


def test_features_and_samples_without_a_finite_number_stay_empty(kernel: Kernel) -> None:
    values = drawn(6, 2, 5)
    values[:, :, 3] = float("nan")
    values[2] = float("inf")
    check(kernel, values)
    measured = kernel.measure(values, torch.tensor([2, 4]))
    assert float(measured.features.count[3]) == 0
    assert measured.kept.count.tolist() == [0, 8]
    assert float(measured.within_count) == 5
    check(kernel, torch.full((4, 1, 3), float("nan")))
    assert int(kernel.measure(torch.full((4, 1, 3), float("nan")), torch.arange(4)).maximum_at) == 0


def test_nonfinite_numbers_in_padding_are_counted_apart(kernel: Kernel) -> None:
    values, real = drawn(8, 1, 4), torch.ones(8, 1, dtype=torch.bool)
    values[6:], real[6:] = float("nan"), False
    values[0, 0, 1] = float("inf")
    measured = kernel.measure(values, torch.arange(6), real)
    assert float(measured.nonfinite_masked) == 8
    assert measured.features.nonfinite.tolist() == [0, 1, 0, 0]


@pytest.mark.parametrize("rows", [1, 3])
def test_padding_moves_no_number(kernel: Kernel, rows: int) -> None:
    values = drawn(12, rows, 5)
    real = mask_of(12, rows)
    loud = torch.where(real[:, :, None], values, 1e30)
    keep = real.any(1).nonzero()[:, 0]
    quiet, shouted = kernel.measure(values, keep, real), kernel.measure(loud, keep, real)
    for name in Moments.__match_args__:
        assert torch.equal(getattr(quiet.features, name), getattr(shouted.features, name)), name
    assert int(quiet.maximum_at) == int(shouted.maximum_at)


def test_what_is_all_padding_measures_nothing(kernel: Kernel) -> None:
    for rows in (1, 3):
        values, real = drawn(4, rows, 5), torch.zeros(4, rows, dtype=torch.bool)
        measured = kernel.measure(values, torch.zeros(0, dtype=torch.int64), real)
        assert float(measured.features.count.sum()) == 0


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("ratio", [1e1, 1e3, 1e5])
@pytest.mark.parametrize("rows", [1, 16])
def test_means_far_from_zero(kernel: Kernel, dtype: torch.dtype, ratio: float, rows: int) -> None:
    values = (drawn(640 // rows, rows, 16, dtype=torch.float64) + ratio).to(dtype)
    check(kernel, values)
    # Each feature and each sample far off on its own.
    check(kernel, (drawn(40, rows, 16) + ratio * torch.arange(16)).to(dtype))
    check(kernel, (drawn(40, rows, 16) + ratio * torch.arange(40)[:, None, None]).to(dtype))


def test_one_massive_number_among_small_ones(kernel: Kernel) -> None:
    values = drawn(200, 1, 8)
    values[0, 0, 3] = 1e6
    check(kernel, values)
    check(kernel, values.flip(0))


@pytest.mark.parametrize("constant", [0.0, 0.1, -3.7e5, 1e-40, 3e38])
def test_a_constant_has_its_value_as_mean_and_variance_zero(kernel: Kernel, constant: float) -> None:
    values = drawn(37, 3, 6)
    values[:, :, 2], values[5] = constant, constant
    exact = float(values[5, 0, 0].to(torch.float64))
    measured = kernel.measure(values, torch.tensor([5]))
    assert float(measured.features.mean[2]) == exact
    assert float(measured.features.m2[2]) == 0
    assert float(measured.kept.mean[0]) == exact
    assert float(measured.kept.m2[0]) == 0


@pytest.mark.parametrize("scale", [3e38, 1e30, 1e-30, 1e-38, 1e-44])
def test_the_whole_range_of_float32(kernel: Kernel, scale: float) -> None:
    values = (torch.rand(40, 1, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) - 0.5) * 2
    values = (values * scale).to(torch.float32)
    assert values.isfinite().all()
    assert (values != 0).any()
    check(kernel, values)
    check(kernel, values.reshape(10, 4, 6), mask_of(10, 4))


@pytest.mark.parametrize("scale", [6e4, 6e-8])
def test_the_whole_range_of_float16(kernel: Kernel, scale: float) -> None:
    check(kernel, (drawn(40, 1, 6, dtype=torch.float64).clamp(-1, 1) * scale).to(torch.float16))


@pytest.mark.parametrize("scale", [1e100, 1e-100, 1e-150])
def test_float64_far_beyond_float32(kernel: Kernel, scale: float) -> None:
    check(kernel, drawn(40, 1, 6, dtype=torch.float64) * scale)


def test_float64_whose_squares_overflow_keeps_its_mean(kernel: Kernel) -> None:
    values = drawn(40, 1, 3, dtype=torch.float64).clamp(-1, 1) * 1e307
    measured = kernel.measure(values, torch.arange(3))
    np.testing.assert_allclose(measured.features.mean, (values / 40).sum((0, 1)), rtol=1e-9)
    assert measured.features.m2.tolist() == [torch.inf] * 3
    assert not torch.stack(list(vars(measured.features).values())).isnan().any()


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8, torch.bool], ids=str)
def test_whole_numbers_are_measured_as_float64(kernel: Kernel, dtype: torch.dtype) -> None:
    values = torch.arange(24).reshape(8, 1, 3).to(dtype)
    assert check(kernel, values) < kernel.held_to


def test_ties_go_to_the_first_sample_and_feature(kernel: Kernel) -> None:
    values = torch.zeros(30, 2, 4)
    values[7, 1, 3] = values[7, 0, 2] = values[20, 0, 0] = 5
    values[9, 0, 1] = values[9, 1, 1] = values[29] = -5
    measured = kernel.measure(values, torch.arange(3))
    assert int(measured.maximum_at) == 7 * 4 + 2
    assert int(measured.minimum_at) == 9 * 4 + 1


@st.composite
def tensors(draw: st.DrawFn) -> tuple[Tensor, Tensor | None]:
    """A random tensor (samples, rows, features) of any dtype, offset, scale and strides; perhaps a mask."""
    shape = [draw(st.integers(0, 20)), draw(st.integers(1, 6)), draw(st.integers(1, 12))]
    order = draw(st.permutations(range(3)))
    values = drawn(*(shape[axis] for axis in order), dtype=torch.float64, seed=draw(st.integers(0, 999)))
    values = values.permute([order.index(axis) for axis in range(3)])
    values = (values + draw(st.sampled_from([0, 1, -100]))) * 10.0 ** draw(st.integers(-2, 2))
    values = values.to(draw(st.sampled_from(DTYPES)))
    spots = torch.rand(values.shape, generator=torch.Generator().manual_seed(draw(st.integers(0, 999))))
    for index, value in enumerate((0.0, float("nan"), float("inf"), float("-inf"))):
        if draw(st.booleans()):
            values = values.masked_fill((spots > index / 10) & (spots < index / 10 + 0.05), value)
    real = (spots[:, :, 0] > 0.3) if draw(st.booleans()) and shape[0] else None
    return values, real


@given(tensors(), st.sampled_from([1, 16, 1 << 18]))
def test_any_tensor(case: tuple[Tensor, Tensor | None], block: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reference, "_BLOCK", block)
        check(Kernel(reference.measure, 1e-9), *case)
        patch.setattr(chunked, "_BLOCK", block)
        check(Kernel(quickly, RELATIVE), *case)
        patch.setattr(few_rows, "_FEW", 1 << 20)
        check(Kernel(in_numpy, 1e-9), *case)
    if COMPILED:
        from normprobe.kernels import cpu

        check(Kernel(cpu.measure, RELATIVE), *case)


@pytest.mark.parametrize(("asked", "name"), [("torch", "torch"), ("", "c" if BUILT else "torch")])
def test_the_name_of_the_kernel_in_use(asked: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NORMPROBE_KERNEL", asked)
    dispatch.compiled.cache_clear()
    try:
        assert dispatch.name() == name
        sums = dispatch.accumulator(2, types.AxisRoles(), torch.device("cpu"))
        sums.add(torch.ones(3, 1, 2), choice.Choice(3, 1))
        assert sums.totals(0, 0).features.count.tolist() == [3, 3]
    finally:
        dispatch.compiled.cache_clear()


@pytest.mark.parametrize("near", [0.0, 1.0, -30.0, 1e6, float("nan")])
def test_whatever_mean_it_begins_about_chunked_is_exact_or_leaves_it_to_the_reference(near: float) -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(9, 1, 5, generator=generator) - 30
    constant = rows[:, :, :1].expand(9, 1, 5).contiguous()
    for values in (rows, constant, rows[:1], torch.full((4, 1, 5), 0.1), rows.bfloat16()):
        keep = torch.arange(len(values))
        found = chunked.measure(values, keep, prior_mean=torch.full((5,), near, dtype=torch.float64))
        expected = reference.measure(values, keep)
        if found is not None:
            told = (
                (one.features.mean.numpy(), one.features.m2.numpy() / len(values))
                for one in (found, expected)
            )
            assert worst(*next(told), *next(told)) < RELATIVE
            torch.testing.assert_close(found.within_sum, expected.within_sum, rtol=RELATIVE, atol=1e-12)
            assert (found.minimum_at, found.maximum_at) == (expected.minimum_at, expected.maximum_at)
