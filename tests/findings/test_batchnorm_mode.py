"""BatchNorm in train mode: where it should not be, on too few values, frozen, updated twice."""

from __future__ import annotations

from typing import Any

from normprobe.findings import find
from tests.helpers.findings_tables import Layer, normal, tables


def norm(name: str = "bn", rows: int = 64, **extra: Any) -> Layer:
    return Layer(name, "batch_norm", normal(rows=rows), normal(rows=rows), **extra)


def linear(training: str = "eval", grad: str = "no_grad", **extra: Any) -> Layer:
    return Layer("first", "linear", normal(), normal(), training=training, grad=grad, **extra)


def test_one_batch_norm_in_train_mode_in_an_evaluated_model_is_a_warning() -> None:
    found = find(tables(linear(), norm("a"), norm("b", training="train")), ["batchnorm_train_mode"])
    assert found[["layer", "severity"]].to_numpy().tolist() == [["b", "warning"]]


def test_a_whole_model_in_train_mode_is_a_note_without_gradients_and_nothing_with_them() -> None:
    noted = tables(linear("train"), norm("a", training="train"))
    assert find(noted, ["batchnorm_train_mode"])["severity"].tolist() == ["info"]
    trained = tables(linear("train", "grad"), norm("a", training="train", grad="grad"))
    assert find(trained, ["batchnorm_train_mode"]).empty
    assert find(tables(linear(), norm()), ["batchnorm_train_mode"]).empty


def test_few_values_per_channel_matter_in_train_mode_only() -> None:
    few = [norm("a", rows=64, training="train", calls=2), norm("b", rows=8, training="train", calls=2)]
    found = find(tables(*few), ["small_batch_statistics"])
    assert found[["layer", "value", "affected"]].to_numpy().tolist() == [["b", 4.0, "b"]]
    assert find(tables(norm(rows=8)), ["small_batch_statistics"]).empty


def test_few_examples_of_many_pixels_are_named_where_they_are_fewest() -> None:
    images = [
        norm(name, training="train", calls=4, sites={"input": {"n_samples": examples}})
        for name, examples in (("a", 12), ("b", 8), ("c", 400))
    ]
    found = find(tables(*images), ["small_batch_statistics"])
    assert found[["layer", "value", "threshold", "affected"]].to_numpy().tolist() == [["b", 2.0, 4.0, "a; b"]]


def test_frozen_affine_parameters_with_moving_statistics() -> None:
    frozen = norm("a", training="train", ledger={"trainable": False, "moved": True})
    others = linear("train", ledger={"trainable": True, "moved": False})
    assert find(tables(others, frozen), ["frozen_but_updating"])["layer"].tolist() == ["a"]
    recalibrated = linear("train", ledger={"trainable": False, "moved": False})
    assert find(tables(recalibrated, frozen), ["frozen_but_updating"]).empty
    assert find(tables(linear(), norm(training="train")), ["frozen_but_updating"]).empty


def test_more_updates_than_firings() -> None:
    twice = norm("a", training="train", ledger={"updates": 8, "firings": 4})
    once = norm("b", training="train", ledger={"updates": 4, "firings": 4})
    found = find(tables(once, twice), ["updated_twice"])
    assert found[["layer", "value"]].to_numpy().tolist() == [["a", 2.0]]
    assert find(tables(norm()), ["updated_twice"]).empty
