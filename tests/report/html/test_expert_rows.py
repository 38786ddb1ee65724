"""The table of experts on the page."""

from __future__ import annotations

import re
from pathlib import Path

import normprobe
from normprobe.report.html.expert_rows import expert_rows
from tests.helpers.expert_models import batch, mixtral, switch


def test_each_layer_has_its_shares(tmp_path: Path) -> None:
    recording = normprobe.record(mixtral(), [batch(1), batch(2)], experts=True)
    rows = expert_rows(recording.tables)
    assert [row.name for row in rows] == [f"model.layers.{block}.mlp.experts" for block in range(2)]
    read = recording.experts[recording.experts["site"] == "input"]
    for row, (_, of) in zip(rows, read.groupby("layer", sort=False), strict=True):
        assert row.tokens == str(of["tokens"].sum()) == "88"
        heights = [18 - float(end) for end in re.findall(r"V([\d.]+)", row.bars)]
        tokens = of["tokens"][of["tokens"] > 0].to_numpy()
        assert [round(h / 18, 2) for h in heights] == [round(t / tokens.max(), 2) for t in tokens]
        assert row.dead == (of["tokens"] == 0).sum()
    page = recording.report(tmp_path / "report").read_text("utf-8")
    assert 'id="experts"' in page
    assert page.count('class="shares"') == 2
    assert (tmp_path / "report" / "experts.csv").exists()


def test_lists_of_experts_are_on_the_page_and_other_models_have_no_such_section(tmp_path: Path) -> None:
    given = batch(1)
    data = [{**given, "decoder_input_ids": given["input_ids"][:, :4]}]
    page = normprobe.record(switch(), data).report(tmp_path / "switch").read_text("utf-8")
    assert page.count('class="shares"') == 2
    page = normprobe.record(mixtral(), [given]).report(tmp_path / "mixtral").read_text("utf-8")
    assert 'id="experts"' not in page
