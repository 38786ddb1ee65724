"""``normprobe compare``: what it prints and writes, and how it ends."""

from __future__ import annotations

import re
from pathlib import Path

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
    assert done.stdout.startswith("float32 against bfloat16: 3 layers agree to rounding.")


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
        "No layer differs by more than other examples give (level 1 %, 40 against 40 "
    )


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (("nets.py:build", "nets.py:port"), 1, "no layer of Sequential can be matched with one of Linear"),
        (("nets.py:build", "absent.normprobe"), 1, "absent.normprobe"),
        (("nets.py:build", "nets.py:absent"), 1, "absent"),
        (("nets.py:build", "nets.py:build", "--out", "nets.py"), 1, "--out nets.py is a file"),
        (("nets.py:build",), 2, "Missing argument 'B'"),
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
