"""Many marks of one look as one path: the difference between 30 kB and 300 kB."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterable
from itertools import groupby

_PAIR = re.compile(r"(-?[\d.]+(?:e-?\d+)?) (-?[\d.]+(?:e-?\d+)?)")
_CURVES_OF_A_CIRCLE = 8  # matplotlib's marker "o" is eight Bezier curves


def join_uses(root: ET.Element) -> None:
    """Replace the `<use>` elements of a tree by paths, one for neighbours of one look.

    Args:
        root: a tree without namespaces; changed in place.
    """
    shapes = {e.get("id", ""): e for e in root.iter("path") if e.get("id")}
    for parent in list(root.iter()):
        if any(child.tag == "use" for child in parent):
            runs = groupby(list(parent), key=_look)
            joined = [new for look, run in runs for new in (_join(shapes, look, list(run)) if look else run)]
            parent[:] = joined


def _look(element: ET.Element) -> tuple[str, str] | None:
    """What two marks must share to be one path; None for anything else."""
    if element.tag != "use":
        return None
    return element.get("href", "").removeprefix("#"), element.get("style", "")


def _join(shapes: dict[str, ET.Element], look: tuple[str, str], uses: list[ET.Element]) -> list[ET.Element]:
    """One path for marks of one look, two for hollow dots."""
    shape = shapes[look[0]]
    style = _declarations(look[1]) | _declarations(shape.get("style", ""))
    places = [(float(use.get("x", 0)), float(use.get("y", 0))) for use in uses]
    outline = shape.get("d", "")
    if outline.count("C") == _CURVES_OF_A_CIRCLE and style.get("fill", "none") != "none":
        return _dots(places, _radius(outline), style)
    path = "".join(_moved(outline, x, y) for x, y in places)
    return [ET.Element("path", {"d": path, "style": _css(style)})]


def _dots(places: list[tuple[float, float]], radius: float, style: dict[str, str]) -> list[ET.Element]:
    """Dots as strokes of no length with round ends, rims first."""
    # Rims first and wider, then faces: what overlaps shows one outline, not many.
    path = "".join(f"M{x:.1f} {y:.1f}h0" for x, y in places)
    fill, rim = style["fill"], style.get("stroke", "none")
    width = float(style.get("stroke-width", 1)) if rim != "none" else 0.0
    layers = [(rim, 2 * radius + width)] if rim != "none" else []
    if fill != rim:
        layers.append((fill, 2 * radius - width))
    opacity = style.get("opacity", style.get("fill-opacity"))
    return [
        ET.Element(
            "path",
            {
                "d": path,
                "style": _css(
                    {
                        "fill": "none",
                        "stroke": colour,
                        "stroke-width": f"{size:.2f}",
                        "stroke-linecap": "round",
                    }
                    | ({"stroke-opacity": opacity} if opacity else {})
                ),
            },
        )
        for colour, size in layers
    ]


def _radius(outline: str) -> float:
    """A circle's radius: half its width."""
    xs = [float(x) for x, _ in _PAIR.findall(outline)]
    return (max(xs) - min(xs)) / 2


def _moved(outline: str, x: float, y: float) -> str:
    """An outline around the origin moved to (x, y)."""
    return _PAIR.sub(lambda pair: f"{float(pair[1]) + x:.1f} {float(pair[2]) + y:.1f}", outline)


def _declarations(style: str) -> dict[str, str]:
    """Read "a: b; c: d"."""
    pairs = (part.partition(":") for part in style.split(";") if ":" in part)
    return {key.strip(): value.strip() for key, _, value in pairs}


def _css(style: dict[str, str]) -> str:
    """Write "a: b; c: d"."""
    return "; ".join(f"{key}: {value}" for key, value in style.items())


def join_paths(elements: Iterable[ET.Element]) -> list[ET.Element]:
    """Join neighbouring paths of one look: bars, ticks, cells.

    Args:
        elements: what is drawn, in order.

    Returns:
        The same picture with fewer paths.
    """
    joined: list[ET.Element] = []
    for element in elements:
        previous = joined[-1] if joined else None
        if previous is not None and _same_look(previous, element):
            previous.set("d", previous.get("d", "") + element.get("d", ""))
        else:
            joined.append(element)
    return joined


def _same_look(first: ET.Element, second: ET.Element) -> bool:
    """Whether two elements are paths that differ in nothing but their outline."""
    if first.tag != "path" or second.tag != "path" or "dasharray" in first.get("style", ""):
        return False
    rest = [{key: value for key, value in e.attrib.items() if key != "d"} for e in (first, second)]
    return rest[0] == rest[1]
