"""The style of a page: what the template folder holds, with the colours of the sites filled in."""

from __future__ import annotations

from pathlib import Path

TEMPLATES = Path(__file__).parent / "templates"
# Comments, so that the file by itself is CSS, too.
_PLACES = ("/* colours of the sites, light */", "/* colours of the sites, dark */")


def stylesheet() -> str:
    """The rules of a page; every site of the vocabulary has a variable, in light and in dark."""
    from normprobe.figures.drawing.palette import site_variables  # loads matplotlib: not when imported

    css = (TEMPLATES / "page.css").read_text("utf-8")
    for theme, place in enumerate(_PLACES):
        colours = " ".join(f"{name}: {both[theme]};" for name, both in site_variables().items())
        css = css.replace(place, colours)
    return css
