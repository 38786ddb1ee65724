"""What of a figure is drawn in which order; ticks and texts without matplotlib's objects for each of them.

matplotlib makes six artists a tick, and measures every text to place it. Here the labels and lines of an axis
are written from its locator, its formatter and its settings, and texts by their anchor. What is not of the
plain form that this covers is left to matplotlib, which draws it on the same renderer.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Protocol, cast

import matplotlib as mpl
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis, XAxis
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.backends.backend_mixed import MixedModeRenderer
from matplotlib.colors import to_hex, to_rgba
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.path import Path
from matplotlib.spines import Spine
from matplotlib.text import Text
from matplotlib.ticker import NullLocator
from matplotlib.transforms import IdentityTransform

_MIXED: Any = MixedModeRenderer  # without types in matplotlib
_ROUNDING = 1e-10  # share of an axis by which a tick at its end may lie outside


class Renderer(Protocol):
    """What draws: one of matplotlib's renderers that takes lines of text by their anchors, too."""

    width: float
    height: float

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
        """Write a line of text; see `SvgRenderer.write_line`."""

    def points_to_pixels(self, points: Any) -> Any:
        """How many pixels some points are."""

    def draw_path(self, gc: Any, path: Path, transform: Any, rgbFace: Any = None) -> None:
        """Draw a path."""

    def new_gc(self) -> Any:
        """New settings of a pen."""


def draw_figure(figure: Figure, renderer: Renderer) -> None:
    """Draw a figure.

    Args:
        figure: its artists; the paper is left out where it has no colour.
        renderer: receives what is drawn; of as many dots per inch as the figure.
    """
    for artist in sorted(figure.get_children(), key=_order):
        if isinstance(artist, Axes):
            _draw_axes(artist, renderer)
        else:
            _draw_artist(artist, renderer)


def _order(artist: Artist) -> float:
    """What is drawn later lies above."""
    return artist.get_zorder()


def _draw_axes(ax: Axes, renderer: Renderer) -> None:
    """Draw a chart and the charts inside it."""
    if not ax.get_visible():
        return
    locator: Any = ax.get_axes_locator()
    ax.apply_aspect(locator(ax, renderer) if locator else None)
    framed = ax.axison and ax.get_frame_on()
    if framed and to_rgba(ax.get_facecolor())[3]:
        _draw_artist(ax.patch, renderer)
    for artist in sorted(ax.get_children(), key=_order):
        if isinstance(artist, Axes):
            _draw_axes(artist, renderer)
        elif artist is not ax.patch and (
            framed if isinstance(artist, Spine) else ax.axison or artist not in (ax.xaxis, ax.yaxis)
        ):
            _draw_artist(artist, renderer)


def _draw_artist(artist: Artist, renderer: Renderer) -> None:
    """Draw anything but charts."""
    if not artist.get_visible():
        return
    if isinstance(artist, Axis) and _is_plain_axis(artist):
        _draw_axis(artist, renderer)
    elif isinstance(artist, Spine) and artist.spine_type in _SIDES and _is_whole(artist):
        _draw_spine(artist, renderer)
    elif isinstance(artist, Text) and _is_plain_text(artist):
        _write(artist, renderer)
    elif artist.get_rasterized() and not isinstance(renderer, RendererAgg):
        inches = (renderer.width / 72, renderer.height / 72)
        mixed: Any = _MIXED(artist.get_figure(root=True), *inches, 72, renderer)
        artist.draw(mixed)
        mixed.stop_rasterizing()
    else:
        artist.draw(cast("Any", renderer))


_SIDES = {"left": (0, 0, 0, 1), "right": (1, 0, 1, 1), "bottom": (0, 0, 1, 0), "top": (0, 1, 1, 1)}


def _is_whole(spine: Spine) -> bool:
    """Whether a spine is a plain line along the whole of its side."""
    moved = spine.get_position() not in (None, ("outward", 0.0))
    return not (moved or spine.get_bounds() is not None or spine.get_linestyle() not in ("solid", "-"))


def _draw_spine(spine: Spine, renderer: Renderer) -> None:
    """Draw the line along a side of a chart."""
    colour, alpha = spine.get_edgecolor(), spine.get_alpha()
    if not (spine.get_linewidth() and to_rgba(colour)[3]):
        return
    box, (x0, y0, x1, y1) = spine.axes.bbox, _SIDES[spine.spine_type]
    gc = renderer.new_gc()
    gc.set_foreground(colour, isRGBA=True)
    gc.set_alpha(alpha)
    gc.set_linewidth(spine.get_linewidth())
    gc.set_capstyle(spine.get_capstyle())
    gc.set_joinstyle(spine.get_joinstyle())
    ends = [(box.x0 + box.width * x, box.y0 + box.height * y) for x, y in ((x0, y0), (x1, y1))]
    renderer.draw_path(gc, Path(ends), IdentityTransform())


def _is_plain_text(text: Text) -> bool:
    """Whether a text is one line along the x axis, without a box, a clip, an arrow or a formula."""
    words = text.get_text()
    boxed = text.get_bbox_patch() is not None or (text.get_clip_on() and text.get_clip_box() is not None)
    turned = text.get_rotation() != 0 or text.get_usetex() or (text.get_parse_math() and "$" in words)
    # An annotation moves on drawing.
    return type(text) is Text and "\n" not in words and not (boxed or turned or text.get_path_effects())


def _write(text: Text, renderer: Renderer, at: tuple[float, float] | None = None) -> None:
    """Write a plain text where it is anchored, or at another place in pixels."""
    x, y = at or text.get_transform().transform(text.get_unitless_position())
    if not (text.get_text() and np.isfinite(x) and np.isfinite(y)):
        return
    font, opacity = text.get_fontproperties(), text.get_alpha()
    below = renderer.points_to_pixels(_to_baseline(font, text.get_verticalalignment()))
    renderer.write_line(
        text.get_text(),
        x,
        renderer.height - y + below,
        colour=to_hex(text.get_color()),
        font=font,
        opacity=1.0 if opacity is None else opacity,
        align=text.get_horizontalalignment(),
    )


def _to_baseline(font: FontProperties, align: str) -> float:
    """How far below its anchor the baseline of a line stands, points."""
    ascent, descent = line_extents(font_file(font))
    shares = {
        "baseline": 0.0,
        "top": ascent,
        "bottom": -descent,
        "center": (ascent - descent) / 2,
        "center_baseline": ascent / 2,
    }
    return shares[align] * float(font.get_size())


def font_file(font: FontProperties) -> str:
    """The file of a font, whatever its size."""
    return _file_of(tuple(font.get_family()), font.get_weight(), font.get_style(), font.get_file())


@lru_cache
def _file_of(family: tuple[str, ...], weight: Any, style: Any, file: Any) -> str:
    # matplotlib's own cache asks for a dozen of its settings first, for every text.
    return str(findfont(FontProperties(family=list(family), style=style, weight=weight, fname=file)))


@lru_cache
def line_extents(file: str) -> tuple[float, float]:
    """How far a line of a font reaches above and below its baseline, as shares of its size."""
    tables: Any = get_font(file).get_sfnt_table
    em, table, header = tables("head")["unitsPerEm"], tables("OS/2"), tables("hhea")
    # matplotlib 3.10 does not hand out the first two; the others differ by little.
    ascent, descent = (table.get(name) for name in ("sTypoAscender", "sTypoDescender"))
    ascent, descent = (header["ascent"], header["descent"]) if ascent is None else (ascent, descent)
    return ascent / em, -descent / em


def _is_plain_axis(axis: Axis) -> bool:
    """Whether an axis stands at the left or the foot, with labels along x and no ticks but a grid."""
    look = axis.get_tick_params(which="major")
    across = isinstance(axis, XAxis)
    near, far = ("bottom", "top") if across else ("left", "right")
    beyond = look.get(far) or look.get(f"label{far}") or axis.get_label_position() != near
    turned = look.get("labelrotation") or look.get("rotation")
    # A label beside an axis is turned, and as far out as the labels of the ticks are wide.
    aside = axis.label.get_text() and not across
    finer = not isinstance(axis.get_minor_locator(), NullLocator)
    marked = look.get(near) and look.get("size", _default(axis, "major.size"))
    return not (beyond or turned or aside or finer or marked or "grid_linestyle" in look)


def _default(axis: Axis, name: str) -> Any:
    """What matplotlib's settings say of the ticks of an axis."""
    settings: Mapping[str, Any] = mpl.rcParams  # type: ignore[assignment]
    return settings[f"{'x' if isinstance(axis, XAxis) else 'y'}tick.{name}"]


def _draw_axis(axis: Axis, renderer: Renderer) -> None:
    """Draw the grid, the labels of the ticks, and the label of the axis below them."""
    look = axis.get_tick_params(which="major")
    across = isinstance(axis, XAxis)
    ticks = _ticks(axis)
    if axis.get_major_formatter().get_offset():
        # A power of ten or a sum that all labels share stands where matplotlib says.
        axis.draw(cast("Any", renderer))
        return
    if look.get("gridOn"):
        _draw_grid(axis, look, [at for at, _ in ticks], renderer)
    if not look.get("labelbottom" if across else "labelleft", True):
        ticks = []
    font = FontProperties(size=look.get("labelsize", _default(axis, "labelsize")))
    colour = to_hex(look.get("labelcolor", _default(axis, "labelcolor")))
    box, pixels = axis.axes.bbox, renderer.points_to_pixels(1.0)
    pad = look.get("pad", _default(axis, "major.pad")) * pixels
    below = _to_baseline(font, "top" if across else "center_baseline") * pixels
    for at, text in ticks:
        x, y = (at, box.y0 - pad) if across else (box.x0 - pad, at)
        if text:
            side = "center" if across else "right"
            renderer.write_line(text, x, renderer.height - y + below, colour=colour, font=font, align=side)
    if axis.label.get_text():
        room = pad + sum(line_extents(font_file(font))) * font.get_size() * pixels if ticks else 0.0
        down = room + axis.labelpad * pixels
        _write(axis.label, renderer, ((box.x0 + box.x1) / 2, box.y0 - down))


def _ticks(axis: Axis) -> list[tuple[float, str]]:
    """Place in pixels and text of each tick within the limits."""
    if isinstance(axis.get_major_locator(), NullLocator):
        return []
    values = np.asarray(axis.get_majorticklocs(), dtype=float)
    texts = axis.get_major_formatter().format_ticks(values.tolist())
    ax, along = axis.axes, int(not isinstance(axis, XAxis))
    # Across the axis any place will do: this transform takes it in shares of the chart.
    points = np.full((len(values), 2), 0.5)
    points[:, along] = values
    blend = ax.get_yaxis_transform() if along else ax.get_xaxis_transform()
    placed = blend.transform(points)[:, along]
    low, high = (ax.bbox.y0, ax.bbox.y1) if along else (ax.bbox.x0, ax.bbox.x1)
    room = (high - low) * _ROUNDING
    pairs = zip(placed.tolist(), texts, strict=True)
    return [(at, text) for at, text in pairs if low - room <= at <= high + room]


def _draw_grid(axis: Axis, look: dict[str, Any], places: list[float], renderer: Renderer) -> None:
    """Draw a line across the chart at each place (pixels)."""
    if not places:
        return
    box = axis.axes.bbox
    across = isinstance(axis, XAxis)
    ends = [[(at, box.y0), (at, box.y1)] if across else [(box.x0, at), (box.x1, at)] for at in places]
    gc = renderer.new_gc()
    gc.set_foreground(look.get("grid_color", mpl.rcParams["grid.color"]))
    gc.set_linewidth(look.get("grid_linewidth", mpl.rcParams["grid.linewidth"]))
    gc.set_alpha(look.get("grid_alpha", mpl.rcParams["grid.alpha"]))
    gc.set_capstyle("projecting")
    path = Path(np.reshape(ends, (-1, 2)), [Path.MOVETO, Path.LINETO] * len(ends))
    renderer.draw_path(gc, path, IdentityTransform())
