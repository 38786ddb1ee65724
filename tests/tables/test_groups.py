"""Tables of groups: what a file says of them belongs to its sites; names are in an order of their own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import normprobe
from normprobe import RecordingError
from normprobe.tables.measures.groups import group_measures
from normprobe.tables.storage import save_tables
from normprobe.vocabulary import group_order


def recorded(seed: int = 0, **options: Any) -> normprobe.Recording:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8))
    labels = ["10", "b", 2, None]
    x = torch.randn(4, 3, 6, generator=torch.Generator().manual_seed(seed))
    return normprobe.record(model, x, groups=lambda args, kwargs: labels, **options)


def test_groups_are_in_order_of_number_then_of_name() -> None:
    names = ["b", "10", "(none)", "2", "-3", "a", "True"]
    assert sorted(names, key=group_order) == ["-3", "2", "10", "True", "a", "b", "(none)"]
    layers = recorded().layers
    assert layers["group"].tolist() == ["2", "10", "b", "(none)"] * 4
    assert str(layers["group"].dtype) == "string"
    assert list(layers)[:5] == ["layer", "kind", "type", "site", "group"]
    assert list(recorded().features)[:5] == ["layer", "kind", "site", "group", "feature"]


def test_vectors_are_those_of_the_layer() -> None:
    recording = recorded()
    outputs = recording.features.query("layer == '1' and site == 'output'")
    assert (outputs["weight"] == 1).all()
    assert (outputs["bias"] == 0).all()
    assert recording.features["seen_mean"].isna().all()
    assert recording.layers["abs_median"].isna().all()


DAMAGES: list[tuple[str, Any, str]] = [
    ("group_sites", lambda frame: frame.assign(layer="x"), "groups of unknown sites"),
    ("group_sites", lambda frame: frame.assign(n_features=7), "groups of unknown sites"),
    ("group_sites", lambda frame: frame.assign(group="a"), "a group occurs twice"),
    ("group_sites", lambda frame: frame.assign(calls=-1), "negative calls in group_sites"),
    ("group_moments", lambda frame: frame[:-1], "other features of groups"),
    ("group_sites", lambda frame: frame.assign(group=pd.array([None] * len(frame), "string")), "has no name"),
]


@pytest.mark.parametrize(("name", "damage", "says"), DAMAGES)
def test_a_file_whose_groups_are_none_of_its_sites_is_refused(
    tmp_path: Path, name: str, damage: Any, says: str
) -> None:
    tables = recorded().tables
    path = save_tables(replace(tables, **{name: damage(getattr(tables, name))}), tmp_path / "a")
    with pytest.raises(RecordingError, match=says):
        normprobe.load(path)


def test_merging_is_the_same_in_any_order() -> None:
    parts = [recorded(seed, part=name) for seed, name in enumerate("abc")]
    there, back = normprobe.merge(*parts), normprobe.merge(*parts[::-1])
    pd.testing.assert_frame_equal(there.features, back.features)
    pd.testing.assert_frame_equal(there.layers, back.layers)
    assert (there.layers["n_samples"] == 9).all()
    again = normprobe.merge(normprobe.merge(*parts[:2]), parts[2])
    pd.testing.assert_frame_equal(again.layers, there.layers, rtol=1e-12)


def test_a_part_without_a_group_adds_to_the_others() -> None:
    model = nn.LayerNorm(4)
    parts = [
        normprobe.record(model, torch.randn(3, 4), groups=lambda args, kwargs, label=label: [label] * 3)
        for label in ("a", "b")
    ]
    merged = normprobe.merge(*parts)
    assert merged.layers["group"].tolist() == ["a", "b"] * 2
    assert (merged.layers["n_samples"] == 3).all()
    assert (merged.ungrouped.layers["n_samples"] == 6).all()


def test_measures_of_groups_are_of_norms_where_there_are_some() -> None:
    found = group_measures(recorded().tables)
    assert found["layer"].unique().tolist() == ["1"]
    assert found["group"].tolist() == ["2", "10", "b"]
    assert found["ratio"].iloc[0] == found["abs_max"].max() / found["abs_max"].min()
    linear = normprobe.record(nn.Linear(4, 4), torch.randn(3, 4), groups="first")
    assert set(group_measures(linear.tables)["layer"]) <= {""}
    assert group_measures(normprobe.record(nn.Linear(4, 4), torch.randn(3, 4)).tables).empty
    one = normprobe.record(nn.LayerNorm(4), torch.randn(3, 4), groups=lambda args, kwargs: [1, 1, 1])
    assert np.isnan(group_measures(one.tables)["ratio"]).all()
