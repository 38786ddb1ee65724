"""Whose error it is: the model's, or a defect of normprobe, whatever functions of both a traceback passes."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import nn

from normprobe.cli import load_or_measure, main
from normprobe.cli.load_or_measure import WITHIN_MODEL, raised_by_model

NETS = """
import torch
from torch import nn
from torch.nn import functional
import normprobe

class ByFunction(nn.Linear):
    def __init__(self):
        super().__init__(4, 3)
        self.norm = nn.LayerNorm(4)
    def forward(self, x):
        return functional.linear(self.norm(x)[:, :2], self.weight)

class ByModule(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.norm = nn.Linear(4, 3), nn.LayerNorm(4)
    def forward(self, x):
        return self.norm(self.fc(x))

class ByAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.attention = nn.LayerNorm(4), nn.MultiheadAttention(8, 2)
    def forward(self, x):
        x = self.norm(x)
        return self.attention(x, x, x)

def swapped():
    model = nn.Sequential(nn.Linear(4, 6), nn.Unflatten(1, (3, 2)), nn.BatchNorm1d(2))
    return normprobe.swap_norms(model, to="rms_norm")

def fine():
    return nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose name, and the names of files in it, are those of normprobe's own."""
    folder = tmp_path / "normprobe" / "capture"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    (folder / "function_mode.py").write_text(NETS)
    np.save("x.npy", np.ones((6, 4), dtype=np.float32))
    return folder


def said(model: str) -> str:
    done = CliRunner().invoke(main, ["layers", f"function_mode.py:{model}", "--data", "x.npy"])
    assert done.exit_code == (1 if done.stderr else 0)
    return done.stderr


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("model", ["ByFunction", "ByModule", "ByAttention", "swapped"])
def test_an_error_of_the_model_is_the_models(model: str) -> None:
    words = said(model)
    assert words.startswith("Error: the forward of ")
    assert "it was given float32 of shape (6, 4); do the data fit the model?" in words


@pytest.mark.usefixtures("folder")
def test_an_error_of_normprobe_is_a_defect(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*_: object, **__: object) -> None:
        raise KeyError("oops")

    assert said("fine") == ""
    monkeypatch.setattr("normprobe.probe.find_layers", wrong)
    assert said("fine").startswith("Error: KeyError: 'oops' (a defect of normprobe;")


def function_of(module: str) -> Callable[..., None]:
    """A function of a module of this name that raises."""
    names = {"__name__": module}
    exec("def wrong(*_): raise KeyError('oops')", names)
    return names["wrong"]  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("module", "models"),
    [
        ("nets", True),
        ("normprobe_nets.models", True),
        ("torch.nn.functional", True),
        *((name, True) for name in sorted(WITHIN_MODEL)),
        ("normprobe.capture.anything", False),
        ("normprobe.probe", False),
    ],
)
def test_a_module_called_by_torch_decides_by_its_name(module: str, models: bool) -> None:
    """Torch calls hooks as it calls the model; those of normprobe are its own."""
    net = nn.Linear(2, 2)
    net.register_forward_pre_hook(function_of(module))
    with pytest.raises(KeyError) as caught:
        net(torch.zeros(1, 2))
    assert raised_by_model(caught.value) is models


def test_what_runs_within_a_model_exists_under_the_names_that_are_looked_for() -> None:
    modules = [importlib.import_module(name) for name in WITHIN_MODEL]
    assert {module.__name__ for module in modules} == WITHIN_MODEL
    assert nn.Module.__call__.__module__ == load_or_measure._CALLS_MODULES
