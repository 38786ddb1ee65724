"""The frame of findings: one table, one order, one vocabulary, whatever the checks."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
import torch

import normprobe
from normprobe.errors import NormprobeError
from normprobe.findings import CHECKS, COLUMNS, Finding, explain, find, page_of, series, thresholds
from normprobe.findings.numerics import Fp16Overflow
from normprobe.report.html.glossary import glossary_entries
from tests.helpers.findings_tables import Layer, normal, tables


def test_healthy_layers_have_no_findings_and_an_empty_table_has_all_columns() -> None:
    norm = Layer("a", "layer_norm", normal(3), normal())
    found = find(tables(norm, Layer("b", "linear", norm.after, normal())))
    assert found.empty
    assert {name: str(kind) for name, kind in found.dtypes.items()} == COLUMNS


def test_findings_are_ordered_by_severity_then_depth() -> None:
    broken = normal()
    broken[3, 5] = np.nan
    first = Layer("a", "linear", normal(), normal(1e5))
    last = Layer("b", "linear", normal(), broken)
    found = find(tables(first, last), ["fp16_overflow", "nonfinite"])
    assert found[["check", "severity", "layer"]].to_numpy().tolist() == [
        ["nonfinite", "error", "b"],
        ["fp16_overflow", "warning", "a"],
    ]


def test_every_finding_names_statistic_threshold_source_and_evidence_that_can_be_drawn() -> None:
    broken = normal()
    broken[3, 5] = np.inf
    made = tables(Layer("a", "linear", normal(), normal(1e5)), Layer("b", "linear", normal(), broken))
    found = find(made)
    assert set(found["check"]) >= {"nonfinite", "fp16_overflow"}
    for row in found.itertuples():
        assert row.value > row.threshold
        assert row.source
        assert row.message.endswith(".")
        assert row.advice.endswith(".")
        drawn = series(made, row.evidence).set_index("layer")["value"]
        assert drawn[row.layer] == pytest.approx(row.value)
        assert row.layers_affected == len(row.affected.split("; "))


def test_a_check_with_thresholds_of_ones_own() -> None:
    made = tables(Layer("a", "linear", normal(), normal(10)))
    assert find(made, [Fp16Overflow()]).empty
    assert find(made, [Fp16Overflow(limit=5)])["layer"].tolist() == ["a"]


def test_an_unknown_check_or_measure_is_named_with_close_ones() -> None:
    made = tables(Layer("a", "linear", normal(), normal()))
    with pytest.raises(NormprobeError, match=r"'nonfinte'.*nonfinite"):
        find(made, ["nonfinte"])
    with pytest.raises(NormprobeError, match=r"abs_maxx.*abs_max"):
        series(made, "input:abs_maxx")
    with pytest.raises(NormprobeError, match="middle"):
        series(made, "middle:abs_max")


def test_series_is_by_depth_with_one_value_per_layer() -> None:
    after, last = normal(2), normal(4)
    made = tables(Layer("z", "linear", normal(), after), Layer("a", "linear", normal(3), last))
    drawn = series(made, "output:rms")
    assert drawn["layer"].tolist() == ["z", "a"]
    assert drawn["depth"].tolist() == [0, 1]
    np.testing.assert_allclose(drawn["value"], [np.sqrt((rows**2).mean()) for rows in (after, last)])


def test_names_are_unique_and_every_check_has_a_page() -> None:
    names = [check.name for check in CHECKS]
    assert len(set(names)) == len(names)
    assert explain().count("\n") == len(names) - 1
    for check in CHECKS:
        page = explain(check.name)
        for part in ("What to do:", "Figure:", "Source:", "When it is wrong:"):
            assert part in page, f"{check.name} lacks {part}"
        assert check.severity in {"error", "warning", "info"}


def test_every_threshold_is_named_with_whether_it_was_fitted() -> None:
    for check in CHECKS:
        names = {field.name for field in fields(check)}
        assert set(check.fitted) <= names, check.name
        page = explain(check.name)
        assert all(f"    {name}: " in page for name in names), f"the page of {check.name} lacks a field"
        assert thresholds(check).count("(fitted)") == len(check.fitted)
    assert "Thresholds: share 0.25 (fitted), rows 16." in explain("constant_features")


def test_the_page_of_a_check_is_in_the_report_of_a_recording_that_it_found_something_in() -> None:
    assert page_of("no check of this name") == []
    assert not any("Attributes" in part or "`" in part for check in CHECKS for part in page_of(check.name))
    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3))
    with torch.no_grad():
        model[1].running_var.fill_(9.0)
    recording = normprobe.record(model, torch.eye(4))
    entries = dict(glossary_entries(recording.tables, recording.findings()))
    assert entries["Stale running statistics"] == " ".join(page_of("stale_running_statistics"))
    assert "Dead features" not in entries


def test_a_finding_is_frozen() -> None:
    made = CHECKS[0](tables(Layer("a", "linear", normal(), np.full((4, 4), 1.0))))
    assert made == []
    finding = Finding(
        **{"layer": "a", "site": "input", "statistic": "s", "value": 1, "threshold": 0, "message": "m."},
        **{"evidence": "input:mean", "affected": ("a",)},
    )
    with pytest.raises(AttributeError):
        finding.value = 2  # type: ignore[misc]
