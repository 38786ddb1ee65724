"""The files of a report: which tables lie beside it, and what becomes of an earlier report."""

from __future__ import annotations

import os
import warnings
from datetime import datetime
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import nn

import normprobe
from normprobe import NormprobeError, Recording
from normprobe.report import earlier_report, replaced, report_files
from tests.helpers.report_models import text_of

OLDER_TABLES = ("layers", "features", "samples", "ledger", "findings")
TABLES = (*OLDER_TABLES, "outliers")
SMALL = {"layers.csv", "ledger.csv", "findings.csv", "outliers.csv"}


def recorded(name: str = "a") -> Recording:
    torch.manual_seed(0)
    return normprobe.record(nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6)), torch.randn(30, 4)).annotate(
        name=name
    )


def tables_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.suffix in (".csv", ".parquet")}


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("auto", SMALL | {"features.parquet", "samples.parquet"}),
        ("csv", {f"{name}.csv" for name in TABLES}),
        ("parquet", {f"{name}.parquet" for name in TABLES}),
        ("none", set()),
    ],
)
def test_tables_beside_a_report(tmp_path: Path, form: str, expected: set[str]) -> None:
    recording = recorded()
    page = recording.report(tmp_path, tables=form)
    assert tables_in(tmp_path) == expected
    words = text_of(page.read_text("utf-8"))
    for name in TABLES:
        for ending in ("csv", "parquet"):
            # What the page names is there, and nothing else.
            assert (f"{name}.{ending}" in words) is (f"{name}.{ending}" in expected)
    assert {path.name for path in report_files(page)} >= expected | {"report.html"}
    if form in ("auto", "parquet"):
        read = pd.read_parquet(tmp_path / "features.parquet")
        pd.testing.assert_frame_equal(read, recording.features, check_dtype=False)


def test_the_default_is_auto_in_a_folder_called_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert recorded().report() == Path("report/report.html")
    assert "samples.parquet" in tables_in(tmp_path / "report")


def test_another_form_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(NormprobeError, match="auto, csv, parquet, none, got 'xlsx'"):
        recorded().report(tmp_path / "new", tables="xlsx")
    assert not (tmp_path / "new").exists()


def test_tables_of_an_earlier_report_do_not_stay_beside_a_new_one(tmp_path: Path) -> None:
    recorded().report(tmp_path, tables="csv")
    (tmp_path / "mine.csv").write_text("1\n")
    recorded().report(tmp_path, tables="auto")
    assert not {"features.csv", "samples.csv"} & tables_in(tmp_path)
    recorded().report(tmp_path, tables="none")
    assert tables_in(tmp_path) == {"mine.csv"}, "files of others stay"


def test_replacing_the_report_of_another_model_warns(tmp_path: Path) -> None:
    recorded("net + a.pt").report(tmp_path, tables="none")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        recorded("net + a.pt").report(tmp_path, tables="none")
    with pytest.warns(UserWarning, match=r"^replaced the report of net \+ a.pt of \d\d:\d\d in /"):
        recorded("net + b.pt").report(tmp_path, tables="none")
    with pytest.warns(UserWarning, match="replaced the report of net"):
        recorded("other").report(tmp_path, tables="none")


def test_of_another_day_the_date_is_said(tmp_path: Path) -> None:
    page = recorded().report(tmp_path, tables="none")
    then = datetime(2026, 1, 2, 18, 46).timestamp()
    os.utime(page, (then, then))
    assert replaced(earlier_report(tmp_path), "b") == "replaced the report of a of 2026-01-02 18:46"
    assert replaced(earlier_report(tmp_path), "a") == ""
    assert replaced(earlier_report(tmp_path / "absent"), "a") == ""


def test_a_report_of_before_the_marker_is_of_another_run(tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text("<title>net: normprobe report</title>")
    for name in OLDER_TABLES:
        (tmp_path / f"{name}.csv").write_text("")
    with pytest.warns(UserWarning, match="replaced the report of another run"):
        recorded().report(tmp_path, tables="parquet")
    assert tables_in(tmp_path) == {f"{name}.parquet" for name in TABLES}


@pytest.mark.parametrize("content", ["{", "[]", "{&#34;name&#34;: 1}", "1"])
def test_a_damaged_marker_is_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "report.html").write_text(f'<meta name="normprobe" content="{content}">')
    found = earlier_report(tmp_path)
    assert found is not None
    assert (found.name, found.tables) == ("", ())


def test_a_marker_removes_nothing_outside_the_folder(tmp_path: Path) -> None:
    (tmp_path / "kept.csv").write_text("1\n")
    inner = tmp_path / "inner"
    inner.mkdir()
    (inner / "page.txt").write_text("1\n")
    names = '["../kept.csv", "page.txt"]'.replace('"', "&#34;")
    (inner / "report.html").write_text(
        f'<meta name="normprobe" content="{{&#34;name&#34;: &#34;a&#34;, &#34;tables&#34;: {names}}}">'
    )
    recorded().report(inner, tables="none")
    assert (tmp_path / "kept.csv").exists()
    assert (inner / "page.txt").exists()


def test_a_name_with_markup_comes_back(tmp_path: Path) -> None:
    name = 'a "b" <c> & d\'s 层'
    recorded(name).report(tmp_path, tables="none")
    found = earlier_report(tmp_path)
    assert found is not None
    assert found.name == name


def test_findings_of_chosen_checks_alone_are_reported(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6))
    with torch.no_grad():
        model[0].bias[0] = torch.nan
    recording = normprobe.record(model, torch.randn(30, 4))
    recording.report(tmp_path, checks=["dead_features"])
    assert "No findings" in (tmp_path / "report.html").read_text("utf-8")
    assert pd.read_csv(tmp_path / "findings.csv").empty
    recording.report(tmp_path)
    assert pd.read_csv(tmp_path / "findings.csv")["check"].tolist() == ["nonfinite"]
