"""Running statistics are held against observed ones; the first batch norm that is off is named."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from normprobe.findings import find
from normprobe.findings.running_statistics import RunningVarianceInvalid, StaleRunningStatistics
from tests.helpers.findings_tables import FakeTables, Layer, normal, tables

STALE = [StaleRunningStatistics()]


def norm(name: str = "bn", mean: Any = None, variance: Any = None, **extra: Any) -> Layer:
    """A batch norm whose running statistics are those of its input, unless given."""
    rows = normal(2, rows=256) + 3
    unbiased = rows.var(0) * 256 / 255
    features = {
        "running_mean": rows.mean(0) if mean is None else mean,
        "running_var": unbiased if variance is None else unbiased * variance,
        "weight": 1.1,
        "bias": 0.1,
    }
    return Layer(name, "batch_norm", rows, normal(), features=features | extra.pop("features", {}), **extra)


def stack(*layers: Layer) -> FakeTables:
    return tables(Layer("first", "linear", normal(), normal()), *layers)


def test_statistics_that_fit_are_no_finding() -> None:
    assert find(stack(norm()), STALE).empty


@pytest.mark.parametrize("factor", [10.0, 4.0, 0.25, 0.05])
def test_a_rescaled_variance_is_found_with_its_factor(factor: float) -> None:
    found = find(stack(norm("a"), norm("b", variance=factor), norm("c", variance=factor)), STALE)
    assert found["layer"].tolist() == ["b"]
    assert found["value"].item() == pytest.approx(max(factor, 1 / factor), rel=1e-4)  # eps is 1e-5
    assert found["affected"].item() == "b; c"


def test_a_moved_mean_is_found_in_running_deviations() -> None:
    found = find(stack(norm("a", mean=3 + 2 * 2.0)), STALE)
    assert found["value"].item() == pytest.approx(2, rel=0.1)
    assert found["evidence"].item() == "input:running_shift"


def test_channels_that_move_in_all_directions_are_other_data_and_no_finding() -> None:
    scatter = np.exp(np.random.default_rng(1).normal(0, 1, 32) + 0.8)
    assert find(stack(norm(variance=scatter)), STALE).empty


def test_the_divisor_of_a_small_batch_is_no_drift() -> None:
    rows = normal(rows=4)
    running = {"running_mean": rows.mean(0), "running_var": rows.var(0, ddof=1)}
    made = stack(Layer("bn", "batch_norm", rows, normal(), features=running))
    assert find(made, [StaleRunningStatistics(factor=1.1)]).empty


def test_never_updated_is_an_error_or_a_note_where_nothing_was_ever_trained() -> None:
    fresh = {"running_mean": 0.0, "running_var": 1.0}
    found = find(stack(norm("a"), norm("b", features=fresh)), STALE)
    assert found[["layer", "severity"]].to_numpy().tolist() == [["b", "error"]]
    untrained = fresh | {"weight": 1.0, "bias": 0.0}
    note = find(stack(norm("a", features=untrained), norm("b", features=untrained)), STALE)
    assert note[["layer", "severity"]].to_numpy().tolist() == [["a", "info"]]


def test_running_statistics_of_a_layer_in_train_mode_are_not_in_use() -> None:
    assert find(stack(norm(variance=10, training="train")), STALE).empty


@pytest.mark.parametrize("value", [-0.1, np.nan, np.inf])
def test_a_running_variance_that_is_none(value: float) -> None:
    variance = np.ones(32)
    variance[3] = value
    made = stack(norm("a"), norm("b", features={"running_var": variance}))
    found = find(made, [RunningVarianceInvalid()])
    assert found[["layer", "feature"]].to_numpy().tolist() == [["b", 3]]
    assert find(stack(norm()), [RunningVarianceInvalid()]).empty
