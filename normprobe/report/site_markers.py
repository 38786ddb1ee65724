"""The markers of sites as SVG paths, for what the report draws by hand."""

from __future__ import annotations

from normprobe.vocabulary import site_of

_SHAPES = {
    # One outline for both: hollow or filled is for the style to say.
    "○": "m-3 0a3 3 0 1 0 6 0a3 3 0 1 0 -6 0",
    "●": "m-3 0a3 3 0 1 0 6 0a3 3 0 1 0 -6 0",
    "■": "m-2.6 -2.6h5.2v5.2h-5.2z",
    "▲": "m0 -3.2l3.2 5.8h-6.4z",
    "◆": "m0 -3.4l3.4 3.4l-3.4 3.4l-3.4 -3.4z",
    "✚": "m-1 -3h2v2h2v2h-2v2h-2v-2h-2v-2h2z",
}


def marker_path(site: str, x: float, y: float) -> str:
    """The outline of a site's marker around a place, as a piece of an SVG path.

    >>> marker_path("output", 10, 6)
    'M10 6m-3 0a3 3 0 1 0 6 0a3 3 0 1 0 -6 0'
    """
    return f"M{x:g} {y:g}{_SHAPES[site_of(site).sign]}"
