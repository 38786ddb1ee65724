"""Rollups: a run that is read through them is the run that is read window by window."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import normprobe
from normprobe.errors import RecordingError
from normprobe.tables.measures.history import History
from normprobe.tables.measures.history_frames import COLUMNS
from normprobe.tables.storage import load_further, load_tables, save_tables
from normprobe.windows import rollups
from tests.windows.test_folder import resumed, written
from tests.windows.test_windows import same_run


@pytest.fixture(autouse=True)
def three_windows_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollups, "SIZE", 3)
    monkeypatch.setattr(rollups, "_PENDING", 2)


class Dying(nn.Module):
    """Feature 0 of what the last layer reads is dead but in step 2, feature 1 always."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear, self.norm, self.head = nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 2)
        self.step = 0

    def forward(self, x: Tensor) -> Tensor:
        alive = torch.ones(6)
        alive[0], alive[1] = float(self.step == 2), 0.0
        out: Tensor = self.head(self.norm(self.linear(x)) * alive)
        return out


def train(folder: Path, steps: int = 11) -> normprobe.Recording:
    """Windows of one step, with gradients, and of validation in between."""
    model = Dying()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    generator = torch.Generator().manual_seed(1)
    with normprobe.Probe(model, window=1, out=folder, gradients=True, part="run") as probe:
        for step in range(steps):
            model.train()
            model.step = step
            model(torch.randn(5, 4, generator=generator)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            if step % 2:
                with probe.phase("validation"), torch.no_grad():
                    model.eval()(torch.randn(3, 4, generator=generator))
            probe.step(step)
    return probe.recording


def named(folder: Path, what: str) -> list[Path]:
    return sorted(folder.glob(f"{what}-*"))


def one_by_one(folder: Path) -> normprobe.Recording:
    """The run as it is read without its rollups."""
    aside = [(file, file.rename(file.with_suffix(".aside"))) for file in named(folder, "rollup")]
    assert aside
    try:
        return normprobe.load(folder)
    finally:
        for file, moved in aside:
            moved.rename(file)


def history_of(recording: normprobe.Recording) -> History:
    source = recording.tables.history_source
    assert source is not None
    found: History = source()
    return found


def test_a_run_read_through_rollups_is_the_run(tmp_path: Path) -> None:
    kept = train(tmp_path)
    assert len(named(tmp_path, "window")) == 16
    assert len(named(tmp_path, "rollup")) == 5
    loaded, plain = normprobe.load(tmp_path), one_by_one(tmp_path)
    for found in (loaded, kept):
        same_run(found.tables, plain.tables)
        pd.testing.assert_frame_equal(found.windows, plain.windows)
        pd.testing.assert_frame_equal(found.parameters, plain.parameters, check_dtype=False)
        pd.testing.assert_frame_equal(found.findings(), plain.findings())


def test_its_history_is_that_of_its_windows(tmp_path: Path) -> None:
    train(tmp_path)
    found, plain = history_of(normprobe.load(tmp_path)), history_of(one_by_one(tmp_path))
    pd.testing.assert_frame_equal(found.windows, plain.windows, check_dtype=False)
    pd.testing.assert_frame_equal(found.sites, plain.sites, check_dtype=False)
    pd.testing.assert_frame_equal(found.parameters, plain.parameters, check_dtype=False)
    assert found.measured == plain.measured
    assert found.dead.keys() == plain.dead.keys()
    for key, streak in plain.dead.items():
        np.testing.assert_array_equal(found.dead[key], streak)
    # Dead since step 3 of 11, and from the beginning.
    assert plain.dead["train", "head"][:2].tolist() == [8, 11]


def test_a_window_is_read_by_itself(tmp_path: Path) -> None:
    train(tmp_path)
    loaded = normprobe.load(tmp_path)
    same_run(loaded.window(4).tables, normprobe.load(loaded.windows["file"][4]).tables)
    assert len(loaded.over_time("layers", phase="validation")) == 5 * 6


@pytest.mark.parametrize("step", [3, 7, 15])
def test_a_resumed_run_has_rollups_of_its_own(tmp_path: Path, step: int) -> None:
    """Of windows that were dropped and written anew none is read through what stood for them."""
    whole = written(tmp_path / "whole", 30, window=1)
    written(tmp_path / "killed", 21, window=1)
    before = named(tmp_path / "killed", "rollup")
    found = resumed(tmp_path / "killed", step, 30, window=1)
    assert len(before) == 7
    assert len(named(tmp_path / "killed", "rollup")) >= 8
    same_run(found.tables, whole.tables)
    loaded = normprobe.load(tmp_path / "killed")
    same_run(loaded.tables, whole.tables)
    pd.testing.assert_frame_equal(history_of(loaded).sites, history_of(whole).sites, check_dtype=False)


def test_windows_that_changed_are_read_one_by_one(tmp_path: Path) -> None:
    train(tmp_path)
    file = named(tmp_path, "window")[1]
    tables = normprobe.load(file).tables
    normprobe.Recording(replace(tables, facts={**tables.facts, "name": "another name"})).save(file)
    assert normprobe.load(tmp_path).meta["name"] == "Dying; another name"


def test_a_window_that_is_gone_is_not_read(tmp_path: Path) -> None:
    train(tmp_path)
    named(tmp_path, "window")[1].unlink()
    loaded = normprobe.load(tmp_path)
    assert len(loaded.windows) == 15
    same_run(loaded.tables, one_by_one(tmp_path).tables)


def test_windows_that_are_merged_have_no_rollup(tmp_path: Path) -> None:
    written(tmp_path, 12, window=1, max_windows=8)
    assert not named(tmp_path, "rollup")
    written(tmp_path / "first", 12, window=1)
    resumed(tmp_path / "first", 11, 20, window=1, max_windows=8)
    assert not named(tmp_path / "first", "rollup")


def test_a_new_run_does_not_begin_beside_an_old_rollup(tmp_path: Path) -> None:
    written(tmp_path, 12, window=1)
    for file in named(tmp_path, "window"):
        file.unlink()
    with pytest.raises(normprobe.NormprobeError, match="holds windows of an earlier run"):
        written(tmp_path, 12, window=1)


def test_several_parts_have_rollups_of_their_own(tmp_path: Path) -> None:
    for part in ("0", "1"):
        written(tmp_path, 8, window=1, part=part)
    assert len(named(tmp_path, "rollup")) == 4
    same_run(normprobe.load(tmp_path).tables, one_by_one(tmp_path).tables)


def test_a_rollup_is_a_recording(tmp_path: Path) -> None:
    written(tmp_path, 3, window=1)
    same_run(normprobe.load(named(tmp_path, "rollup")[0]).annotate(rollup=None).tables, _with_entry(tmp_path))


def _with_entry(folder: Path) -> Any:
    return one_by_one(folder).annotate(rollup=None).tables


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"history_windows": ("window", 7)}, "its history is of other windows"),
        ({"history_sites": ("window", 7)}, "history_sites of unknown windows"),
        ({"history_dead": ("layer", pd.NA)}, "names are missing in its history"),
        ({"history_sites": ("site", pd.NA)}, "texts are missing in its history"),
    ],
)
def test_a_damaged_rollup_is_named(tmp_path: Path, change: dict[str, tuple[str, Any]], message: str) -> None:
    written(tmp_path, 3, window=1)
    (file,) = named(tmp_path, "rollup")
    tables, frames = load_tables(file), load_further(file, COLUMNS)
    for name, (column, value) in change.items():
        frames[name].loc[0, column] = value
    save_tables(tables, file, further=frames, columns=COLUMNS)
    with pytest.raises(RecordingError, match=f"is damaged: {message}; remove it"):
        normprobe.load(tmp_path)


def test_a_recording_in_the_place_of_a_rollup_is_refused(tmp_path: Path) -> None:
    recording = written(tmp_path, 3, window=1)
    recording.save(named(tmp_path, "rollup")[0])
    with pytest.raises(RecordingError, match="does not name its windows"):
        normprobe.load(tmp_path)


def test_a_rollup_that_cannot_be_written_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise RecordingError("no room on the disk")

    monkeypatch.setattr(rollups.OpenRollup, "write", full)
    with pytest.warns(normprobe.NormprobeWarning, match="windows will be read one by one: no room"):
        recording = written(tmp_path, 3, window=1)
    same_run(normprobe.load(tmp_path).tables, recording.tables)
