"""From a matplotlib figure to a small SVG whose colours follow the page it stands in."""

from __future__ import annotations

import re
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy

from matplotlib.figure import Figure

from normprobe.figures.drawing.palette import ACCENT, SURFACE, variables
from normprobe.figures.drawing.svg_axes import draw_figure
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
    root = deepcopy(tree)  # a Rendered may be written several times, each under a prefix of its own
    stem = f"{prefix.removesuffix('-')}-"
    for element in root.iter():
        if name := element.get("id"):
            element.set("id", f"{stem}{name}")
        if (clip := element.get("clip-path")) is not None:
            element.set("clip-path", clip.replace("#", f"#{stem}"))
    _mask_images(root, stem)
    # Styles are scoped by the id: a class name means something else in every figure of a page.
    css = _to_classes(root, f"#{prefix}")
    # In the rules, where by now every colour stands: in texts a name may hold the same letters.
    for colour, variable in variables().items():
        css = css.replace(colour, f"var({variable})")
    root.set("id", prefix)
    root.set("role", "img")
    root.set("aria-label", aria_label)
    _insert_style(root, css)
    root.extend(overlay)
    return ET.tostring(root, encoding="unicode")


def write_alone(tree: ET.Element, aria_label: str) -> str:
    """Write a tree as a file of its own: light colours on light paper."""
    root = deepcopy(tree)
    css = _to_classes(root, "svg")
    _, _, width, height = root.get("viewBox", "0 0 0 0").split()
    # Drawn, as a viewer of files may show none, and dark text on its own dark ground.
    paper = ET.Element("path", {"d": f"M0 0h{width}v{height}h-{width}z", "fill": SURFACE})
    root.insert(0, paper)
    root.attrib |= {
        "xmlns": SVG_NAMESPACE,
        "width": f"{width}pt",
        "height": f"{height}pt",
        "role": "img",
        "aria-label": aria_label,
    }
    _insert_style(root, css)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _to_classes(root: ET.Element, scope: str) -> str:
    """Replace each style by a class and return the rules, valid below `scope` only."""
    names: dict[str, str] = {}
    for element in root.iter():
        style = element.attrib.pop("style", None)
        if style is None:
            continue
        # Of matplotlib's family the reader may have none: all texts get the one of the rule below.
        rule = re.sub(r"font-family: [^;]*;\s*", "", style)
        rule = re.sub(r"\s*([:;,])\s*", r"\1", rule)
        element.set("class", names.setdefault(rule, f"s{len(names)}"))
    rules = [f"{scope}{{stroke-linejoin:round;font-family:{FONTS}}}"]
    return "".join(rules + [f"{scope} .{name}{{{rule}}}" for rule, name in names.items()])


def _insert_style(root: ET.Element, css: str) -> None:
    """Put the rules first."""
    style = ET.Element("style")
    style.text = css
    root.insert(0, style)


def _mask_images(root: ET.Element, stem: str) -> None:
    """Show each image by its opacity, filled with the accent, so that one image serves both themes."""
    for index, image in enumerate([child for child in root if child.tag == "image"]):
        at = list(root).index(image)
        name = f"{stem}m{index}"
        box = {key: image.get(key, "0") for key in ("x", "y", "width", "height")}
        shown = ET.Element("rect", {**box, "style": f"fill: {ACCENT}", "mask": f"url(#{name})"})
        for key in ("transform", "clip-path"):
            if key in image.attrib:
                shown.set(key, image.attrib.pop(key))  # the mask lies in the space of what it masks
        mask = ET.Element(
            "mask", {"id": name, "style": "mask-type: alpha", "maskUnits": "userSpaceOnUse", **box}
        )
        mask.append(image)
        root[at] = shown
        root.insert(at, mask)
