"""The residual stream and further kinds from a terminal."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner, Result

import normprobe
from normprobe.cli import main

NETS = """
import torch
from torch import nn

class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.linear, self.act = nn.LayerNorm(8), nn.Linear(8, 8), nn.GELU()

    def forward(self, x):
        return x + self.act(self.linear(self.norm(x)))

def build():
    torch.manual_seed(0)
    return nn.Sequential(*[Block() for _ in range(3)])
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model of blocks and its data."""
    monkeypatch.chdir(tmp_path)
    Path("nets.py").write_text(NETS)
    np.save("x.npy", np.random.default_rng(0).standard_normal((6, 5, 8)).astype(np.float32))
    return tmp_path


def run(*arguments: str, status: int = 0) -> Result:
    """What a command prints."""
    done = CliRunner().invoke(
        main, ["--no-config", *arguments] if arguments[0].startswith("-") else arguments
    )
    assert done.exit_code == status, done.output
    return done


def test_the_stream_is_measured_and_exported(folder: Path) -> None:
    run("export", "nets.py:build", "--data", "x.npy", "--residual", "--out", "out")
    branches = pd.read_csv("out/branches.csv", dtype={"layer": str})
    assert branches["layer"].tolist() == ["0", "1", "2"]
    run("report", "nets.py:build", "--data", "x.npy", "--residual", "--save", "a.normprobe")
    loaded = normprobe.load("a.normprobe").branches
    assert loaded["variance_ratio"].tolist() == pytest.approx(branches["variance_ratio"].tolist())
    assert "residual" not in run("layers", "nets.py:build", "--data", "x.npy").stdout


def test_kinds_take_further_ones_and_the_default(folder: Path) -> None:
    every = run("layers", "nets.py:build", "--data", "x.npy", "--kinds", "default,activation").stdout
    assert sum("activation" in line for line in every.splitlines()) == 3
    assert sum("layer_norm" in line for line in every.splitlines()) == 3
    alone = run("layers", "nets.py:build", "--data", "x.npy", "--kinds", "residual").stdout
    assert sum("residual" in line for line in alone.splitlines()) == 3
    assert "linear" not in alone
