"""Pictures as PNG: matplotlib's renderer, without its measuring of ticks and labels before it draws them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends import backend_agg
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, get_font
from PIL import Image

from normprobe.figures.drawing.artists import draw_figure, font_file
from normprobe.figures.drawing.palette import SURFACE

_AGG: Any = backend_agg  # without types in matplotlib
_FAST = 1  # of nine levels of compression: half of the time, files a tenth larger


class PngRenderer(RendererAgg):
    """Agg, with the lines of text that `draw_figure` writes."""

    def write_line(
        self,
        line: str,
        x: float,
        y: float,
        *,
        colour: str,
        font: FontProperties,
        opacity: float = 1.0,
        align: str = "left",
    ) -> None:
        """Write a line of text; see `SvgRenderer.write_line`.

        The letters are laid out and drawn once; matplotlib lays them out three times, to measure and to draw
        them, and draws each by itself.
        """
        face: Any = get_font(font_file(font))
        face.set_size(font.get_size(), self.dpi)
        face.set_text(line, 0.0, flags=_AGG.get_hinting_flag())
        # FreeType counts in 1/64 of a pixel.
        wide = face.get_width_height()[0] / 64
        x -= {"left": 0.0, "center": wide / 2, "right": wide}[align]
        face.draw_glyphs_to_bitmap(antialiased=True)
        right, down = (offset / 64 for offset in face.get_bitmap_offset())
        gc = self.new_gc()
        gc.set_foreground(colour)
        gc.set_alpha(opacity)
        agg: Any = self._renderer
        agg.draw_text_image(
            face.get_image(), round(x + right), round(y + down + face.get_descent() / 64) + 1, 0.0, gc
        )


def write_png(figure: Figure, file: Path, dpi: float) -> None:
    """Write a figure as a PNG file on light paper.

    Args:
        figure: drawn under `house_style`, and passed under it.
        file: where.
        dpi: dots per inch.
    """
    kept = figure.dpi
    figure.dpi = dpi
    try:
        make: Any = PngRenderer
        renderer = make(*map(float, figure.bbox.size), dpi)
        paper = renderer.new_gc()
        paper.set_linewidth(0)
        renderer.draw_path(paper, figure.patch.get_path(), figure.patch.get_transform(), to_rgba(SURFACE))
        draw_figure(figure, renderer)
    finally:
        figure.dpi = kept
    # Without opacity, which paper has not, and without matplotlib's version, by which the same picture would
    # be another file.
    picture = Image.fromarray(np.asarray(renderer.buffer_rgba()))
    picture.convert("RGB").save(file, format="png", dpi=(dpi, dpi), compress_level=_FAST)
