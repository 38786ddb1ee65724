"""A comparison for people: the page, its figure, and the terminal's text."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from torch import nn

import normprobe
from normprobe import Comparison, RecordingError, compare, figures
from normprobe.divergence import LAYERS, UNMATCHED, Differences, sentences
from normprobe.divergence.columns import shaped
from normprobe.report import comparison_text, comparison_title
from normprobe.vocabulary import site_of
from tests.helpers.comparison_models import batches, changed, net, port, record
from tests.helpers.figure_recordings import text_boxes
from tests.helpers.golden import golden
from tests.helpers.report_models import text_of

NONE = -np.inf


def place(layer: str, site: str, error: float, **facts: Any) -> dict[str, Any]:
    """One row of a comparison, of rounding size unless told otherwise."""
    row = dict.fromkeys(LAYERS, np.nan) | {
        "layer": layer,
        "layer_b": layer,
        "matched_by": "name",
        "kind": "layer_norm" if "norm" in layer else "linear",
        "kind_b": "layer_norm" if "norm" in layer else "linear",
        "site": site,
        "dtype": "float32",
        "dtype_b": "float32",
        "error_db": error,
        "noise_db": -102.0,
        "inherited_db": error,
        "introduced_db": NONE,
        "error_of": "rows",
        "split": "measured",
        "mean_shift": 0.0,
        "log_variance_ratio": 0.0,
        "features_beyond": 0.0,
        "beyond": error > -102,
        "introduces": False,
        "pairs": 64,
        "depth": 0,
        "n_features": 16,
    }
    return row | facts


def differences(
    rows: list[dict[str, Any]], *, unmatched: list[dict[str, str]] | None = None, **facts: Any
) -> Differences:
    """What a comparison found, from rows of our own."""
    said = {
        "names": ["./a", "./b"],
        "models": ["Net", "Net"],
        "data": [None, None],
        "created": ["2026-01-02T03:04:05+00:00"] * 2,
        "parts": [1, 1],
        "versions": [{"normprobe": "0.1.0", "torch": "2.13.0"}] * 2,
        "same_data": True,
        "paired_by": "digests",
        "dtypes": ["float32", "float32"],
        "precision_differs": False,
        "precision_changes": [],
        "matched": len({row["layer"] for row in rows}),
        "reordered": None,
        "examples": (64, 64),
        "level": 0.01,
    }
    return Differences(shaped(list(rows), LAYERS), shaped(list(unmatched or []), UNMATCHED), said | facts)


def stack(first: int, blocks: int = 6) -> list[dict[str, Any]]:
    """Blocks of two layers; from the block `first` on they differ, introduced in its `up`."""
    rows = []
    for block in range(blocks):
        late, at = block > first, block == first
        name = f"model.decoder.layers.{block}"
        rows += [
            place(f"{name}.norm", "input", -32.0 if late else NONE),
            place(f"{name}.norm", "output", -31.0 if late else NONE, introduced_db=-140.0 if late else NONE),
            place(f"{name}.mlp.up", "input", -31.0 if late else NONE),
            place(
                f"{name}.mlp.up",
                "output",
                -38.2 if at else -30.0 if late else -131.0,
                introduced_db=-38.2 if at else NONE,
                introduces=at,
                beyond=at or late,
                log_variance_ratio=np.log(1.1),
                mean_shift=0.012,
                features_beyond=0.5,
            ),
        ]
    return rows


GOLDEN = Path(__file__).parent / "terminal" / "golden" / "comparison.txt"


@pytest.mark.parametrize("width", [80, None])
def test_the_terminals_text(width: int | None) -> None:
    found = differences(stack(2), unmatched=[{"of": "b", "layer": "lm_head", "reason": "new"}])
    text = comparison_text(found, sentences(found), width=width, unicode=True)
    golden(GOLDEN, f"at {width} columns", text)


def test_the_terminals_text_of_a_second_that_is_worse() -> None:
    sound = record(net()).annotate(name="good.pt")
    worse = record(changed(net(), lambda m: m.layers[1].value.bias[2].fill_(float("nan")))).annotate(
        name="new.pt"
    )
    golden(GOLDEN, "worse", compare(sound, worse).summary().text(width=80))
    back = compare(worse, sound).summary().text()
    assert "Against the first: 0 new, 0 known, 1 gone." in back
    assert re.search(r"^gone     .* at layers.1.value$", back, re.MULTILINE)


@pytest.mark.parametrize(
    ("names", "dtypes", "shown"),
    [
        (["a", "b"], ["float32", "float32"], "a against b"),
        (["a", "a"], ["float32", "bfloat16"], "a (float32) against a (bfloat16)"),
        (["a", "a"], ["float32", "float32"], "a (first) against a (second)"),
    ],
)
def test_both_sides_can_be_told_apart(names: list[str], dtypes: list[str], shown: str) -> None:
    assert comparison_title(differences(stack(2), names=names, dtypes=dtypes)) == shown


def test_the_terminals_text_in_plain_ascii() -> None:
    found = differences(stack(2))
    text = comparison_text(found, sentences(found), width=120, unicode=False)
    text.encode("ascii")
    assert "error -38 dB, introduced there" in text
    assert max(map(len, text.splitlines())) <= 120


def test_the_terminal_shows_chance_where_the_data_differ() -> None:
    rows = [place("a", "input", -20.0, likely=0.6, beyond=False), place("a", "output", -9.0, likely=0.001)]
    found = differences(rows, same_data=False)
    text = comparison_text(found, sentences(found), width=80, unicode=True)
    assert re.search(r"error in +error out +p", text)
    assert re.search(r"^a +−20.0 +−9.0 +0.001  first$", text, re.MULTILINE)
    assert "on 64 and 64 examples" in text.replace("\n", " ")


@cache
def compared(kind: str) -> Comparison:
    sound = record(net()).annotate(name="sound <b>", created="2026-01-02T03:04:05+00:00")
    if kind == "equal":
        other = record(net())
    elif kind == "other data":
        other = record(net(), batches(seed=3))
    elif kind == "port":
        other = record(changed(port(net()), lambda m: m.h[2].fc1.bias.zero_()))
    elif kind == "nan":
        other = record(changed(net(), lambda m: m.layers[1].value.bias[2].fill_(float("nan"))))
    else:
        other = record(changed(net(), lambda m: setattr(m.layers[1], "act", nn.ReLU())))
    return compare(sound, other.annotate(created="2026-01-02T03:04:05+00:00"))


KINDS = ("fault", "equal", "other data", "port", "nan")


@pytest.mark.parametrize("kind", KINDS)
def test_the_page_is_one_file_without_requests(kind: str, tmp_path: Path) -> None:
    page = compared(kind).report(tmp_path)
    assert page == tmp_path / "comparison.html"
    html = page.read_text()
    assert "default-src 'none'" in html
    assert not re.search(r"(src|href)=\"http(?!s://arxiv)|url\((?!#)|@import", html)
    assert len(html) < 500_000
    assert (tmp_path / "figures" / "divergence_profile.png").exists()
    assert {path.name for path in tmp_path.glob("*.csv")} == {
        "comparison.csv", "unmatched.csv", "comparison_findings.csv",
    }  # fmt: skip
    ids = re.findall(r'id="([^"]+)"', html)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'href="#([^"]+)"', html)) <= set(ids)


@pytest.mark.parametrize("kind", KINDS)
def test_the_page_says_what_the_comparison_says(kind: str, tmp_path: Path) -> None:
    comparison = compared(kind)
    words = text_of(comparison.report(tmp_path).read_text())
    for sentence in str(comparison).splitlines():
        assert sentence in words
    assert "sound <b> against Net" in words or "sound <b> against Port" in words
    for layer in set(comparison.layers["layer"]):
        assert layer in words
    assert ("Layers without a counterpart" in words) is (kind == "port")
    assert ("A permutation test with 999 shuffles" in words) is (kind == "other data")


def test_the_same_comparison_gives_the_same_bytes(tmp_path: Path) -> None:
    pages = [compared("fault").report(tmp_path / name).read_bytes() for name in "ab"]
    assert pages[0] == pages[1]


def test_the_page_marks_the_first_layer_and_sorts_by_numbers(tmp_path: Path) -> None:
    html = compared("fault").report(tmp_path).read_text()
    rows = re.findall(r'<tr id="layer-\d+"( class="first")?>', html)
    assert rows.count(' class="first"') == 1
    assert 'data-v="-Infinity">none' in html


def test_a_report_of_a_recording_stays_beside_it_with_its_figures(tmp_path: Path) -> None:
    record(net()).report(tmp_path)
    figures_of_the_report = {path.name for path in (tmp_path / "figures").iterdir()}
    assert figures_of_the_report
    compared("equal").report(tmp_path)
    drawn = {path.name for path in (tmp_path / "figures").iterdir()}
    assert drawn == figures_of_the_report | {"divergence_profile.png", "divergence_profile.svg"}
    record(net()).report(tmp_path)
    assert drawn == {path.name for path in (tmp_path / "figures").iterdir()}
    assert {"report.html", "comparison.html", "layers.csv", "comparison.csv"} <= {
        p.name for p in tmp_path.iterdir()
    }


def test_a_folder_that_is_a_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RecordingError, match="file"):
        compared("equal").report(tmp_path / "file")


def test_over_1500_layers_the_page_shows_those_that_differ_most(tmp_path: Path) -> None:
    found = differences(stack(5, blocks=800))
    html = Comparison(found).report(tmp_path).read_text()
    assert "The 1,500 of 1,600 layers that differ most; comparison.csv has them all." in html
    assert "model.decoder.layers.5.<wbr>mlp.<wbr>up" in html.replace("<wbr>5.", "5.").replace(
        "<wbr>layers", "layers"
    ).replace("<wbr>decoder", "decoder")
    assert len(html) < 3_000_000


class TestFigure:
    @pytest.mark.parametrize(("kind", "charts"), [("fault", 2), ("equal", 1), ("other data", 1), ("nan", 2)])
    def test_a_second_chart_where_error_arises(self, kind: str, charts: int) -> None:
        assert np.size(figures.divergence_profile(compared(kind))) == charts

    def test_it_draws_on_the_callers_axes_and_returns_them(self) -> None:
        axes = Figure().subplots(2)
        drawn = figures.divergence_profile(compared("fault"), ax=axes)
        assert list(drawn) == list(axes)
        with pytest.raises(ValueError, match="2 charts, but `ax` holds 1"):
            figures.divergence_profile(compared("fault"), ax=axes[0])

    def test_markers_stand_at_the_errors(self) -> None:
        comparison = compared("fault")
        ax = figures.divergence_profile(comparison)[0]
        drawn = np.concatenate([dots.get_offsets() for dots in ax.collections if len(dots.get_offsets())])[
            :, 1
        ]
        errors = comparison.layers["error_db"]
        np.testing.assert_allclose(np.sort(drawn), np.sort(errors[np.isfinite(errors)]))

    @pytest.mark.parametrize("rows", [stack(2), stack(0, 1), stack(40, 120), stack(-1, 6)])
    def test_nothing_overlaps(self, rows: list[dict[str, Any]]) -> None:
        drawn = figures.divergence_profile(differences(rows))
        figure = np.ravel(drawn)[0].figure
        boxes = [box for _, box in text_boxes(figure)]
        for at, box in enumerate(boxes):
            assert not any(box.overlaps(other) for other in boxes[at + 1 :])
            assert figure.bbox.x0 <= box.x0 <= box.x1 <= figure.bbox.x1

    def test_hovering_tells_the_numbers_and_the_words_fit(self) -> None:
        rendered = figures.render_divergence(compared("fault"))
        svg = rendered.svg("x-")
        assert "layers.1.down\ninput: error −" in svg
        assert "introduced −" in svg
        assert "first beyond the noise at layers.1.down (input)" in rendered.aria_label
        assert "differ beyond the noise" in rendered.caption
        assert "Nothing lies beyond the noise." in figures.render_divergence(compared("equal")).caption


def test_dtypes_on_the_page(tmp_path: Path) -> None:
    half = record(net().bfloat16(), [batch.bfloat16() for batch in batches()])
    comparison = normprobe.compare(record(net()), half)
    words = text_of(comparison.report(tmp_path).read_text())
    assert "first: Net, float32 · second: Net, bfloat16" in words.replace(" second", " · second").replace(
        " · ·", " ·"
    )
    assert comparison.layers["dtype_b"].eq("bfloat16").all()
    assert isinstance(half.meta["dtype"], str)
    assert torch.bfloat16 == next(net().bfloat16().parameters()).dtype


class TestSites:
    """A comparison shows every site compared, and rests on none of them."""

    def third(self) -> Differences:
        rows = [
            row | {"site": "residual", "error_db": -12.5, "introduced_db": -12.5, "introduces": True}
            for row in stack(2)
            if row["site"] == "output" and row["beyond"]
        ]
        return differences(sorted([*stack(2), *rows], key=lambda row: row["layer"]))

    def test_a_third_site_is_drawn_and_in_both_tables(self, tmp_path: Path) -> None:
        found = self.third()
        rendered = figures.render_divergence(found)
        assert rendered.facts["sites"] == ("input", "output", "residual")
        assert rendered.facts["largest_db"] == -12.5
        assert f"{site_of('residual').sign} residual" in rendered.caption
        html = Comparison(found).report(tmp_path).read_text()
        assert "error of<br>residual, dB" in html
        assert 'data-v="-12.5"' in html
        for width in (80, 120):
            text = comparison_text(found, sentences(found), width=width, unicode=True)
            assert "residual" in text
            assert "−12.5" in text
            assert max(map(len, text.splitlines())) <= width

    @pytest.mark.parametrize("kept", [["input"], ["output"], ["residual"]])
    def test_one_site_is_enough(self, kept: list[str], tmp_path: Path) -> None:
        rows = [row for row in self.third().layers.to_dict("records") if row["site"] in kept]
        found = differences([{str(key): value for key, value in row.items()} for row in rows])
        html = Comparison(found).report(tmp_path).read_text()
        assert html.count('<tr id="layer-') == len({row["layer"] for row in rows})
        assert comparison_text(found, sentences(found), width=80, unicode=True)
