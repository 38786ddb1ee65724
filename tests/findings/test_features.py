"""Features that carry nothing, and the few that are far larger than the rest, are told from healthy ones."""

from __future__ import annotations

import numpy as np
import pytest

from normprobe.findings import find
from tests.helpers.findings_tables import Layer, normal, tables


def relu(rows: np.ndarray, dead: int = 0) -> np.ndarray:
    rows = rows.copy()
    rows[:, :dead] = -np.abs(rows[:, :dead]) - 0.1
    return rows


def mlp(dead: int) -> list[Layer]:
    wrote = relu(normal(), dead)
    return [Layer("a", "linear", normal(), wrote), Layer("b", "linear", np.maximum(wrote, 0), normal())]


def test_dead_features_name_the_reader_and_the_layer_that_never_writes_above_zero() -> None:
    found = find(tables(*mlp(20)), ["dead_features"])
    assert found[["layer", "site", "written_by"]].to_numpy().tolist() == [["b", "input", "a"]]
    assert found["value"].item() == pytest.approx(20 / 32)


def test_a_quarter_of_dead_features_is_healthy() -> None:
    assert find(tables(*mlp(8)), ["dead_features"]).empty


def test_constant_background_in_the_data_is_no_finding() -> None:
    data = normal()
    data[:, :20] = 0
    made = tables(Layer("a", "linear", data, normal()))
    assert find(made, ["dead_features", "constant_features"]).empty


def test_channels_that_a_zero_weight_removes() -> None:
    after = normal()
    after[:, :10] = 0.3
    made = tables(Layer("a", "linear", normal(), normal()), Layer("n", "layer_norm", normal(), after))
    found = find(made, ["constant_features"])
    assert found[["layer", "site", "value"]].to_numpy().tolist() == [["n", "output", 10 / 32]]


def test_a_saturated_tanh_and_a_linear_one() -> None:
    wrote = normal(50)
    saturated = tables(Layer("a", "linear", normal(), wrote), Layer("b", "linear", np.tanh(wrote), normal()))
    assert find(saturated, ["saturated_input"])["layer"].tolist() == ["b"]
    linear = tables(
        Layer("a", "linear", normal(), normal()), Layer("b", "linear", np.tanh(normal()), normal())
    )
    assert find(linear, ["saturated_input"]).empty
    binary = tables(Layer("a", "linear", np.sign(normal()), normal()))
    assert find(binary, ["saturated_input"]).empty


def stream(value: float, rows: slice = slice(0, 1)) -> list[Layer]:
    wrote = normal(0.1)
    wrote[rows, 7] = value
    read = wrote + normal(0.1)
    return [
        Layer("first", "linear", normal(), normal()),
        Layer("down", "linear", normal(), wrote),
        Layer("gate", "linear", normal(), normal(features=64)),
        Layer("norm", "rms_norm", read, normal()),
    ]


def test_a_massive_activation_names_reader_writer_feature_and_sample() -> None:
    found = find(tables(*stream(5000)), ["massive_activations"])
    identity = ["layer", "written_by", "feature", "example", "severity"]
    assert found[identity].to_numpy().tolist() == [["norm", "down", 7, 0, "info"]]
    assert find(tables(*stream(50)), ["massive_activations"]).empty


def test_a_large_value_in_every_sample_is_an_outlier_feature_and_not_massive() -> None:
    made = tables(*stream(5000, slice(None)))
    assert find(made, ["massive_activations"]).empty
    found = find(made, ["outlier_features"])
    assert found[["layer", "written_by", "feature"]].to_numpy().tolist() == [["norm", "down", 7]]


def test_values_above_six_alone_are_no_outlier_features() -> None:
    made = tables(Layer("a", "linear", normal(), normal(20)), Layer("b", "linear", normal(20), normal()))
    assert find(made, ["outlier_features"]).empty


def test_the_median_of_relu_outputs_is_zero_and_a_ratio_to_it_says_nothing() -> None:
    read = np.maximum(normal(300) - 600, 0)
    made = tables(Layer("a", "linear", normal(), normal()), Layer("b", "linear", read, normal()))
    assert find(made, ["massive_activations", "outlier_features"]).empty


def test_an_outlier_in_the_weight_of_a_norm() -> None:
    weight = np.ones(32)
    weight[4] = -30
    made = tables(Layer("n", "layer_norm", normal(), normal(), features={"weight": weight}))
    found = find(made, ["outlier_norm_weight"])
    assert found[["layer", "feature", "value"]].to_numpy().tolist() == [["n", 4, 30.0]]
    weight[:] = 0
    weight[4] = 1
    zero = tables(Layer("n", "layer_norm", normal(), normal(), features={"weight": weight}))
    assert find(zero, ["outlier_norm_weight"]).empty


def silent(share: float) -> list[Layer]:
    """A BatchNorm between convolutions that leaves a share of its channels without a positive value."""
    return [
        Layer("bn1", "batch_norm", normal(), relu(normal(), round(32 * share))),
        Layer("bn2", "batch_norm", normal(), normal()),
    ]


def test_between_convolutions_dead_channels_are_named_at_the_norm_that_writes_no_positive_value() -> None:
    found = find(tables(*silent(0.6)), ["dead_features"])
    assert found[["layer", "site", "evidence"]].to_numpy().tolist() == [
        ["bn1", "output", "output:silent_features"]
    ]
    assert find(tables(*silent(0.4)), ["dead_features"]).empty


def branch(dead: int, blocks: int = 4) -> list[Layer]:
    """Blocks whose norm and Linear stand in a branch; the norms of the first ``dead`` write only zeros."""
    layers = []
    for block in range(blocks):
        wrote = normal() * (block >= dead)
        layers += [
            Layer(f"blocks.{block}.norm", "layer_norm", normal(), wrote),
            Layer(f"blocks.{block}.up", "linear", wrote, normal()),
        ]
    return layers


def test_a_norm_that_silences_its_branch_is_named_and_its_zeros_are_no_dead_units() -> None:
    found = find(tables(*branch(1)), ["constant_features", "dead_features", "collapsed_samples"])
    assert found[["check", "layer", "site", "value"]].to_numpy().tolist() == [
        ["constant_features", "blocks.0.norm", "output", 1.0]
    ]


def test_norms_whose_weights_start_at_zero_throughout_are_healthy() -> None:
    assert find(tables(*branch(3)), ["constant_features", "dead_features"]).empty


def test_enough_values_count_and_not_enough_examples() -> None:
    wrote = relu(normal(rows=8), 20)
    few = [Layer("a", "linear", normal(rows=8), wrote), Layer("b", "linear", np.maximum(wrote, 0), wrote)]
    assert find(tables(*few), ["dead_features"]).empty
    images = Layer("bn", "batch_norm", normal(), silent(0.6)[0].after, sites={"output": {"n_samples": 2}})
    assert find(tables(images, silent(0)[1]), ["dead_features"])["layer"].tolist() == ["bn"]
    one = Layer("bn", "batch_norm", normal(), silent(0.6)[0].after, sites={"output": {"n_samples": 1}})
    assert find(tables(one, silent(0)[1]), ["dead_features"]).empty
