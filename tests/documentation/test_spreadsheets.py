"""Names that a spreadsheet takes for formulas: the CSV files hold them as they are, and the page says so."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import nn

import normprobe


@pytest.mark.parametrize("sign", "=+-@")
def test_a_name_that_reads_as_a_formula_is_written_as_it_is_and_named(sign: str, tmp_path: Path) -> None:
    model = nn.Sequential()
    model.add_module(f"{sign}1+1", nn.Linear(4, 4))
    normprobe.record(model, [torch.randn(3, 4)]).to_csv(tmp_path)
    for table in ("layers", "features", "samples", "ledger"):
        read = pd.read_csv(tmp_path / f"{table}.csv", dtype={"layer": str}, keep_default_na=False)
        assert set(read["layer"]) == {f"{sign}1+1"}
    page = (Path(__file__).parents[2] / "docs" / "columns.md").read_text(encoding="utf-8")
    assert f"`{sign}`" in page.split("## ")[0]
