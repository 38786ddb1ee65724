"""Recordings that keep no sample, or have none: whatever is asked of them answers, or says why not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn

import normprobe
from normprobe import NoSamplesError, Recording
from normprobe.cli import main
from normprobe.report import terminal_text

MODEL = """
import torch
from torch import nn

def build():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 32), nn.LayerNorm(32), nn.ReLU(), nn.Linear(32, 4))
"""


class Faulty(nn.Module):
    """A network with an outlier feature, a massive activation, dead features and stale channels."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.norm = nn.Linear(8, 64), nn.LayerNorm(64)
        self.channels, self.down = nn.BatchNorm1d(64), nn.Linear(64, 4)
        with torch.no_grad():
            self.up.weight[:4] = 0.0
            self.up.bias[:4] = -50.0
            self.up.weight[7] *= 1e4
            self.channels.running_var[3] = 1e-6

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.up(x).relu()
        return torch.as_tensor(self.down(self.channels(hidden) + self.norm(hidden)))


def model() -> nn.Module:
    torch.manual_seed(0)
    return Faulty().eval()


def data(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


DOORS: dict[str, Callable[[Recording, Path], Any]] = {
    "repr": lambda recording, folder: repr(recording),
    "cell": lambda recording, folder: recording._repr_html_(),
    "csv": lambda recording, folder: recording.to_csv(folder / "csv"),
    "parquet": lambda recording, folder: recording.to_parquet(folder / "parquet"),
    "save": lambda recording, folder: normprobe.load(recording.save(folder / "a.normprobe")).layers,
    "merge": lambda recording, folder: normprobe.merge(recording).layers,
    "samples": lambda recording, folder: recording.samples,
    "audit": lambda recording, folder: normprobe.batchnorm.audit(recording),
    "score": lambda recording, folder: normprobe.batchnorm.score(recording),
}
MEASURED_DOORS: dict[str, Callable[[Recording, Path], Any]] = {
    **DOORS,
    "findings": lambda recording, folder: recording.findings(),
    "report": lambda recording, folder: recording.report(folder / "report"),
    "terminal": lambda recording, folder: terminal_text(
        recording.tables, recording.findings(), width=80, unicode=True
    ),
    "summary": lambda recording, folder: str(recording.summary()),
    "outliers": lambda recording, folder: recording.outliers(),
    "layer": lambda recording, folder: recording[recording.layers["layer"].iloc[0]].samples,
    "compare": lambda recording, folder: normprobe.compare(recording, recording).report(folder / "compare"),
}


@pytest.mark.parametrize("door", MEASURED_DOORS)
@pytest.mark.parametrize("options", [{"samples": 0}, {"samples": 0, "values": 0}, {"values": 0}], ids=str)
def test_a_recording_without_kept_samples_is_complete_otherwise(
    door: str, options: dict[str, Any], tmp_path: Path
) -> None:
    recording = normprobe.record(model(), [data(16, 8)], **options)
    assert MEASURED_DOORS[door](recording, tmp_path) is not None


def test_without_kept_samples_the_moments_and_most_findings_are_the_same() -> None:
    kept, none = (normprobe.record(model(), [data(64, 8)], part="a", samples=n) for n in (1024, 0))
    assert len(none.samples) == 0 < len(kept.samples)
    pd.testing.assert_frame_equal(none.features, kept.features)
    without, found = (set(recording.findings()["check"]) for recording in (none, kept))
    assert {"outlier_features", "stale_channels"} <= without == found


def no_sample(x: Tensor) -> Any:
    """The mask of a batch that is all padding."""
    return lambda args, kwargs: torch.zeros(x.shape[:2], dtype=torch.bool)


EMPTY: dict[str, tuple[Tensor, Callable[[Tensor], dict[str, Any]]]] = {
    "no rows": (torch.zeros(0, 8), lambda x: {}),
    "all masked": (data(2, 5, 8), lambda x: {"mask": no_sample(x)}),
}


def of_nothing(case: str) -> Recording:
    """A recording of a model that was called on no sample."""
    x, options = EMPTY[case]
    sequence = nn.Sequential(nn.Linear(8, 16), nn.LayerNorm(16)).eval()
    return normprobe.record(sequence if x.dim() == 3 else model(), [x], **options(x))


@pytest.mark.parametrize("case", EMPTY)
@pytest.mark.parametrize("door", sorted(DOORS.keys() - {"audit", "score"}))
def test_a_recording_of_no_sample_can_be_shown_and_kept(door: str, case: str, tmp_path: Path) -> None:
    assert DOORS[door](of_nothing(case), tmp_path) is not None


@pytest.mark.parametrize("case", EMPTY)
@pytest.mark.parametrize("door", ["findings", "report", "terminal", "compare", "summary"])
def test_a_recording_of_no_sample_is_not_judged(door: str, case: str, tmp_path: Path) -> None:
    recording = of_nothing(case)
    with pytest.raises(NoSamplesError, match=r"nothing was measured|measured nothing"):
        MEASURED_DOORS[door](recording, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("samples", ["0", "1", "all"])
def test_the_command_line_takes_any_number_of_samples(samples: str, tmp_path: Path) -> None:
    (tmp_path / "zero_net.py").write_text(MODEL)
    np.save(tmp_path / "x.npy", data(16, 8).numpy())
    arguments = ["report", f"{tmp_path}/zero_net.py:build", "--data", str(tmp_path / "x.npy")]
    arguments += ["--samples", samples, "--tables", "csv", "--out", str(tmp_path / "report")]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, done.output
    kept = pd.read_csv(tmp_path / "report" / "samples.csv")
    assert len(kept) == {"0": 0, "1": 6, "all": 96}[samples]


def test_the_command_line_judges_no_recording_of_nothing(tmp_path: Path) -> None:
    file = normprobe.Probe(model()).recording.save(tmp_path / "nothing.normprobe")
    for arguments in (
        ["report", str(file), "--out", str(tmp_path / "report")],
        ["report", str(file), "--out", str(tmp_path / "report"), "--json"],
        ["export", str(file), "--out", str(tmp_path / "tables"), "--fail-on", "error"],
    ):
        done = CliRunner().invoke(main, arguments)
        assert done.exit_code == 1
        # A document of no findings would be read as health.
        assert "[]" not in done.stdout
        assert "nothing was measured: none of the 4 layers of Faulty fired" in done.stderr
    assert not (tmp_path / "report").exists()
    done = CliRunner().invoke(main, ["export", str(file), "--out", str(tmp_path / "tables")])
    assert done.exit_code == 0
    assert len(pd.read_csv(tmp_path / "tables" / "ledger.csv")) == 4
