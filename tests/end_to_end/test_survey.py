"""A part of the survey, and that it would notice: a handful of families, and models with faults."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import normprobe
from benchmarks.survey import __main__ as survey
from benchmarks.survey import check as survey_check
from benchmarks.survey.check import check
from benchmarks.survey.torch_modules import torch_models
from normprobe import probe
from normprobe.layers import entry_rule

FAMILIES = {
    "bert": "text",
    "gemma": "text",
    "qwen3_moe": "text, mixture of experts",
    "mamba": "text, state space",
    "t5": "text, encoder-decoder",
    "convnext": "vision",
    "whisper": "audio",
    "llava": "multimodal",
    "patchtst": "time series",
    # Layers that read two sequences in turn, a table of relative positions, a prompt before the texts.
    "lxmert": "text",
    "t5gemma2": "text, encoder-decoder",
    "sew-d": "audio",
    "cpmant": "text",
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("model_type", list(FAMILIES))
def test_a_family_is_measured_exactly(model_type: str) -> None:
    for cls in survey.classes(model_type):
        case = survey.case_of(model_type, cls)
        assert case is not None
        assert case.family == FAMILIES[model_type]
        found = check(case.model, partial(survey.several, case.run), case.mask)
        assert found.faults == []
        assert found.fired + found.declared == found.layers >= 5
        assert found.exact == found.fired - found.functional > 0


@pytest.mark.filterwarnings("ignore")
def test_layers_of_torch_are_measured_exactly() -> None:
    # One in six; the survey itself takes all.
    for name, model, run in list(torch_models())[::6]:
        found = check(model, partial(survey.several, run))
        assert found.faults == [], name
        assert found.exact == found.fired - found.functional, name


class Model(nn.Module):
    """A Linear and a norm, called with numbers of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(6, 5), nn.LayerNorm(5)
        self.calls = 0

    def forward(self) -> Tensor:
        self.calls += 1
        x = torch.randn(2, 7, 6, generator=torch.Generator().manual_seed(0))
        return self.norm(self.linear(x))


class Restless(Model):
    """Gives something else every time."""

    def forward(self) -> Tensor:
        return super().forward() + self.calls


def test_other_outputs_are_a_fault() -> None:
    model = Restless()
    assert "outputs differ" in check(model, model).faults


def test_a_hook_that_stays_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    class Leaving(probe.Probe):
        def __exit__(self, *error: Any) -> None:
            super().__exit__(*error)
            self.model.register_forward_hook(lambda *args: None)

    monkeypatch.setattr(normprobe, "Probe", Leaving)
    model = Model()
    assert "a hook is left" in check(model, model).faults


def test_a_layer_that_is_not_found_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    known = entry_rule.registered_view
    hidden = lambda module: (True, None) if isinstance(module, nn.LayerNorm) else known(module)  # noqa: E731
    monkeypatch.setattr(entry_rule, "registered_view", hidden)
    model = Model()
    assert "silent: norm is not in the ledger" in check(model, model).faults


def test_inexact_statistics_are_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    exact = survey_check.two_pass

    def shifted(data: Any, axis: int = 0) -> dict[str, Any]:
        told = exact(data, axis)
        return told | {"mean": told["mean"] + 1e-5 * abs(told["mean"]).max()}

    monkeypatch.setattr(survey_check, "two_pass", shifted)
    model = Model()
    found = check(model, model)
    assert found.exact == 0
    assert any(fault.startswith("inexact: norm (LayerNorm, layer_norm) by") for fault in found.faults)


def test_padding_that_is_counted_is_a_fault() -> None:
    class Masked(Model):
        def forward(self, x: Tensor, attention_mask: Tensor) -> Tensor:
            return self.norm(self.linear(x))

    model, mask = Masked(), torch.ones(2, 7, dtype=torch.long)
    mask[1, 4:] = 0
    x = torch.randn(2, 7, 6, generator=torch.Generator().manual_seed(0))
    assert check(model, lambda: model(x, attention_mask=mask), mask).faults == []
    other = mask.flip(1)
    assert check(model, lambda: model(x, attention_mask=mask), other).exact == 0


@pytest.mark.filterwarnings("ignore")
def test_the_table_adds_up(capsys: pytest.CaptureFixture[str]) -> None:
    families, _ = survey.survey(["torch.LayerNorm*", "bert"], verbose=False)
    survey.show(families, [])
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if line]
    rows = {line[0]: list(map(int, line[1:])) for line in lines[1:-1]}
    assert set(rows) == {"text", "torch", "all"}
    assert rows["all"] == [a + b for a, b in zip(rows["text"], rows["torch"], strict=True)]
    assert rows["all"][0] > 5
    assert lines[-1][0] == "100.00%"
