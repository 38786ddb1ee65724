"""Sketches of what models store: their differences estimate those of the tensors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from normprobe.capture.live_pairs.stored_tensors import stored_tensors


def sketch(tensor: torch.Tensor, name: str = "t") -> object:
    holder = nn.Module()
    holder.register_buffer(name, tensor)
    return stored_tensors(holder).get(("", name))


@pytest.mark.parametrize("shape", [(1,), (63,), (64,), (1000,), (3, 5, 7), (1200, 1000)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.int8])
def test_a_sketch_is_linear_and_its_power_exact(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    draw = torch.Generator().manual_seed(1)
    x, y = ((10 * torch.randn(shape, generator=draw)).to(dtype) for _ in range(2))
    a, b = sketch(x), sketch(y)
    both = sketch(y.double() - x.double())
    np.testing.assert_allclose(b.sketch - a.sketch, both.sketch, rtol=1e-9, atol=1e-9)
    assert a.power == pytest.approx(float(x.double().square().sum()), rel=1e-12)
    assert (a.shape, a.size, a.dtype) == (shape, x.numel(), str(dtype).removeprefix("torch."))


@settings(max_examples=60, deadline=None)
@given(st.integers(100, 50_000), st.integers(0, 10**6), st.sampled_from(["normal", "constant", "one"]))
def test_the_size_of_a_difference_is_estimated(size: int, seed: int, kind: str) -> None:
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(size, generator=draw)
    apart = {"normal": torch.randn(size, generator=draw), "constant": torch.full((size,), 0.3)}.get(kind)
    if apart is None:
        apart = torch.zeros(size)
        apart[seed % size] = 5.0
    found = np.linalg.norm(sketch(x + apart).sketch - sketch(x).sketch)
    # Five standard deviations of the power, of sqrt(2 / 64) each.
    assert found**2 == pytest.approx(float(apart.double().square().sum()), rel=0.9)
    assert sketch(x.clone()).sketch.tolist() == sketch(x).sketch.tolist()


def test_the_layout_in_memory_makes_no_difference() -> None:
    x = torch.randn(8, 3, 5, 5)
    assert sketch(x).sketch.tolist() == sketch(x.to(memory_format=torch.channels_last)).sketch.tolist()
    assert sketch(x.movedim(1, 0)).sketch.tolist() == sketch(x.movedim(1, 0).contiguous()).sketch.tolist()


def test_nan_and_infinite_numbers_are_counted_and_left_out() -> None:
    x = torch.ones(200)
    x[3], x[70] = torch.nan, -torch.inf
    found = sketch(x)
    assert (found.nonfinite, found.power) == (2, 198.0)


def test_a_tied_tensor_is_one_and_wrappers_are_no_part_of_names() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Embedding(5, 4), nn.Linear(4, 5, bias=False)
            self.head.weight = self.embed.weight
            self.register_buffer("step", torch.tensor(3))

    found = stored_tensors(nn.DataParallel(Tied()))
    assert list(found) == [("", "step"), ("embed", "weight"), ("head", "weight")]
    assert found["embed", "weight"].same_as == found["head", "weight"].same_as
    assert found["", "step"].shape == ()


def test_modules_that_are_compared_otherwise_are_left_out() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Sequential(nn.Linear(2, 2)))
    assert {module for module, _ in stored_tensors(model, {"1.0"})} == {"0"}
    assert {module for module, _ in stored_tensors(model, {"1"})} == {"0", "1.0"}


def test_what_holds_no_numbers_is_left_out() -> None:
    model = nn.Sequential(
        nn.Linear(3, 3, device="meta"), nn.LazyLinear(4), nn.BatchNorm1d(3), nn.Embedding(4, 2)
    )
    model.register_buffer("sparse", torch.eye(3).to_sparse())
    names = {".".join(filter(None, name)) for name in stored_tensors(model)}
    assert not {"0.weight", "1.weight", "2.num_batches_tracked"} & names
    assert {"2.running_var", "2.weight", "3.weight"} <= names


@pytest.mark.filterwarnings("ignore:.*quantized tensor creation:UserWarning")
def test_quantized_and_complex_tensors_are_read_as_numbers() -> None:
    x = torch.randn(300)
    quantized = torch.quantize_per_tensor(x, 0.05, 0, torch.qint8)
    assert sketch(quantized).power == pytest.approx(float(quantized.dequantize().double().square().sum()))
    z = torch.complex(x, x)
    assert sketch(z).power == pytest.approx(2 * float(x.double().square().sum()))


def test_random_numbers_of_the_user_and_the_model_stay_as_they_are() -> None:
    model = nn.Linear(30, 30)
    state, before = torch.get_rng_state(), [p.detach().clone() for p in model.parameters()]
    stored_tensors(model)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))
    assert all(p.requires_grad for p in model.parameters())
