"""A renderer of matplotlib that writes a small SVG tree: flat, rounded, without definitions of shapes.

matplotlib's own writes for any program that reads SVG: a group an artist, each mark a reference, texts
measured to be placed. All of that was parsed and undone again, at half of a report's time.
"""

from __future__ import annotations

import base64
import io
import xml.etree.ElementTree as ET
from typing import Any, cast

import numpy as np
from matplotlib.backend_bases import GraphicsContextBase, RendererBase
from matplotlib.colors import rgb2hex
from matplotlib.font_manager import FontProperties, weight_dict
from matplotlib.image import imsave
from matplotlib.path import Path
from matplotlib.transforms import Transform

from normprobe.figures.drawing.svg_paths import css, marker_paths, number, path_text

_UNSIGNED: Any = {"Software": None}
_CAPS = {"projecting": "square", "round": "round"}
_ANCHORS = {"left": "start", "right": "end", "center": "middle"}


class SvgRenderer(RendererBase):
    """Collects what is drawn as SVG elements, in order; a pixel is a point.

    Attributes:
        elements: paths, texts and images.
        clips: by id, the outlines within which elements that name them are drawn.
    """

    def __init__(self, width: float, height: float) -> None:
        super().__init__()
        self.width, self.height = width, height
        self.elements: list[ET.Element] = []
        self.clips: dict[str, ET.Element] = {}
        self._clip_ids: dict[tuple[Any, ...], str] = {}

    def get_canvas_width_height(self) -> tuple[float, float]:
        """Width and height, pixels."""
        return self.width, self.height

    def flipy(self) -> bool:
        """SVG counts from the top."""
        return True

    def draw_path(
        self, gc: GraphicsContextBase, path: Path, transform: Transform, rgbFace: Any = None
    ) -> None:
        """Write a line or a filled outline; nothing for what has neither colour."""
        style = _style(gc, rgbFace)
        if style.get("fill") == "none" and "stroke" not in style:
            return
        clip = (0.0, 0.0, self.width, self.height) if rgbFace is None else None
        if outline := path_text(path, transform, self.height, clip=clip):
            self._add(gc, ET.Element("path", {"d": outline, "style": css(style)}))

    def draw_markers(
        self,
        gc: GraphicsContextBase,
        marker_path: Path,
        marker_trans: Transform,
        path: Path,
        trans: Transform,
        *face: Any,
        **_: Any,
    ) -> None:
        """Write one marker at each vertex of a path; its face comes last."""
        places = np.asarray(trans.transform(path.vertices), dtype=float)
        places = places[np.isfinite(places).all(axis=1)] * (1.0, -1.0) + np.array((0.0, self.height))
        if len(places):
            for element in marker_paths(marker_path, marker_trans, places, _style(gc, *face or (None,))):
                self._add(gc, element)

    def draw_image(self, gc: GraphicsContextBase, x: float, y: float, im: Any, transform: Any = None) -> None:
        """Write a raster image (rows from the foot) whose left foot lies at (x, y)."""
        high, wide = im.shape[:2]
        if not (high and wide):
            return
        stream = io.BytesIO()
        # Without matplotlib's version, by which the same picture would be another file.
        imsave(stream, im[::-1], format="png", metadata=_UNSIGNED)
        box = {"x": x, "y": self.height - y - high, "width": wide, "height": high}
        image = ET.Element("image", {key: number(value) for key, value in box.items()})
        image.set("href", "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode())
        self._add(gc, image)

    def draw_text(
        self, gc: GraphicsContextBase, x: float, y: float, s: str, prop: FontProperties, *angle: Any, **_: Any
    ) -> None:
        """Write a line of text that matplotlib has laid out, its baseline beginning at (x, y)."""
        turn = f" rotate({number(-angle[0])})" if any(angle[:1]) else ""
        turn = f"translate({number(x)} {number(y)}){turn}"
        style = text_style(rgb2hex(gc.get_rgb()), prop, gc.get_alpha() if gc.get_forced_alpha() else 1.0)
        text = ET.Element("text", {"transform": turn, "style": css(style)})
        text.text = s
        self._add(gc, text)

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
        """Write a line of text by its anchor, so that it needs no measuring.

        Args:
            line: the text.
            x: where that end is, pixels.
            y: of its baseline, pixels from the top.
            colour: as #rrggbb.
            font: size, weight and slope.
            opacity: 0 to 1.
            align: which end x is: "left", "center" or "right".
        """
        declared = css(text_style(colour, font, opacity) | {"text-anchor": _ANCHORS[align]})
        element = ET.Element("text", {"style": declared, "x": number(x), "y": number(y)})
        element.text = line
        self.elements.append(element)

    def _add(self, gc: GraphicsContextBase, element: ET.Element) -> None:
        """Append an element within the clip of its context."""
        if clip := self._clip(gc):
            element.set("clip-path", f"url(#{clip})")
        self.elements.append(element)

    def _clip(self, gc: GraphicsContextBase) -> str:
        """The id of the clip of a context, "" where there is none."""
        path, transform = cast("tuple[Any, Any]", gc.get_clip_path())
        box = gc.get_clip_rectangle()
        if path is not None:
            shape = ET.Element("path", {"d": path_text(path, transform, self.height)})
        elif box is not None:
            x, y, width, height = box.bounds
            sides = {"x": x, "y": self.height - y - height, "width": width, "height": height}
            shape = ET.Element("rect", {key: number(value) for key, value in sides.items()})
        else:
            return ""
        look = (shape.tag, *shape.attrib.values())
        if look not in self._clip_ids:
            name = self._clip_ids[look] = f"c{len(self.clips)}"
            self.clips[name] = ET.Element("clipPath", {"id": name})
            self.clips[name].append(shape)
        return self._clip_ids[look]


def text_style(colour: str, font: FontProperties, opacity: float = 1.0) -> dict[str, str]:
    """The declarations of a text, but for its anchor; its family is that of the whole picture."""
    named: Any = font.get_weight()
    weight = weight_dict.get(named, named)
    style = {"font-size": f"{font.get_size():g}px"}
    if weight != 400:
        style["font-weight"] = str(weight)
    if font.get_style() != "normal":
        style["font-style"] = font.get_style()
    return style | {"fill": colour} | ({"opacity": f"{opacity:g}"} if opacity != 1 else {})


def _style(gc: GraphicsContextBase, face: Any) -> dict[str, str]:
    """The declarations of a line and its filling."""
    forced = gc.get_forced_alpha()
    style = {"fill": "none"} if face is None or _clear(face) else {"fill": rgb2hex(face)}
    if face is not None and not forced and len(face) == 4 and face[3] not in (0, 1):
        style["fill-opacity"] = _short(face[3])
    if forced and gc.get_alpha() != 1.0:
        style["opacity"] = _short(gc.get_alpha())
    width, colour = gc.get_linewidth(), gc.get_rgb()
    if not width or _clear(colour):
        return style
    offset, dashes = cast("tuple[float, Any]", gc.get_dashes())
    if dashes is not None:
        style["stroke-dasharray"] = ",".join(map(_short, dashes))
        if offset:
            style["stroke-dashoffset"] = _short(offset)
    style["stroke"] = rgb2hex(colour)
    if not forced and colour[3] != 1.0:
        style["stroke-opacity"] = _short(colour[3])
    if width != 1.0:
        style["stroke-width"] = _short(width)
    if gc.get_joinstyle() != "round":
        style["stroke-linejoin"] = gc.get_joinstyle()
    if (cap := gc.get_capstyle()) in _CAPS:
        style["stroke-linecap"] = _CAPS[cap]
    return style


def _clear(colour: Any) -> bool:
    """Whether nothing of a colour is seen."""
    return len(colour) == 4 and colour[3] == 0


def _short(value: float) -> str:
    """Write a width or an opacity with at most two decimals."""
    return f"{value:.2f}".rstrip("0").rstrip(".")
