"""The frame of findings: one table, one order, one vocabulary, whatever the checks."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pytest
import torch
from torch import nn

import normprobe
from normprobe.errors import NormprobeError
from normprobe.findings import (
    CHECKS,
    COLUMNS,
    Check,
    Finding,
    Severity,
    explain,
    find,
    page_of,
    rule_of,
    series,
    thresholds,
)
from normprobe.findings.depth import VarianceExplodes
from normprobe.findings.numerics import Fp16Overflow
from normprobe.findings.outliers import OutlierFeatures
from normprobe.report.html.glossary import glossary_entries
from tests.helpers.findings_tables import Layer, normal, tables

if TYPE_CHECKING:
    from normprobe.tables.frames import Tables


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
    with pytest.raises(NormprobeError, match=r"'nonfinites'.*nonfinite"):
        find(made, ["nonfinites"])
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


def test_every_threshold_stands_in_one_sentence_with_its_number() -> None:
    for check in CHECKS:
        names = {field.name for field in fields(check)} - {"texts"}
        assert set(check.fitted) <= names, check.name
        # Each field once, and no other.
        written = re.findall(r"{(\w+)(?::%)?}", check.rule)
        assert sorted(written) == sorted([*names, *_TWICE.get(check.name, [])])
        page = " ".join(explain(check.name).split())
        assert page.endswith(f"Threshold: {rule_of(check)}")
        assert "Attributes" not in page
        assert not re.search(r"[{}]", page)
        assert ("fitted to healthy and faulty models" in page) == bool(check.fitted)
        assert thresholds(check).count("(fitted)") == len(check.fitted)
        assert max(map(len, explain(check.name).splitlines())) <= 110


_TWICE = {"fp16_overflow": ["limit"]}


def test_a_rule_has_the_numbers_of_the_check_at_hand() -> None:
    assert rule_of(OutlierFeatures()) == (
        "A feature is an outlier if it reaches 6 and 10 times the median feature, and at most 2 % of the "
        "features (one at least) do, over 32 values per feature or more. 10 and 2 % were fitted to healthy "
        "and faulty models."
    )
    other = rule_of(OutlierFeatures(least=7.5, times=2000, share=0.125))
    assert "reaches 7.5 and 2,000 times the median feature, and at most 12.5 %" in other
    assert "10^1.7 beyond that of the same Linear" in rule_of(VarianceExplodes())
    assert "10^1.7 and 10^1 were fitted" in rule_of(VarianceExplodes())


@dataclass(frozen=True, kw_only=True)
class OwnCheck(Check):
    """A check without a sentence.

    Attributes:
        most: a threshold.
    """

    name: ClassVar[str] = "own"
    title: ClassVar[str] = "Own"
    severity: ClassVar[Severity] = "info"
    advice: ClassVar[str] = "None."
    source: ClassVar[str] = "none"
    fitted: ClassVar[tuple[str, ...]] = ("most",)
    most: float = 0.5

    def __call__(self, tables: Tables) -> list[Finding]:
        """Nothing."""
        return []


def test_a_check_without_a_sentence_lists_its_numbers() -> None:
    assert rule_of(OwnCheck()) == "most 0.5 (fitted)."


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        ("stale_running_statistics", "stale_running_statistics"),
        ("Running statistics are stale", "stale_running_statistics"),
        ("running STATISTICS are-stale", "stale_running_statistics"),
        ("NaN or Inf", "nonfinite"),
        ("explodes", "variance_explodes"),
        ("fp16", "fp16_overflow"),
        ("wild", "outlier_sample"),
        ("stale channels", "stale_channels"),
    ],
)
def test_a_title_or_a_part_that_one_check_has_is_explained(asked: str, name: str) -> None:
    assert explain(asked) == explain(name)
    assert f"({name}, " in explain(asked).splitlines()[0]


def test_of_several_checks_these_are_listed_and_no_others() -> None:
    listed = [line.split()[0] for line in explain("stale").splitlines()]
    assert listed == ["stale_running_statistics", "stale_channels"]
    assert explain("massive").startswith("Massive activations (massive_activations, info)\n")
    with pytest.raises(NormprobeError, match=r"There is no check 'xyzzy'; `normprobe explain` lists all"):
        explain("xyzzy")
    with pytest.raises(NormprobeError, match=r"no check 'nonfinit_e'; did you mean nonfinite\?"):
        explain("nonfinit_e")
    with pytest.raises(NormprobeError, match="'stale' is part of several checks: stale_running_statistics, "):
        find(tables(Layer("a", "linear", normal(), normal())), ["stale"])


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


def test_a_single_check_is_taken_and_what_is_none_is_an_error_in_words() -> None:
    recording = normprobe.record(nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)), [torch.randn(64, 4)])
    check = OutlierFeatures(times=0.1, least=0.0, share=1.0)
    for given in (check, [check], iter([check])):
        assert recording.findings(given)["check"].tolist() == ["outlier_features"]
    for one in ("outlier_features", "Outlier features"):
        assert recording.findings(one).attrs["checks"] == 1
    for wrong, shown in ((5, "5"), ([5], "5"), (OutlierFeatures, "the class OutlierFeatures")):
        with pytest.raises(NormprobeError, match=f"^checks takes names, such as .*; got {shown}$"):
            recording.findings(wrong)
    with pytest.raises(NormprobeError, match="There is no check 'nonesuch'"):
        recording.summary("nonesuch")
