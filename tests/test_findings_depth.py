"""Growth with depth is healthy up to a slope; one branch out of scale and collapsed samples are found."""

from __future__ import annotations

import numpy as np
import pytest
from findings_tables import Layer, normal, tables

from normprobe.findings import find


def chain(factor: float, depth: int = 8) -> list[Layer]:
    """Linear layers without norms whose output variance changes by a factor per layer."""
    scales = factor ** (0.5 * np.arange(depth + 1))
    return [Layer(f"l{i}", "linear", normal(scales[i]), normal(scales[i + 1])) for i in range(depth)]


def stream(factor: float, depth: int = 12) -> list[Layer]:
    """Pre-norm blocks whose stream grows by a factor in variance per norm."""
    scales = 0.1 * factor ** (0.5 * np.arange(depth))
    return [Layer(f"n{i}", "layer_norm", normal(scale), normal()) for i, scale in enumerate(scales)]


@pytest.mark.parametrize("layers", [chain(1), chain(2.5), chain(0.4), stream(1.7), stream(0.7)])
def test_mild_growth_and_shrinkage_are_healthy(layers: list[Layer]) -> None:
    assert find(tables(*layers), ["variance_explodes", "variance_vanishes"]).empty


def test_steep_growth_and_shrinkage_are_found() -> None:
    assert find(tables(*chain(9)), ["variance_explodes"])["value"].item() == pytest.approx(9**6, rel=0.5)
    assert find(tables(*chain(1 / 9)), ["variance_vanishes"])["value"].item() == pytest.approx(9**-6, rel=0.5)
    assert not find(tables(*stream(8)), ["variance_explodes"]).empty
    assert find(tables(*chain(9)), ["variance_vanishes"]).empty


@pytest.mark.parametrize(("scale", "check"), [(100.0, "variance_explodes"), (0.01, "variance_vanishes")])
def test_one_branch_out_of_scale_is_named(scale: float, check: str) -> None:
    layers = chain(1)
    layers[3] = Layer("odd", "linear", normal(), normal(scale))
    found = find(tables(*layers), ["variance_explodes", "variance_vanishes"])
    assert found[["check", "layer", "site"]].to_numpy().tolist()[0] == [check, "odd", "output"]


def test_large_logits_of_the_last_layer_are_healthy() -> None:
    layers = [*chain(1, 3), Layer("head", "linear", normal(), normal(12))]
    assert find(tables(*layers), ["variance_explodes"]).empty


def test_a_large_bias_is_no_gain() -> None:
    layers = chain(1)
    layers[3] = Layer("odd", "linear", normal(), normal() + 500)
    assert find(tables(*layers), ["variance_explodes"]).empty


def test_a_branch_that_starts_at_zero_is_healthy() -> None:
    layers = chain(1)
    layers[3] = Layer("zero", "linear", normal(), np.zeros((64, 32)))
    assert find(tables(*layers), ["variance_vanishes"]).empty


def test_collapsed_samples_name_the_first_layer_from_which_on_all_are_the_same() -> None:
    same = np.tile(normal(rows=1), (64, 1))
    layers = [Layer("a", "linear", normal(), normal()), Layer("b", "linear", normal(), same)]
    found = find(tables(*layers, Layer("c", "linear", same, same)), ["collapsed_samples"])
    assert found[["layer", "site", "affected"]].to_numpy().tolist() == [["b", "output", "b; c"]]


def test_one_layer_that_reads_a_constant_is_healthy() -> None:
    same = np.tile(normal(rows=1), (64, 1))
    layers = [Layer("time", "linear", same, same), *chain(1)]
    assert find(tables(*layers), ["collapsed_samples"]).empty
