"""The checks of what changes over a run: windows whose numbers are known, and healthy runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import normprobe
from normprobe.findings.gradients import GradientsExplode, GradientsVanish, UpdateOutOfRange
from normprobe.findings.training_state import RunningStatisticsLag
from normprobe.findings.variance_history import VarianceDrift, VarianceSpike
from normprobe.tables.measures.history import HistoryBuilder
from tests.helpers.histories import gradients, history, lag, parameters


def test_a_spike_is_named_at_its_first_layer_window_and_factor() -> None:
    steady = [1.0, 1.1, 0.9, 1.0, 1.05, 0.95, 1.0]
    spiking = [*steady, 40.0, 1.0]
    (found,) = VarianceSpike().over_time(
        history({("a", "input"): [*steady, 1.0, 1.0], ("b", "input"): spiking, ("b", "output"): spiking})
    )
    assert (found.layer, found.site, found.step, found.affected) == ("b", "input", 70, ("b",))
    assert found.value == pytest.approx(40.0)
    assert "In steps 70 to 79 the variance is 40 times larger" in found.message


@pytest.mark.parametrize(
    "variances",
    [
        [1.0] * 4 + [100.0],  # too few windows before
        [2.0**w for w in range(12)],  # growth that goes on
        [0.004, 0.005, 0.007, 0.08, 1.7, 11.5, 26.0, 29.0, 25.0],  # a network that begins to learn
        [1.0, 1.2, 0.9, 1.1, 1.0, 3.0, 1.0],  # below the factor
        [0.0] * 6 + [5.0],  # nothing to be held against
    ],
)
def test_no_spike(variances: list[float]) -> None:
    assert VarianceSpike().over_time(history({("a", "input"): variances})) == []


def test_a_drift_has_its_factor_over_the_latter_half() -> None:
    grows = [2.0**w for w in range(16)]
    (found,) = VarianceDrift().over_time(history({("a", "input"): [1.0] * 16, ("b", "output"): grows}))
    assert (found.layer, found.site, found.step) == ("b", "output", 80)
    assert found.value == pytest.approx(2.0**7)
    assert VarianceDrift().over_time(history({("a", "input"): [float(w + 1) ** 2 for w in range(16)]})) == []


def test_gradients_vanish_and_explode_by_the_slope_over_blocks() -> None:
    vanishing = [10.0 ** (b - 6) for b in range(6)]
    (found,) = GradientsVanish().over_time(gradients(vanishing))
    assert (found.layer, found.site, len(found.affected)) == ("blocks.0.up", "output_gradient", 6)
    assert found.value == pytest.approx(1e-5)
    assert GradientsExplode().over_time(gradients(vanishing)) == []
    (found,) = GradientsExplode().over_time(gradients(vanishing[::-1]))
    assert found.value == pytest.approx(1e5)
    # One odd block, a gradient of 0, too few blocks, a slope that is healthy.
    for healthy in ([1, 1e-9, 1, 1, 1], [0, 0, 0, 0, 1.0], [1e-9, 1e-4, 1], [0.01, 0.03, 0.1, 0.3, 1]):
        assert GradientsVanish().over_time(gradients(healthy)) == []


def test_updates_are_too_large_in_one_window_and_too_small_in_three() -> None:
    (large,) = UpdateOutOfRange().over_time(parameters([0.01, 0.3, 0.01]))
    assert (large.value, large.step, large.severity) == (0.3, 10, "warning")
    (small,) = UpdateOutOfRange().over_time(parameters([1e-3, 1e-9, 2e-9, 3e-9]))
    assert (small.value, small.step, small.severity) == (3e-9, 30, "info")
    for healthy in ([1e-3] * 5, [1e-3, 1e-9, 1e-9], [0.0] * 5, []):
        assert UpdateOutOfRange().over_time(parameters(healthy)) == []


def test_running_statistics_lag_in_each_of_the_last_windows() -> None:
    look = RunningStatisticsLag().over_time
    (found,) = look(lag([9.0, 1.1, 3.0, 2.5, 4.0]))
    assert (found.layer, found.value) == ("bn", 4.0)
    assert look(lag([9.0, 5.0, 3.0, 1.1])) == look(lag([9.0, 9.0])) == []


class Relu(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(6, 10), nn.Linear(10, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(torch.relu(self.up(x)))


def run(change: Callable[[nn.Module, int], None], model: nn.Module, steps: int = 60, **options: Any) -> Any:
    torch.manual_seed(0)
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    with normprobe.Probe(model, window=5, gradients=True, **options) as probe:
        for step in range(steps):
            change(model, step)
            model(torch.randn(32, 6)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            probe.step(step)
    return probe.recording


def test_features_that_died_are_counted_since_their_window() -> None:
    torch.manual_seed(0)

    def kill(model: nn.Module, step: int) -> None:
        if step == 30:
            model.up.bias.data[:6] = -50  # type: ignore[union-attr, operator]

    found = run(kill, Relu()).findings("features_stay_dead").iloc[0]
    assert found[["layer", "site", "value", "step"]].tolist() == ["down", "input", 0.6, 30]
    assert run(lambda model, step: None, Relu()).findings("features_stay_dead").empty


def test_what_a_recording_says_over_its_windows_survives_saving_them(tmp_path: Any) -> None:
    def shout(model: nn.Module, step: int) -> None:
        if step == 40:
            model.up.weight.data *= 30  # type: ignore[union-attr, operator]

    torch.manual_seed(0)
    recording = run(shout, Relu(), out=tmp_path)
    found = recording.findings("variance_spike")
    assert found[["layer", "site", "step"]].to_numpy().tolist() == [["up", "output", 40]]
    assert normprobe.load(tmp_path).findings("variance_spike").equals(found)


def test_batchnorm_that_trains_and_evaluates_in_one_block_is_no_finding() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Linear(16, 2))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with normprobe.Probe(model, window=5) as probe:
        for step in range(20):
            model.train()
            model(torch.randn(32, 8)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            probe.step(step)
            if step % 5 == 4:
                model.eval()
                with torch.no_grad():
                    model(torch.randn(32, 8))
    assert not (probe.recording.findings()["severity"] != "info").any()


def test_a_history_that_forgets_holds_the_last_windows_alone() -> None:
    tables = normprobe.record(nn.Linear(3, 2), torch.randn(8, 3)).tables
    facts = tables.facts["windows"][0]
    builder = HistoryBuilder(3)
    for _ in range(5):
        builder.add(facts, tables)
    past = builder.history()
    assert past.windows["window"].tolist() == [2, 3, 4]
    assert past.sites["window"].unique().tolist() == [2, 3, 4]
    assert past.variance.iloc[0] == pytest.approx(tables.layers["variance"].iloc[0])
