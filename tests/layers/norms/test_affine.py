"""The scale and shift that a norm stores."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from normprobe.layers.norms.affine import affines, applied_weight, vector
from normprobe.layers.view import View


class Holder(nn.Module):
    """A module that stores tensors under given names."""

    def __init__(self, **tensors: Tensor | None) -> None:
        super().__init__()
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor)


def test_vectors_are_taken_only_where_they_fit() -> None:
    norm = nn.LayerNorm((2, 3))
    flat = vector(norm, "weight", 6)
    assert flat is not None
    assert (flat.dtype, tuple(flat.shape), flat.requires_grad) == (torch.float64, (6,), False)
    assert vector(norm, "weight", 5) is None
    assert vector(norm, "running_mean", 6) is None
    assert vector(nn.LayerNorm(6, device="meta"), "weight", 6) is None
    assert vector(nn.LayerNorm(6, elementwise_affine=False), "weight", 6) is None


@pytest.mark.parametrize(
    ("names", "asked"),
    [(("weight", "gamma", "scale", "gain", "g"), "weight"), (("bias", "beta", "shift", "b"), "bias")],
)
def test_the_usual_names(names: tuple[str, ...], asked: str) -> None:
    for name in names:
        found = vector(Holder(**{name: torch.arange(3.0)}), asked, 3)
        assert found is not None
        assert found.tolist() == [0, 1, 2]
    both = Holder(**{names[0]: torch.zeros(3), names[1]: torch.ones(3)})
    first = vector(both, asked, 3)
    assert first is not None
    assert first.tolist() == [0, 0, 0]


def test_a_scale_is_applied_as_stored_or_on_top_of_one() -> None:
    module = Holder(weight=torch.tensor([0.5, 2.0]), bias=torch.tensor([1.0, 0.0]))
    plain, unit = affines(module, 2)
    values = torch.ones(3, 2, dtype=torch.float64)
    assert (plain.offset, unit.offset) == (0.0, 1.0)
    assert plain.scaled(values)[0].tolist() == [0.5, 2.0]
    assert unit.scaled(values)[0].tolist() == [1.5, 3.0]
    assert plain.shift is not None
    assert plain.shift.tolist() == [1.0, 0.0]


def test_without_a_weight_the_scale_is_one() -> None:
    (only,) = affines(Holder(), 2)
    values = torch.randn(3, 2)
    assert only.scaled(values) is values
    assert (only.scale, only.shift, only.offset) == (None, None, 0.0)


@pytest.mark.parametrize(
    ("module", "view", "offset", "applied"),
    [
        (Holder(gamma=torch.tensor([0.5, 2.0])), View("norm"), 0.0, [0.5, 2.0]),
        (Holder(weight=torch.tensor([0.5, 2.0])), View("rms_norm"), 1.0, [1.5, 3.0]),
        (Holder(weight=torch.tensor([0.5, 2.0])), View("norm"), None, [0.5, 2.0]),
        (Holder(), View("norm"), 0.0, [1.0, 1.0]),
        (Holder(), View("norm"), None, None),
        (Holder(weight=torch.ones(3)), View("norm"), 0.0, None),
        (Holder(a=torch.tensor([[3.0], [4.0]])), View("norm", weight=lambda m: m.a), 0.0, [3.0, 4.0]),
    ],
)
def test_the_scale_as_applied(
    module: nn.Module, view: View, offset: float | None, applied: list[float] | None
) -> None:
    weight = applied_weight(module, view, offset, 2)
    assert (None if weight is None else weight.tolist()) == applied
    assert weight is None or weight.dtype == torch.float64
