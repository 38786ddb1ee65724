"""Colours: text and marks stand out enough from what is behind them, in both themes."""

import re

import pytest

from normprobe.figures.drawing import palette
from normprobe.report.html.stylesheet import TEMPLATES, stylesheet
from normprobe.vocabulary import INPUT, OUTPUT, site_of

CSS = stylesheet()
TEXT = (
    "ink",
    "muted",
    "in",
    "out",
    "acc",
    "error",
    "warning",
    "info",
    "spare-0",
    "spare-1",
    "spare-2",
    "spare-3",
)
MARKS = ("ink", "in", "out", "acc", "cell", "muted", "spare-0", "spare-1", "spare-2", "spare-3")


def themes() -> dict[str, dict[str, str]]:
    """The variables of each block that sets them: light, dark by preference, dark by choice."""
    blocks = re.findall(r":root[^{]*\{([^}]*--ink[^}]*)\}", CSS)
    names = ("light", "dark by preference", "dark by choice")
    return {n: dict(re.findall(r"--([\w-]+): (#\w{6})", b)) for n, b in zip(names, blocks, strict=True)}


def luminance(colour: str) -> float:
    """WCAG 2.2's relative luminance of `#rrggbb`."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_contrast_of_known_pairs():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#767676", "#ffffff") == pytest.approx(4.54, abs=0.01)


@pytest.mark.parametrize("theme", ["light", "dark by preference"])
@pytest.mark.parametrize("behind", ["paper", "surface", "band", "hover"])
def test_text_and_marks_stand_out(theme, behind):
    colours = themes()[theme]
    assert {
        n: contrast(colours[n], colours[behind]) for n in TEXT if contrast(colours[n], colours[behind]) < 4.5
    } == {}
    if behind in {"paper", "surface"}:
        assert {n: colours[n] for n in MARKS if contrast(colours[n], colours[behind]) < 3} == {}


def test_both_dark_blocks_are_the_same():
    blocks = themes()
    assert blocks["dark by preference"] == blocks["dark by choice"]
    assert set(blocks["light"]) == set(blocks["dark by choice"])


def test_dark_applies_to_screens_only():
    media = [
        CSS[: found.start()].rpartition("@media ")[2] for found in re.finditer("color-scheme: dark;", CSS)
    ]
    assert [query.split(" ")[0] for query in media] == ["screen", "screen"]


def test_figures_know_every_colour_they_name():
    light = themes()["light"]
    assert {light[v.removeprefix("--")] for v in palette.variables().values()} == set(palette.variables())


def test_the_notebook_uses_the_same_colours():
    css = (TEMPLATES / "notebook.css").read_text("utf-8")
    light, dark = themes()["light"], themes()["dark by choice"]
    for name, variable in (("cell", "cell"), ("alarm", "acc")):
        assert f"--{name}: light-dark({light[variable]}, {dark[variable]})" in css


def test_the_page_and_the_figures_take_the_colours_of_sites_from_the_vocabulary():
    light, dark = themes()["light"], themes()["dark by choice"]
    for site, variable in ((INPUT, "in"), (OUTPUT, "out")):
        assert (light[variable], dark[variable]) == site_of(site).colour
    assert palette.site_look("nobody listed this").colour in palette.variables()


def test_the_script_stays_short():
    """It sorts, filters, switches the theme and opens what a link points at; all else is there without it."""
    script = (TEMPLATES / "page.js").read_text("utf-8").splitlines()
    assert len([line for line in script if line.strip()]) < 30
