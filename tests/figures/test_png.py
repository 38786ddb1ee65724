"""A PNG shows what matplotlib's own would: the same ink at the same places, on light paper."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from normprobe.figures.drawing.palette import SURFACE, house_style
from normprobe.figures.drawing.png_renderer import write_png


def figure() -> Figure:
    """A chart with a heading, a grid, labels on both axes, and remarks of each alignment."""
    made = Figure(figsize=(4, 3))
    FigureCanvasAgg(made)
    ax = made.add_axes((0.2, 0.2, 0.7, 0.6))
    ax.plot([0, 1, 2], [0, 5, 20])
    ax.set_title("Heading", loc="left")
    ax.set_xlabel("below")
    ax.grid(True, axis="y")
    for at, side in enumerate(("left", "center", "right")):
        ax.text(1, 4 + 5 * at, side, ha=side, va="center")
    return made


def ink(file: Path) -> np.ndarray:
    """How dark a picture is, summed over squares of eight pixels, 0 to 1."""
    grey = 255 - np.asarray(Image.open(file).convert("L"), dtype=float)
    high, wide = (size // 8 * 8 for size in grey.shape)
    return grey[:high, :wide].reshape(high // 8, 8, wide // 8, 8).mean(axis=(1, 3)) / 255


def test_a_picture_has_the_ink_of_matplotlibs_where_that_has_it(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours.png", tmp_path / "theirs.png"
    with house_style():
        drawn = figure()
        write_png(drawn, ours, 150)
        drawn.savefig(theirs, dpi=150, facecolor=SURFACE)
    one, other = ink(ours), ink(theirs)
    assert one.shape == other.shape
    assert abs(one.sum() / other.sum() - 1) < 0.03
    # Letters may stand half a pixel aside.
    assert np.abs(one - other).sum() < 0.25 * other.sum()
    assert np.corrcoef(one.ravel(), other.ravel())[0, 1] > 0.96


def test_the_paper_is_light_and_the_dots_per_inch_are_said(tmp_path: Path) -> None:
    with house_style():
        drawn = figure()
        kept = drawn.dpi
        write_png(drawn, tmp_path / "one.png", 150)
        write_png(drawn, tmp_path / "two.png", 150)
        assert drawn.dpi == kept
    picture = Image.open(tmp_path / "one.png")
    assert picture.size == (600, 450)
    assert picture.getpixel((2, 2)) == tuple(bytes.fromhex(SURFACE[1:]))
    assert [round(dots) for dots in picture.info["dpi"]] == [150, 150]
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
