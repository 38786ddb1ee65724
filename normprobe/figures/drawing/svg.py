"""From a matplotlib figure to a small SVG whose colours follow the page it stands in."""

from __future__ import annotations

import io
import re
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from contextlib import contextmanager

from matplotlib.figure import Figure

from normprobe.figures.drawing.palette import ACCENT, SURFACE, variables
from normprobe.figures.drawing.svg_paths import join_paths, join_uses

SVG_NAMESPACE = "http://www.w3.org/2000/svg"
LINK = "{http://www.w3.org/1999/xlink}href"
FONTS = 'system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue","Noto Sans","DejaVu Sans",sans-serif'
NUMBER = re.compile(r"-?\d+\.\d+(?:e[-+]?\d+)?")  # whole, in geometry only: texts are never touched
GEOMETRY = ("d", "x", "y", "width", "height", "transform", "viewBox")
_NOT_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")
_STYLE_NUMBER = re.compile(r"(?<![\w#.-])\d+\.\d{3,}")


def draw_svg(figure: Figure) -> ET.Element:
    """A figure as a small SVG tree in the light colours, without namespaces, classes or prefixed ids.

    Args:
        figure: drawn under `house_style`, and passed under it.

    Returns:
        The root: text as text, coordinates rounded to 0.1, markers of one look as one path.
    """
    buffer = io.BytesIO()
    _place_empty_labels(figure)
    with quiet_fonts():
        # Without date and version: the same recording gives the same bytes.
        figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    # Names may hold control characters, which matplotlib writes as they are and XML does not know.
    root = ET.fromstring(_NOT_XML.sub(_escaped, buffer.getvalue().decode()))
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        if LINK in element.attrib:
            element.set("href", element.attrib.pop(LINK))
    join_uses(root)
    clips = list(root.iter("clipPath"))
    content = [_lean(leaf) for leaf in _leaves(root)]
    small = ET.Element("svg", {"viewBox": root.get("viewBox", "")})
    if clips:
        small.append(ET.Element("defs"))
        small[0].extend(clips)
    # After groups are gone: only now do marks of one look stand side by side, and a panel falls to 30 kB.
    small.extend(join_paths(content))
    for element in small.iter():
        _tidy(element)
    _rename_ids(small)
    return small


def _escaped(character: re.Match[str]) -> str:
    """A character as Python escapes it."""
    return ascii(character[0])[1:-1]


def _place_empty_labels(figure: Figure) -> None:
    """Give axis labels without text a place: matplotlib would measure every tick label to find one."""
    for ax in figure.axes:
        for axis in (ax.xaxis, ax.yaxis):
            if not axis.label.get_text():
                axis.set_label_coords(0, 0)


@contextmanager
def quiet_fonts() -> Iterator[None]:
    """Say nothing of letters that DejaVu Sans lacks (CJK): the reader's own font has them."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield


def _leaves(element: ET.Element) -> Iterator[ET.Element]:
    """What is drawn, without the groups around it, definitions and invisible paths."""
    for child in element:
        if child.tag in {"defs", "metadata", "clipPath"}:
            continue
        if child.tag == "g":
            yield from _clipped(child, _leaves(child))
        # What matplotlib writes for the paper of a figure or chart that has none.
        elif child.get("style") != "fill: none":
            yield child


def _clipped(group: ET.Element, leaves: Iterator[ET.Element]) -> Iterator[ET.Element]:
    """A group's leaves, each with the clipping (and opacity) that stood on the group."""
    for leaf in leaves:
        if (clip := group.get("clip-path")) and not leaf.get("clip-path"):
            leaf.set("clip-path", clip)
        if group.get("transform") and not leaf.get("transform"):
            leaf.set("transform", group.get("transform", ""))
        yield leaf


def _lean(leaf: ET.Element) -> ET.Element:
    """Drop a text's rotation by nothing and a leaf's id."""
    if leaf.get("transform", "").startswith("rotate(-0 "):
        del leaf.attrib["transform"]
    leaf.attrib.pop("id", None)
    leaf.tail = None
    return leaf


def _tidy(element: ET.Element) -> None:
    """Round an element's geometry to 0.1 and write its path without needless blanks."""
    if element.tag not in {"text", "tspan", "title"}:
        element.text = None
    element.tail = None
    for key in GEOMETRY:
        if key in element.attrib:
            element.set(key, NUMBER.sub(_tenth, element.attrib[key]))
    if "d" in element.attrib:
        path = re.sub(r"\s*([MLCQhvz])\s*", r"\1", element.attrib["d"].replace("\n", " "))
        element.set("d", path.strip())
    if "style" in element.attrib:
        element.set("style", _STYLE_NUMBER.sub(lambda m: f"{float(m[0]):.2f}", element.attrib["style"]))


def _tenth(match: re.Match[str]) -> str:
    """Write a number with at most one decimal."""
    text = f"{float(match[0]):.1f}"
    text = text.removesuffix(".0")
    return "0" if text == "-0" else text


def _rename_ids(root: ET.Element) -> None:
    """Number the ids in order, for those that something refers to, and drop the rest."""
    text = " ".join(value for element in root.iter() for value in element.attrib.values())
    names: dict[str, str] = {}
    for element in root.iter():
        name = element.get("id")
        # Only clips are asked for by now: shapes have become paths.
        if name and f"#{name})" in text:
            names[name] = f"c{len(names)}"
            element.set("id", names[name])
        elif name:
            del element.attrib["id"]
    for element in root.iter():
        clip = element.get("clip-path", "")[5:-1]
        if clip in names:
            element.set("clip-path", f"url(#{names[clip]})")


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
    root = _copy(tree)  # a Rendered may be written several times, each under a prefix of its own
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
    root = _copy(tree)
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


def _copy(tree: ET.Element) -> ET.Element:
    """A deep copy."""
    return ET.fromstring(ET.tostring(tree))


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
