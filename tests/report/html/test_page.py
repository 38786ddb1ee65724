"""The page: complete in one file, escaped, the same bytes each time, and written whole or not at all."""

import gc
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from torch import nn

from normprobe import NormprobeError, NoSamplesError, Probe, RecordingError, figures
from normprobe.figures import registry
from normprobe.figures.drawing.canvas import Plan, column_hits
from normprobe.report import write_report
from normprobe.report.html import page as html_page
from tests.helpers.golden import golden
from tests.helpers.report_models import (
    NOTHING,
    Drawing,
    finding,
    findings_of,
    header_of,
    record,
    section_of,
    stack,
    text_of,
)

GOLDEN = Path(__file__).parent / "golden" / "page.txt"
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
VOID = {
    "meta",
    "link",
    "br",
    "wbr",
    "input",
    "img",
    "hr",
    "path",
    "rect",
    "circle",
    "line",
    "use",
    "image",
    "stop",
}
OPTIONAL = {"td", "tr", "th", "li", "p", "dt", "dd", "option", "thead", "tbody"}


class Outline(HTMLParser):
    """Collects tags, ids and links, and what is closed wrongly."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.ids, self.links, self.wrong, self._open = [], [], [], [], []
        self.feed(html)
        self.wrong += self._open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.ids += [value for name, value in attrs if name == "id"]
        self.links += [value for name, value in attrs if name in {"href", "xlink:href"}]
        if tag not in VOID | OPTIONAL and not self.get_starttag_text().endswith("/>"):
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag):
        if tag in VOID | OPTIONAL:
            return
        if not self._open or self._open.pop() != tag:
            self.wrong.append(f"/{tag}")


@pytest.fixture(scope="module")
def tables():
    return record(stack(3), labels=lambda args, kwargs: [["</script>", "<b>", "注意", "שלום", "plain"]] * 3)


@pytest.fixture(scope="module")
def findings(tables):
    return findings_of(
        finding(
            "layers.1.norm", feature=3, example=0, position=1, written_by="layers.0.down", layers_affected=2
        ),
        finding(
            "layers.2.up",
            check="outlier",
            title="Outlier features",
            layers_affected=3,
            affected="layers.1.up",
        ),
    )


@pytest.fixture(scope="module")
def page(tables, findings, tmp_path_factory):
    return write_report(tables, findings, tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def html(page):
    return page.read_text("utf-8")


@pytest.fixture
def drawn(monkeypatch):
    """Figures in no time, for tests of the page around them."""
    monkeypatch.setattr(figures, "available", lambda tables: ["depth_profile"])
    monkeypatch.setattr(figures, "render", lambda tables, name, layer=None: Drawing(name, layer or name))


def test_the_page_asks_for_nothing(html):
    outline = Outline(html)
    metas = [attrs for tag, attrs in outline.tags if tag == "meta"]
    assert [m["content"] for m in metas if m.get("http-equiv") == "Content-Security-Policy"] == [POLICY]
    sources = [attrs["src"] for _, attrs in outline.tags if "src" in attrs]
    sources += [attrs["href"] for tag, attrs in outline.tags if tag in {"link", "use"} and "href" in attrs]
    assert [s for s in sources if not s.startswith(("data:", "#"))] == []
    assert [
        u for u in re.findall(r"url\(([^)]*)\)", html) if not u.strip("'\"").startswith(("#", "data:"))
    ] == []
    assert "@import" not in html


def test_tags_are_closed_and_ids_are_unique(html):
    outline = Outline(html)
    assert outline.wrong == []
    assert [i for i in set(outline.ids) if outline.ids.count(i) > 1] == []
    inside = {link[1:] for link in outline.links if link.startswith("#")}
    assert inside - set(outline.ids) == set()
    assert {i for i in outline.ids if i.startswith("panel-")} <= inside


def test_links_beside_the_page_lead_to_files(page, html):
    outside = [link for link in Outline(html).links if not link.startswith(("#", "http", "data:"))]
    assert outside == ["figures/"]
    assert (page.parent / outside[0]).is_dir()
    assert sorted({p.suffix for p in (page.parent / "figures").iterdir()}) == [".png", ".svg"]


def test_same_recording_same_bytes(tables, findings, page, tmp_path):
    again = write_report(tables, findings, tmp_path)
    assert again.read_bytes() == page.read_bytes()
    for file in (page.parent / "figures").iterdir():
        assert (tmp_path / "figures" / file.name).read_bytes() == file.read_bytes()


def test_the_page_carries_the_recordings_own_date(html):
    assert "Recorded 2026-01-02 03:04 UTC with normprobe" in text_of(html)


def test_the_page_is_small(page):
    assert page.stat().st_size < 600_000


def test_sections_in_order(html):
    ids = re.findall(r'<section id="(\w+)"', html)
    assert ids == ["findings", "norms", "features", "samples", "linear", "layers", "panels", "reading"]
    links = re.search(r'<nav class="links".*?</nav>', html, re.DOTALL).group()
    assert re.findall(r'href="#(\w+)"', links) == ids


def test_the_words_of_the_page_are_those_of_the_golden_file(html):
    golden(GOLDEN, "header", header_of(html))
    golden(GOLDEN, "findings", section_of(html, "findings"))
    golden(GOLDEN, "reading", section_of(html, "reading"))


def test_findings_are_emphasised_linked_and_drawn(html):
    assert "<b>27,347</b> in feature <b>3</b>" in html
    assert 'href="https://arxiv.org/abs/2402.17762"' in html
    assert len(re.findall(r'<figure class="spark">', html)) == 2


def test_hostile_names_are_text(drawn, tmp_path):
    model = nn.Sequential()
    names = [
        "<b>bold</b>",
        "</script><script>alert(1)</script>",
        '"><img src=x>',
        "层归一化",
        "שכבה",
        "a" * 300,
    ]
    for name in names:
        model.add_module(name, nn.LayerNorm(4))
    rows = [
        finding(name, message=f"{name} reaches 27,347.", written_by=names[0], affected="; ".join(names))
        for name in names
    ]
    recorded = record(model, torch.randn(2, 3, 4)).annotate({"name": "<i>model</i>"})
    html = write_report(recorded, findings_of(*rows), tmp_path).read_text("utf-8")
    text = text_of(html)
    assert Outline(html).wrong == []
    assert [tag for tag, _ in Outline(html).tags if tag in {"img", "i"}] == []
    assert html.count("<script>") == 1
    for name in names:
        assert f"{name} reaches" in text
    assert "<i>model</i>" in text


def test_token_texts_are_text(tables, drawn, tmp_path):
    rows = [finding("layers.1.norm", example=0, position=p) for p in range(5)]
    html = write_report(tables, findings_of(*rows), tmp_path).read_text("utf-8")
    for word in ("</script>", "<b>", "注意", "שלום"):
        assert f"“{word}” example 0" in text_of(html)
    assert html.count("</script>") == 1


def test_nothing_measured(tmp_path):
    model = stack(1)
    probe = Probe(model)
    with pytest.raises(
        NoSamplesError, match=r"nothing was measured.*4 layers of Stack.*call the model inside"
    ):
        write_report(probe.recording.tables, NOTHING, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_file_in_the_way(tables, tmp_path):
    (tmp_path / "taken").write_text("mine")
    for place in (tmp_path / "taken", tmp_path / "taken" / "below"):
        with pytest.raises(
            RecordingError, match=r"is a file or lies below one\. Name another folder"
        ) as raised:
            write_report(tables, NOTHING, place)
        assert str(place) in str(raised.value)
    assert (tmp_path / "taken").read_text() == "mine"


def test_a_folder_that_cannot_be_written(tables, drawn, tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryDirectory", refuse)
    with pytest.raises(
        RecordingError, match=r"cannot be written to .*: Permission denied. Make the folder writable"
    ):
        write_report(tables, NOTHING, tmp_path)


def test_an_existing_report_is_not_lost(tables, drawn, tmp_path, monkeypatch):
    old = write_report(tables, NOTHING, tmp_path / "a" / "b").read_bytes()
    (tmp_path / "a" / "b" / "figures" / "mine.png").write_text("mine")

    def fail(*args, **kwargs):
        raise ValueError("drawing failed")

    monkeypatch.setattr(figures, "render", fail)
    with pytest.raises(ValueError, match="drawing failed"):
        write_report(tables, NOTHING, tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b" / "report.html").read_bytes() == old
    assert sorted(p.name for p in (tmp_path / "a" / "b").iterdir()) == ["figures", "report.html"]
    assert (tmp_path / "a" / "b" / "figures" / "mine.png").read_text() == "mine"


def test_the_garbage_collector_of_the_process_is_left_alone(tables, drawn, tmp_path, monkeypatch):
    during = []
    monkeypatch.setattr(figures, "available", lambda tables: during.append(gc.get_threshold()) or [])
    before = gc.get_threshold()
    write_report(tables, NOTHING, tmp_path)
    assert during == [before]
    assert gc.get_threshold() == before


def test_files_named_are_those_that_are_there(tables, drawn, tmp_path):
    (tmp_path / "samples.csv").write_text("of somebody else")
    page = write_report(tables, NOTHING, tmp_path, beside=["layers.csv"])
    assert "Files beside this page: layers.csv, figures/." in text_of(page.read_text("utf-8"))


def test_unknown_panels_are_refused(tables, tmp_path):
    with pytest.raises(NormprobeError, match=r"panels='some' is not a choice.*'all'.*'files'"):
        write_report(tables, NOTHING, tmp_path / "new", panels="some")
    assert not (tmp_path / "new").exists()


def test_panels_as_files(tables, tmp_path):
    write_report(tables, NOTHING, tmp_path / "plain")
    write_report(tables, NOTHING, tmp_path / "files", panels="files")
    names = [{p.name for p in (tmp_path / n / "figures").iterdir()} for n in ("plain", "files")]
    assert len(names[1] - names[0]) == 4
    assert {name.rpartition(".")[2] for name in names[1] - names[0]} == {"png"}


def test_figures_of_an_earlier_report_go_and_other_files_stay(tables, tmp_path):
    write_report(tables, NOTHING, tmp_path, panels="files")
    (tmp_path / "figures" / "mine.png").write_text("mine")
    (tmp_path / "figures" / "depth_profile_old.png").write_text("mine")
    few = record(stack(1), torch.randn(4, 16))
    write_report(few, NOTHING, tmp_path)
    assert {p.name for p in (tmp_path / "figures").iterdir()} == {"mine.png", "depth_profile_old.png"}


def test_no_folder_of_figures_is_left_empty(tables, tmp_path):
    write_report(tables, NOTHING, tmp_path)
    assert (tmp_path / "figures").is_dir()
    write_report(record(stack(1), torch.randn(4, 16)), NOTHING, tmp_path)
    assert not (tmp_path / "figures").exists()


def test_every_file_drawn_is_known_as_such(tables, tmp_path):
    write_report(tables, NOTHING, tmp_path, panels="files")
    names = [p.name for p in (tmp_path / "figures").iterdir()]
    assert [name for name in names if not html_page._drawn(name)] == []


def test_hostile_names_and_tokens_inside_real_figures(tmp_path):
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            for i, name in enumerate(["<b>$x$", "</script>", "$\\frac{", "层", "שכבה"]):
                self.add_module(f"{name} {i}", nn.LayerNorm(16))

        def forward(self, x):
            for norm in self.children():
                x = norm(x * 3)
            return x

    words = ["</script>", "$\\frac{", "<b>", "注意$$", "שלום"]
    batch = torch.randn(3, 5, 16) * torch.tensor([1000.0, 500, 200, 100, 50])[:, None]
    recorded = record(Named(), batch, labels=lambda args, kwargs: [words] * 3)
    html = write_report(recorded, NOTHING, tmp_path).read_text("utf-8")
    assert Outline(html).wrong == []
    assert html.count("</script>") == 1
    assert "“</script>” example" in text_of(html)
    assert "$\\frac{ 2" in text_of(html)


class MadeUp:
    """A figure that nobody has drawn before."""

    def supported(self, tables):
        return len(tables.layers) > 4

    def summarize(self, tables):
        return len(tables.layers)

    def facts(self, found):
        return {"rows": found}

    def caption(self, found):
        return f"**{found}** rows."

    def aria_label(self, found):
        return f"{found} rows."

    def numbers(self, found):
        return [("norm", "a number")]

    def plan(self, tables):
        found = self.summarize(tables)
        words = ("A made-up section", self.caption(found), self.aria_label(found))
        hits = column_hits(self.numbers(found))
        return Plan(
            *words, lambda axes: axes[0].plot([1, 2]), heights=(1.0,), hits=hits, facts=self.facts(found)
        )


def test_a_figure_takes_one_entry_of_the_registry(tables, tmp_path, monkeypatch):
    entry = registry.Entry("made_up", "invented", "Invented", MadeUp())
    behind = 1 + [figure.name for figure in registry.FIGURES].index("depth_profile")
    with_it = (*registry.FIGURES[:behind], entry, *registry.FIGURES[behind:])
    monkeypatch.setattr(registry, "FIGURES", with_it)
    assert figures.available(tables)[:2] == ["depth_profile", "made_up"]
    assert figures.render(tables, "made_up").facts == {"rows": 20}
    with pytest.raises(ValueError, match="depth_profile, made_up, outlier_map"):
        figures.render(tables, "pie")
    html = write_report(tables, NOTHING, tmp_path).read_text("utf-8")
    assert re.findall(r'<section id="(\w+)"', html)[1:4] == ["norms", "invented", "features"]
    assert '<a href="#invented">Invented</a>' in html
    assert "<figcaption><b>20</b> rows.</figcaption>" in html
    drawn = {"made_up.png", "made_up.svg"}
    assert drawn <= {file.name for file in (tmp_path / "figures").iterdir()}
    (tmp_path / "figures" / "made_up.txt").write_text("mine")
    write_report(record(stack(0), torch.randn(4, 16)), NOTHING, tmp_path)
    assert {file.name for file in (tmp_path / "figures").iterdir()} == {"made_up.txt"}
