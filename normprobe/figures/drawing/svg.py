"""From a matplotlib figure to a small SVG whose colours follow the page it stands in."""

from __future__ import annotations

import re
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from itertools import chain, count
from xml.sax.saxutils import escape

from matplotlib.figure import Figure

from normprobe.figures.drawing.artists import draw_figure
from normprobe.figures.drawing.palette import ACCENT, SURFACE, variables
from normprobe.figures.drawing.svg_paths import join_paths, number
from normprobe.figures.drawing.svg_renderer import SvgRenderer

SVG_NAMESPACE = "http://www.w3.org/2000/svg"
FONTS = 'system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue","Noto Sans","DejaVu Sans",sans-serif'
_NOT_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")


def draw_svg(figure: Figure) -> ET.Element:
    """A figure as a small SVG tree in the light colours, without namespaces, classes or prefixed ids.

    Args:
        figure: drawn under `house_style`, and passed under it.

    Returns:
        The root: text as text, coordinates rounded to 0.1, markers of one look as one path.
    """
    kept = figure.dpi
    figure.dpi = 72
    try:
        renderer = SvgRenderer(*map(float, figure.bbox.size))
        with quiet_fonts():
            draw_figure(figure, renderer)
    finally:
        figure.dpi = kept
    size = (number(renderer.width), number(renderer.height))
    root = ET.Element("svg", {"viewBox": f"0 0 {size[0]} {size[1]}"})
    if renderer.clips:
        ET.SubElement(root, "defs").extend(renderer.clips.values())
    root.extend(join_paths(renderer.elements))
    for text in root.iter("text"):
        # Names may hold control characters, which XML does not know.
        text.text = _NOT_XML.sub(_escaped, text.text or "")
    return root


def _escaped(character: re.Match[str]) -> str:
    """A character as Python escapes it."""
    return ascii(character[0])[1:-1]


@contextmanager
def quiet_fonts() -> Iterator[None]:
    """Say nothing of letters that DejaVu Sans lacks (CJK): the reader's own font has them."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield


def write_inline(tree: ET.Element, prefix: str, aria_label: str, overlay: list[ET.Element]) -> str:
    """Write a tree for the middle of an HTML page: colours as CSS variables, ids under a prefix.

    Args:
        tree: from `draw_svg`; left as it is.
        prefix: begins every id, so that two figures of one page do not clash; letters, digits, - and _.
        aria_label: one sentence.
        overlay: elements on top of all.

    Returns:
        The `<svg>` element as text, everything escaped.
    """
    writer = _Writer(f"{prefix.removesuffix('-')}-")
    drawn = "".join(map(writer.text, chain(_masked_images(tree), overlay)))
    # Styles are scoped by the id: a class name means something else in every figure of a page.
    css = writer.rules(f"#{prefix}")
    # In the rules, where by now every colour stands: in texts a name may hold the same letters.
    for colour, variable in variables().items():
        css = css.replace(colour, f"var({variable})")
    named = {**tree.attrib, "id": prefix, "role": "img", "aria-label": aria_label}
    return f"<svg{_attributes(named)}><style>{escape(css)}</style>{drawn}</svg>"


def write_alone(tree: ET.Element, aria_label: str) -> str:
    """Write a tree as a file of its own: light colours on light paper."""
    _, _, width, height = tree.get("viewBox", "0 0 0 0").split()
    # Drawn, as a viewer of files may show none, and dark text on its own dark ground.
    paper = ET.Element("path", {"d": f"M0 0h{width}v{height}h-{width}z", "fill": SURFACE})
    named = {
        **tree.attrib,
        "xmlns": SVG_NAMESPACE,
        "width": f"{width}pt",
        "height": f"{height}pt",
        "role": "img",
        "aria-label": aria_label,
    }
    writer = _Writer("")
    drawn = "".join(map(writer.text, chain((paper,), tree)))
    style = f"<style>{escape(writer.rules('svg'))}</style>"
    return f'<?xml version="1.0" encoding="utf-8"?>\n<svg{_attributes(named)}>{style}{drawn}</svg>\n'


class _Writer:
    """Writes elements as text, each style as a class.

    The elements stay as they are, since a figure is written as a file and, under one or more prefixes, into
    pages: to copy a tree takes as long as to draw it.
    """

    def __init__(self, stem: str) -> None:
        self._stem = stem
        self._classes: dict[str, str] = {}

    def text(self, element: ET.Element) -> str:
        """An element with all inside it; ids, and what refers to them, begin with the stem."""
        found = {}
        for key, value in element.attrib.items():
            if key == "style":
                found["class"] = self._classes.setdefault(_rule(value), f"s{len(self._classes)}")
            elif key == "id":
                found[key] = self._stem + value
            else:
                found[key] = value.replace("#", f"#{self._stem}") if key in _REFERRING else value
        inside = escape(element.text or "") + "".join(map(self.text, element))
        head = f"<{element.tag}{_attributes(found)}"
        return f"{head}>{inside}</{element.tag}>" if inside else f"{head}/>"

    def rules(self, scope: str) -> str:
        """The rules of all classes so far, valid below `scope` only."""
        rules = [f"{scope}{{stroke-linejoin:round;font-family:{FONTS}}}"]
        return "".join(rules + [f"{scope} .{name}{{{rule}}}" for rule, name in self._classes.items()])


_REFERRING = ("clip-path", "mask")


@lru_cache(maxsize=1 << 10)
def _rule(style: str) -> str:
    """A style as the body of a rule."""
    # Of matplotlib's family the reader may have none: all texts get the one of the whole picture.
    rule = re.sub(r"font-family: [^;]*;\s*", "", style)
    return re.sub(r"\s*([:;,])\s*", r"\1", rule)


def _attributes(named: Mapping[str, str]) -> str:
    """Attributes as they stand in a tag, each after a space."""
    return "".join(
        f' {key}="{value if key in _PLAIN else escape(value, _QUOTED)}"' for key, value in named.items()
    )


_PLAIN = frozenset(("d", "x", "y", "width", "height", "class", "clip-path", "id"))
"""Attributes that hold numbers and names of our own."""
_QUOTED = {'"': "&quot;", "\r": "&#13;", "\n": "&#10;", "\t": "&#09;"}


def _masked_images(tree: ET.Element) -> Iterator[ET.Element]:
    """What is in a tree, each image shown by its opacity, filled with the accent: one serves both themes."""
    number_of = count()
    for element in tree:
        if element.tag != "image":
            yield element
            continue
        name = f"m{next(number_of)}"
        box = {key: element.get(key, "0") for key in ("x", "y", "width", "height")}
        around: dict[str, str] = {
            key: value for key, value in element.attrib.items() if key in ("transform", "clip-path")
        }
        mask = ET.Element(
            "mask", {"id": name, "style": "mask-type: alpha", "maskUnits": "userSpaceOnUse", **box}
        )
        # The mask lies in the space of what it masks.
        ET.SubElement(
            mask, "image", {key: element.attrib[key] for key in element.attrib if key not in around}
        )
        yield mask
        yield ET.Element("rect", {**box, "style": f"fill: {ACCENT}", "mask": f"url(#{name})", **around})
