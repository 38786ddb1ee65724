"""Checks survive what tables may hold: one sample, one feature, nothing finite, nothing at all."""

from __future__ import annotations

import numpy as np
import pytest

from normprobe.findings import find
from tests.helpers.findings_tables import Layer, normal, tables

KINDS = ["linear", "layer_norm", "rms_norm", "batch_norm", "group_norm", "instance_norm", "norm"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("rows", "features"), [(1, 8), (2, 1), (1, 1), (64, 2)])
def test_few_samples_or_features_are_no_finding(kind: str, rows: int, features: int) -> None:
    layers = [
        Layer(name, kind, normal(rows=rows, features=features), normal(rows=rows, features=features))
        for name in ("a", "b", "c", "d")
    ]
    assert find(tables(*layers)).query("severity != 'info'").empty


@pytest.mark.filterwarnings("ignore:All-NaN:RuntimeWarning", "ignore:Mean of empty:RuntimeWarning")
@pytest.mark.filterwarnings("ignore:Degrees of freedom:RuntimeWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_without_a_finite_value_is_named_and_breaks_nothing(kind: str) -> None:
    nothing = normal()
    nothing[1:] = np.nan
    nothing[0, :] = np.inf
    nothing[0, 0] = 1.0
    layers = [
        Layer("a", kind, normal(), nothing),
        Layer("b", kind, nothing, nothing),
        Layer("c", kind, nothing, nothing),
    ]
    found = find(tables(*layers))
    assert found.iloc[0][["check", "layer"]].tolist() == ["nonfinite", "a"]


@pytest.mark.parametrize("kind", KINDS)
def test_zeros_everywhere_break_nothing(kind: str) -> None:
    zeros = np.zeros((64, 8))
    found = find(tables(*(Layer(name, kind, zeros, zeros) for name in "abc")))
    assert np.isfinite(found["value"]).all()


def test_empty_tables_have_no_findings() -> None:
    made = tables(Layer("a", "linear", normal(), normal()))
    empty = type(made)(*(frame.iloc[:0] for frame in (made.layers, made.features, made.samples, made.ledger)))
    assert find(empty).empty
