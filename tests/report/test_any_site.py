"""Figures and reports of recordings in which a site, or a whole layer, was not measured."""

from __future__ import annotations

from pathlib import Path

import pytest

from normprobe import figures
from normprobe.findings import find
from normprobe.recording import Recording
from normprobe.vocabulary import INPUT, OUTPUT
from tests.tables.test_any_site import LAYERS, TABLES, VARIANTS, without

WITHOUT_LAYERS = {
    f"nothing of {layer}": without(without(TABLES, INPUT, [layer]), OUTPUT, [layer]) for layer in LAYERS
}


@pytest.mark.parametrize("name", [*VARIANTS, *WITHOUT_LAYERS])
def test_every_figure_that_is_offered_is_drawn(name: str) -> None:
    tables = (VARIANTS | WITHOUT_LAYERS)[name]
    for figure in figures.available(tables):
        assert figures.render(tables, figure).name == figure
    assert len(find(tables).columns) == 20
    assert repr(Recording(tables))


@pytest.mark.parametrize("name", ["no input of 2", "no output", "third alone", "nothing of 2"])
def test_a_report_is_written(name: str, tmp_path: Path) -> None:
    page = Recording((VARIANTS | WITHOUT_LAYERS)[name]).report(tmp_path)
    assert page.stat().st_size > 10_000


def test_a_panel_without_a_site_draws_the_other() -> None:
    assert "<svg" in figures.render(VARIANTS["no input of 2"], "norm_panel", layer="2").svg("p-")
