"""Comparing recordings: the first layer that differs, and none where nothing does."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import normprobe
from normprobe import Comparison, NormprobeError, NoSamplesError, Recording, RecordingError, compare
from normprobe.divergence import LAYERS, UNMATCHED
from tests.helpers.comparison_models import (
    Net,
    Rounding,
    batches,
    changed,
    net,
    noisy,
    port,
    quantize,
    record,
)


@cache
def sound() -> Recording:
    return record(net())


def against(model: nn.Module, **options: Any) -> Comparison:
    return compare(sound(), record(model, **options))


def swap(model: Net) -> None:
    model.layers[0], model.layers[2] = model.layers[2], model.layers[0]


def put(model: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, module)


FAULTS = {
    "int8": (lambda m: quantize(m.layers[1].down, 8), "layers.1.down", "output"),
    "int4": (lambda m: quantize(m.layers[0].query, 4), "layers.0.query", "output"),
    "bf16 weights": (lambda m: m.layers[2].up.bfloat16().float(), "layers.2.up", "output"),
    "noise": (lambda m: noisy(m.layers[1].output), "layers.1.output", "output"),
    "noisy norm": (lambda m: noisy(m.layers[1].second_norm), "layers.1.second_norm", "output"),
    "eps": (lambda m: setattr(m.layers[1].first_norm, "eps", 1e-2), "layers.1.first_norm", "output"),
    "gain": (lambda m: m.layers[2].value.weight.mul_(1.02), "layers.2.value", "output"),
    "last norm": (lambda m: m.norm.weight.mul_(1.02), "norm", "output"),
    "one feature": (lambda m: m.layers[1].key.bias[3].add_(0.01), "layers.1.key", "output"),
    "swapped": (swap, "layers.0.first_norm", "output"),
    "no bias": (lambda m: m.layers[0].down.bias.zero_(), "layers.0.down", "output"),
    "activation": (lambda m: setattr(m.layers[1], "act", nn.ReLU()), "layers.1.down", "input"),
    "tanh form": (lambda m: setattr(m.layers[2], "act", nn.GELU("tanh")), "layers.2.down", "input"),
    "attention": (
        lambda m: setattr(m.layers[1], "mix", lambda x, b=m.layers[1]: b.value(x)),
        "layers.1.output",
        "input",
    ),
    "rms norm": (lambda m: put(m, "layers.2.first_norm", nn.RMSNorm(16)), "layers.2.first_norm", "output"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_of_one_layer_is_named_first(name: str) -> None:
    change, layer, site = FAULTS[name]
    comparison = against(changed(net(), change))
    found = comparison.first_divergence
    assert found is not None
    assert (found.layer, found.site) == (layer, site)
    rows = comparison.layers
    at = rows.index[(rows["layer"] == layer) & (rows["site"] == site)][0]
    assert not rows["beyond"][:at].any()
    assert rows["introduces"][at]
    assert rows["error_db"][at] > -100 > rows["error_db"][:at].max()
    assert rows["introduced_db"][at] == pytest.approx(rows["error_db"][at], abs=1)


@pytest.mark.parametrize("size", [1, 3, 24])
@pytest.mark.parametrize("model", ["net", "batch norm", "deep"])
def test_other_batch_sizes_differ_by_rounding_only(model: str, size: int) -> None:
    module = {"net": net, "deep": lambda: net(blocks=10), "batch norm": _pictures}[model]()
    data = torch.cat(batches()) if model != "batch norm" else torch.rand(24, 3, 6, 6)
    first, second = (record(module, list(data.split(cut))) for cut in (8, size))
    comparison = compare(first, second)
    assert comparison.first_divergence is None
    assert comparison.meta["paired_by"] == "digests"
    assert comparison.layers["error_db"].max() < -100
    assert comparison.verdict_code in {"equal", "within_rounding"}


def _pictures() -> nn.Module:
    torch.manual_seed(0)
    parts: list[nn.Module] = []
    for channels in (3, 8, 8):
        parts += [nn.Conv2d(channels, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()]
    model = nn.Sequential(*parts, nn.Flatten(), nn.Linear(288, 4))
    for _ in range(3):
        model(torch.rand(16, 3, 6, 6))
    return model.eval()


def test_the_same_recording_has_no_error_at_all() -> None:
    comparison = compare(sound(), sound())
    assert comparison.first_divergence is None
    assert (comparison.layers["error_db"] == -np.inf).all()
    assert comparison.verdict_code == "equal"
    assert comparison.meta["matched"] == 25
    assert comparison.findings().empty


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_another_dtype_of_the_whole_drifts_and_has_no_first_layer(dtype: torch.dtype) -> None:
    data = [batch.to(dtype) for batch in batches()]
    comparison = against(net().to(dtype), data=data)
    assert comparison.meta["precision_differs"]
    assert comparison.meta["paired_by"] == "values"
    assert comparison.first_divergence is None
    assert comparison.verdict_code == "within_precision"
    assert list(comparison.findings()["check"]) == ["dtype_differs"]
    assert comparison.layers["error_db"].max() > -65


def test_a_fault_shows_through_another_dtype() -> None:
    twin = changed(net(), lambda m: setattr(m.layers[1], "act", nn.ReLU())).bfloat16()
    found = against(twin, data=[batch.bfloat16() for batch in batches()]).first_divergence
    assert found is not None
    assert (found.layer, found.site) == ("layers.1.down", "input")


def test_one_layer_in_another_dtype_is_a_divergence() -> None:
    def change(model: Net) -> None:
        model.layers[1].up = Rounding(model.layers[1].up)  # type: ignore[assignment]

    comparison = compare(sound(), record(changed(net(), change)))
    # Its name has a part more, so it is matched by width.
    found = comparison.first_divergence
    assert found is not None
    assert (found.layer, found.layer_b) == ("layers.1.up", "layers.1.up.inner")
    assert not comparison.meta["precision_differs"]
    assert ["layers.1.up", "output"] in comparison.meta["precision_changes"]
    assert "dtype_differs" in set(comparison.findings()["check"])


def test_a_port_agrees_and_what_is_fused_is_declared() -> None:
    comparison = compare(sound(), record(port(net())))
    assert comparison.first_divergence is None
    assert set(comparison.layers["matched_by"]) == {"role"}
    assert comparison.meta["matched"] == 16
    gone = comparison.unmatched
    assert list(gone["of"]).count("b") == 3
    assert gone.loc[gone["layer"] == "layers.1.key", "reason"].item() == "fused into h.1.qkv of b"
    assert (
        gone.loc[gone["layer"] == "h.1.qkv", "reason"].item()
        == "fused: does the work of layers.1.query, layers.1.key, layers.1.value of a"
    )
    assert len(gone) == 12
    assert list(comparison.findings()["severity"]) == ["info"]
    back = compare(record(port(net())), sound())
    assert set(back.unmatched["layer"]) == set(gone["layer"])


def test_a_fault_in_a_port_is_named_under_both_names() -> None:
    twin = changed(port(net()), lambda m: m.h[2].fc1.bias.zero_())
    found = compare(sound(), record(twin)).first_divergence
    assert found is not None
    assert (found.layer, found.layer_b, found.site) == ("layers.2.up", "h.2.fc1", "output")


def test_a_fault_in_what_is_fused_shows_at_the_next_layer_compared() -> None:
    twin = changed(port(net()), lambda m: m.h[1].qkv.weight[32:].mul_(1.1))
    found = compare(sound(), record(twin)).first_divergence
    assert found is not None
    assert (found.layer, found.site, found.after) == ("layers.1.output", "input", "layers.1.first_norm")


def test_a_difference_before_the_first_layer_is_the_datas() -> None:
    comparison = compare(sound(), record(net(), [batch * 1.001 for batch in batches()]), same_data=True)
    assert (comparison.first_divergence.layer, comparison.first_divergence.after) == (
        "layers.0.first_norm",
        None,
    )  # type: ignore[union-attr]


def test_a_norm_inherits_exactly_what_its_input_brings() -> None:
    """The second fault of two is told from what the first one brings."""

    def change(model: Net) -> None:
        model.layers[0].down.weight.mul_(1.02)
        model.layers[1].second_norm.eps = 1e-3

    comparison = against(changed(net(), change))
    rows = comparison.layers.set_index(["layer", "site"])
    assert comparison.first_divergence.layer == "layers.0.down"  # type: ignore[union-attr]
    assert rows.loc[("layers.1.first_norm", "output"), "split"] == "measured"
    assert not rows.loc[("layers.1.first_norm", "output"), "introduces"]
    assert rows.loc[("layers.1.first_norm", "output"), "introduced_db"] < -120
    second = rows.loc[("layers.1.second_norm", "output")]
    assert second["introduces"]
    assert second["introduced_db"] < second["inherited_db"]
    twin = changed(net(), lambda m: setattr(m.layers[1].second_norm, "eps", 1e-3))
    alone = against(twin).layers.set_index(["layer", "site"]).loc[("layers.1.second_norm", "output")]
    assert second["introduced_db"] == pytest.approx(alone["error_db"], abs=1)
    again = comparison.findings().set_index("check").loc["introduces_error"]
    assert (again["layer"], again["site"]) == ("layers.1.second_norm", "output")


def test_the_error_is_that_of_the_kept_rows() -> None:
    change, layer, _ = FAULTS["gain"]
    other = record(changed(net(), change))
    x, y = sound().values(layer, "output"), other.values(layer, "output")
    expected = 10 * math.log10(((y - x) ** 2).sum() / (x**2).sum())
    comparison = compare(sound(), other)
    row = comparison.layers.set_index(["layer", "site"]).loc[(layer, "output")]
    assert row["error_of"] == "rows"
    assert row["error_db"] == pytest.approx(expected)
    assert row["pairs"] == len(x) == 8
    each = np.sqrt(((y - x) ** 2).sum(1) / (x**2).sum(1))
    assert row["sample_difference"] == pytest.approx(np.median(each))
    assert row["features_beyond"] == 1


def test_a_fault_that_the_kept_rows_miss_shows_in_the_moments() -> None:
    class Rare(nn.Linear):
        """Goes wrong on one example, whose rows are not kept."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            output = super().forward(x).clone()
            output[21:22] *= 1.01
            return output

    data = [torch.cat(batches())]
    first = record(net(), data, values=1, samples=8)
    twin = changed(net(), lambda m: setattr(m.layers[1].up, "__class__", Rare))
    comparison = compare(first, record(twin, data, values=1, samples=8))
    found = comparison.first_divergence
    assert found is not None
    assert (found.layer, found.site) == ("layers.1.up", "output")
    row = comparison.layers[comparison.layers["beyond"]].iloc[0]
    assert row["error_of"] == "moments"


def test_nan_in_one_of_the_two_is_a_divergence() -> None:
    twin = changed(net(), lambda m: m.layers[1].value.bias[2].fill_(float("nan")))
    comparison = against(twin)
    found = comparison.first_divergence
    assert found is not None
    assert (found.layer, found.error_db) == ("layers.1.value", np.inf)
    both = compare(record(twin), record(twin))
    assert both.first_divergence is None


def test_a_large_mean_before_a_norm_is_no_divergence() -> None:
    """What LayerNorm takes away enlarges the rounding of what is left."""

    class Lifted(nn.Module):
        def __init__(self, steps: int) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.up, self.norm, self.down = nn.Linear(16, 64), nn.LayerNorm(64), nn.Linear(64, 16)
            self.norm.weight.data.fill_(30.0)
            self.steps = steps

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.up(x)
            for _ in range(self.steps):
                x = x + 3e4 / self.steps
            return self.down(self.norm(x))

    comparison = compare(record(Lifted(1)), record(Lifted(3)))
    assert comparison.layers["error_db"].max() > -100
    assert comparison.first_divergence is None


@pytest.mark.parametrize(("added", "diverges"), [(1e-8, False), (1e-3, True)])
def test_the_rounding_of_a_difference_of_two_is_no_divergence(added: float, diverges: bool) -> None:
    """What is left when two equal tensors are subtracted is all rounding, whatever its relative error."""

    class Cancelling(nn.Module):
        def __init__(self, added: float) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.up, self.down, self.added = nn.Linear(16, 16), nn.Linear(16, 16), added

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.up(x)
            return self.down((y + self.added) - y)

    comparison = compare(record(Cancelling(0)), record(Cancelling(added)))
    assert comparison.layers["error_db"].max() > -60
    assert (comparison.first_divergence is not None) is diverges


def test_layers_that_run_in_another_order_are_declared() -> None:
    class Branches(nn.Module):
        def __init__(self, late: bool) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.left, self.right, self.late = nn.Linear(16, 16), nn.Linear(16, 16), late

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if self.late:
                y = self.right(x)
                return self.left(x) + y
            return self.left(x) + self.right(x)

    comparison = compare(record(Branches(False)), record(Branches(True)))
    assert comparison.first_divergence is None
    assert comparison.meta["reordered"] == "right"
    assert list(comparison.findings()["check"]) == ["order_differs"]


def test_a_layer_that_fires_in_one_only_is_declared() -> None:
    twin = copy.deepcopy(net())
    twin.norm = nn.Identity()  # type: ignore[assignment]
    twin.head = nn.Linear(16, 2)
    comparison = against(twin)
    reasons = dict(zip(comparison.unmatched["layer"], comparison.unmatched["reason"], strict=True))
    assert reasons["norm"].startswith("a has 1 and b 0 further layers of this shape")
    assert comparison.first_divergence is None
    assert "not_compared" in set(comparison.findings()["check"])


def test_recordings_merged_from_parts_pair_part_by_part() -> None:
    data = batches()
    parts = [record(net(), [batch], part=name) for batch, name in zip(data, "xyz", strict=True)]
    change, layer, _ = FAULTS["gain"]
    twin = changed(net(), change)
    others = [record(twin, [batch], part=name) for batch, name in zip(data, ("2", "0", "1"), strict=True)]
    equal = compare(normprobe.merge(*parts), normprobe.merge(*(record(net(), [b]) for b in data)))
    assert equal.meta["same_data"]
    assert (equal.layers["error_db"] == -np.inf).all()
    comparison = compare(normprobe.merge(*parts), normprobe.merge(*others))
    assert comparison.first_divergence.layer == layer  # type: ignore[union-attr]
    assert not comparison.layers["beyond"][: comparison.layers["beyond"].argmax()].any()


def test_data_without_a_fingerprint_are_not_taken_for_the_same() -> None:
    """Equal fingerprints of 0 stand for none."""

    def without(recording: Recording) -> Recording:
        tables = recording.tables
        digests = {part: [24, 0] for part in tables.facts["digests"]}
        return Recording(replace(tables, facts={**tables.facts, "digests": digests}))

    other = record(net(), batches(seed=1))
    assert not compare(without(sound()), without(other)).meta["same_data"]
    assert compare(without(sound()), without(record(net()))).meta["paired_by"] == "values"
    assert compare(without(sound()), without(other), same_data=True).first_divergence is not None


def test_columns_are_those_of_the_schema_and_csv_keeps_them(tmp_path: Path) -> None:
    change, _, _ = FAULTS["int4"]
    comparison = against(changed(net(), change))
    assert list(comparison.layers.columns) == list(LAYERS)
    assert list(comparison.unmatched.columns) == list(UNMATCHED)
    paths = comparison.to_csv(tmp_path)
    assert [path.name for path in paths] == ["comparison.csv", "unmatched.csv", "comparison_findings.csv"]
    read = pd.read_csv(paths[0], dtype={"layer": str})
    pd.testing.assert_series_equal(read["error_db"], comparison.layers["error_db"])
    frame = comparison.layers
    frame.loc[:, "error_db"] = 0.0
    assert comparison.layers["error_db"].min() == -np.inf


def test_findings_have_the_columns_of_a_recordings() -> None:
    change, layer, _ = FAULTS["gain"]
    found = against(changed(net(), change)).findings()
    pd.testing.assert_index_equal(found.columns, sound().findings().columns)
    assert (found.dtypes == sound().findings().dtypes).all()
    assert list(found["check"]) == ["first_divergence"]
    assert found["layer"][0] == layer
    assert found["severity"][0] == "error"
    assert found["affected"][0].split("; ")[0] == layer


class TestErrors:
    def test_nothing_measured(self) -> None:
        probe = normprobe.Probe(net())
        with pytest.raises(NoSamplesError, match="the second recording measured nothing"):
            compare(sound(), probe.recording)

    def test_nothing_matches(self) -> None:
        with pytest.raises(RecordingError, match="no layer of Net can be matched with one of Sequential"):
            compare(sound(), record(nn.Sequential(nn.Linear(16, 5))))

    def test_not_a_recording(self) -> None:
        with pytest.raises(RecordingError, match="compare takes two recordings, got Net; load files first"):
            compare(sound(), net())  # type: ignore[arg-type]

    def test_the_same_data_cannot_be_of_other_sizes(self) -> None:
        with pytest.raises(RecordingError, match="cannot be of the same data: 24 examples against 8"):
            compare(sound(), record(net(), batches(1)), same_data=True)

    @pytest.mark.parametrize("level", [0, 1, 7])
    def test_a_level_is_a_probability(self, level: float) -> None:
        with pytest.raises(NormprobeError, match="level is a probability"):
            compare(sound(), sound(), level=level)
