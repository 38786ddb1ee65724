"""What the data and the norms' eps do: wild samples, scales, eps too large, constants, padding."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from normprobe.findings import find
from tests.helpers.findings_tables import FakeTables, Layer, normal, tables


def first(rows: np.ndarray, kind: str = "linear") -> FakeTables:
    return tables(Layer("a", kind, rows, normal(rows=len(rows))), Layer("b", "linear", normal(), normal()))


def test_one_wild_sample_is_named() -> None:
    rows = normal()
    rows[9] *= 50
    found = find(first(rows), ["outlier_sample"])
    assert found[["layer", "example"]].to_numpy().tolist() == [["a", 9]]
    assert found["value"].item() == pytest.approx(50, rel=0.5)
    assert find(first(normal()), ["outlier_sample"]).empty


def test_a_wild_sample_that_was_not_kept_is_named_by_the_extremes() -> None:
    rows = normal()
    rows[9] *= 500
    made = first(rows)
    kept = replace(made, samples=made.samples[made.samples["example"] != 9])
    assert find(kept, ["outlier_sample"])["example"].tolist() == [9]


def test_inputs_on_different_scales_unless_a_norm_comes_first() -> None:
    rows = normal() * 10 ** np.linspace(-3, 3, 32)
    found = find(first(rows), ["input_scale"])
    assert found[["layer", "feature"]].to_numpy().tolist() == [["a", 31]]
    assert find(first(rows, "batch_norm"), ["input_scale"]).empty
    background = normal()
    background[:, :3] = 0
    assert find(first(background), ["input_scale"]).empty


@pytest.mark.parametrize("kind", ["layer_norm", "rms_norm", "group_norm", "instance_norm", "batch_norm"])
def test_a_variance_below_eps(kind: str) -> None:
    small = Layer("n", kind, normal(0.01), normal(0.3), eps=1e-3)
    found = find(tables(Layer("a", "linear", normal(), normal()), small), ["variance_below_eps"])
    assert found[["layer", "threshold"]].to_numpy().tolist() == [["n", 1e-3]]
    assert find(tables(replace(small, eps=1e-5)), ["variance_below_eps"]).empty
    assert find(tables(replace(small, kind="norm")), ["variance_below_eps"]).empty


def test_rows_that_are_nearly_constant_before_a_norm() -> None:
    large = Layer("n", "layer_norm", normal() + 300, normal())
    assert find(tables(large), ["nearly_constant_rows"])["layer"].tolist() == ["n"]
    assert find(tables(replace(large, kind="rms_norm")), ["nearly_constant_rows"]).empty
    assert find(tables(replace(large, before=normal() + 3)), ["nearly_constant_rows"]).empty


def padded_norm(training: str, running: float) -> Layer:
    rows = normal() + 2
    features = {
        "seen_mean": 1.0,
        "seen_variance": 2.0,
        "running_mean": 2.0 - running,
        "running_var": 1.0 + running,
    }
    return Layer(
        "n",
        "batch_norm",
        rows,
        normal(),
        training=training,
        features=features,
        sites={"input": {"masked": 30}},
    )


@pytest.mark.parametrize(
    ("training", "running", "bad"), [("train", 0.0, True), ("eval", 1.0, True), ("eval", 0.0, False)]
)
def test_padding_in_a_batch_norm(training: str, running: float, bad: bool) -> None:
    found = find(tables(padded_norm(training, running)), ["padding_in_norm"])
    assert found["layer"].tolist() == (["n"] if bad else [])


def text(lengths: list[int], time: int = 10) -> FakeTables:
    """Examples of one first layer, a row per position; positions from a length on hold the padding's row."""
    made = tables(Layer("a", "linear", normal(rows=len(lengths) * time), normal(rows=len(lengths) * time)))
    samples = made.samples.assign(
        example=made.samples["example"] // time, position=made.samples["example"] % time
    )
    length = samples["example"].map(dict(enumerate(lengths)))
    padding = samples["position"] >= length
    columns = ["mean", "variance", "min", "max"]
    samples.loc[padding, columns] = 0.5
    return replace(made, samples=samples, meta={"unit": "token"})


def test_padding_without_a_mask_is_recognised_by_the_ends_of_the_examples() -> None:
    assert find(text([10, 4, 6, 3]), ["padding_unmasked"])["value"].item() == pytest.approx(16 / 40)
    assert find(text([10, 10, 10]), ["padding_unmasked"]).empty
    masked = text([10, 4, 6, 3])
    masked = replace(masked, ledger=masked.ledger.assign(masked_by="attention_mask"))
    assert find(masked, ["padding_unmasked"]).empty
    assert find(replace(text([10, 4, 6, 3]), meta={"unit": "position"}), ["padding_unmasked"]).empty


def test_padding_without_a_mask_is_known_by_its_token() -> None:
    known = replace(text([10, 10]), meta={"unit": "token", "pad_tokens": 5})
    assert find(known, ["padding_unmasked"])["value"].item() == pytest.approx(5 / 20)
    labels = pd.DataFrame({"part": "a", "example": [0, 0], "position": [0, 1], "text": ["cat", "[PAD]"]})
    named = replace(text([10, 10]), labels=labels)
    assert find(named, ["padding_unmasked"])["value"].item() == pytest.approx(1 / 20)


def test_a_wild_example_of_many_positions_is_one() -> None:
    rows = normal()
    rows[40:50] *= 50
    made = first(rows)
    split = made.samples.assign(position=made.samples["example"] % 10, example=made.samples["example"] // 10)
    found = find(replace(made, samples=split), ["outlier_sample"])
    assert found["example"].tolist() == [4]
    assert find(made, ["outlier_sample"]).empty


def test_two_features_are_enough_for_different_scales() -> None:
    rows = normal(features=2) * [1e-3, 1]
    assert find(tables(Layer("a", "linear", rows, normal())), ["input_scale"])["feature"].tolist() == [1]


def test_an_eps_too_large_and_an_input_too_small_are_two_causes() -> None:
    layers = [
        Layer("late", "layer_norm", normal(0.001), normal(), eps=1e-5),
        Layer("large", "layer_norm", normal(0.5), normal(), eps=1.0, features={"weight": 1.5}),
        Layer("small", "layer_norm", normal(0.0001), normal(), eps=1e-5),
    ]
    found = find(tables(*layers), ["variance_below_eps"])
    assert found[["layer", "affected"]].to_numpy().tolist() == [["late", "late; small"], ["large", "large"]]
    assert found["threshold"].tolist() == [1e-5, 1.0]
    assert found["severity"].tolist() == ["warning", "warning"]


def plain_norm(name: str, scale: float) -> Layer:
    return Layer(name, "rms_norm", normal(scale), normal(), features={"weight": 1.0, "bias": 0.0})


def test_small_inputs_in_most_blocks_of_a_model_that_was_never_trained_are_a_note() -> None:
    blocks = [plain_norm(f"blocks.{i}.norm", 0.0001) for i in range(3)]
    assert find(tables(*blocks), ["variance_below_eps"])["severity"].tolist() == ["info"]
    one = [plain_norm(f"blocks.{i}.norm", 0.0001 if i == 0 else 1.0) for i in range(3)]
    assert find(tables(*one), ["variance_below_eps"])["severity"].tolist() == ["warning"]
    large = [replace(block, eps=1.0) for block in blocks]
    assert find(tables(*large), ["variance_below_eps"])["severity"].tolist() == ["warning"]


def test_samples_of_zeros_are_not_below_an_eps() -> None:
    layers = [Layer("n", "layer_norm", np.zeros((40, 8)), np.zeros((40, 8)))]
    assert find(tables(*layers), ["variance_below_eps"]).empty


def test_texts_that_happen_to_end_alike_are_not_padded() -> None:
    made = text([10, 10, 10, 10])
    samples = made.samples.copy()
    for value, pair in ((0.25, (0, 1)), (0.75, (2, 3))):
        alike = samples["example"].isin(pair) & (samples["position"] > 5)
        samples.loc[alike, ["mean", "variance", "min", "max"]] = value
    assert find(replace(made, samples=samples), ["padding_unmasked"]).empty


def test_a_probe_told_to_use_no_mask_is_taken_at_its_word() -> None:
    known = {"unit": "token", "pad_tokens": 5, "rows": 20}
    assert find(replace(text([10, 10]), meta=known), ["padding_unmasked"])["value"].item() == 0.25
    told = known | {"options": {"mask": None}}
    assert find(replace(text([10, 10]), meta=told), ["padding_unmasked"]).empty
