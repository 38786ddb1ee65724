"""From figure to SVG: small, themed, escaped, the same every time."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.path import Path
from matplotlib.transforms import IdentityTransform

from normprobe import figures
from normprobe.figures.drawing.palette import house_style, variables
from normprobe.figures.drawing.svg import SVG_NAMESPACE, draw_svg
from normprobe.figures.drawing.svg_paths import number, path_text
from tests.helpers.figure_recordings import Chain, every_figure, images, norm_names, normal, record, stack

GEOMETRY = ("d", "x", "y", "width", "height", "transform", "viewBox")
NASTY = ["</script>", '<b>bold & "quoted"</b>', "正規化層の名前", "x" * 90, "e"]


@pytest.fixture(scope="module")
def drawn():
    model = stack(6)
    return every_figure(record(model, normal(6, 7, 16))) + every_figure(record(images(), normal(16, 1, 6, 6)))


def test_inline_figures_take_their_colours_from_the_page(drawn):
    for figure in drawn:
        text = figure.svg("fig")
        found = [colour for colour in variables() if colour in text.lower()]
        assert not found, (figure.name, found)
        assert "var(--ink)" in text
        assert "var(--in)" in text or figure.name in {"outlier_map", "linear_by_role"}


def test_inline_figures_say_what_they_are(drawn):
    for figure in drawn:
        root = ET.fromstring(figure.svg("fig"))
        assert root.tag == "svg"
        assert root.get("role") == "img"
        assert root.get("aria-label") == figure.aria_label
        assert figure.aria_label.endswith(".")
        assert figure.aria_label.count("\n") == 0


def test_every_id_stands_under_its_prefix_and_is_referred_to(drawn):
    for figure in drawn:
        text = figure.svg("p3-")
        ids = [element.get("id") for element in ET.fromstring(text).iter() if element.get("id")]
        assert len(set(ids)) == len(ids)
        assert all(name.startswith("p3-") for name in ids)
        assert set(re.findall(r"url\(#(.*?)\)", text)) <= set(ids)


def test_coordinates_have_one_decimal_and_texts_keep_all(drawn):
    for figure in drawn:
        for element in ET.fromstring(figure.svg("fig")).iter():
            geometry = " ".join(element.get(key, "") for key in GEOMETRY)
            assert not re.search(r"\.\d\d|\de|nan|inf", geometry), geometry
    profile = next(figure for figure in drawn if figure.name == "depth_profile")
    texts = [text.text for text in ET.fromstring(profile.svg("fig")).iter("text")]
    assert "Largest |value| before the norm: worst feature and median feature" in texts
    assert not any(child.tag == "use" for child in ET.fromstring(profile.svg("fig")).iter())


def test_numbers_are_rounded_whole_and_in_geometry_only():
    figure = Figure(figsize=(2, 2))
    FigureCanvasAgg(figure)
    figure.text(0.123, 0.1, "0.01 and 12.345")
    with house_style():
        (text,) = draw_svg(figure).iter("text")
    assert text.text == "0.01 and 12.345"
    assert text.get("x") == "17.7"
    assert [number(value) for value in (17.712, -3.5, 10, 1e-7, -0.04, np.inf)] == [
        "17.7", "-3.5", "10", "0", "0", "1000000",
    ]  # fmt: skip
    ends = Path([(1.26, 3.5), (np.nan, 1), (10, 0), (20, 1e-7)])
    assert path_text(ends, IdentityTransform(), 4) == "M1.3 0.5M10 4L20 4"


def test_nothing_is_fetched(drawn):
    for figure in drawn:
        text = figure.svg("fig")
        assert "http" not in text
        assert re.findall(r"(?:href|src)=\"(?!data:image/png|#)", text) == []


def test_figures_are_the_same_every_time():
    first, second = (every_figure(record(stack(5), normal(3, 4, 16))) for _ in range(2))
    for a, b in zip(first, second, strict=True):
        assert a.svg("x", lambda layer: f"#{layer}") == b.svg("x", lambda layer: f"#{layer}")
        assert a.caption == b.caption


def test_each_layer_has_one_rectangle_that_leads_to_its_panel():
    recording = record(stack(5), normal(3, 4, 16))
    norms = norm_names(recording)
    root = ET.fromstring(figures.render(recording, "depth_profile").svg("x", lambda layer: f"#panel-{layer}"))
    links = list(root.iter("a"))
    assert [link.get("href") for link in links] == [f"#panel-{layer}" for layer in norms]
    titles = [title.text for title in root.iter("title")]
    assert [title.split("\n")[0] for title in titles] == norms
    assert all("median variance: " in title for title in titles)
    assert len({rect.get("x") for rect in root.iter("rect") if rect.get("class") == "hit"}) == len(norms)


def test_without_a_link_a_rectangle_still_has_its_numbers():
    recording = record(stack(5), normal(3, 4, 16))
    root = ET.fromstring(figures.render(recording, "outlier_map").svg("x", lambda layer: None))
    assert list(root.iter("a")) == []
    assert len([rect for rect in root.iter("rect") if rect.get("class") == "hit"]) == 6


@pytest.mark.parametrize("name", ["depth_profile", "outlier_map"])
def test_names_are_text_whatever_they_hold(name):
    recording = record(Chain(NASTY), normal(9, 12))
    text = figures.render(recording, name).svg("x", lambda layer: f"#{layer}")
    assert "<b>" not in text
    assert "</script>" not in text
    titles = [title.text.split("\n")[0] for title in ET.fromstring(text).iter("title")]
    assert titles == NASTY


def test_the_image_of_the_map_serves_both_themes():
    model = stack(5)
    model.layers[0].up.bias.data[3] = 500.0
    root = ET.fromstring(figures.render(record(model, normal(3, 4, 16)), "outlier_map").svg("x"))
    masks = {mask.get("id"): mask for mask in root.iter("mask")}
    assert all(mask[0].tag == "image" for mask in masks.values())
    shown = [rect for rect in root.iter("rect") if rect.get("mask")]
    assert len(shown) == 4  # the cells and the scale, of norms and of Linear inputs
    assert {rect.get("mask") for rect in shown} == {f"url(#{name})" for name in masks}


def test_files_have_light_colours_and_stand_alone(drawn, tmp_path):
    figure = drawn[0]
    png, svg = figure.save(tmp_path / "new")
    assert [path.name for path in (png, svg)] == ["depth_profile.png", "depth_profile.svg"]
    assert png.read_bytes().startswith(b"\x89PNG")
    text = svg.read_text(encoding="utf-8")
    assert ET.fromstring(text).tag == f"{{{SVG_NAMESPACE}}}svg"
    assert "var(" not in text
    assert "#0b62a8" in text
    assert figure.save(tmp_path, png=False) == [tmp_path / "depth_profile.svg"]
    assert figure.save(tmp_path, svg=False) == [tmp_path / "depth_profile.png"]


def test_a_panel_takes_30_kb():
    recording = record(stack(4, 384), normal(8, 32, 384))
    rendered = figures.render(recording, "norm_panel", layer="layers.2.norm")
    assert len(rendered.svg("p1").encode()) < 30_000
