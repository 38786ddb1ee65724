"""The command line: findings as JSON, and running statistics collected anew."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from normprobe.cli import main
from normprobe.findings import COLUMNS

STALE = """
import torch
from torch import nn

def build():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)).double()
    with torch.no_grad():
        model[1].weight.fill_(1.5)
    return model
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with a model whose running statistics were never updated, and data."""
    monkeypatch.chdir(tmp_path)
    Path("stale.py").write_text(STALE)
    np.save("x.npy", np.random.default_rng(0).normal(size=(100, 4)))
    return tmp_path


def run(*arguments: str, status: int = 0) -> Result:
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == status, result.output
    return result


def test_findings_as_json_are_all_of_stdout_and_the_text_goes_to_stderr(folder: Path) -> None:
    result = CliRunner().invoke(
        main, ["report", "stale.py:build", "--data", "x.npy", "--json", "--fail-on", "error"]
    )
    assert result.exit_code == 3
    document = json.loads(result.stdout)
    assert {name: document[name] for name in ("format", "model", "data", "layers", "fired")} == {
        "format": 1, "model": "stale.py:build", "data": "100 rows from x.npy", "layers": 3, "fired": 3,
    }  # fmt: skip
    assert document["counts"] == {"error": 1, "warning": 0, "info": 0}
    (finding,) = document["findings"]
    assert list(finding) == list(COLUMNS)
    assert (finding["check"], finding["layer"]) == ("stale_running_statistics", "1")
    assert (finding["feature"], finding["affected"], finding["layers_affected"]) == (None, ["1"], 1)
    assert "never updated" in result.stderr
    assert "Report " in result.stderr
    assert Path("report/report.html").exists()


def test_recalibrate_writes_new_weights_that_mend_the_model_and_never_over_old_ones(folder: Path) -> None:
    command = ["report", "stale.py:build", "--data", "x.npy", "--recalibrate"]
    for name in ("new.safetensors", "new.pt"):
        output = run(*command, name).output
        assert f"Wrote    {name}" in output
        assert "never updated" in output
        assert "No findings" in run("report", "stale.py:build", "--data", "x.npy", "--weights", name).output
        written = Path(name).read_bytes()
        assert "never written over others" in run(*command, name, status=1).output
        assert Path(name).read_bytes() == written
    assert not list(folder.glob(".*"))


def test_recalibrate_is_refused_before_anything_runs(folder: Path) -> None:
    assert "endings" in run("report", "stale.py:build", "--recalibrate", "new.onnx", status=1).output
    assert "no folder" in run("report", "stale.py:build", "--recalibrate", "no/new.pt", status=1).output
    run("report", "stale.py:build", "--data", "x.npy", "--save", "a.normprobe")
    assert "needs the model" in run("report", "a.normprobe", "--recalibrate", "new.pt", status=2).output


def test_a_model_without_batch_norm_cannot_be_recalibrated(folder: Path) -> None:
    Path("plain.py").write_text("import torch\ndef build():\n    return torch.nn.Linear(4, 2).double()\n")
    output = run("report", "plain.py:build", "--data", "x.npy", "--recalibrate", "new.pt", status=1).output
    assert "the model has no BatchNorm to recalibrate: Linear has linear" in output
    assert not Path("new.pt").exists()
