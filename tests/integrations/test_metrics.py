"""Numbers and histograms for trackers: which come first, what they are called, and that they are right."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import normprobe
from normprobe.errors import NormprobeError, NoSamplesError
from normprobe.integrations.metrics import Numbers, name_of


class Stack(nn.Module):
    def __init__(self, blocks: int = 8) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.Sequential(
            *(nn.Sequential(nn.LayerNorm(16), nn.Linear(16, 16)) for _ in range(blocks))
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.blocks(x)
        return out


def data(seed: int = 0) -> Tensor:
    return torch.randn(16, 8, 16, generator=torch.Generator().manual_seed(seed))


def trained() -> normprobe.Recording:
    """A recording of steps with gradients and parameters."""
    model = Stack(2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with normprobe.Probe(model, gradients=True) as probe:
        for step in range(3):
            model(data(step)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            probe.step(step)
    return probe.recording


def test_numbers_are_those_of_the_tables_under_names_of_layer_site_and_measure() -> None:
    recording = normprobe.record(Stack(2), data())
    found = normprobe.scalars(recording, limit=None)
    assert list(found)[:3] == [
        f"normprobe/{name}" for name in ("findings/error", "findings/warning", "nonfinite")
    ]
    for row in recording.layers.itertuples():
        assert found[f"normprobe/{row.layer}/{row.site}/variance"] == row.variance
    assert all(type(value) is float and math.isfinite(value) for value in found.values())


def test_gradients_and_updates_have_numbers_where_they_were_measured() -> None:
    recording = trained()
    found = normprobe.scalars(recording, limit=None)
    layers = recording.layers.set_index(["layer", "site"])["variance"]
    assert found["normprobe/blocks.0.1/output_gradient/variance"] == layers["blocks.0.1", "output_gradient"]
    ratios = recording.parameters.set_index(["layer", "parameter"])["update_ratio"]
    assert found["normprobe/blocks.1.1/weight/update_ratio"] == ratios["blocks.1.1", "weight"] > 0


def test_a_limit_takes_layers_from_all_over_the_depth() -> None:
    recording = normprobe.record(Stack(), data())
    few = normprobe.scalars(recording, 3 + 2 * 8)
    blocks = {int(name.split(".")[1]) for name in few if "blocks" in name}
    assert len(few) == 19
    assert blocks == {0, 2, 4, 6}
    assert list(normprobe.scalars(recording, 5)) == list(few)[:5]


def test_what_findings_rest_on_comes_first() -> None:
    model = Stack()
    with torch.no_grad():
        model.blocks[5][1].weight[3] = math.nan
    recording = normprobe.record(model, data())
    found = normprobe.scalars(recording)
    assert found["normprobe/findings/error"] == 1
    assert found["normprobe/nonfinite"] == recording.layers["nonfinite"].sum() > 0
    assert list(found)[3] == "normprobe/blocks.5.1/output/nonfinite"
    assert found["normprobe/blocks.5.1/output/nonfinite"] == 16 * 8


def test_layers_with_outlier_features_come_ahead_of_others() -> None:
    model = Stack()
    with torch.no_grad():
        model.blocks[2][0].weight[3] = 100
    recording = normprobe.record(model, data())
    named = [name.split("/")[1] for name in normprobe.scalars(recording, 8) if "blocks" in name]
    assert set(named) <= {*recording.outliers()["layer"], *recording.findings()["layer"]}
    assert normprobe.scalars(recording)["normprobe/blocks.2.1/input/feature_ratio"] > 10


def test_every_measure_that_a_finding_may_name_is_found() -> None:
    recording = normprobe.record(Stack(2), data())
    numbers = Numbers(recording)
    for site, measure in (("input", "offset"), ("input", "divisor"), ("output", "silent_features")):
        assert isinstance(numbers.of(("blocks.0.0", site, measure)), float)
    assert math.isnan(numbers.of(("blocks.0.0", "middle", "variance")))
    assert math.isnan(numbers.of(("nowhere", "input", "variance")))


def test_a_model_that_is_itself_a_layer_has_no_name_in_names() -> None:
    recording = normprobe.record(nn.LayerNorm(16), data())
    assert "normprobe/input/variance" in normprobe.scalars(recording)
    assert name_of(("a", "input", "mean"), "validation") == "normprobe/validation/a/input/mean"


def test_histograms_hold_the_kept_rows() -> None:
    recording = normprobe.record(Stack(2), data())
    found = normprobe.histograms(recording, bins=32)
    assert set(found) == {f"normprobe/{row.layer}/{row.site}" for row in recording.layers.itertuples()}
    counts, edges = found["normprobe/blocks.1.0/output"]
    values = recording.values("blocks.1.0", "output")
    assert len(counts) == 32
    assert edges[[0, -1]].tolist() == [values.min(), values.max()]
    assert counts.tolist() == [
        int(((values >= a) & ((values < b) | (b == edges[-1]))).sum()) for a, b in pairwise(edges)
    ]
    assert list(normprobe.histograms(recording, 2)) == list(found)[:2]


def test_histograms_leave_nan_out() -> None:
    x = data()
    x[:, 0, :3], x[1, 1, 4] = math.nan, math.inf
    recording = normprobe.record(nn.LayerNorm(16), x)
    kept = recording.values("", "input")
    counts, edges = normprobe.histograms(recording)["normprobe/input"]
    assert 0 < np.isfinite(kept).sum() == counts.sum() < kept.size
    assert np.isfinite(edges).all()
    assert normprobe.scalars(recording)["normprobe/nonfinite"] > 0


def test_a_site_without_a_finite_value_has_no_histogram() -> None:
    recording = normprobe.record(nn.LayerNorm(16), torch.full((4, 16), math.nan))
    assert normprobe.histograms(recording) == {}


@pytest.mark.parametrize("of", [normprobe.scalars, normprobe.histograms])
def test_what_cannot_be_is_refused(of) -> None:  # type: ignore[no-untyped-def]
    recording = normprobe.record(Stack(1), data())
    for limit in (0, 1.5, True):
        with pytest.raises(NormprobeError, match="limit must be a whole number of at least 1"):
            of(recording, limit)
    with pytest.raises(NoSamplesError, match="nothing was measured"):
        of(normprobe.Probe(Stack(1)).recording)
    with pytest.raises(NormprobeError, match="bins must be"):
        normprobe.histograms(recording, bins=0)
