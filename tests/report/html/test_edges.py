"""Recordings at the edge: what the page says where something is missing, broken or far too much."""

import re
from pathlib import Path

import pytest
import torch
from torch import nn

import normprobe
from normprobe import figures
from normprobe.report import write_report
from tests.helpers.golden import golden
from tests.helpers.report_models import (
    NOTHING,
    Block,
    Drawing,
    finding,
    findings_of,
    header_of,
    record,
    section_of,
    stack,
    text_of,
)

GOLDEN = Path(__file__).parent / "golden" / "page.txt"


@pytest.fixture
def drawn(monkeypatch):
    """Figures in no time, for tests of the page around them."""
    monkeypatch.setattr(figures, "available", lambda tables: ["depth_profile"])
    monkeypatch.setattr(figures, "render", lambda tables, name, layer=None: Drawing(name, layer or name))


def page(tables, folder, findings=NOTHING, **options):
    return write_report(tables, findings, folder, **options).read_text("utf-8")


def sections(html):
    return re.findall(r'<section id="(\w+)"', html)


def test_no_norm(tmp_path):
    html = page(record(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2)), torch.ones(3, 4)), tmp_path)
    assert sections(html) == ["findings", "layers", "reading"]
    golden(GOLDEN, "no norm", header_of(html))


def test_no_linear(tmp_path):
    html = page(record(nn.Sequential(*[nn.LayerNorm(4) for _ in range(5)]), torch.randn(9, 4)), tmp_path)
    assert "linear" not in sections(html)
    assert '<rect class="linear"' not in html
    golden(GOLDEN, "no Linear", header_of(html))


@pytest.mark.parametrize("norms", [1, 3])
def test_few_norms_open_at_place_three(tmp_path, norms):
    html = page(record(stack(norms - 1)), tmp_path)
    assert sections(html)[:2] == ["findings", "panels"]
    assert "norms" not in sections(html)
    assert len(re.findall(r'<details class="panel" id="panel-\d+" open>', html)) == norms


def test_a_model_that_is_a_layer(drawn, tmp_path):
    html = page(record(nn.LayerNorm(4), torch.randn(3, 4)), tmp_path, findings_of(finding("")))
    golden(GOLDEN, "a model that is a layer", header_of(html))
    assert "LayerNorm (input)" in text_of(html)


def test_one_sample(tmp_path):
    html = page(record(stack(4), torch.randn(1, 16)), tmp_path)
    golden(GOLDEN, "one sample", header_of(html))
    assert "samples" not in sections(html)


def test_one_feature(tmp_path):
    norms = nn.Sequential(*[nn.LayerNorm(1) for _ in range(5)])
    text = text_of(page(record(norms, torch.randn(9, 1)), tmp_path))
    assert "–" in text
    assert "nan" not in text.lower().replace("nan or inf", "")


def test_many_norms(drawn, tmp_path):
    norms = nn.Sequential(*[nn.LayerNorm(2) for _ in range(500)])
    tables = record(norms, torch.randn(9, 2))
    html = page(tables, tmp_path / "few", findings_of(finding("250")))
    shown = [int(n) for n in re.findall(r'id="panel-(\d+)"', html)]
    assert len(shown) == 64
    assert {0, 250, 499} <= set(shown)
    assert shown == sorted(shown)
    golden(GOLDEN, "many norms, panels", re.search(r'<p class="intro">(.*?)</p>', html).group(1))
    assert len(html) < 1_500_000
    every = page(tables, tmp_path / "all", panels="all")
    assert len(re.findall(r'id="panel-\d+"', every)) == 500
    cells = re.findall(r'<rect class="norm" x="[\d.]+" y="4"', html)
    assert len(cells) == 250
    golden(GOLDEN, "many norms", header_of(re.sub(r"<svg.*?</svg>", "", html, flags=re.DOTALL)))
    assert "250 (layer_norm) and 1 more" in html


def test_more_layers_than_the_table_holds(drawn, tmp_path):
    layers = nn.Sequential(*[nn.Linear(2, 2) for _ in range(1501)])
    html = page(record(layers, torch.randn(9, 2), samples=4, values=2), tmp_path)
    assert html.count('<tr id="layer-') == 1500
    assert "1,500 of 1,501" in section_of(html, "layers")


class Poison(nn.Module):
    """Turns a zero into NaN."""

    def forward(self, x):
        return x / x.abs().clamp(max=0)


def test_nan_made_between_layers(tmp_path):
    model = nn.Sequential(nn.Linear(4, 4), Poison(), nn.LayerNorm(4))
    golden(GOLDEN, "NaN between layers", header_of(page(record(model, torch.ones(3, 4)), tmp_path)))


def test_nan_made_by_a_layer(drawn, tmp_path):
    model = stack(2)
    with torch.no_grad():
        model.layers[1].up.weight[3] = float("nan")
    golden(GOLDEN, "NaN out of a layer", header_of(page(record(model), tmp_path)))


def test_constant_layer(drawn, tmp_path):
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
    nn.init.zeros_(model[0].weight)
    nn.init.zeros_(model[0].bias)
    html = page(record(model, torch.randn(3, 4)), tmp_path)
    row = text_of(re.search(r'<tr id="layer-1">.*?\n', html).group())
    assert row == "1 1 layer_norm 4 0 0 0 – 100 % 0"


def test_gaps_come_first(drawn, tmp_path):
    html = page(record(stack(1, unused=3)), tmp_path)
    golden(GOLDEN, "layers not seen", header_of(html))
    golden(GOLDEN, "layers not seen, section", section_of(html, "unseen"))
    assert "unseen" in sections(html)
    assert html.count('<rect class="unseen" x=') == 3 + 1  # and the key
    assert len(re.findall(r'<tr id="layer-', html)) == 4


def test_called_many_times(drawn, tmp_path):
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.block = Block(4)

        def forward(self, x):
            for _ in range(12):
                x = self.block(x)
            return x

    html = page(record(Shared(), torch.randn(3, 4), torch.randn(3, 4)), tmp_path)
    assert "block.norm12 calls" in text_of(html).replace("norm 12", "norm12")


def test_severe_findings_lead_the_verdict(drawn, tmp_path):
    rows = [
        finding(
            "layers.0.norm", severity="error", title="NaN or Inf", statistic="NaN or Inf values", value=3
        ),
        finding("layers.0.up", severity="warning", title="Variance below eps"),
        finding("layers.1.up", severity="warning", title="Stale"),
        finding("layers.1.norm"),
    ]
    html = page(record(stack(2)), tmp_path, findings_of(*rows))
    text = text_of(html)
    golden(GOLDEN, "all severities", header_of(html))
    assert [text.index(word) for word in ("■ Error", "▲ Warning", "● Note")] == sorted(
        text.index(word) for word in ("■ Error", "▲ Warning", "● Note")
    )
    assert html.count('<rect class="flag" x=') == 3 + 1  # and the key
    assert "<strong>1 error</strong>" in html


def test_many_affected_layers_are_one_finding(drawn, tmp_path):
    names = [f"layers.{i}.norm" for i in range(6)]
    row = finding("layers.3.norm", layers_affected=6, affected="; ".join(names))
    html = page(record(stack(6)), tmp_path, findings_of(row))
    assert html.count('<article class="finding') == 1
    assert "6 of 7 norms" in text_of(html)
    listed = re.search(r"<details><summary>6 layers</summary>.*?</details>", html, re.DOTALL).group()
    assert [text_of(item) for item in listed.split("<li>")[1:]] == names


def test_facts(drawn, tmp_path):
    tables = record(stack(1), every=2).annotate({"data": "6 texts from texts.txt", "unit": "token"})
    golden(GOLDEN, "every second forward", header_of(page(tables, tmp_path)))


def test_a_path_is_told_whole_below_the_heading(drawn, tmp_path):
    html = page(record(stack(1)).annotate({"name": "/models/<b>/bert"}), tmp_path)
    assert "<h1><bdi>bert</bdi></h1>" in html
    assert "<title>bert: normprobe report</title>" in html
    golden(GOLDEN, "a path for a name", header_of(html))
    assert "read from" not in text_of(page(record(stack(1)), tmp_path))


def test_training_mode_is_told(drawn, tmp_path):
    from normprobe import Probe

    model = stack(1).train()
    with Probe(model) as probe:
        model(torch.randn(2, 3, 16))
    assert "training mode" in text_of(page(probe.recording.tables, tmp_path))


def test_a_merged_recording_names_the_part_of_a_sample(tmp_path):
    """Example 1 of both parts holds a large value, at one end each; its text is that of the right part."""
    recordings = []
    for part, size in (("day", 500.0), ("night", -900.0)):
        batch = torch.randn(3, 5, 16, generator=torch.Generator().manual_seed(0))
        batch[1, 2, 7] = size
        words = [[f"{part} {example} {position}" for position in range(5)] for example in range(3)]
        recordings.append(
            normprobe.record(stack(5), [batch], part=part, labels=lambda args, kwargs, words=words: words)
        )
    tables = normprobe.merge(*recordings).tables
    held = {"feature": 7, "example": 1, "position": 2}
    rows = [finding("layers.0.norm", value=value, **held) for value in (900.0, 500.0)]
    text = text_of(page(tables, tmp_path, findings_of(*rows)))
    assert "“night 1 2” example 1 of night, position 2" in text
    assert "“day 1 2” example 1 of day, position 2" in text
    alone = text_of(page(recordings[0].tables, tmp_path, findings_of(rows[1])))
    assert "“day 1 2” example 1, position 2" in alone


def test_a_sample_of_an_unknown_part_has_no_text(drawn, tmp_path):
    model = stack(5)
    recordings = [
        normprobe.record(model, [torch.randn(3, 5, 16)], part=part, labels=lambda a, k: [["word"] * 5] * 3)
        for part in ("day", "night")
    ]
    row = finding("layers.0.norm", example=77, position=2)
    assert "layers.0.norm (input), example 77, position 2" in text_of(
        page(normprobe.merge(*recordings).tables, tmp_path, findings_of(row))
    )
