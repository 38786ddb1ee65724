"""``normprobe compare``: what it prints and writes, and how it ends."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

import normprobe
from normprobe.cli import main

NETS = """
import torch
from torch import nn

def build(gain=1.0):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 3))
    model[1].weight.data *= gain
    return model

def faulty():
    return build(1.02)

def port():
    return nn.ModuleDict({"other": nn.Linear(4, 9)})["other"]
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with models and data."""
    monkeypatch.chdir(tmp_path)
    Path("nets.py").write_text(NETS)
    np.save("x.npy", np.random.default_rng(0).normal(size=(40, 4)).astype("float32"))
    return tmp_path


def run(*arguments: str, status: int = 0) -> Result:
    result = CliRunner().invoke(main, ["compare", *arguments])
    assert result.exit_code == status, result.output
    return result


def test_equal_models_end_with_0(folder: Path) -> None:
    done = run("nets.py:build", "nets.py:build", "--data", "x.npy")
    assert done.stdout.startswith("Equal: no difference at any of 3 layers.\n")
    assert re.search(
        r"^Report   comparison/comparison.html  \(.* MB in all, .*; 3 CSV files and 2 figures beside it\)$",
        done.stdout,
        re.MULTILINE,
    )
    assert Path("comparison/comparison.html").exists()
    assert done.stderr == ""


def test_a_difference_ends_with_3_and_is_the_first_thing_said(folder: Path) -> None:
    done = run("nets.py:build", "nets.py:faulty", "--data", "x.npy", "--out", "there", status=3)
    assert done.stdout.startswith(
        "The first layer that differs is 1 (its output): error −34 dB, introduced there; "
        "its input agrees to rounding.\n"
    )
    assert "nets.py:build (float32) against nets.py:faulty (float32), 3 layers compared on" in done.stdout
    assert Path("there/comparison.csv").exists()


def test_recordings_and_models_compare(folder: Path) -> None:
    done = CliRunner().invoke(
        main, ["export", "nets.py:build", "--data", "x.npy", "--out", "o", "--save", "a.normprobe"]
    )
    assert done.exit_code == 0
    assert run("a.normprobe", "a.normprobe").stdout.startswith("Equal")
    assert run("a.normprobe", "nets.py:build", "--data", "x.npy").stdout.startswith("Equal")
    assert "differs is 1" in run("nets.py:faulty", "a.normprobe", "--data", "x.npy", status=3).stdout


def test_b_has_a_dtype_of_its_own(folder: Path) -> None:
    done = run("nets.py:build", "nets.py:build", "--data", "x.npy", "--dtype-b", "bfloat16")
    assert done.stdout.startswith("float32 against bfloat16: 3 layers agree to the rounding of bfloat16.")


def test_b_has_weights_of_its_own(folder: Path) -> None:
    import torch

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.LayerNorm(8), torch.nn.Linear(8, 3))
    torch.save(model.state_dict(), "first.pt")
    model[2].bias.data.zero_()
    torch.save(model.state_dict(), "second.pt")
    options = ("--data", "x.npy", "--weights", "first.pt")
    assert run("nets.py:build", "nets.py:build", *options).stdout.startswith("Equal")
    done = run("nets.py:build", "nets.py:build", *options, "--weights-b", "second.pt", status=3)
    assert done.stdout.startswith("The first layer that differs is 2 (its output)")


def test_other_data_are_said_to_be(folder: Path) -> None:
    for name, seed in (("a", 1), ("b", 2)):
        np.save(f"{name}.npy", np.random.default_rng(seed).normal(size=(40, 4)).astype("float32"))
        done = CliRunner().invoke(
            main,
            ["export", "nets.py:build", "--data", f"{name}.npy", "--out", "o", "--save", f"{name}.normprobe"],
        )
        assert done.exit_code == 0, done.output
    done = run("a.normprobe", "b.normprobe")
    assert done.stdout.startswith(
        "No difference beyond chance (40 and 40 examples: only large ones would show)."
    )


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (("nets.py:build", "nets.py:port"), 1, "no layer of Sequential can be matched with one of Linear"),
        (("nets.py:build", "absent.normprobe"), 1, "absent.normprobe"),
        (("nets.py:build", "nets.py:absent"), 1, "absent"),
        (("nets.py:build", "nets.py:build", "--out", "nets.py"), 1, "--out nets.py is a file"),
        (("nets.py:build",), 2, "Missing argument 'B'"),
        (
            ("nets.py:build", "nets.py:build", "--fail-above", "nan"),
            2,
            "--fail-above is a number of decibels",
        ),
    ],
)
def test_errors_are_one_line(folder: Path, arguments: tuple[str, ...], status: int, said: str) -> None:
    done = run(*arguments, "--data", "x.npy", status=status)
    assert said in done.stderr
    assert status == 2 or len(done.stderr.splitlines()) == 1
    assert done.stdout == ""


def test_options_cannot_change_a_recording(folder: Path) -> None:
    normprobe.record(__import__("torch").nn.Linear(4, 4), __import__("torch").zeros(3, 4)).save("a.normprobe")
    for options in (("--dtype-b", "float16"), ("--limit", "3")):
        done = run("a.normprobe", "a.normprobe", *options, status=2)
        assert f"a.normprobe is a saved recording: {options[0]} cannot change it" in done.stderr


CONV = """
import torch
from torch import nn

def build():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv1d(4, 6, 1), nn.Flatten(), nn.LayerNorm(6), nn.Linear(6, 3))
"""


@pytest.fixture
def checkpoints(folder: Path) -> Path:
    """Beside the models, one with a convolution, and four states of it."""
    import torch

    Path("conv.py").write_text(CONV)
    np.save("c.npy", np.random.default_rng(0).normal(size=(40, 4, 1)).astype("float32"))
    scope: dict[str, Any] = {}
    exec(CONV, scope)
    for name, change in {
        "a": lambda m: None,
        "conv": lambda m: m[0].weight.data.mul_(1.1),
        "small": lambda m: m[3].weight.data.mul_(1.01),
        "nan": lambda m: m[3].bias.data[:1].fill_(torch.nan),
    }.items():
        model = scope["build"]()
        change(model)
        torch.save(model.state_dict(), f"{name}.pt")
    return folder


def of_weights(a: str, b: str, *options: str, status: int = 0) -> Result:
    models = ("conv.py:build", "conv.py:build", "--weights", a, "--weights-b", b)
    return run(*models, "--data", "c.npy", *options, status=status)


def document(*arguments: str, status: int = 0) -> dict[str, Any]:
    done = of_weights(*arguments, "--json", "--no-report", status=status)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_both_sides_have_their_weights_in_their_names(checkpoints: Path) -> None:
    done = of_weights("a.pt", "small.pt", status=3)
    assert "conv.py:build + a.pt (float32) against conv.py:build + small.pt (float32), 2" in done.stdout
    page = Path("comparison/comparison.html").read_text()
    assert "<title>conv.py:build + a.pt against conv.py:build + small.pt: normprobe comparison" in page
    assert "first: conv.py:build + a.pt, float32" in page
    again = of_weights("a.pt", "a.pt")
    assert (
        "conv.py:build + a.pt (first, float32) against conv.py:build + a.pt (second, float32)" in again.stdout
    )
    assert "\nReplaced the report of conv.py:build + a.pt against conv.py:build + small.pt of" in again.stdout
    named = document("a.pt", "small.pt", "--name", "old", "--name-b", "new", status=3)
    assert (named["a"]["name"], named["b"]["name"]) == ("old", "new")
    one = document("a.pt", "small.pt", "--name", "old", status=3)
    assert (one["a"]["name"], one["b"]["name"]) == ("old", "conv.py:build + small.pt")


def test_recordings_of_one_name_are_told_apart_by_their_files(checkpoints: Path) -> None:
    for name in ("first", "second"):
        done = CliRunner().invoke(
            main, ["export", "nets.py:build", "--data", "x.npy", "--out", "o", "--save", f"{name}.normprobe"]
        )
        assert done.exit_code == 0, done.output
    done = run("first.normprobe", "second.normprobe", "--no-report")
    assert (
        "nets.py:build in first.normprobe (float32) against nets.py:build in second.normprobe" in done.stdout
    )


def test_a_convolution_that_differs_is_named(checkpoints: Path) -> None:
    done = of_weights("a.pt", "conv.pt", "--no-report", status=3)
    assert "before any layer compared: 0.weight differs by about 10 % (not measured).\n" in done.stdout
    assert "data" not in done.stdout
    assert not Path("comparison").exists()


def test_json_is_all_of_stdout(checkpoints: Path) -> None:
    done = of_weights("a.pt", "small.pt", "--json", status=3)
    found = json.loads(done.stdout)
    assert "The first layer that differs is 3" in done.stderr
    assert list(found) == [
        "format", "a", "b", "same_data", "verdict", "verdict_code", "sentences", "first_divergence",
        "largest_error", "report", "fail_above", "counts", "layers", "unmatched", "causes", "not_measured",
        "findings", "new_findings", "gone_findings",
    ]  # fmt: skip
    assert found["verdict"].startswith("The first layer that differs is 3 (its output): error −39 dB")
    assert found["verdict_code"] == "differs"
    first = found["first_divergence"]
    assert (first["layer"], first["site"], first["differs"]) == ("3", "output", ["weight"])
    assert found["largest_error"]["error_db"] == first["error_db"]
    assert first["relative_error"] == pytest.approx(10 ** (first["error_db"] / 20))
    assert (found["a"]["weights"], found["b"]["weights"]) == ("a.pt", "small.pt")
    assert found["counts"] == {
        "layers": 2, "differ": 1, "introduce": 1, "unmatched": 0,
        "findings": {"error": 1, "warning": 0, "info": 0},
    }  # fmt: skip
    norm, linear = found["layers"]
    assert norm["sites"]["output"]["error_db"] is None, "no error"
    assert norm["sites"]["output"]["relative_error"] == 0
    assert linear["sites"]["output"]["beyond"] is True
    assert linear["differs"] == ["its weight differs by 1 %"]
    assert found["report"] == "comparison/comparison.html"


def test_fail_above_allows_smaller_errors(checkpoints: Path) -> None:
    for limit, status in (("-30", 0), ("-50", 3), ("-60.5", 3), ("0", 0)):
        found = document("a.pt", "small.pt", "--fail-above", limit, status=status)
        assert found["fail_above"] == float(limit)
        assert found["verdict_code"] == "differs"
    assert document("a.pt", "a.pt", "--fail-above", "-200")["verdict_code"] == "equal"
    document("a.pt", "nan.pt", "--fail-above", "100", status=3)
    # What is measured is the outputs: an input that differs alone is none.
    quiet = of_weights("a.pt", "small.pt", "-q", "--no-report", "--fail-above", "-50", status=3)
    assert quiet.stdout == ""
    assert quiet.stderr == "Failed: error −39.0 dB at 3 (output), above --fail-above -50\n"
    assert of_weights("a.pt", "small.pt", "-q", "--no-report", "--fail-above", "-30").output == ""
    broken = of_weights("a.pt", "nan.pt", "-q", "--no-report", "--fail-above", "-10", status=3)
    assert broken.stderr == "Failed: NaN or Inf at 3 (output), above --fail-above -10\n"


def test_what_exceeds_the_limit_is_named_not_what_differs_first(folder: Path) -> None:
    import torch

    def recorded(name: str, examples: int, change: Any) -> None:
        scope: dict[str, Any] = {}
        exec(NETS, scope)
        model = scope["build"]()
        change(model)
        x = np.random.default_rng(examples).normal(size=(examples, 4)).astype("float32")
        normprobe.record(model, torch.from_numpy(x)).save(name)

    recorded("a.normprobe", 40, lambda model: None)

    def change(model: Any) -> None:
        model[0].weight.data.mul_(1.01)
        model[2].bias.data.add_(1)

    recorded("small.normprobe", 40, change)
    done = run("a.normprobe", "small.normprobe", "-q", "--no-report", "--fail-above", "-20", status=3)
    assert re.fullmatch(r"Failed: error −?\d+\.\d dB at 2 \(output\), above --fail-above -20\n", done.stderr)
    loud = run("a.normprobe", "small.normprobe", "--no-report", "--fail-above", "-20", status=3)
    assert "The first layer that differs is 0" in loud.stdout
    assert loud.stderr == done.stderr
    recorded("few.normprobe", 4, lambda model: None)
    recorded("others.normprobe", 3, lambda model: model[2].bias.data.add_(9))
    few = run("few.normprobe", "others.normprobe", "-q", "--no-report", "--fail-above", "-40", status=3)
    assert re.fullmatch(r"Failed: error −?\d+\.\d dB at \d \(output\), above --fail-above -40\n", few.stderr)


def test_an_input_that_holds_nan_is_where_they_begin() -> None:
    import torch
    from torch import nn

    class Dividing(nn.Module):
        """A division by 0 on the way to a Linear."""

        def __init__(self, by: float) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.norm, self.out, self.by = nn.LayerNorm(4), nn.Linear(4, 2), by

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.out(self.norm(x) / self.by)
            return y

    x = torch.randn(20, 4)
    comparison = normprobe.compare(normprobe.record(Dividing(1.0), x), normprobe.record(Dividing(0.0), x))
    assert comparison.fails(above=-10)
    from normprobe.divergence import error_above

    assert error_above(comparison.differences, -10) == "NaN or Inf at out (input)"
    assert error_above(normprobe.compare(*[normprobe.record(Dividing(1.0), x)] * 2).differences, -10) == ""


@pytest.mark.parametrize("above", ["x", float("nan"), True])
def test_a_limit_that_is_no_number_is_refused_in_words(above: Any) -> None:
    import torch

    recording = normprobe.record(torch.nn.Linear(4, 2), torch.randn(20, 4))
    with pytest.raises(normprobe.NormprobeError, match="above is a number of decibels, such as -30, got"):
        normprobe.compare(recording, recording).fails(above=above)


def test_findings_that_are_new_in_b_or_gone(checkpoints: Path) -> None:
    worse = document("a.pt", "nan.pt", status=3)
    assert [(f["check"], f["layer"], f["change"]) for f in worse["new_findings"]] == [
        ("nonfinite", "3", "new")
    ]
    assert worse["gone_findings"] == []
    assert worse["first_divergence"]["error_db"] is None
    assert worse["first_divergence"]["relative_error"] is None
    better = document("nan.pt", "a.pt", status=3)
    assert [f["layer"] for f in better["gone_findings"]] == ["3"]
    text = of_weights("a.pt", "nan.pt", "--no-report", status=3).stdout
    assert "error    NaN or Inf at 3 (new)\n" in text
    assert "         normprobe explain nonfinite\nAgainst the first: 1 new, 0 known, 0 gone.\n" in text


def test_a_comparison_side_by_side_knows_no_findings_of_the_two() -> None:
    import torch

    model = torch.nn.Linear(4, 4)
    comparison = normprobe.compare_live(model, model, torch.randn(6, 4))
    assert comparison.to_dict()["new_findings"] is None
    assert not comparison.fails()
    with pytest.raises(normprobe.RecordingError, match="compare_live keeps no recordings"):
        comparison.finding_changes()
