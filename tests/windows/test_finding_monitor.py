"""Findings as a run goes on: told once, at their window; errors raise through; a stop closes first."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import normprobe
from normprobe import FindingError, NormprobeError


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)).train()


def steps(probe: normprobe.Probe, nan_from: int, count: int = 20, told: bool = True) -> None:
    for step in range(count):
        x = torch.randn(32, 8)
        if step >= nan_from:
            x[5, 3] = torch.nan
        probe.model(x)
        if told:
            probe.step(step)


def _end_badly(probe: normprobe.Probe) -> None:
    steps(probe, 1)
    raise ZeroDivisionError


def test_a_finding_is_told_once_at_its_step() -> None:
    told: list[Mapping[str, Any]] = []
    with normprobe.Probe(net(), window=5, on_finding=told.append) as probe:
        steps(probe, 12)
    (finding,) = told
    assert (finding["check"], finding["layer"], finding["site"]) == ("nonfinite", "0", "input")
    assert (finding["step"], finding["first_step"], finding["last_step"]) == (12, 10, 14)
    assert (finding["phase"], finding["example"], finding["position"]) == ("train", 12 * 32 + 5, 0)


def test_a_run_stops_once_the_window_is_closed(tmp_path: Path) -> None:
    probe = normprobe.Probe(net(), window=5, out=tmp_path, stop_on="error")
    with (
        pytest.raises(
            FindingError, match=r"NaN or Inf in steps 10 to 14 \(train\), at the input of '0'"
        ) as e,
        probe,
    ):
        steps(probe, 12)
    assert e.value.finding["step"] == 12
    assert isinstance(e.value, NormprobeError)
    windows = normprobe.load(tmp_path).windows
    assert windows["last_step"].tolist() == [4, 9, 14]
    assert not probe.model[0]._forward_hooks


def test_without_steps_a_window_closes_behind_a_forward() -> None:
    probe = normprobe.Probe(net(), window=4, stop_on="error")
    with pytest.raises(FindingError), probe:
        steps(probe, 9, told=False)
    assert probe.recording.windows["last_step"].tolist() == [3, 7, 11]


def test_what_the_callable_raises_goes_through() -> None:
    def refuse(finding: Mapping[str, Any]) -> None:
        raise KeyError(finding["check"])

    with (
        pytest.raises(KeyError, match="nonfinite"),
        normprobe.Probe(net(), window=5, on_finding=refuse) as probe,
    ):
        steps(probe, 3)
    with (
        pytest.raises(KeyError, match="nonfinite"),
        normprobe.Probe(net(), window=5, on_finding=refuse) as probe,
    ):
        steps(probe, 3, told=False)


def test_a_run_of_one_window_is_looked_at_in_the_end_and_an_error_stays_itself() -> None:
    told: list[Mapping[str, Any]] = []
    with normprobe.Probe(net(), on_finding=told.append) as probe:
        steps(probe, 3)
        assert told == []
    assert [finding["check"] for finding in told] == ["nonfinite"]


def test_an_error_of_the_block_stays_itself() -> None:
    probe = normprobe.Probe(net(), stop_on="warning")
    with pytest.raises(ZeroDivisionError), probe:
        _end_badly(probe)


def test_a_healthy_run_tells_and_stops_at_nothing() -> None:
    with normprobe.Probe(net(), window=5, on_finding=pytest.fail, stop_on="warning") as probe:
        steps(probe, 100)


@pytest.mark.parametrize("options", [{"on_finding": 3}, {"stop_on": "info"}])
def test_other_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(NormprobeError, match=next(iter(options))):
        normprobe.Probe(net(), **options)
