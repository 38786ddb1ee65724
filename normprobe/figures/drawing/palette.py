"""The colours of every figure and the matplotlib settings they are drawn under."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import matplotlib as mpl

from normprobe.vocabulary import INPUT, OUTPUT, SPARE_COLOURS, site_of, sites

# Each light colour is also the mark by which the page's colour is put in its place (svg.py): all differ.
INK = "#1d1c1a"
MUTED = "#5f5d57"
GRID = "#e3e1d9"
BAND = "#f4f2ec"
SURFACE = "#fffffe"
ACCENT = "#a3195b"

_FIXED = {
    INK: "--ink",
    MUTED: "--muted",
    GRID: "--grid",
    BAND: "--band",
    SURFACE: "--surface",
    ACCENT: "--acc",
}
_SITE_VARIABLES = {INPUT: "--in", OUTPUT: "--out"}
_MARKERS = {"○": "o", "●": "o", "■": "s", "▲": "^", "◆": "D", "✚": "P"}  # by `Site.sign`


@dataclass(frozen=True)
class SiteLook:
    """How a site is drawn; its colour is never the only sign.

    Attributes:
        label: one or two words for people.
        colour: in light colours.
        face: the inside of its marker: paper for an input, else its colour.
        marker: of matplotlib.
        sign: the marker as a letter, for texts.
    """

    label: str
    colour: str
    face: str
    marker: str
    sign: str


def site_look(name: str) -> SiteLook:
    """How the site of this name is drawn: an input hollow, an output filled, any further one by a shape."""
    site = site_of(name)
    # As matplotlib writes colours in SVG, where the page's are put in their place.
    colour = site.colour[0].lower()
    return SiteLook(site.label, colour, SURFACE if name == INPUT else colour, _MARKERS[site.sign], site.sign)


def site_variables() -> dict[str, tuple[str, str]]:
    """The CSS variable of each site's colour, with the colour in light and in dark.

    The spare colours have variables, too: a site that nobody listed, as in a file from elsewhere, has one.
    """
    listed = {_SITE_VARIABLES.get(site.name, f"--site-{site.number}"): site.colour for site in sites()}
    return listed | {f"--spare-{at}": colour for at, colour in enumerate(SPARE_COLOURS)}


def variables() -> dict[str, str]:
    """The CSS variable that stands for each light colour in the page; of one colour, the first."""
    found = dict(_FIXED)
    for variable, (light, _) in site_variables().items():
        found.setdefault(light.lower(), variable)
    return found


BEFORE, AFTER = site_look(INPUT).colour, site_look(OUTPUT).colour

# Luminance .196 to .235: at least 3.5 : 1 against the paper of both themes, so that lines need no variable.
ROLE_COLOURS = ("#3a7fbf", "#c4681f", "#2f8f6b", "#b25aa8", "#8a7d22", "#7f7bd6", "#808080", "#cc5568")
ROLE_DASHES: tuple[tuple[float, ...], ...] = (
    (),
    (4.5, 2.0),
    (1.3, 1.6),
    (6.0, 1.6, 1.3, 1.6),
    (9.0, 2.0),
    (3.0, 1.2, 1.3, 1.2, 1.3, 1.2),
    (2.4, 1.2),
    (7.0, 3.0, 2.0, 3.0),
)

TEXT = 7.6
SMALL = 6.9
TITLE = 8.4

_STYLE: dict[str, Any] = {
    "font.family": ["sans-serif"],
    # It comes with matplotlib, so texts are as wide on every machine.
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": TEXT,
    "axes.edgecolor": GRID,
    "axes.facecolor": "none",
    "axes.labelcolor": MUTED,
    "axes.labelsize": TEXT,
    "axes.titlecolor": INK,
    "axes.titlesize": TITLE,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 6,
    "axes.titley": 1.0,  # else matplotlib measures every tick label of a chart to place its heading
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.axisbelow": True,
    "figure.facecolor": "none",
    # A pixel is a point: what matplotlib says in pixels is what the SVG counts in.
    "figure.dpi": 72,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.2,
    "patch.linewidth": 0,
    "path.simplify": False,
    "savefig.facecolor": "none",
    # Text as text: it can be searched, and is set in the reader's own font.
    "svg.fonttype": "none",
    # Without a salt ids are random: the same recording would give other files.
    "svg.hashsalt": "normprobe",
    "text.color": INK,
    "text.parse_math": False,  # a layer's name may hold dollar signs
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.labelsize": TEXT,
    "ytick.labelsize": TEXT,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "xtick.major.pad": 3.5,
    "ytick.major.pad": 4,
}


@contextmanager
def house_style() -> Iterator[None]:
    """Draw under the same settings whatever the user's are, and give the user's back."""
    # Those that differ: matplotlib checks each that is set, and a report asks for every panel.
    changed = {key: value for key, value in _settings().items() if mpl.rcParams[key] != value}
    with mpl.rc_context(changed):
        yield


@cache
def _settings() -> dict[Any, Any]:
    """What a drawing goes by: matplotlib's defaults, and the house's settings over them."""
    # These are of the process, not of a drawing: what a notebook or a window goes by while we draw.
    kept = ("backend", "backend_fallback", "interactive", "toolbar", "timezone", "figure.hooks")
    return {key: value for key, value in mpl.rcParamsDefault.items() if key not in kept} | _STYLE
