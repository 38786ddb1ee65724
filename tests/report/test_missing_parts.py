"""Nothing rests on a layer having an input and an output: what is missing is left out, what is new shown."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from normprobe import figures, vocabulary
from normprobe.figures import registry
from normprobe.figures.drawing.palette import site_look
from normprobe.report import notebook_html, terminal_text, write_report
from normprobe.report.html.layer_table import layer_rows
from normprobe.report.layer_summary import summarize
from normprobe.tables.frames import Tables
from tests.helpers.edited_tables import (
    Edit,
    columns_that_may_be_missing,
    edited,
    with_site,
    without_column,
    without_layer,
    without_site,
)
from tests.helpers.figure_recordings import every_figure, images
from tests.helpers.report_models import NOTHING, finding, findings_of, record, stack, text_of

DEEP = record(stack(4))
IMAGES = record(images(), torch.randn(4, 1, 5, 5, generator=torch.Generator().manual_seed(0)))
RECORDINGS = {"deep": DEEP, "images": IMAGES}
LAYERS = {name: list(dict.fromkeys(tables.layers["layer"])) for name, tables in RECORDINGS.items()}
THIRD = "residual"  # listed nowhere: as in a file from elsewhere


def shown(tables: Tables, folder: Path) -> dict[str, str]:
    """Everything that a person may read of a recording."""
    return {
        "page": text_of(write_report(tables, NOTHING, folder).read_text("utf-8")),
        "80": terminal_text(tables, NOTHING, width=80, unicode=True),
        "120": terminal_text(tables, NOTHING, width=120, unicode=False),
        "notebook": text_of(notebook_html(tables, NOTHING)),
    }


@st.composite
def edits(draw: st.DrawFn) -> tuple[str, list[Edit]]:
    """A recording, and one to three things that are done to it."""
    name = draw(st.sampled_from(list(RECORDINGS)))
    layer = st.sampled_from(LAYERS[name])
    site = st.sampled_from(["input", "output"])
    columns = st.sampled_from(columns_that_may_be_missing(RECORDINGS[name]))
    one = st.one_of(
        st.builds(without_site, site),
        st.builds(without_site, site, layer),
        st.builds(without_layer, layer),
        columns.map(lambda place: without_column(*place)),
        st.sampled_from([with_site(THIRD), with_site(THIRD, ("linear",)), with_site("attention_scores")]),
    )
    return name, draw(st.lists(one, min_size=1, max_size=3))


@settings(
    max_examples=8,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(edits())
def test_whatever_is_missing_or_new_everything_still_renders(
    tmp_path: Path, case: tuple[str, list[Edit]]
) -> None:
    name, done = case
    tables = edited(RECORDINGS[name], *done)
    if tables.layers.empty:
        return
    page = shown(tables, tmp_path)["page"]
    assert all(layer in page for layer in tables.layers["layer"])


@pytest.mark.parametrize("name", list(RECORDINGS))
@pytest.mark.parametrize("site", ["input", "output"])
def test_a_recording_of_one_site_renders(name: str, site: str, tmp_path: Path) -> None:
    tables = edited(RECORDINGS[name], without_site(site))
    said = shown(tables, tmp_path)
    assert all(layer in said["page"] for layer in LAYERS[name])
    assert "before" in said["page"]


@pytest.mark.parametrize("name", list(RECORDINGS))
def test_any_column_may_be_missing(name: str) -> None:
    for table, column in columns_that_may_be_missing(RECORDINGS[name]):
        tables = edited(RECORDINGS[name], without_column(table, column))
        for entry in registry.FIGURES:
            assert not entry.plot.supported(tables) or entry.plot.plan(tables).caption
        summary = summarize(tables)
        assert len(layer_rows(tables, summary, list(map(str, summary.index)))) == len(LAYERS[name])
        assert terminal_text(tables, NOTHING, width=120, unicode=True)
        assert notebook_html(tables, NOTHING)


def test_a_third_site_is_on_the_page_in_the_terminal_and_in_the_notebook(tmp_path: Path) -> None:
    tables = edited(DEEP, with_site(THIRD))
    found = findings_of(finding("layers.1.norm"))
    html = write_report(tables, found, tmp_path).read_text("utf-8")
    heads = re.findall(r"<th[^>]*>(.*?)</th>", html)
    assert {f"variance<br>{THIRD}", f"max |value|<br>{THIRD}"} <= set(heads)
    row = re.search(r'<tr id="layer-0">.*?\n', html)
    assert row is not None
    variance = tables.layers.query("layer == 'layers.0.norm' and site == @THIRD")["variance"].iloc[0]
    assert f'data-v="{variance:.6g}"' in row.group().split("<td")[7]
    assert f"<dt>{THIRD.capitalize()}</dt>" in html
    variable = re.search(r"color:var\((--[\w-]+)\)", html)
    assert variable is not None
    assert len(re.findall(rf"{variable.group(1)}: #", html)) == 3  # light, dark by preference, dark by choice
    assert 'd="M' in re.search(r'<path class="f".*?>', html).group()  # type: ignore[union-attr]
    text = terminal_text(tables, found, width=80, unicode=True)
    assert max(map(len, text.splitlines())) <= 80
    assert f"The same at {THIRD}" in text
    cell = notebook_html(tables, found)
    assert f'class="np-site-{THIRD}"' in cell
    assert f".np-site-{THIRD} {{ color: #" in cell
    assert f"{THIRD} {vocabulary.site_of(THIRD).sign}" in text_of(cell)


def test_a_third_site_is_in_the_figures() -> None:
    tables = edited(DEEP, with_site(THIRD))
    for drawn in every_figure(tables):  # type: ignore[arg-type]
        assert drawn.svg("x-")
    profile = figures.render(tables, "depth_profile")
    assert profile.facts["sites"] == ("input", "output", THIRD)
    top = figures.depth_profile(tables)[0]
    assert site_look(THIRD).marker in {line.get_marker() for line in top.lines}
    assert any(text.get_text().startswith(THIRD) for text in top.texts)
    both = {"one": tables, "other": DEEP}
    per_feature = figures.norm_variances(both, "layers.0.norm")[0]
    assert [text.get_text() for text in per_feature.texts] == ["before", "after"]


def test_a_listed_site_has_its_own_label_and_colour(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = vocabulary.Site("residual", "stream", ("#0A5C36", "#8FE0B4"), len(vocabulary.sites()))
    monkeypatch.setitem(vocabulary._SITES, "residual", site)
    tables = edited(DEEP, with_site("residual"))
    html = write_report(tables, NOTHING, tmp_path).read_text("utf-8")
    variable = f"--site-{site.number}"
    assert html.count(f"{variable}: #0A5C36;") == 1
    assert html.count(f"{variable}: #8FE0B4;") == 2
    assert f'style="color:var({variable})">variance<br>stream' in html
    assert f"var({variable})" in figures.render(tables, "depth_profile").svg("x-")
    assert "#0a5c36" not in figures.render(tables, "depth_profile").svg("x-")
    assert f"stream {site.sign}" in text_of(notebook_html(tables, NOTHING))
    text = terminal_text(tables, NOTHING, width=80, unicode=True)
    assert "stream (13 layers)" in text
