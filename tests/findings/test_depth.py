"""Growth with depth is healthy up to a slope; one branch out of scale and collapsed samples are found."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from normprobe.findings import find, series
from normprobe.findings.depth import VarianceExplodes, VarianceVanishes
from tests.helpers.findings_tables import FakeTables, Layer, normal, tables


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


def blocks(odd: float) -> list[Layer]:
    """Four blocks of two Linear, of which `down` shrinks and `up` grows; one `down` is out of scale."""
    layers = []
    for block in range(4):
        scale = 0.1 * (odd if block == 2 else 1)
        layers += [
            Layer(f"h.{block}.up", "linear", normal(), normal(0.2)),
            Layer(f"h.{block}.down", "linear", normal(), normal(scale)),
        ]
    return layers


@pytest.mark.parametrize(("odd", "check"), [(10.0, "variance_explodes"), (0.06, "variance_vanishes")])
def test_a_linear_is_held_against_the_same_one_in_other_blocks(odd: float, check: str) -> None:
    made = tables(*blocks(odd))
    found = find(made, ["variance_explodes", "variance_vanishes"])
    assert found[["check", "layer"]].to_numpy().tolist() == [[check, "h.2.down"]]
    row = found.iloc[0]
    gains = series(made, row["evidence"]).set_index("layer")["value"].filter(like="down")
    peers = VarianceExplodes().peers if odd > 1 else -VarianceVanishes().peers
    assert row["threshold"] == pytest.approx(10 ** (np.log10(gains).median() + peers))
    assert (row["value"] > row["threshold"]) == (odd > 1)
    assert find(tables(*blocks(3.0)), ["variance_explodes", "variance_vanishes"]).empty


def test_numbers_are_no_roles() -> None:
    layers = [Layer(str(i), "linear", normal(), normal()) for i in range(6)]
    layers[3] = Layer("3", "linear", normal(), normal(9))
    assert find(tables(*layers), ["variance_explodes"]).empty


def test_a_trend_through_batch_norms_that_were_never_updated_says_nothing() -> None:
    fresh = {"running_mean": 0.0, "running_var": 1.0, "weight": 1.0, "bias": 0.0}
    scales = 0.03 ** np.arange(6)
    layers = [
        Layer(f"b{i}", "batch_norm", normal(s), normal(s), features=fresh) for i, s in enumerate(scales)
    ]
    assert find(tables(*layers), ["variance_vanishes"]).empty
    trained = [replace(layer, features=fresh | {"weight": 1.2}) for layer in layers]
    assert len(find(tables(*trained), ["variance_vanishes"])) == 1


def test_zeros_from_one_layer_on_are_collapsed_samples_but_not_a_head_that_starts_at_zero() -> None:
    zero = np.zeros((64, 32))
    layers = [*chain(1, 2), Layer("n", "layer_norm", normal(), zero), Layer("b", "linear", zero, zero)]
    assert find(tables(*layers), ["collapsed_samples"])["layer"].tolist() == ["n"]
    assert find(tables(*chain(1), Layer("head", "linear", normal(), zero)), ["collapsed_samples"]).empty


def positioned(rows: np.ndarray, layers: list[str]) -> FakeTables:
    """Sixteen examples of four positions at each of some layers."""
    made = tables(*(Layer(name, "linear", rows, rows) for name in layers))
    where = made.samples["example"]
    return replace(made, samples=made.samples.assign(example=where // 4, position=where % 4))


def test_examples_that_are_all_the_same_though_their_positions_differ() -> None:
    found = find(positioned(np.tile(normal(rows=4), (16, 1)), ["a", "b"]), ["collapsed_samples"])
    assert found[["layer", "site", "affected"]].to_numpy().tolist() == [["a", "input", "a; b"]]
    assert found["evidence"].item() == "input:example_spread"
    assert find(positioned(normal(), ["a", "b"]), ["collapsed_samples"]).empty
    prompt = np.concatenate([np.tile(normal(rows=4), (8, 1)), normal(rows=32)])
    assert find(positioned(prompt, ["a", "b"]), ["collapsed_samples"]).empty
