"""The survey of libraries: a model of each where they are installed, and that it would notice faults."""

from __future__ import annotations

import csv
import importlib.util
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import normprobe
from benchmarks.survey import check as survey_check
from benchmarks.survey.libraries import __main__ as survey
from benchmarks.survey.libraries import check as library_check
from benchmarks.survey.libraries import verdicts
from benchmarks.survey.libraries.behaviour import fits
from benchmarks.survey.libraries.catalogue import LIBRARIES
from benchmarks.survey.libraries.check import examine, known_classes
from benchmarks.survey.libraries.entry import entry, numbers, padded
from normprobe.findings import CHECKS
from normprobe.layers import entry_rule
from normprobe.vocabulary import KINDS

SURVEY = Path(survey_check.__file__).parent
INSTALLED = importlib.util.find_spec("x_transformers") is not None


@pytest.mark.skipif(not INSTALLED, reason="benchmarks/survey/requirements.txt is not installed")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("library", list(LIBRARIES))
def test_a_model_of_a_library_is_measured_right(library: str) -> None:
    first = next(LIBRARIES[library]())
    result = examine(first)
    assert [fault for fault in result.faults if not verdicts.is_known(library, first.name, fault)] == []
    assert result.layers > 0
    assert "open" not in [verdicts.of_warning(library, first.name, *told[:2]) for told in result.warnings]


class Model(nn.Module):
    """A Linear and a norm."""

    def __init__(self, norm: Callable[[int], nn.Module] = nn.LayerNorm) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(6, 8), norm(8)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.norm(self.linear(x))


def sorts(make: Callable[[], nn.Module], *args: Any, **options: Any) -> list[tuple[str, str]]:
    """What is found wrong with a model: sort and layer."""
    return [(fault.sort, fault.layer) for fault in examine(entry("model", make, *args, **options)).faults]


def test_a_model_without_faults_has_none() -> None:
    x, real = numbers(3, 7, 6), padded(7, 4, 5)
    found = examine(entry("model", Model, x, mask=real, real=real))
    assert found.faults == []
    assert (found.layers, found.fired, found.exact, found.judged) == (2, 2, 2, 1)
    assert sorts(Model, x, train=True) == []
    assert sorts(lambda: Model(nn.BatchNorm1d), numbers(20, 6), train=True) == []


def test_a_layer_that_is_not_found_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    known = entry_rule.registered_view
    hidden = lambda module: (True, None) if isinstance(module, nn.LayerNorm) else known(module)  # noqa: E731
    monkeypatch.setattr(entry_rule, "registered_view", hidden)
    assert sorts(Model, numbers(3, 7, 6)) == [("missed", "norm")]


class OnWeights(Model):
    """A model that reads off the weight of a layer by calling it on an identity matrix, as DoRA does."""

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return super().forward(x) + self.linear(torch.eye(6)).sum()


def test_calls_on_weights_are_no_data() -> None:
    assert sorts(OnWeights, numbers(3, 7, 6)) == []


class Plain(nn.Module):
    """A LayerNorm of its own."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(size)), 1e-6

    def forward(self, x: Tensor) -> Tensor:
        d = x - x.mean(-1, keepdim=True)
        return self.weight * d / (d.square().mean(-1, keepdim=True) + self.eps).sqrt()


class CalledRms(Plain):
    """The same, of which normprobe is told that it is an RMSNorm."""


class CalledOffset(Plain):
    """The same, of which normprobe is told that it applies 1 + weight."""


normprobe.register_view(CalledRms, kind="rms_norm")
normprobe.register_view(CalledOffset, kind="layer_norm", weight=lambda module: 1 + module.weight)


def test_a_wrong_kind_is_a_fault() -> None:
    assert sorts(lambda: Model(Plain), numbers(3, 7, 6)) == []
    assert ("kind", "norm") in sorts(lambda: Model(CalledRms), numbers(3, 7, 6))


def test_a_wrong_weight_is_a_fault() -> None:
    assert sorts(lambda: Model(CalledOffset), numbers(3, 7, 6)) == [("weight", "norm")]


def test_padding_that_is_counted_is_a_fault() -> None:
    real = padded(7, 4, 5)
    assert sorts(Model, numbers(3, 7, 6), real=real) == [("mask", "linear"), ("mask", "norm")]


def test_inexact_statistics_are_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    exact = survey_check.two_pass

    def shifted(data: Any, axis: int = 0) -> dict[str, Any]:
        return exact(data, axis) | {"mean": exact(data, axis)["mean"] + 1e-3}

    monkeypatch.setattr(survey_check, "two_pass", shifted)
    assert sorts(Model, numbers(3, 7, 6)) == [("inexact", "linear"), ("inexact", "norm")]


def test_other_outputs_are_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library_check, "same", lambda a, b: False)
    assert sorts(Model, numbers(3, 7, 6)) == [("outputs", "")]


def test_an_error_is_counted_and_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken() -> nn.Module:
        raise ValueError("no such model")

    def absent() -> Any:
        raise ImportError("there is none")

    libraries = {
        "one": lambda: iter([entry("bad", broken), entry("good", Model, numbers(3, 7, 6))]),
        "none": absent,
    }
    monkeypatch.setattr(survey, "LIBRARIES", libraries)
    survey.show(*survey.survey([], verbose=True))
    shown = capsys.readouterr().out
    assert "one bad: 0 of 0 exact" in shown
    assert "crash:  x1, : ValueError: no such model" in shown
    assert "absent: none (ImportError: there is none)" in shown
    header, row = (line.split() for line in shown.splitlines() if line.startswith(("library", "one  ")))
    counts = dict(zip(header[1:], map(int, row[1:]), strict=True))
    assert (counts["models"], counts["layers"], counts["exact"], counts["crash"]) == (2, 2, 2, 1)


@pytest.mark.parametrize(
    ("kind", "norm", "x"),
    [
        ("layer_norm", nn.LayerNorm(8), numbers(3, 7, 8)),
        ("rms_norm", nn.RMSNorm(8), numbers(3, 7, 8)),
        ("batch_norm", nn.BatchNorm2d(8), numbers(4, 8, 5, 5)),
        ("batch_norm", nn.BatchNorm1d(8).eval(), numbers(20, 8) + 1),
        ("instance_norm", nn.InstanceNorm2d(8, affine=True), numbers(4, 8, 5, 5)),
        ("group_norm", nn.GroupNorm(2, 8), numbers(4, 8, 5, 5)),
    ],
)
def test_a_call_tells_the_kind_and_the_weight(kind: str, norm: nn.Module, x: Tensor) -> None:
    with torch.no_grad():
        for name in ("weight", "running_mean", "running_var"):
            if getattr(norm, name, None) is not None:
                getattr(norm, name).copy_(torch.linspace(0.5, 2, 8))
        found = fits(norm, x, norm(x))
    assert {fit.reading.kind for fit in found} == {kind}
    # By running statistics and by the batch's a batch norm differs in its scale alone.
    assert any(torch.allclose(fit.weight, torch.linspace(0.5, 2, 8).double(), atol=1e-3) for fit in found)


def test_what_is_no_norm_fits_no_reading() -> None:
    x = numbers(3, 7, 8)
    assert fits(nn.Identity(), x, x.relu()) == []


def rows(name: str) -> list[dict[str, str]]:
    with (SURVEY / "libraries" / name).open() as file:
        return list(csv.DictReader(file))


def test_the_tables_speak_of_what_there_is() -> None:
    assert {kind for row in rows("classes.csv") for kind in row["kind"].split("|")} <= {*KINDS, "none"}
    assert {row["unit"] for row in rows("classes.csv")} <= {"position", "example", "graph", ""}
    assert all(row["why"] for name in ("classes.csv", "warnings.csv", "misses.csv") for row in rows(name))
    assert {row["check"] for row in rows("warnings.csv")} <= {check.name for check in CHECKS}
    assert {row["verdict"] for row in rows("warnings.csv")} <= {"true", "false"}
    assert {row["sort"] for row in rows("misses.csv")} <= set(survey.SORTS)
    assert len(known_classes()) == len(rows("classes.csv"))


def test_every_library_is_pinned() -> None:
    pinned = re.findall(r"^([\w.-]+)==", (SURVEY / "requirements.txt").read_text(), re.MULTILINE)
    named = {re.sub(r"[_.]", "-", name).lower() for name in pinned}
    assert {re.sub(r"[_.]", "-", name).lower() for name in LIBRARIES} - named == {"torch-ao"}
