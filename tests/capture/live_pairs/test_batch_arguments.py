"""Batches as loaders for training give them: labels are left out, and said once, by every door."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import normprobe
from normprobe.capture.live_pairs.batch_arguments import BatchArguments

X = torch.randn(48, 6, generator=torch.Generator().manual_seed(0))
Y = torch.arange(48) % 3
LOADER = DataLoader(TensorDataset(X, Y), batch_size=16)
SAID = "of each batch of 2 items the last item is left out, as labels are: the forward takes one"


class Named(nn.Module):
    """A model of keyword arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(6, 8), nn.BatchNorm1d(8)

    def forward(self, image: Tensor, scale: float = 1.0) -> Tensor:
        out: Tensor = self.norm(self.linear(image)) * scale
        return out


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)).eval()


def same(a: Any, b: Any) -> bool:
    return bool(np.allclose(a.layers["variance"], b.layers["variance"], rtol=1e-9))


WRAPPERS: dict[str, Any] = {
    "bare": lambda model: model,
    "compiled": lambda model: torch.compile(model, backend="eager"),
    "averaged": torch.optim.swa_utils.AveragedModel,
    "parallel": nn.DataParallel,
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_a_loader_of_pairs_is_recorded_as_its_inputs(wrapper: str) -> None:
    model = WRAPPERS[wrapper](net())
    recording = normprobe.record(model, LOADER)
    assert same(recording, normprobe.record(net(), list(X.split(16))))
    assert recording.meta["warnings"] == [SAID]
    assert recording.meta["examples"] == 48


@pytest.mark.parametrize("batch", [[X, Y, Y], (X, Y, Y)], ids=["list", "tuple"])
def test_of_several_as_many_as_the_forward_takes(batch: Any) -> None:
    recording = normprobe.record(net(), [batch])
    assert recording.meta["warnings"] == [
        "of each batch of 3 items the last 2 items are left out, as labels are: the forward takes one"
    ]
    assert same(recording, normprobe.record(net(), [X]))


def test_recalibration_takes_the_loader_too() -> None:
    model, other = net(), net()
    moved = normprobe.batchnorm.recalibrate(model, LOADER)
    normprobe.batchnorm.recalibrate(other, list(X.split(16)))
    assert moved.attrs["warnings"] == [SAID]
    for own, expected in zip(model.buffers(), other.buffers(), strict=True):
        assert torch.equal(own, expected)
    want = net()[0](X).var(0, correction=1)  # type: ignore[index]
    assert torch.allclose(model[1].running_var, want, rtol=1e-5)  # type: ignore[index]


def test_models_side_by_side_take_the_loader_too() -> None:
    model = net()
    twin = copy.deepcopy(model)
    comparison = normprobe.compare_live(model, twin, LOADER)
    assert comparison.verdict_code == "equal"
    assert comparison.meta["warnings"] == [SAID]
    assert comparison.meta["examples"] == (48, 48)
    assert str(comparison).count("left out") == 1


def test_a_mapping_and_labels_are_the_mapping() -> None:
    batches = [({"image": x}, y) for x, y in zip(X.split(16), Y.split(16), strict=True)]
    recording = normprobe.record(Named().eval(), batches)
    assert recording.meta["examples"] == 48
    assert recording.meta["warnings"] == [SAID]


def test_labels_in_a_mapping_are_left_out_where_the_forward_has_none() -> None:
    recording = normprobe.record(Named().eval(), [{"image": X, "label": Y}])
    assert recording.meta["warnings"] == ["of each batch label left out: the forward has no such argument"]
    with pytest.raises(TypeError, match="imgae"):  # a slip of the pen is no label
        normprobe.record(Named().eval(), [{"imgae": X}])


def test_what_the_forward_takes_is_given() -> None:
    given = BatchArguments(Named())
    assert given.of((X, 2.0)) == ((X, 2.0), {})
    assert given.of(X) == ((X,), {})
    assert given.of({"image": X}) == ((), {"image": X})
    assert given.left_out == ""

    class Anything(nn.Module):
        def forward(self, *args: Tensor, **kwargs: Tensor) -> Tensor:
            return args[0]

    anything = BatchArguments(Anything())
    assert anything.of((X, Y)) == ((X, Y), {})
    assert anything.of({"labels": Y}) == ((), {"labels": Y})
    with pytest.raises(normprobe.NormprobeError, match="got str"):
        given.of("text")
