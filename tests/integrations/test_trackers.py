"""Trackers without a trainer's loggers: what was written is read back, at steps that go back, too."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from normprobe.errors import NormprobeWarning
from normprobe.integrations.trackers import STEP, Trackers

pytestmark = pytest.mark.filterwarnings("ignore", "error::normprobe.errors.NormprobeWarning")
NAME = "normprobe/a.b/input/variance"
LOGGED = [(0.5, 3), (0.25, 6), (0.125, 4)]  # of a validation that was logged late, say


def write(name: str, folder: Path) -> None:
    to = Trackers([name], folder)
    for value, step in LOGGED:
        to({NAME: value}, step)


def records(file: bytes) -> Iterator[bytes]:
    """The records of a .wandb file: LevelDB's log, blocks of 32 KiB of parts, behind a header of 7 bytes."""
    at, whole = 7, b""
    while at < len(file):
        if (rest := 32768 - at % 32768) < 7:
            at += rest
            continue
        size, kind = struct.unpack_from("<HB", file, at + 4)
        whole += file[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # a whole one, or the last part
            yield whole
            whole = b""


def test_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    write("tensorboard", tmp_path / "runs")
    read = EventAccumulator(str(tmp_path / "runs"), purge_orphaned_data=False).Reload().Scalars(NAME)
    assert [(event.value, event.step) for event in read] == LOGGED


def test_wandb_offline_drops_nothing_behind_the_trainers_own_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = pytest.importorskip("wandb")
    from wandb.proto.wandb_internal_pb2 import Record

    monkeypatch.setenv("WANDB_SILENT", "true")
    run = wandb.init(mode="offline", dir=str(tmp_path), project="normprobe")
    run.log({"loss": 1.0}, step=100)
    write("wandb", tmp_path)
    run.finish()
    wandb.teardown()  # waits until its service has written everything
    (file,) = tmp_path.rglob("*.wandb")
    read, axes = [], []
    for data in records(file.read_bytes()):
        record = Record()
        record.ParseFromString(data)
        items = {item.key or "/".join(item.nested_key): item.value_json for item in record.history.item}
        if NAME in items:
            read.append((json.loads(items[NAME]), json.loads(items[STEP])))
        if record.HasField("metric"):
            axes.append((record.metric.glob_name or record.metric.name, record.metric.step_metric))
    assert read == LOGGED
    assert ("normprobe/*", STEP) in axes


def test_mlflow(tmp_path: Path) -> None:
    mlflow = pytest.importorskip("mlflow")
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'mlflow.db'}")
    mlflow.create_experiment("normprobe", artifact_location=str(tmp_path / "artifacts"))
    mlflow.set_experiment("normprobe")
    with mlflow.start_run() as run:
        write("mlflow", tmp_path)
        Trackers(["mlflow"], tmp_path)({"normprobe/a[0]/input/mean": 1.0}, 3)
    client = mlflow.MlflowClient()
    read = client.get_metric_history(run.info.run_id, NAME)
    assert sorted((metric.step, metric.value) for metric in read) == sorted((s, v) for v, s in LOGGED)
    assert client.get_metric_history(run.info.run_id, "normprobe/a_0_/input/mean")[0].value == 1


def test_trackio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path))
    trackio = pytest.importorskip("trackio")
    trackio.init(project="normprobe", name="run", embed=False)
    write("trackio", tmp_path)
    trackio.finish()
    from trackio.sqlite_storage import SQLiteStorage

    rows = SQLiteStorage.get_logs("normprobe", "run")
    read: list[Any] = [(row[NAME], row[STEP]) for row in rows if NAME in row]
    assert read == LOGGED


@pytest.mark.parametrize("name", ["wandb", "mlflow", "trackio"])
def test_a_tracker_that_no_run_was_begun_with_is_left_alone(name: str, tmp_path: Path) -> None:
    pytest.importorskip(name)
    write(name, tmp_path)


def test_a_tracker_that_is_not_known_is_named() -> None:
    with pytest.warns(NormprobeWarning, match="and not to clearml: give log= a function"):
        Trackers(["tensorboard", "clearml"], "runs")
