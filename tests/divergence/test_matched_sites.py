"""What pairs where the two mean other things by a sample, or cut the same data into other parts."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

import normprobe
from normprobe import Recording, compare
from tests.helpers.comparison_models import batches, changed, net, record


def parts(model: torch.nn.Module, cut: int, mark: str) -> Recording:
    """A model on the same four batches, recorded as two parts and merged."""
    data = batches(4, 6)
    halves = [data[:cut], data[cut:]]
    return normprobe.merge(*(record(model, half, part=f"{mark}{at}") for at, half in enumerate(halves)))


@pytest.mark.parametrize("to", ["batch_norm", "group_norm", "rms_norm"])
def test_a_norm_of_another_kind_in_its_place_differs_at_its_output_only(to: str) -> None:
    """A BatchNorm keeps an example where a LayerNorm keeps a position: their samples are not each other's."""
    sound = net()
    swapped = normprobe.swap_norms(copy.deepcopy(sound), to=to)  # type: ignore[arg-type]
    comparison = compare(record(sound, batches(3, 6)), record(swapped.eval(), batches(3, 6)))
    found = comparison.first_divergence
    assert found is not None
    assert (found.layer, found.site) == ("layers.0.first_norm", "output")
    before = comparison.layers.iloc[0]
    assert (before["site"], before["error_db"]) == ("input", -np.inf)
    assert bool(before["pairs"] == 0) is (to == "batch_norm")


def test_the_same_data_in_other_parts_compare_by_their_moments_when_asked() -> None:
    one, other = parts(net(), 1, "a"), parts(net(), 3, "b")
    assert compare(one, other).meta["same_data"] is False
    equal = compare(one, other, same_data=True)
    assert equal.first_divergence is None
    assert (equal.layers["pairs"] == 0).all()
    assert (equal.layers["error_of"] == "moments").all()
    twin = changed(net(), lambda model: model.layers[1].up.weight.mul_(1.02))
    found = compare(one, parts(twin, 3, "b"), same_data=True).first_divergence
    assert found is not None
    assert (found.layer, found.site) == ("layers.1.up", "output")
