"""Settings in pyproject.toml: where they are found, what they may say, and that the command line wins."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from torch import nn

import normprobe
from normprobe.cli import main


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with a recording that has one error (`nonfinite`)."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8))
    with torch.no_grad():
        model[0].bias[0] = torch.nan
    normprobe.record(model, torch.randn(20, 4)).save("run.normprobe")
    return tmp_path


def write(text: str, path: str = "pyproject.toml") -> None:
    Path(path).write_text(text)


def run(*arguments: str, status: int = 0) -> Result:
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == status, result.output
    return result


def report(*arguments: str, status: int = 0) -> Result:
    return run("report", "run.normprobe", "--no-report", *arguments, status=status)


def test_without_settings_nothing_changes(folder: Path) -> None:
    write("[tool.other]\nfail-on = 'error'\n")
    assert "explain nonfinite" in report().stdout


@pytest.mark.parametrize(
    "text",
    [
        "[tool.normprobe]\nfail-on = 'error'\n",
        "[tool.normprobe]\nfail_on = 'error'\n",
        "[tool.normprobe.report]\nfail-on = 'error'\n",
        "[tool.normprobe]\nfail-on = 'info'\n[tool.normprobe.report]\nfail-on = 'error'\n",
    ],
)
def test_keys_are_names_of_options_for_all_commands_or_one(folder: Path, text: str) -> None:
    write(text)
    assert "(--fail-on error)" in report(status=3).stderr


def test_a_table_of_another_command_does_not_hold(folder: Path) -> None:
    write("[tool.normprobe.export]\nfail-on = 'error'\n")
    report()
    assert run("export", "run.normprobe", "--out", "o", status=3)


def test_the_command_line_wins(folder: Path) -> None:
    write("[tool.normprobe]\nfail-on = 'error'\nignore = ['nonfinite']\n")
    assert "No findings" in report().stdout
    report("--ignore", "dead_features", status=3)
    write("[tool.normprobe]\nfail-on = 'info'\n")
    assert "(--fail-on error)" in report("--fail-on", "error", status=3).stderr


def test_the_nearest_file_with_settings_counts(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write("[tool.normprobe]\nfail-on = 'error'\n")
    inner = folder / "a" / "b"
    inner.mkdir(parents=True)
    write("[project]\nname = 'x'\n", "a/pyproject.toml")
    monkeypatch.chdir(inner)
    assert run("report", "../../run.normprobe", "--no-report", status=3)
    write("[tool.normprobe]\n", "../pyproject.toml")
    assert run("report", "../../run.normprobe", "--no-report")


def test_paths_are_meant_from_the_files_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write("[tool.normprobe.report]\nbaseline = 'run.normprobe'\nsarif = 'findings.sarif'\n")
    inner = folder / "inner"
    inner.mkdir()
    monkeypatch.chdir(inner)
    output = run("report", "../run.normprobe", "--no-report").stdout
    assert "Against ../run.normprobe: 0 new, 1 known, 0 gone." in output
    assert (folder / "findings.sarif").is_file()


def test_a_file_of_ones_own_and_none(folder: Path) -> None:
    write("[tool.normprobe]\nfail-on = 'error'\n")
    write("[tool.normprobe]\nignore = 'nonfinite'\n", "ci.toml")
    assert "No findings" in report("--config", "ci.toml").stdout
    report("--no-config")
    for order in (("--no-config", "--config", "ci.toml"), ("--config", "ci.toml", "--no-config")):
        assert "exclude each other" in report(*order, status=2).stderr


def test_flags_lists_and_numbers(folder: Path) -> None:
    write("[tool.normprobe.report]\njson = true\nselect = ['nonfinite', 'massive']\n")
    assert json.loads(report().stdout)["counts"] == {"error": 1, "warning": 0, "info": 0}
    write("[tool.normprobe.compare]\nno-report = true\nfail-above = -30.5\n")
    assert "Equal" in run("compare", "run.normprobe", "run.normprobe").stdout


def test_a_saved_recording_is_not_refused_for_settings_of_models(folder: Path) -> None:
    write("[tool.normprobe]\nbatch-size = 4\ndtype = 'float32'\nweights-b = 'w.pt'\n")
    report()
    run("compare", "run.normprobe", "run.normprobe", "--no-report")
    assert "--limit cannot change it" in report("--limit", "3", status=2).stderr


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("fail-onn = 'error'", "[tool.normprobe] has no setting 'fail-onn'; did you mean fail-on"),
        (
            "report.fail-above = 1",
            "[tool.normprobe.report] has no setting 'fail-above'; did you mean fail-on",
        ),
        ("reprot.fail-on = 'x'", "[tool.normprobe] has no setting 'reprot'; did you mean report"),
        ("config = 'x'", "no setting 'config'"),
        ("fail-on = 'worst'", "fail-on = 'worst': 'worst' is not one of 'info', 'warning', 'error'"),
        ("batch-size = 0", "batch-size = 0: 0 is not in the range x>=1"),
        ("samples = -1", "samples = -1: '-1' is neither a number from 0 nor 'all'"),
        ("json = 'yes'", "json = 'yes': true or false"),
        ("out = true", "out = True: this is no value of --out"),
        ("out = [", "is no TOML"),
        ("model = 'a.py:b'", "[tool.normprobe] cannot set 'model': MODEL stands on the command line"),
        (
            "report.model = 'a.py:b'",
            "[tool.normprobe.report] cannot set 'model': MODEL stands on the command line",
        ),
        (
            "ignore = ['nonfinte']",
            "ignore = ['nonfinte']: There is no check 'nonfinte'; did you mean nonfinite",
        ),
        ("report.select = 'outlier'", "select = 'outlier': 'outlier' is part of several checks: "),
    ],
)
def test_what_is_no_setting_is_an_error_that_names_file_and_close_keys(
    folder: Path, text: str, said: str
) -> None:
    write(f"[tool.normprobe]\n{text}\n")
    error = report(status=2).stderr
    assert said in error
    assert str(folder / "pyproject.toml") in error


def test_a_file_that_is_named_must_have_settings(folder: Path) -> None:
    write("[project]\n", "ci.toml")
    assert "ci.toml has no [tool.normprobe]" in report("--config", "ci.toml", status=2).stderr
    assert "absent.toml cannot be read" in report("--config", "absent.toml", status=2).stderr


def test_help_needs_no_settings(folder: Path) -> None:
    write("[tool.normprobe]\nnonsense = 1\n")
    assert "--no-config" in run("report", "--help").stdout


def test_every_command_with_options_takes_them() -> None:
    commands: dict[str, Any] = main.commands  # type: ignore[attr-defined]
    without = {name for name, c in commands.items() if not any(p.name == "config" for p in c.params)}
    assert without == {"explain"}
