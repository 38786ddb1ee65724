"""The documentation site builds strictly, and no page of it fetches anything; needs the extra docs.

``python -m pytest -q tests/documentation/test_site.py`` is the step of continuous integration that builds it.
"""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag

import pytest

from tests.helpers.markdown import ROOT

BUILDERS = ("sphinx", "furo", "myst_parser")
needs_docs = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in BUILDERS),
    reason="the extra docs is not installed: the site is not built",
)
FETCHED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src", "embed": "src"}
_ELSEWHERE = re.compile(r"^(https?:)?//")


class References(HTMLParser):
    """What a page loads by itself, where its links lead, and the places in it that links may lead to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.linked: list[str] = []
        self.places: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.places |= {values[name] for name in ("id", "name") if name in values}
        if tag in FETCHED and FETCHED[tag] in values:
            self.loaded.append(values[FETCHED[tag]])
        elif tag == "link" and set(values.get("rel", "").split()) & {
            "stylesheet",
            "preload",
            "icon",
            "preconnect",
        }:
            self.loaded.append(values.get("href", ""))
        elif tag == "a" and "href" in values:
            self.linked.append(values["href"])


def fetched_elsewhere(text: str) -> list[str]:
    """The addresses on other machines that a page or style sheet loads by itself."""
    styles = [a or b for a, b in re.findall(r"@import\s+[\"']([^\"']+)|url\(\s*[\"']?([^\"')\s]+)", text)]
    loaded = References(text).loaded if "<html" in text else []
    return [address for address in (*loaded, *styles) if _ELSEWHERE.match(address)]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as its configuration says."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-d", f"{folder}/cache"]
    done = subprocess.run(
        [*command, "docs", f"{folder}/html"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "html"


def test_an_address_elsewhere_would_be_found() -> None:
    assert fetched_elsewhere('<html><script src="https://x.org/a.js"></script><img src="//y.org/b.png">') == [
        "https://x.org/a.js",
        "//y.org/b.png",
    ]
    assert fetched_elsewhere("@import url(https://fonts.org/c.css)") == ["https://fonts.org/c.css"]
    assert fetched_elsewhere('<html><a href="https://arxiv.org">paper</a><img src="here.png">') == []


@needs_docs
def test_no_page_and_no_style_fetches_anything_from_elsewhere(site: Path) -> None:
    files = [path for path in site.rglob("*") if path.suffix in (".html", ".css")]
    assert len(files) > 20
    found = {path.name: fetched_elsewhere(path.read_text(errors="replace")) for path in files}
    assert {name: addresses for name, addresses in found.items() if addresses} == {}


@needs_docs
def test_no_script_of_the_site_names_another_machine(site: Path) -> None:
    """Addresses in scripts stand in comments and namespaces only."""
    harmless = (
        "http://www.w3.org/",
        "https://github.com/",
        "https://www.sphinx-doc.org",
        "http://snowball",
        "https://snowballstem.org/",
        "https://developer.mozilla.org/",
    )
    for path in (site / "_static").rglob("*.js"):
        addresses = re.findall(r"https?://[^\s\"'`)]+", path.read_text(errors="replace"))
        assert [address for address in addresses if not address.startswith(harmless)] == [], path.name


@needs_docs
def test_every_link_within_the_site_leads_to_a_place(site: Path) -> None:
    pages = {path.resolve(): References(path.read_text()) for path in site.rglob("*.html")}
    for path, page in pages.items():
        for href in page.linked:
            if re.match(r"^(\w+:|//)", href):
                continue
            address, anchor = urldefrag(unquote(href))
            there = (path.parent / address).resolve() if address else path
            assert there.exists(), f"{path.name}: {href}"
            if anchor and there in pages:
                assert anchor in pages[there].places, f"{path.name}: {href}"


@needs_docs
def test_both_reports_are_there_to_click(site: Path) -> None:
    page = References((site / "reports.html").read_text())
    for name, says in (("minilm", "Outlier features"), ("stale_batchnorm", "Running statistics are stale")):
        assert f"reports/{name}/report.html" in page.linked
        assert says in (site / "reports" / name / "report.html").read_text()


@needs_docs
def test_the_reference_has_the_docstrings(site: Path) -> None:
    text = (site / "reference.html").read_text()
    for name in (
        "Probe",
        "Recording.findings",
        "compare_live",
        "batchnorm.recalibrate",
        "figures.outlier_map",
    ):
        assert f'id="normprobe.{name}"' in text
    assert "how many samples per layer and site are kept" in text
