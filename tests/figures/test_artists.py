"""Texts and ticks stand where matplotlib puts them, and what is out of the ordinary is left to it."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Callable
from typing import Any

import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from normprobe.figures.drawing.palette import house_style
from normprobe.figures.drawing.svg import draw_svg
from tests.helpers.figure_recordings import text_boxes


def drawn(change: Callable[[Axes], Any]) -> tuple[ET.Element, list[tuple[str, Any]]]:
    """The SVG of a small chart, and each text with the box that matplotlib gives it."""
    with house_style():
        figure = Figure(figsize=(4, 3))
        FigureCanvasAgg(figure)
        ax = figure.add_axes((0.2, 0.2, 0.6, 0.6))
        ax.plot([0, 1, 2], [0, 5, 20])
        change(ax)
        tree = draw_svg(figure)
    return tree, text_boxes(figure)


def labels(ax: Axes) -> None:
    ax.set_title("title", loc="left")
    ax.set_xlabel("below")
    ax.grid(True)
    for va in ("top", "bottom", "center", "baseline", "center_baseline"):
        for ha in ("left", "center", "right"):
            ax.text(1, 10, f"{va} {ha}", ha=ha, va=va)


def test_texts_stand_where_matplotlib_puts_them() -> None:
    tree, boxes = drawn(labels)
    height = 3 * 72
    written = {text.text: text for text in tree.iter("text")}
    assert set(written) == {text for text, _ in boxes}
    assert len(boxes) > 25
    share = {"start": 0, "middle": 0.5, "end": 1}
    for text, box in boxes:
        x, y = float(written[text].get("x")), float(written[text].get("y"))
        anchor = written[text].get("style").partition("text-anchor: ")[2]
        assert x == pytest.approx(box.x0 + share[anchor] * box.width, abs=1.1), text
        # The baseline: whole pixels there, and a box begins with the lowest letter or with the line.
        assert -0.6 <= height - y - box.y0 <= 3.5, text


def test_a_grid_is_one_path_with_a_line_at_each_tick() -> None:
    tree, boxes = drawn(lambda ax: ax.grid(True, axis="y"))
    (grid,) = [path for path in tree.iter("path") if "stroke-width: 0.6" in path.get("style")]
    ticks = [text for text, box in boxes if box.x1 < 0.2 * 4 * 72]
    assert grid.get("d").count("M") == len(ticks) > 3


@pytest.mark.parametrize(
    ("change", "texts"),
    [
        (lambda ax: ax.tick_params(axis="x", rotation=90), 0),
        (lambda ax: ax.yaxis.tick_right(), 0),
        (lambda ax: ax.set_ylabel("beside"), 1),
        (lambda ax: ax.set_title("two\nlines"), 2),
        (lambda ax: ax.set_ylim(0, 1e9), 1),
        (lambda ax: ax.annotate("note", (1, 10), (5, 5), textcoords="offset points"), 1),
    ],
)
def test_what_is_out_of_the_ordinary_is_matplotlibs(change: Callable[[Axes], Any], texts: int) -> None:
    plain = [text.text for text in drawn(lambda ax: None)[0].iter("text")]
    found = list(drawn(change)[0].iter("text"))
    assert any(text.get("transform") for text in found)
    assert len(found) >= len(plain) - 2 + texts


def test_a_chart_that_is_hidden_is_not_drawn() -> None:
    tree, _ = drawn(lambda ax: ax.set_visible(False))
    assert [child.tag for child in tree] == []
    tree, _ = drawn(lambda ax: ax.set_axis_off())
    assert [text.text for text in tree.iter("text")] == []
    assert len(list(tree.iter("path"))) == 1
