"""Names and texts of any letters, and models of which nothing is known yet, are recorded, saved and drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pandas as pd
import pytest
import torch
from torch import nn

import normprobe

NAMES = {
    "formula": "a$b^$c",
    "fraction": "price_$\\frac{1}{0$",
    "drawn": "a$x^2$b",
    "escape": "\x1b[31m",
    "bell and nul": "\x07\x00",
    "no character": "\ufffe\uffff",
    "surrogate": "\ud800\udfff\ud800",
    "quotes": "\"'<&>`{{ x }}{% y %}",
}


def test_a_report_of_layers_of_any_name(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential()
    for name in NAMES.values():
        model.add_module(f"{name}l", nn.Linear(8, 8))
        model.add_module(f"{name}n", nn.LayerNorm(8))
    data = torch.randn(6, 5, 8) * torch.tensor([1, 1, 1, 1, 1, 1, 1, 5000.0])
    recording = normprobe.record(model, [data], part="part \ud800")
    again = normprobe.load(recording.save(tmp_path / "any.normprobe"))
    pd.testing.assert_frame_equal(again.ledger, recording.ledger)
    assert recording.ledger["layer"].nunique() == 2 * len(NAMES)
    recording.report(tmp_path / "report")
    drawn = sorted((tmp_path / "report" / "figures").glob("*.svg"))
    texts = "".join(t for file in drawn for t in ElementTree.parse(file).getroot().itertext())
    for shown in ("a$b^$cn", "$\\frac{1}{0$n", "a$x^2$bn", "\\x1b[31mn", "\\x07\\x00n", "\\ufffe\\uffffn"):
        assert shown in texts, shown


@pytest.mark.parametrize("text", ["\ud800", "a\udce9b", "\ud83d\ude00", "\x00", "é"], ids=ascii)
def test_a_label_that_is_no_unicode_has_a_replacement(text: str, tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8))
    with normprobe.Probe(model, labels=lambda args, kwargs: [[text]] * 4) as probe:
        model(torch.randn(4, 1, 8))
    recording = probe.recording
    (kept,) = set(recording.tables.labels["text"])
    whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    assert kept == whole
    path = recording.save(tmp_path / "any.normprobe", labels=True)
    assert set(normprobe.load(path).tables.labels["text"]) == {whole}


LAZY: list[Any] = [nn.LazyBatchNorm1d, nn.LazyInstanceNorm1d]


@pytest.mark.parametrize("norm", LAZY)
def test_a_lazy_norm_is_measured_as_it_takes_its_shape(norm: Any) -> None:
    model = nn.Sequential(nn.LazyLinear(8), norm(affine=True, track_running_stats=True))
    x = torch.randn(4, 8, 8)
    with normprobe.Probe(model) as probe:
        model(x)
        model(x)
    row = probe.recording.ledger.set_index("layer").loc["1"]
    assert (row["status"], row["n_features"], row["calls"]) == ("fired", 8, 2)


@pytest.mark.parametrize("kind", ["empty", "masked"])
def test_where_nothing_was_measured_there_are_tables_all_the_same(kind: str, tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 8))
    batch = torch.zeros(0, 3, 8) if kind == "empty" else torch.randn(2, 3, 8)
    mask = None if kind == "empty" else (lambda args, kwargs: torch.zeros(2, 3, dtype=torch.bool))
    recording = normprobe.record(model, [batch], mask=mask)
    with pytest.raises(normprobe.NoSamplesError, match="3 of the 3 layers of Sequential fired, on no sample"):
        recording.findings()
    assert len(recording.to_csv(tmp_path / "csv")) == len(recording.to_parquet(tmp_path / "parquet")) == 6
    assert (tmp_path / "csv" / "findings.csv").read_text().startswith("check,title,severity,")
    again = normprobe.load(recording.save(tmp_path / "any.normprobe"))
    assert again.ledger.equals(recording.ledger)
    assert list(pd.read_parquet(tmp_path / "parquet" / "ledger.parquet")["status"]) == ["fired"] * 3
