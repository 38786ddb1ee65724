"""The command in several processes of torchrun: the numbers of one process, one report, one line of error."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import normprobe

MODEL = """
import os
import torch
from torch import nn

def build():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 12), nn.LayerNorm(12), nn.Linear(12, 4))

class Fails(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x):
        if os.environ.get("RANK") == "1":
            raise ValueError("not on this one")
        return self.linear(x)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parallel")
    (folder / "model.py").write_text(MODEL)
    np.save(folder / "x.npy", np.random.default_rng(0).normal(size=(330, 8)).astype("float32"))
    return folder


def torchrun(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    root = str(Path(normprobe.__file__).parents[1])
    environment = os.environ | {"PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*command, "-m", "normprobe", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_report_has_the_numbers_and_samples_of_one_process(folder: Path) -> None:
    options = ["--data", "x.npy", "--batch-size", "32", "--samples", "40", "--no-report"]
    done = torchrun(folder, "report", "model.py:build", *options, "--save", "all.normprobe")
    assert (done.returncode, done.stdout.count("Saved")) == (0, 1), done.stderr
    sys.path.insert(0, str(folder))
    try:
        model = __import__("model").build()
    finally:
        sys.path.remove(str(folder))
    data = torch.from_numpy(np.load(folder / "x.npy"))
    alone = normprobe.record(model, list(data.split(32)), samples=40)
    found = normprobe.load(folder / "all.normprobe")
    for name in ("layers", "features", "samples", "ledger"):
        one, all_ = getattr(alone, name), getattr(found, name)
        left = [column for column in ("part", "min_part", "max_part") if column in one]
        pd.testing.assert_frame_equal(all_.drop(columns=left), one.drop(columns=left), rtol=1e-6, atol=1e-7)
    facts = ["forwards", "measured", "examples", "rows"]
    assert [found.meta[name] for name in facts] == [alone.meta[name] for name in facts]
    assert len(found.windows) == 1


def test_an_error_of_one_process_ends_all_with_one_line(folder: Path) -> None:
    done = torchrun(folder, "report", "model.py:Fails", "--data", "x.npy", "--out", "none")
    lines = [line for line in done.stderr.splitlines() if line.startswith("Error:")]
    assert done.returncode == 1
    assert len(lines) == 1
    assert "process 1 of 2" in lines[0]
    assert "not on this one" in lines[0]
    assert not (folder / "none").exists()


def test_a_shard_is_an_index_and_how_many() -> None:
    model, data = torch.nn.Sequential(torch.nn.Linear(4, 4)), torch.randn(6, 4)
    for wrong in (2, (0,), (2, 2), (-1, 2), (0, 0)):
        with pytest.raises(normprobe.NormprobeError, match=r"shard|rank|world_size"):
            normprobe.record(model, [data], shard=wrong)  # type: ignore[arg-type]
    with pytest.raises(normprobe.NormprobeError, match="no rank or world_size"):
        normprobe.record(model, [data], shard=(0, 2), rank=0, world_size=2)


KILLED = """
import time
import torch
from torch import distributed, nn
import normprobe

distributed.init_process_group("gloo")
rank = distributed.get_rank()
model = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8))
with normprobe.Probe(model, window=3, out="run.windows", samples=8) as probe:
    for step in range(1000):
        if rank == 1 and step == 8:
            raise ValueError("rank one fails")
        model(torch.randn(4, 8)).sum().backward()
        probe.step(step)
        distributed.barrier() if step < 8 else time.sleep(0.02)
"""


def test_all_that_was_measured_is_on_disk_when_one_process_fails(folder: Path) -> None:
    """torchrun sends SIGTERM to the others."""
    (folder / "killed.py").write_text(KILLED)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    root = str(Path(normprobe.__file__).parents[1])
    environment = os.environ | {"PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "killed.py"], cwd=folder, env=environment, capture_output=True, timeout=120, check=False
    )
    assert done.returncode == 1
    recording = normprobe.load(folder / "run.windows")
    assert recording.meta["parts"] == ["rank0", "rank1"]
    of_part = {window["part"]: window for window in recording.meta["windows"]}
    assert of_part["rank1"]["last_step"] == 7  # its own open window was closed as the error left the block
    assert of_part["rank0"]["last_step"] >= 7
    calls = sum(window["forwards"] for window in recording.meta["windows"])
    assert set(recording.layers["calls"]) == {calls}
    kept = recording.samples.query("layer == '0' and site == 'input'")
    # Each process has the numbers that are dealt to it.
    assert (kept["example"] % 2).tolist() == (kept["part"] == "rank1").astype(int).tolist()
