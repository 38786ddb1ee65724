"""Outlier features: the rule, the table of them, and who wrote each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import normprobe
from normprobe import Recording
from normprobe.findings.outliers import OutlierFeatures
from normprobe.tables.columns.tables import OUTLIERS

WIDTH = 64


class Branches(nn.Module):
    """A Linear that writes one large feature, a norm that reads it, a gate whose product is larger still."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.write = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.norm, self.up = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH)
        self.down = nn.Linear(WIDTH, WIDTH)
        with torch.no_grad():
            self.write.bias[7] = 90
            self.up.bias[11] = 40

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.embed(x)
        h = h + self.write(h)
        h = self.up(self.norm(h))
        product: torch.Tensor = self.down(h * h.abs())
        return product


def data(rows: int) -> torch.Tensor:
    return torch.randn(rows, WIDTH, generator=torch.Generator().manual_seed(1))


def recorded(rows: int = 200) -> Recording:
    return normprobe.record(Branches().eval(), [data(rows)])


def by_hand(recording: Recording) -> pd.DataFrame:
    """The seven lines that users had to write."""
    f = recording.features
    largest = np.maximum(f["max"].abs(), f["min"].abs())
    middle = largest.groupby([f["layer"], f["site"]]).transform("median")
    found = f.assign(abs_max=largest, ratio=largest / middle).query("ratio > 10 and abs_max > 6")
    return found[(found["layer"] != "embed") | (found["site"] != "input")]


def test_the_outliers_of_every_layer_and_site_are_listed_with_who_wrote_them() -> None:
    recording = recorded()
    outliers = recording.outliers()
    assert list(outliers.columns[:6]) == ["layer", "site", "feature", "abs_max", "ratio", "written_by"]
    assert dict(outliers.dtypes.astype(str)) == {name: dtype for name, (dtype, _) in OUTLIERS.items()}
    rows = [tuple(row) for row in outliers[["layer", "site", "feature", "written_by"]].to_numpy()]
    # What the gate makes of 40 no layer wrote: half of its square is more than up's output reaches.
    assert rows == [
        ("write", "output", 7, "write"),
        ("norm", "input", 7, "write"),
        ("norm", "output", 7, "norm"),
        ("up", "input", 7, "norm"),
        ("up", "output", 11, "up"),
        ("down", "input", 11, ""),
    ]
    expected = by_hand(recording).sort_values(["layer", "site", "feature"])
    shown = outliers.sort_values(["layer", "site", "feature"])
    np.testing.assert_allclose(shown["abs_max"], expected["abs_max"], rtol=1e-12)
    np.testing.assert_allclose(shown["ratio"], expected["ratio"], rtol=1e-12)


def test_the_check_counts_what_the_table_lists_at_inputs() -> None:
    recording = recorded()
    found = recording.findings(["outlier_features"]).iloc[0]
    inputs = recording.outliers().query("site == 'input'")
    assert found["affected"] == "; ".join(inputs["layer"].unique())
    worst = inputs.loc[inputs["ratio"].idxmax()]
    assert (found["layer"], found["feature"]) == (worst["layer"], worst["feature"])
    assert found["value"] == worst["ratio"]
    assert "recording.outliers()" in found["advice"]
    assert "outliers.csv" in found["advice"]


def test_other_limits_list_other_features() -> None:
    recording = recorded()
    assert recording.outliers(least=1e6).empty
    assert recording.outliers(times=1e6).empty
    more = recording.outliers(least=1.0, times=1.5, share=1.0)
    # With a share of all features nothing but the two limits counts.
    f = recording.features.query("not (layer == 'embed' and site == 'input')")
    ratio = f["abs_max"] / f.groupby(["layer", "site"])["abs_max"].transform("median")
    assert len(more) == int(((f["abs_max"] > 1) & (ratio > 1.5)).sum()) > 6


def test_of_few_rows_no_outlier_is_named_and_a_note_says_so(tmp_path: Path) -> None:
    few = recorded(rows=31)
    assert few.outliers().empty
    note = few.outliers().attrs["note"]
    assert note.startswith("Outlier features are not looked for: that takes 32 values per feature")
    assert note.endswith("there are 31 at most.")
    assert f"Note: {note}" in str(few.summary())
    page = few.report(tmp_path, tables="none").read_text("utf-8")
    assert note in page
    assert few.outliers(rows=31).attrs["note"] == recorded(rows=32).outliers().attrs["note"] == ""
    assert few.findings(["outlier_features"]).empty
    assert len(few.outliers(rows=2)) >= 6
    assert len(few.findings([OutlierFeatures(rows=2)])) == 1
    assert len(recorded(rows=32).findings(["outlier_features"])) == 1


def test_a_recording_of_nothing_has_the_columns_and_no_rows() -> None:
    empty = normprobe.Probe(Branches()).recording.outliers()
    assert list(empty.columns) == list(OUTLIERS)
    assert empty.empty


def test_the_table_is_written_beside_the_others(tmp_path: Path) -> None:
    recording = recorded()
    recording.to_csv(tmp_path)
    read = pd.read_csv(tmp_path / "outliers.csv", keep_default_na=False)
    pd.testing.assert_frame_equal(read, recording.outliers(), check_dtype=False)


def test_the_largest_value_and_the_ratio_are_columns_that_follow_a_merge() -> None:
    halves = [normprobe.record(Branches().eval(), [part]) for part in data(200).split(100)]
    whole, merged = recorded(), normprobe.merge(*halves)
    for recording in (whole, merged):
        layers, features = recording.layers, recording.features
        largest = np.maximum(features["min"].abs(), features["max"].abs())
        np.testing.assert_array_equal(features["abs_max"], largest)
        groups = features.groupby(["layer", "site"], sort=False)["abs_max"]
        np.testing.assert_array_equal(layers["abs_max"], groups.max())
        np.testing.assert_allclose(layers["feature_ratio"], groups.max() / groups.median(), rtol=1e-14)
    columns = ["layer", "site", "abs_max", "feature_ratio"]
    pd.testing.assert_frame_equal(merged.layers[columns], whole.layers[columns], rtol=1e-5)


def test_a_ratio_to_a_median_of_0_and_of_nothing_is_missing() -> None:
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4)).eval()
    with torch.no_grad():
        model[0].weight.zero_()
        model[0].weight[0, 0] = 1
    x = torch.ones(3, 4)
    layers = normprobe.record(model, [x]).layers.set_index(["layer", "site"])
    assert layers.loc[("0", "input"), "feature_ratio"] == 1
    assert np.isnan(layers.loc[("0", "output"), "feature_ratio"])
    assert layers.loc[("0", "output"), "abs_max"] == 1
    x[:, 1] = torch.nan
    layers = normprobe.record(model, [x]).layers.set_index(["layer", "site"])
    # One feature of the four has no finite value, and is not among those of the median.
    assert layers.loc[("0", "input"), ["abs_max", "feature_ratio"]].tolist() == [1, 1]
    assert layers.loc[("0", "output"), ["abs_max", "feature_ratio"]].isna().all()


@pytest.mark.parametrize(
    ("limit", "allowed"),
    [
        ({"times": None}, "times must be a number of at least 0, got None"),
        ({"times": float("nan")}, "times must be a number of at least 0, got nan"),
        ({"times": "x"}, "times must be a number of at least 0, got 'x'"),
        ({"least": -1}, "least must be a number of at least 0, got -1"),
        ({"share": 2}, "share must be a number from 0 to 1, got 2"),
        ({"rows": True}, "rows must be a number of at least 0, got True"),
    ],
)
def test_limits_out_of_range_are_errors_in_words(limit: dict[str, Any], allowed: str) -> None:
    with pytest.raises(normprobe.NormprobeError, match=f"^{allowed}$"):
        recorded().outliers(**limit)
