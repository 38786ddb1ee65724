"""What a norm's first call shows: whether it centres, and which scale it applies."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor, nn

from normprobe.affine import Behaviour, observe, vector


class Norm(nn.Module):
    """A norm over the last axis, centred or not, that scales by ``weight + offset``."""

    def __init__(
        self, weight: Tensor | None, *, centred: bool, offset: float = 0.0, shift: float | None = None
    ) -> None:
        super().__init__()
        self.weight = None if weight is None else nn.Parameter(weight)
        self.bias = None if shift is None else nn.Parameter(torch.full_like(weight, shift))
        self.eps, self.centred, self.offset = 1e-6, centred, offset

    def forward(self, x: Tensor) -> Tensor:
        d = x - x.mean(-1, keepdim=True) if self.centred else x
        y = d / (d.square().mean(-1, keepdim=True) + self.eps).sqrt()
        y = y if self.weight is None else y * (self.weight + self.offset)
        return y if self.bias is None else y + self.bias


def data(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return (torch.randn(*shape, generator=torch.Generator().manual_seed(0)) + 0.5).to(dtype)


def scales(width: int) -> Tensor:
    return torch.linspace(0.2, 1.5, width)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(
    ("centred", "offset", "shift"), list(product((True, False), (0.0, 1.0), (None, 0.3)))
)
def test_the_formula_is_found(centred: bool, offset: float, shift: float | None, dtype: torch.dtype) -> None:
    norm = Norm(scales(16), centred=centred, offset=offset, shift=shift)
    x = data(2, 5, 16, dtype=dtype)
    with torch.no_grad():
        y = norm(x.float()).to(dtype)
    for guess in (True, False):
        assert observe(norm, x, y, centred=guess) == Behaviour(centred, offset)


@pytest.mark.parametrize("centred", [True, False])
def test_a_norm_without_a_weight(centred: bool) -> None:
    norm = Norm(None, centred=centred)
    x = data(7, 16)
    assert observe(norm, x, norm(x), centred=not centred) == Behaviour(centred, 0.0)


def test_zero_weights_of_a_unit_offset_norm() -> None:
    x = data(7, 16)
    gemma = Norm(torch.zeros(16), centred=False, offset=1.0)
    assert observe(gemma, x, gemma(x).detach(), centred=False) == Behaviour(False, 1.0)


@pytest.mark.parametrize("centred", [True, False])
def test_where_the_data_cannot_tell_the_name_decides(centred: bool) -> None:
    x = data(7, 16, dtype=torch.float64)
    x = x - x.mean(-1, keepdim=True)
    norm = Norm(scales(16).double(), centred=True)
    assert observe(norm, x, norm(x).detach(), centred=centred) == Behaviour(centred, 0.0)


@pytest.mark.parametrize(
    "formula",
    [lambda x: x, lambda x: x * 3, torch.zeros_like, lambda x: x.sin(), lambda x: x.flip(-1)],
    ids=["identity", "scaled", "zero", "sine", "reversed"],
)
def test_what_no_formula_reproduces(formula: object) -> None:
    x = data(7, 16) * 2
    assert observe(Norm(scales(16), centred=True), x, formula(x), centred=True) is None


@pytest.mark.parametrize("shape", [(0, 16), (3, 0), (5, 1), (0, 0)], ids=str)
def test_nothing_to_see(shape: tuple[int, ...]) -> None:
    assert observe(nn.Identity(), torch.ones(shape), torch.ones(shape), centred=True) is None


def test_other_shapes_are_not_compared() -> None:
    assert observe(nn.Identity(), torch.ones(3, 4), torch.ones(4, 3), centred=True) is None


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_rows_that_are_not_finite_are_passed_over(value: float) -> None:
    norm = Norm(scales(16), centred=False)
    x = data(9, 16)
    x[4, 3] = value
    assert observe(norm, x, norm(x).detach(), centred=True) == Behaviour(False, 0.0)
    assert observe(norm, x[4:5], norm(x[4:5]).detach(), centred=True) is None


def test_rows_are_taken_from_the_whole_of_a_long_tensor() -> None:
    norm = Norm(scales(16), centred=True)
    x = data(511, 16)
    y = norm(x).detach()
    y[300:] = x[300:]
    assert observe(norm, x, y, centred=True) is None


def test_an_eps_of_zero_is_taken_at_its_word() -> None:
    norm = Norm(None, centred=False)
    norm.eps = 0.0
    x = data(7, 16) * 1e-4
    assert observe(norm, x, norm(x), centred=True) == Behaviour(False, 0.0)


def test_vectors_are_taken_only_where_they_fit() -> None:
    norm = nn.LayerNorm((2, 3))
    flat = vector(norm, "weight", 6)
    assert flat is not None
    assert (flat.dtype, tuple(flat.shape), flat.requires_grad) == (torch.float64, (6,), False)
    assert vector(norm, "weight", 5) is None
    assert vector(norm, "gain", 6) is None
    assert vector(nn.LayerNorm(6, device="meta"), "weight", 6) is None
    assert vector(nn.LayerNorm(6, elementwise_affine=False), "weight", 6) is None
