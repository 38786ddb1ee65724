"""Windows on disk: what a run leaves, how it is resumed, and that nothing counts twice."""

from __future__ import annotations

import gc
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import normprobe
from normprobe.errors import RecordingError
from normprobe.tables.frames import Tables
from normprobe.windows import rollups
from tests.windows.test_windows import Net, data, run, same_run

STEPS = ["phase", "first_step", "last_step", "forwards"]


def written(folder: Path, count: int = 10, **options: Any) -> normprobe.Recording:
    """A run of so many steps whose windows of four are written."""
    options = {"window": 4, "samples": 20, "values": 4, "out": folder, **options}
    return run(data(count), steps=list(range(count)), **options)


def resumed(folder: Path, step: int, count: int, **options: Any) -> normprobe.Recording:
    """The same run, gone on behind a step in another probe."""
    options = {"window": 4, "samples": 20, "values": 4, "part": "run", **options}
    model = Net().train()
    with normprobe.Probe(model, out=folder, resume_from=step, **options) as probe, torch.no_grad():
        for batch in data(count)[step + 1 :]:
            model(batch)
            probe.step()
    return probe.recording


def files(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


def test_the_folder_is_the_recording(tmp_path: Path) -> None:
    recording = written(tmp_path)
    loaded = normprobe.load(tmp_path)
    same_run(loaded.tables, recording.tables)
    same_run(loaded.tables, written(tmp_path / "whole", window=None).tables)
    assert loaded.windows[STEPS].to_numpy().tolist() == [
        ["train", 0, 3, 4],
        ["train", 4, 7, 4],
        ["train", 8, 9, 2],
    ]
    assert loaded.windows["file"].tolist() == [str(file) for file in files(tmp_path) if file.is_file()]
    same_run(loaded.window(1).tables, normprobe.load(loaded.windows["file"][1]).tables)
    assert loaded.over_time("features", phase="train")["window"].nunique() == 3


def test_closed_windows_are_on_disk_and_few_of_them_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rollups, "_PENDING", 2)
    model = Net()
    gc.collect()
    before = sum(type(held) is Tables for held in gc.get_objects())
    with normprobe.Probe(model, window=2, out=tmp_path) as probe, torch.no_grad():
        for at, batch in enumerate(data(12)):
            model(batch)
            probe.step(at)
            gc.collect()
            # Those that wait to be merged for a rollup, and what was merged of it.
            assert sum(type(held) is Tables for held in gc.get_objects()) <= before + 2
        # What was not closed yet, too, is read in the block.
        model(data(1)[0])
        assert probe.recording.windows["forwards"].tolist() == [2] * 6 + [1]
    assert normprobe.load(tmp_path).windows["forwards"].tolist() == [2] * 6 + [1]


def test_a_resumed_run_is_the_run_that_was_not_killed(tmp_path: Path) -> None:
    whole = written(tmp_path / "whole", 14)
    written(tmp_path / "killed", 9)  # windows end at steps 3, 7 and 8
    found = resumed(tmp_path / "killed", 7, 14)
    assert found.windows[STEPS].to_numpy().tolist() == [
        ["train", 0, 3, 4],
        ["train", 4, 7, 4],
        ["train", 8, 11, 4],
        ["train", 12, 13, 2],
    ]
    same_run(found.tables, whole.tables)
    same_run(normprobe.load(tmp_path / "killed").tables, whole.tables)


def test_windows_past_the_checkpoint_are_dropped_so_that_no_step_counts_twice(tmp_path: Path) -> None:
    written(tmp_path, 10)
    found = resumed(tmp_path, 5, 10)
    assert found.windows[["first_step", "last_step"]].to_numpy().tolist() == [[0, 3], [6, 9]]
    assert found.samples["call"].max() < 8
    assert found.layers["calls"].tolist() == [8] * 6


def test_nothing_is_lost_where_windows_are_closed_at_the_checkpoint(tmp_path: Path) -> None:
    model = Net().train()
    options: dict[str, Any] = {"window": 4, "samples": 20, "values": 4, "part": "run"}
    with normprobe.Probe(model, out=tmp_path, **options) as probe, torch.no_grad():
        for at, batch in enumerate(data(10)):
            model(batch)
            probe.step()
            if at == 5:
                probe.close_windows()
    found = resumed(tmp_path, 5, 10)
    assert found.windows[["first_step", "last_step"]].to_numpy().tolist() == [[0, 3], [4, 5], [6, 9]]
    same_run(found.tables, run(data(10), steps=list(range(10)), samples=20, values=4).tables)


def test_a_first_start_may_say_that_it_resumes(tmp_path: Path) -> None:
    assert resumed(tmp_path / "new", -1 + 1, 5).windows[STEPS].to_numpy().tolist() == [["train", 1, 4, 4]]


def test_a_nameless_part_goes_on_by_its_name(tmp_path: Path) -> None:
    first = written(tmp_path, 8, part=None)
    found = resumed(tmp_path, 7, 10, part=None)
    assert found.meta["parts"] == first.meta["parts"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "holds windows of an earlier run: go on with it by resume_from="),
        ({"resume_from": 7, "samples": 5}, "the windows to go on with are of samples 20, this probe of 5"),
        ({"resume_from": -1}, "resume_from must be a whole number of at least 0, or None, got -1"),
        ({"resume_from": 1, "out": None}, "say where they are, by out="),
        ({"max_windows": 1}, "max_windows must be a whole number of at least 2, or None, got 1"),
    ],
)
def test_a_run_that_does_not_fit_is_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    written(tmp_path)
    given = {"out": tmp_path, "part": "run", "samples": 20, "values": 4, **options}
    before = files(tmp_path)
    with pytest.raises(normprobe.NormprobeError, match=message):
        normprobe.Probe(Net(), **given)
    if "samples" not in options:
        assert files(tmp_path) == before


def test_several_parts_share_a_folder(tmp_path: Path) -> None:
    """As ranks do: the windows of the same steps are one over all of them."""
    parts = [
        run(data(6, seed=at), steps=list(range(6)), window=3, samples=20, out=tmp_path, part=f"rank{at}")
        for at in range(3)
    ]
    found = normprobe.load(tmp_path)
    assert found.meta["parts"] == ["rank0", "rank1", "rank2"]
    assert found.windows[STEPS].to_numpy().tolist() == [["train", 0, 2, 9], ["train", 3, 5, 9]]
    merged = normprobe.merge(*parts)
    same_run(found.tables, merged.tables)
    assert merged.windows[STEPS].to_numpy().tolist() == found.windows[STEPS].to_numpy().tolist()
    assert merged.window(0).layers["calls"].tolist() == [9] * 6
    with pytest.raises(normprobe.NormprobeError, match="holds windows of 3 parts: say which one goes on"):
        normprobe.Probe(Net(), out=tmp_path, resume_from=5)


@pytest.mark.parametrize("on_disk", [True, False])
def test_a_long_run_keeps_at_most_so_many_windows(tmp_path: Path, on_disk: bool) -> None:
    options: dict[str, Any] = {"samples": 20, "values": 4}
    out = tmp_path if on_disk else None
    found = run(data(23), steps=list(range(23)), window=1, max_windows=5, out=out, **options)
    windows = found.windows
    assert len(windows) == 5
    assert windows["first_step"].tolist() == [0, *(windows["last_step"][:-1] + 1)]
    # None is much longer than the others.
    assert windows["forwards"].max() <= 8
    same_run(found.tables, run(data(23), steps=list(range(23)), **options).tables)
    assert len(files(tmp_path)) == (5 if on_disk else 0)


def test_a_process_killed_while_windows_become_one_counts_none_twice(tmp_path: Path) -> None:
    recording = written(tmp_path / "fine")
    shutil.copytree(tmp_path / "fine", tmp_path / "killed")
    written(tmp_path / "killed2", max_windows=2)
    # The merge is written, what it holds is not yet removed.
    for file in files(tmp_path / "killed2"):
        shutil.copy(file, tmp_path / "killed" / file.name)
    found = normprobe.load(tmp_path / "killed")
    assert len(found.windows) == 2 < len(files(tmp_path / "killed"))
    same_run(found.tables, recording.tables)
    # Nor once the merge is dropped: what it held is past the checkpoint, too.
    windows = resumed(tmp_path / "killed", 5, 10).windows
    assert windows[["first_step", "last_step"]].to_numpy().tolist() == [[0, 3], [6, 9]]


def test_what_is_half_written_is_passed_over(tmp_path: Path) -> None:
    recording = written(tmp_path)
    (tmp_path / ".normprobe-0000-1-abc").write_bytes(b"PK half a file")
    (tmp_path / "notes.txt").write_text("mine")
    same_run(normprobe.load(tmp_path).tables, recording.tables)


def test_a_foreign_recording_by_the_name_of_a_window_is_refused(tmp_path: Path) -> None:
    recording = written(tmp_path)
    with normprobe.Probe(Net()) as probe:
        for train in (True, False):
            probe.model.train(train)(data(1)[0])
    probe.recording.save(tmp_path / "window-x.normprobe")
    with pytest.raises(RecordingError, match=r"window-x.normprobe is not one window of a run"):
        normprobe.load(tmp_path)
    assert recording.windows["forwards"].sum() == 10


def test_a_disk_that_is_full_does_not_end_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any) -> None:
        raise RecordingError("cannot write: No space left on device")

    monkeypatch.setattr("normprobe.windows.folder.save_tables", full)
    with pytest.warns(normprobe.NormprobeWarning, match="a window stays in memory: cannot write"):
        recording = written(tmp_path / "full")
    monkeypatch.undo()
    same_run(recording.tables, written(tmp_path / "fine").tables)


def test_an_error_closes_what_is_open(tmp_path: Path) -> None:
    model = Net()
    with pytest.raises(ZeroDivisionError), normprobe.Probe(model, window=4, out=tmp_path) as probe:  # noqa: PT012
        for at, batch in enumerate(data(6)):
            model(batch)
            probe.step(at)
        raise ZeroDivisionError
    assert normprobe.load(tmp_path).windows["last_step"].tolist() == [3, 5]
