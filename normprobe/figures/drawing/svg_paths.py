"""The text of paths, and many marks of one look as one path: the difference between 30 kB and 300 kB."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterable, Mapping
from functools import lru_cache

import numpy as np
from matplotlib.path import Path
from matplotlib.transforms import Transform
from numpy.typing import NDArray

Places = NDArray[np.float64]

_FAR = 1e6  # pixels: what lies farther off is cut, as no picture is so large
_CIRCLE = 24  # vertices of curves: matplotlib's marker "o" is eight Bezier curves of three each
# By matplotlib's code: the letter that opens it, and how many vertices it takes.
_COMMANDS = {1: ("M", 1), 2: ("L", 1), 3: ("Q", 2), 4: ("C", 3)}
_STOP, _MOVE, _LINE, _CLOSE = 0, 1, 2, 79


@lru_cache(maxsize=1 << 16)
def _tenth(tenths: int) -> str:
    """Write a number of tenths with at most one decimal."""
    whole, rest = divmod(abs(tenths), 10)
    sign = "-" if tenths < 0 else ""
    return f"{sign}{whole}.{rest}" if rest else f"{sign}{whole}"


def number(value: float) -> str:
    """Write a number of pixels with at most one decimal."""
    return _tenth(round(min(max(value, -_FAR), _FAR) * 10))


def _texts(places: Places) -> list[str]:
    """Write each place (x, y) as two numbers with at most one decimal."""
    tenths = np.rint(np.clip(places, -_FAR, _FAR) * 10).astype(int).tolist()
    return [f"{_tenth(x)} {_tenth(y)}" for x, y in tenths]


def path_text(
    path: Path, transform: Transform, height: float, *, clip: tuple[float, float, float, float] | None = None
) -> str:
    """Write a path as the `d` of an SVG path.

    Args:
        path: of matplotlib; what is not finite is left out.
        transform: to pixels from the left foot.
        height: of the picture, from whose top SVG counts; 0 to count from the path's own origin.
        clip: a box (x0, y0, x1, y1) in pixels outside of which lines may be cut; not for what is filled.
    """
    places, codes = _cleaned(path, transform, clip)
    return _joined(_texts(places + np.array((0.0, height))), codes)


def _cleaned(
    path: Path, transform: Transform, clip: tuple[float, float, float, float] | None = None
) -> tuple[Places, list[int]]:
    """The vertices of a path, in pixels that count downwards, and their codes."""
    cleaned = path.cleaned(transform=transform, remove_nans=True, clip=clip, curves=True)
    # A cleaned path always has codes.
    return np.asarray(cleaned.vertices) * (1.0, -1.0), np.asarray(cleaned.codes).tolist()


def _joined(texts: list[str], codes: list[int]) -> str:
    """Put the letters of the codes between the places."""
    if codes[-1:] == [_STOP] and codes.count(_LINE) == len(codes) - 2 and codes[0] == _MOVE:
        return f"M{'L'.join(texts[:-1])}"
    pieces, at = [], 0
    while at < len(codes):
        code = codes[at]
        if code == _STOP:
            break
        if code == _CLOSE:
            pieces.append("z")
            at += 1
            continue
        letter, taken = _COMMANDS[code]
        pieces.append(letter + " ".join(texts[at : at + taken]))
        at += taken
    return "".join(pieces)


def marker_paths(
    marker: Path, transform: Transform, places: Places, style: Mapping[str, str]
) -> list[ET.Element]:
    """One path for markers of one look, two for hollow dots.

    Args:
        marker: the outline round the origin.
        transform: of the outline, to pixels.
        places: of the markers, pixels from the top left, shape (markers, 2).
        style: declarations of CSS.
    """
    outline, codes = _cleaned(marker, transform)
    if codes.count(4) == _CIRCLE and style.get("fill", "none") != "none":
        return _dots(places, float(np.ptp(outline[:-1, 0])) / 2, style)
    moved = [_joined(_texts(outline + place), codes) for place in places]
    return [ET.Element("path", {"d": "".join(moved), "style": css(style)})]


def _dots(places: Places, radius: float, style: Mapping[str, str]) -> list[ET.Element]:
    """Dots as strokes of no length with round ends, rims first."""
    # Rims first and wider, then faces: what overlaps shows one outline, not many.
    path = "".join(f"M{place}h0" for place in _texts(places))
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
                "style": css(
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


def css(style: Mapping[str, str]) -> str:
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
    outlines: list[list[str]] = []
    for element in elements:
        if joined and _same_look(joined[-1], element):
            outlines[-1].append(element.get("d", ""))
        else:
            joined.append(element)
            outlines.append([element.get("d", "")])
    # At the end: to lengthen a text by one piece a time takes time in its square.
    for element, pieces in zip(joined, outlines, strict=True):
        if len(pieces) > 1:
            element.set("d", "".join(pieces))
    return joined


def _same_look(first: ET.Element, second: ET.Element) -> bool:
    """Whether two elements are paths that differ in nothing but their outline."""
    if first.tag != "path" or second.tag != "path" or "dasharray" in first.get("style", ""):
        return False
    rest = [{key: value for key, value in e.attrib.items() if key != "d"} for e in (first, second)]
    return rest[0] == rest[1]
