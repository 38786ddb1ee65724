"""The command that says how a format fits."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch
from click.testing import CliRunner, Result

import normprobe
from normprobe.cli import main
from tests.helpers.recordings import batches, net

MODEL = """
import torch
from torch import nn

def build():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 40), *[nn.LayerNorm(40)] * 1)
"""


def run(*args: str | Path) -> Result:
    return CliRunner().invoke(main, [str(arg) for arg in args])


@pytest.fixture
def model(tmp_path: Path) -> str:
    (tmp_path / "m.py").write_text(MODEL)
    torch.save(torch.randn(64, 6), tmp_path / "x.pt")
    return f"{tmp_path / 'm.py'}:build"


def data(tmp_path: Path) -> Path:
    import numpy as np

    path = tmp_path / "x.npy"
    np.save(path, np.random.default_rng(0).standard_normal((64, 6)).astype(np.float32))
    return path


def test_a_model_is_measured_with_counts_and_the_worst_sites_are_printed(tmp_path: Path, model: str) -> None:
    saved = tmp_path / "run.normprobe"
    options = ("--data", data(tmp_path), "--out", tmp_path / "out", "--save", saved)
    done = run("fit", model, "--format", "fp8_e4m3", *options)
    assert done.exit_code == 0, done.output
    assert "snr_db" in done.output
    assert "below_normal" in done.output
    recording = normprobe.load(saved)
    written = pd.read_csv(tmp_path / "out" / "fit.csv", keep_default_na=False, na_values=[""])
    pd.testing.assert_series_equal(written["snr_db"], recording.fit("fp8_e4m3")["snr_db"])
    assert not recording.quantiles.empty


def test_a_saved_recording_has_what_it_has(tmp_path: Path) -> None:
    path = normprobe.record(net(), batches()).save(tmp_path / "a.normprobe")
    done = run("fit", path, "--format", "nvfp4")
    assert done.exit_code == 0, done.output
    assert "block_snr_db" in done.output
    assert "flushed" not in done.output
    refused = run("fit", path, "--format", "nvfp4", "--quantiles")
    assert refused.exit_code == 2
    assert "--quantiles cannot change it" in refused.output
    assert run("fit", path, "--format", "int3").exit_code == 2


def test_other_commands_measure_what_is_asked_for(tmp_path: Path, model: str) -> None:
    out = tmp_path / "tables"
    asked = ("--kurtosis", "--quantiles", "--data", data(tmp_path))
    assert run("export", model, "--out", out, *asked).exit_code == 0
    assert "kurtosis" in pd.read_csv(out / "layers.csv")
    assert (out / "quantiles.csv").is_file()
