"""Which findings are new, known and gone against an earlier recording."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

import normprobe.findings
from normprobe import NormprobeError
from normprobe.findings import COLUMNS, changes, to_json
from normprobe.findings.baseline import other_data
from tests.helpers.report_models import NOTHING, finding, findings_of, record, stack


def changed(now: list[dict[str, Any]], before: list[dict[str, Any]], **options: Any) -> list[tuple[str, str]]:
    found = changes(findings_of(*now), findings_of(*before), **options)
    return list(zip(found["layer"], found["change"], strict=True))


def test_a_finding_of_the_same_check_layer_and_site_is_known() -> None:
    assert changed([finding("a")], [finding("a", value=1.0, message="Other numbers.")]) == [("a", "known")]


@pytest.mark.parametrize(
    "before",
    [finding("a", check="another"), finding("a", site="output"), finding("b")],
    ids=["check", "site", "layer"],
)
def test_another_check_site_or_layer_makes_it_new_and_the_earlier_one_gone(before: dict[str, Any]) -> None:
    assert changed([finding("a")], [before]) == [("a", "new"), (before["layer"], "gone")]


def test_which_of_the_affected_layers_is_the_worst_makes_no_finding_new() -> None:
    now = finding("c", affected="a; c", layers_affected=2)
    before = finding("a", affected="a; b; c", layers_affected=3)
    assert changed([now], [before]) == [("c", "known")]


def test_more_layers_behind_a_known_one_are_not_new_and_one_that_is_named_first_is() -> None:
    before = finding("b", affected="b; c")
    assert changed([finding("b", affected="b; c; d")], [before]) == [("b", "known")]
    assert changed([finding("a", affected="a; b; c")], [before]) == [("a", "new")], "b is still among them"


def test_a_worse_severity_is_new_and_a_milder_one_known() -> None:
    mild, bad = finding("a", severity="warning"), finding("a", severity="error")
    assert changed([bad], [mild]) == [("a", "new")]
    assert changed([mild], [bad]) == [("a", "known")]


def test_layers_may_have_other_names_in_the_earlier_recording() -> None:
    assert changed([finding("h.0")], [finding("layers.0")], names={"h.0": "layers.0"}) == [("h.0", "known")]


def test_columns_stay_and_come_before_the_change() -> None:
    for now, before in (([finding("a")], []), ([], [finding("a")]), ([], [])):
        found = changes(findings_of(*now), findings_of(*before))
        assert list(found) == [*COLUMNS, "change"]
        pd.testing.assert_series_equal(found.drop(columns="change").dtypes, NOTHING.dtypes, check_index=True)


def test_json_has_a_list_of_those_that_are_gone() -> None:
    found = changes(findings_of(finding("a"), finding("b")), findings_of(finding("b"), finding("c")))
    document = json.loads(to_json(found, record(stack(1)), report=None))
    assert [(f["layer"], f["change"]) for f in document["findings"]] == [("a", "new"), ("b", "known")]
    assert [f["layer"] for f in document["gone"]] == ["c"]
    assert document["counts"] == {"error": 0, "warning": 0, "info": 2, "new": 1, "gone": 1}
    assert document["report"] is None


class TestSelection:
    def test_names_parts_and_titles(self) -> None:
        def name(**given: list[str]) -> list[str]:
            return [check.name for check in normprobe.findings.selected(**given)]

        assert name(select=["nonfinite", "massive"]) == ["nonfinite", "massive_activations"]
        assert name(select=["Running statistics are stale"]) == ["stale_running_statistics"]
        every = name()
        assert name(ignore=["outlier_f", "massive-act"]) == [
            n for n in every if n not in ("outlier_features", "massive_activations")
        ]
        assert name(select=["nonfinite", "massive"], ignore=["massive"]) == ["nonfinite"]

    def test_what_is_part_of_several_or_none_is_an_error_with_names(self) -> None:
        with pytest.raises(normprobe.NormprobeError, match=r"part of several checks: .*outlier_features"):
            normprobe.findings.selected(select=["outlier"])
        with pytest.raises(normprobe.NormprobeError, match="did you mean massive_activations"):
            normprobe.findings.selected(ignore=["masive_activation"])
        with pytest.raises(normprobe.NormprobeError, match="`normprobe explain` lists all"):
            normprobe.findings.selected(ignore=["zzz"])

    def test_explain_takes_the_same(self) -> None:
        explain = normprobe.findings.explain
        assert explain("Running statistics are stale") == explain("stale_running_statistics")
        assert explain("stale_running") == explain("stale_running_statistics")


@pytest.mark.parametrize("wrong", [7, pd.DataFrame({"layer": ["a"]}), None])
def test_what_is_no_table_of_findings_is_refused_in_words(wrong: Any) -> None:
    right = findings_of(finding("a"))
    for given in ((wrong, right), (right, wrong)):
        with pytest.raises(
            NormprobeError, match=r"changes takes two tables of findings, got .*findings\(\) of"
        ):
            changes(*given)


def test_data_are_others_by_their_fingerprints_or_else_their_number() -> None:
    def of(**digests: tuple[int, int]) -> Any:
        return SimpleNamespace(facts={"digests": digests})

    assert not other_data(of(a=(3, 7), b=(4, 8)), of(x=(4, 8), y=(3, 7))), (
        "parts have other names, another order"
    )
    assert other_data(of(a=(3, 7)), of(a=(3, 8)))
    assert other_data(of(a=(3, 7)), of(a=(3, 7), b=(4, 8)))
    assert not other_data(of(a=(3, 0)), of(a=(3, 8))), "one has no fingerprint"
    assert other_data(of(a=(3, 0)), of(a=(4, 0)))
