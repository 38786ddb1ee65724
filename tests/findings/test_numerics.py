"""NaN and Inf are traced to the layer that makes them; fp16 ends at 65,504."""

from __future__ import annotations

import numpy as np
import pytest

from normprobe.findings import find
from normprobe.findings.nonfinite import Nonfinite
from normprobe.findings.numerics import Fp16Overflow
from tests.helpers.findings_tables import Layer, normal, tables


def broken(rows: np.ndarray, value: float = np.nan) -> np.ndarray:
    rows = rows.copy()
    rows[3, 5] = value
    return rows


def test_the_layer_that_turns_finite_into_nan_is_named_and_the_rest_only_counted() -> None:
    bad = broken(normal())
    made = tables(
        Layer("a", "linear", normal(), normal()),
        Layer("b", "linear", normal(), bad),
        Layer("c", "layer_norm", bad, broken(normal())),
    )
    found = find(made, [Nonfinite()])
    assert found[["layer", "site", "feature", "affected"]].to_numpy().tolist() == [["b", "output", 5, "b; c"]]
    assert found["value"].item() == 1
    assert found["severity"].item() == "error"


def test_two_layers_that_make_nan_are_two_findings() -> None:
    made = tables(
        Layer("a", "linear", normal(), broken(normal())),
        Layer("b", "linear", normal(), broken(normal(), np.inf)),
    )
    assert find(made, [Nonfinite()])["layer"].tolist() == ["a", "b"]


def test_an_operation_between_layers_is_said_to_have_made_it() -> None:
    made = tables(
        Layer("a", "linear", normal(), normal()), Layer("b", "linear", broken(normal()), broken(normal()))
    )
    found = find(made, [Nonfinite()])
    assert found[["layer", "site"]].to_numpy().tolist() == [["b", "input"]]


def test_nan_in_the_data_is_said_to_be_there() -> None:
    found = find(tables(Layer("a", "linear", broken(normal()), broken(normal()))), [Nonfinite()])
    assert found[["layer", "site"]].to_numpy().tolist() == [["a", "input"]]


def test_nan_born_in_padding_is_a_warning_as_long_as_no_real_row_has_any() -> None:
    masked = {"output": {"nonfinite_masked": 7}}
    first = Layer("a", "linear", normal(), normal(), sites=masked)
    found = find(tables(first, Layer("b", "linear", normal(), normal())), [Nonfinite()])
    assert found[["layer", "severity", "value"]].to_numpy().tolist() == [["a", "warning", 7]]
    assert found["evidence"].item() == "output:nonfinite_masked"
    spread = Layer("b", "linear", normal(), broken(normal()))
    assert find(tables(first, spread), [Nonfinite()])["severity"].iloc[0] == "error"


def test_fp16_ends_at_65504_and_a_model_in_fp16_is_warned_at_half() -> None:
    rows = broken(normal(), 40_000)
    assert find(tables(Layer("a", "linear", normal(), rows)), [Fp16Overflow()]).empty
    bfloat16 = Layer("a", "linear", normal(), rows, dtype="bfloat16")
    assert find(tables(bfloat16), [Fp16Overflow()])["threshold"].item() == 32752
    meant = tables(Layer("a", "linear", normal(), rows), meta={"meant_dtype": "float16"})
    assert find(meant, [Fp16Overflow()])["value"].item() == 40_000
    half = find(tables(Layer("a", "linear", normal(), rows, dtype="float16")), [Fp16Overflow()])
    assert half[["layer", "site", "example", "feature"]].to_numpy().tolist() == [["a", "output", 3, 5]]
    over = find(tables(Layer("a", "linear", normal(), broken(normal(), -70_000))), [Fp16Overflow()])
    assert over["value"].item() == 70_000
    assert over["threshold"].item() == 65_504


@pytest.mark.filterwarnings("ignore:All-NaN:RuntimeWarning", "ignore:Mean of empty:RuntimeWarning")
@pytest.mark.filterwarnings("ignore:Degrees of freedom:RuntimeWarning")
def test_a_layer_called_again_and_again_may_read_what_it_made_itself() -> None:
    """Eight calls of a shared block: `key` makes NaN in the first, and every later call starts from it."""
    read, wrote = normal(), normal()
    read[8:], wrote[8:] = np.nan, np.nan
    key = wrote.copy()
    key[:8, 5] = np.nan
    made = tables(
        Layer("embed", "linear", normal(), normal()),
        Layer("query", "linear", read, wrote, calls=8),
        Layer("key", "linear", read, key, calls=8),
    )
    found = find(made, [Nonfinite()])
    assert found[["layer", "site", "feature"]].to_numpy().tolist() == [["key", "output", 5]]
    once = tables(Layer("query", "linear", read, wrote), Layer("key", "linear", read, key))
    assert find(once, [Nonfinite()])[["layer", "site"]].to_numpy().tolist() == [["query", "input"]]
