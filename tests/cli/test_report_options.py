"""``normprobe report`` in CI: what it names, writes and prints, and which findings fail it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from click.testing import CliRunner, Result
from torch import nn

import normprobe
from normprobe.cli import main
from normprobe.cli.sarif_file import location

NETS = """
import torch
from torch import nn

def build():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 3))
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in: a model, its weights, and recordings of a sound and a broken one."""
    monkeypatch.chdir(tmp_path)
    Path("nets.py").write_text(NETS)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 3))
    torch.save(model.state_dict(), "a.pt")
    x = torch.randn(40, 4)
    torch.save(x, "x.pt")
    import numpy as np

    np.save("x.npy", x.numpy())
    normprobe.record(model, x).save("good.normprobe")
    with torch.no_grad():
        model[2].bias[0] = torch.nan
    normprobe.record(model, x).annotate(name="broken").save("bad.normprobe")
    return tmp_path


def run(*arguments: str, status: int = 0) -> Result:
    result = CliRunner().invoke(main, ["report", *arguments])
    assert result.exit_code == status, result.output
    return result


def document(*arguments: str, status: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run(*arguments, "--json", status=status).stdout)
    return found


class TestNames:
    def test_weights_are_in_title_terminal_and_json(self, folder: Path) -> None:
        model = ("nets.py:build", "--data", "x.npy", "--weights", "a.pt", "--tables", "none")
        result = run(*model, "--save", "run.normprobe")
        assert "Sequential from nets.py:build + a.pt, float32" in result.stdout
        assert (
            "<title>nets.py:build + a.pt: normprobe report</title>" in Path("report/report.html").read_text()
        )
        meta = normprobe.load("run.normprobe").meta
        assert (meta["name"], meta["weights"]) == ("nets.py:build + a.pt", "a.pt")
        found = document("run.normprobe", "--no-report")
        assert (found["model"], found["weights"]) == ("nets.py:build + a.pt", "a.pt")
        assert found["seconds"] == meta["seconds"] > 0

    def test_a_name_of_ones_own_is_used_instead(self, folder: Path) -> None:
        options = ("--data", "x.npy", "--weights", "a.pt", "--no-report", "--name", "nightly")
        found = document("nets.py:build", *options)
        assert (found["model"], found["weights"]) == ("nightly", "a.pt")
        assert document("good.normprobe", "--no-report", "--name", "nightly")["model"] == "nightly"

    def test_without_weights_there_are_none(self, folder: Path) -> None:
        found = document("nets.py:build", "--data", "x.npy", "--no-report")
        assert (found["model"], found["weights"], found["report"]) == ("nets.py:build", None, None)


class TestBaseline:
    def test_only_what_is_new_fails(self, folder: Path) -> None:
        known = ("bad.normprobe", "--no-report", "--fail-on", "info", "--baseline")
        assert "Against bad.normprobe: 0 new, 1 known, 0 gone." in run(*known, "bad.normprobe").stdout
        result = run(*known, "good.normprobe", status=3)
        assert "NaN or Inf at 2 (new)" in result.stdout
        assert result.stderr == (
            "Failed: 1 new finding of severity info or worse (--fail-on info --baseline good.normprobe)\n"
        )
        run("bad.normprobe", "--no-report", "--fail-on", "info", status=3)

    def test_what_is_gone_is_said_and_fails_nothing(self, folder: Path) -> None:
        result = run("good.normprobe", "--no-report", "--fail-on", "info", "--baseline", "bad.normprobe")
        assert "Against bad.normprobe: 0 new, 0 known, 1 gone.\ngone     NaN or Inf at 2" in result.stdout

    def test_json_has_them_in_lists(self, folder: Path) -> None:
        found = document("bad.normprobe", "--no-report", "--baseline", "good.normprobe")
        assert [(f["check"], f["change"]) for f in found["findings"]] == [("nonfinite", "new")]
        assert (found["gone"], found["baseline"]) == ([], "good.normprobe")
        assert found["counts"] == {"error": 1, "warning": 0, "info": 0, "new": 1, "gone": 0}

    def test_a_baseline_of_another_model_is_refused(self, folder: Path) -> None:
        class Other(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.fc = nn.Linear(4, 3)

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                out: torch.Tensor = self.fc(x)
                return out

        normprobe.record(Other(), torch.randn(4, 4)).save("other.normprobe")
        error = run("good.normprobe", "--no-report", "--baseline", "other.normprobe", status=1).stderr
        assert "--baseline other.normprobe is of another model (Other): none of its 1 layers" in error

    def test_other_data_are_a_note_and_the_same_are_none(self, folder: Path) -> None:
        model = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 3))
        normprobe.record(model, torch.randn(40, 4)).annotate(data="40 rows").save("other.normprobe")
        options = ("bad.normprobe", "--no-report", "--json", "--baseline")
        result = run(*options, "other.normprobe")
        assert "Note: the baseline saw other data (40 rows)\n" in result.stderr
        assert json.loads(result.stdout)["notes"] == ["the baseline saw other data (40 rows)"]
        same = run(*options, "good.normprobe")
        assert "Note" not in same.stderr
        assert json.loads(same.stdout)["notes"] == []
        assert run(*options, "other.normprobe", "-q").stderr == ""

    def test_one_that_cannot_be_read_is_an_error_before_anything_runs(self, folder: Path) -> None:
        error = run("nets.py:absent", "--baseline", "absent.normprobe", status=1).stderr
        assert "absent.normprobe" in error
        assert not Path("report").exists()


class TestSelection:
    def test_ignored_checks_neither_show_nor_fail(self, folder: Path) -> None:
        options = ("bad.normprobe", "--fail-on", "info", "--tables", "csv")
        assert "No findings" in run(*options, "--ignore", "nonfin").stdout
        assert "No findings" in Path("report/report.html").read_text()
        assert Path("report/findings.csv").read_text().count("\n") == 1
        run(*options, "--select", "nonfinite", "--no-report", status=3)
        run(*options, "--select", "dead_features", "--select", "massive", "--no-report")

    def test_an_unknown_one_names_close_ones(self, folder: Path) -> None:
        assert "did you mean nonfinite" in run("bad.normprobe", "--ignore", "nonfinte", status=2).stderr
        assert "part of several checks" in run("bad.normprobe", "--select", "outlier", status=2).stderr


class TestNotes:
    def test_those_of_a_saved_recording_are_printed_and_written(self, folder: Path) -> None:
        recording = normprobe.load("good.normprobe")
        recording.annotate(warnings=["parts of other weights"]).save("noted.normprobe")
        result = run("noted.normprobe")
        assert "\nNote: parts of other weights\n" in result.stdout
        assert "parts of other weights" in Path("report/report.html").read_text()
        assert document("noted.normprobe", "--no-report")["notes"] == ["parts of other weights"]
        assert run("noted.normprobe", "--no-report", "-q").output == ""

    def test_those_of_a_model_are_printed_once(self, folder: Path) -> None:
        import numpy as np

        np.save("x8.npy", np.ones((3, 4), dtype="uint8"))
        result = run("nets.py:build", "--data", "x8.npy", "--no-report", "--json")
        assert result.stderr.count("Note: uint8") == 1
        assert [note[:5] for note in json.loads(result.stdout)["notes"]] == ["uint8"]


def test_weights_for_a_file_ask_for_its_callable(folder: Path) -> None:
    error = run("nets.py", "--weights", "a.pt", "--no-report", status=1).stderr
    assert error == (
        "Error: nets.py is a Python file; say which callable of it builds the model: nets.py:callable\n"
    )


class TestQuiet:
    def test_nothing_is_printed_where_nothing_fails(self, folder: Path) -> None:
        result = run("bad.normprobe", "-q", "--tables", "none", "--save", "again.normprobe")
        assert (result.stdout, result.stderr) == ("", "")
        assert Path("report/report.html").exists()

    def test_what_fails_is_printed_on_stderr_with_its_advice(self, folder: Path) -> None:
        result = run("bad.normprobe", "--quiet", "--no-report", "--fail-on", "error", status=3)
        assert result.stdout == ""
        lines = result.stderr.splitlines()
        assert lines[0] == "error    NaN or Inf at 2"
        assert lines[3:] == [
            "         normprobe explain nonfinite",
            "Failed: 1 finding of severity error (--fail-on error)",
        ]

    def test_errors_stay(self, folder: Path) -> None:
        assert run("absent.normprobe", "-q", status=1).stderr.startswith("Error: ")

    def test_a_document_is_printed_all_the_same(self, folder: Path) -> None:
        result = run("bad.normprobe", "-q", "--no-report", "--json")
        assert json.loads(result.stdout)["counts"]["error"] == 1
        assert result.stderr == ""

    def test_notes_are_left_out(self, folder: Path) -> None:
        import numpy as np

        np.save("x8.npy", np.ones((3, 4), dtype="uint8"))
        arguments = ("nets.py:build", "--data", "x8.npy", "--no-report")
        assert "Note: uint8" in run(*arguments).stderr
        assert run(*arguments, "-q").stderr == ""


def test_without_a_report_nothing_is_written(folder: Path) -> None:
    before = sorted(folder.rglob("*"))
    result = run("bad.normprobe", "--no-report")
    assert "Report " not in result.stdout
    assert sorted(path for path in folder.rglob("*") if "__pycache__" not in path.parts) == before


class TestSarif:
    def test_the_file_names_the_model_and_its_line(self, folder: Path) -> None:
        (folder / ".git").mkdir()
        result = run("nets.py:build", "--data", "x.npy", "--no-report", "--sarif", "out.sarif")
        assert re.search(r"^Wrote    out.sarif  \(", result.stdout, re.MULTILINE)
        run("bad.normprobe", "--no-report", "--sarif", "out.sarif", "--baseline", "good.normprobe")
        (found,) = json.loads(Path("out.sarif").read_text())["runs"][0]["results"]
        assert (found["ruleId"], found["baselineState"]) == ("nonfinite", "new")
        place = found["locations"][0]["physicalLocation"]
        assert place["artifactLocation"]["uri"] == "bad.normprobe"

    def test_where_a_model_is(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (folder / ".git").mkdir()
        (folder / "ckpt").mkdir()
        (folder / "ckpt" / "config.json").write_text("{}")
        (folder / "pkg").mkdir()
        (folder / "pkg" / "zoo.py").write_text("class Net: ...\ndef build(): ...\n")
        assert location("nets.py:build", "nets.py:build + a.pt") == ("nets.py", 5)
        assert location("pkg.zoo:build", "pkg.zoo:build") == ("pkg/zoo.py", 2)
        assert location("./ckpt", "./ckpt") == ("ckpt/config.json", 1)
        assert location("run.normprobe", "nets.py:build + a.pt") == ("nets.py", 5)
        assert location("org/model", "org/model") == ("pyproject.toml", 1)
        (folder / "README.md").write_text("")
        assert location("org/model", "org/model") == ("README.md", 1)
        monkeypatch.chdir(folder / "pkg")
        assert location("zoo.py:absent", "zoo.py:absent") == ("pkg/zoo.py", 1)
        assert location("/etc/hostname", "x") == ("README.md", 1), "no file of the repository"

    def test_a_file_that_cannot_be_written_is_an_error_before_anything_runs(self, folder: Path) -> None:
        assert "no folder" in run("nets.py:absent", "--sarif", "no/out.sarif", status=1).stderr


class TestTables:
    def test_the_terminal_says_what_was_written(self, folder: Path) -> None:
        def line(*options: str) -> str:
            output = run("good.normprobe", *options).stdout
            found = re.search(r"^Report .*$", output, re.MULTILINE)
            assert found is not None
            files = [path for path in Path("report").rglob("*") if path.is_file()]
            total = sum(path.stat().st_size for path in files)
            assert f"({total / 1e6:.1f} MB in all" in found[0]
            return found[0]

        assert line().endswith("; 4 CSV files and 2 Parquet files beside it)")
        assert line("--tables", "csv").endswith("; 6 CSV files beside it)")
        assert line("--tables", "parquet").endswith("; 6 Parquet files beside it)")
        assert line("--tables", "none").endswith("most in report.html)")

    def test_a_report_of_another_model_is_said_to_be_replaced(self, folder: Path) -> None:
        assert "Replaced" not in run("good.normprobe").stdout
        assert "Replaced" not in run("good.normprobe").stdout
        output = run("bad.normprobe", "--tables", "none").stdout
        assert re.search(r"^Replaced the report of Sequential of \d\d:\d\d$", output, re.MULTILINE)


class TestGroups:
    """Samples told apart, on the page, in the terminal and in the tables."""

    NETS = """
import torch
from torch import nn

def build():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 3))

def batches():
    yield torch.randn(5, 6, 4, generator=torch.Generator().manual_seed(0))
"""

    @pytest.fixture
    def net(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
        monkeypatch.chdir(tmp_path)
        Path("nets.py").write_text(self.NETS)
        return "nets.py:build"

    def test_the_first_position(self, net: str) -> None:
        printed = run(net, "--data", "nets.py:batches", "--groups", "first", "--tables", "csv").stdout
        assert "Samples: 5 first, 25 rest. What they read, in order of execution:" in printed
        row = next(line for line in printed.splitlines() if re.match(r"1 .*×$", line))
        layers = pd.read_csv("report/layers.csv", dtype={"layer": str})
        held = layers.query("layer == '1' and site == 'input'").set_index("group")["abs_max"]
        assert [float(text) for text in row.split()[1:3]] == pytest.approx(held[["first", "rest"]], rel=1e-2)
        page = Path("report/report.html").read_text()
        section = page[page.index('<section id="groups">') :]
        assert "<th>max |value|<br>first</th><th>max |value|<br>rest</th>" in section
        assert section.index("panel-1") < section.index("</section>")

    def test_without_there_is_no_such_section(self, net: str) -> None:
        printed = run(net, "--data", "nets.py:batches").stdout
        assert "Samples:" not in printed
        assert 'id="groups"' not in Path("report/report.html").read_text()

    def test_what_the_model_does_not_say_is_an_error(self, net: str) -> None:
        result = run(net, "--data", "nets.py:batches", "--groups", "special", status=1)
        assert "names none; give groups=tokenizer" in result.stderr

    def test_a_saved_recording_is_what_it_is(self, net: str) -> None:
        run(net, "--data", "nets.py:batches", "--groups", "first", "--save", "a.normprobe", "--no-report")
        assert "Samples: 5 first, 25 rest" in run("a.normprobe", "--no-report").stdout
        assert "--groups cannot change it" in run("a.normprobe", "--groups", "first", status=2).stderr
