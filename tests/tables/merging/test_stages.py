"""Stages of a pipeline are united by the names of their layers."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import normprobe
from normprobe import Recording, RecordingError


def whole() -> nn.Sequential:
    torch.manual_seed(0)
    kinds = [nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 2)]
    return nn.Sequential(OrderedDict((f"l{at}", layer) for at, layer in enumerate(kinds)))


def staged(recording: Recording, index: int, count: int = 2) -> Recording:
    tables = recording.tables
    return Recording(replace(tables, facts={**tables.facts, "stage": [index, count]}))


def stages(seed: int, name: str = "") -> list[Recording]:
    """Each stage on what the one before gives."""
    every = list(whole().named_children())
    data: Tensor = torch.randn(9, 6, generator=torch.Generator().manual_seed(seed))
    made = []
    for index, own in enumerate((every[:2], every[2:])):
        model = nn.Sequential(OrderedDict(own))
        made.append(staged(normprobe.record(model, data, part=f"{name}stage {1 - index}"), index))
        with torch.no_grad():
            data = model(data)
    return made


def one(seed: int, part: str) -> Recording:
    return normprobe.record(
        whole(), torch.randn(9, 6, generator=torch.Generator().manual_seed(seed)), part=part
    )


def test_stages_are_the_recording_of_the_whole_model(tmp_path: Path) -> None:
    merged, expected = normprobe.merge(*reversed(stages(0))), one(0, "w")
    pd.testing.assert_frame_equal(merged.features, expected.features, rtol=1e-6)
    columns = ["layer", "kind", "status", "calls", "depth"]
    base, of_whole = (recording.tables.ledger_base[columns] for recording in (merged, expected))
    pd.testing.assert_frame_equal(base, of_whole)
    assert merged.layers["depth"].tolist() == expected.layers["depth"].tolist()
    assert merged.meta["examples"] == 9
    assert "stage" not in merged.meta
    assert normprobe.load(merged.save(tmp_path / "m")).features.equals(merged.features)


def test_stages_of_several_data_merge_at_once_and_run_by_run() -> None:
    runs = stages(0, "a "), stages(1, "b ")
    expected = normprobe.merge(one(0, "a"), one(1, "b"))
    for merged in (
        normprobe.merge(*runs[1], *runs[0]),
        normprobe.merge(*(normprobe.merge(*r) for r in runs)),
    ):
        pd.testing.assert_frame_equal(
            merged.features.drop(columns=["weight", "bias"]),
            expected.features.drop(columns=["weight", "bias"]),
            rtol=1e-6,
        )
        assert merged.meta["examples"] == 18


def test_a_missing_stage_is_said() -> None:
    first, _ = stages(0)
    third = staged(first, 0, 3), staged(stages(0, "x ")[1], 1, 3)
    (said,) = normprobe.merge(*third).meta["warnings"]
    assert said.startswith("of 3 stages 2 are missing")


def test_a_layer_of_other_shapes_is_refused() -> None:
    torch.manual_seed(0)
    made = [normprobe.record(nn.Sequential(nn.Linear(6, n)), torch.randn(3, 6), part=f"{n}") for n in (4, 5)]
    with pytest.raises(RecordingError, match="'0' has different numbers of features"):
        normprobe.merge(*(staged(recording, index) for index, recording in enumerate(made)))


def test_a_stage_and_a_whole_model_are_refused() -> None:
    with pytest.raises(RecordingError, match="first merge the stages of one run"):
        normprobe.merge(stages(0)[0], one(1, "w"))
