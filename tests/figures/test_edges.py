"""Recordings at the edges: nothing overlaps, nothing stays blank, nothing is dropped without a word."""

from __future__ import annotations

import pathlib
from itertools import combinations, pairwise

import numpy as np
import pytest
import torch
from matplotlib.collections import LineCollection
from matplotlib.path import Path

from normprobe import figures
from normprobe.figures.data.depth_profile import summarize
from normprobe.figures.drawing.palette import ACCENT
from tests.helpers.figure_recordings import Chain, every_figure, images, normal, record, stack, text_boxes
from tests.helpers.golden import golden

X = normal(6, 7, 16)
GOLDEN = pathlib.Path(__file__).parent / "golden" / "remarks.txt"
NAN, INF = float("nan"), float("inf")
CASES = {
    "four norms": lambda: (stack(3), X),
    "thirteen norms": lambda: (stack(12), X),
    "sixty-one norms": lambda: (stack(60, 8), normal(3, 4, 8)),
    "480 norms": lambda: (stack(479, 4), normal(2, 3, 4)),
    "one norm": lambda: (torch.nn.LayerNorm(16), X),
    "one sample": lambda: (stack(5), X[:1, :1]),
    "one feature": lambda: (stack(5, 1), normal(5, 4, 1)),
    "a value that is not a number": lambda: (stack(5, breaks=NAN), X),
    "infinity": lambda: (stack(5, breaks=INF), X),
    "no finite value": lambda: (stack(5), X * NAN),
    "zeros": lambda: (stack(5), X * 0),
    "one image of one pixel": lambda: (images(), normal(1, 1, 1, 1)),
    "instance norms": lambda: (images(norm=torch.nn.InstanceNorm2d), normal(4, 1, 5, 5)),
    "names": lambda: (Chain(["a", "正規化層の名前", "<b>", "x" * 90, "e"]), normal(9, 12)),
    "within a Sequential": lambda: (torch.nn.Sequential(stack(6)), X),
    "two stacks": lambda: (Two(), X),
    "values close to the limit of fp16": lambda: (stack(8, breaks=3e4), X),
    "a jump early in 61 norms": lambda: (Grows(61, 1.0, 12), X),
    "the largest value last": lambda: (Grows(), X),
}


class Grows(torch.nn.Module):
    """Norms whose inputs grow: by a factor each, or to ten thousand at one of them."""

    def __init__(self, norms=9, factor=8.0, jump=None):
        super().__init__()
        self.layers = torch.nn.ModuleList(torch.nn.LayerNorm(16) for _ in range(norms))
        self.factor, self.jump = factor, norms if jump is None else jump

    def forward(self, x):
        for number, norm in enumerate(self.layers):
            norm(x * self.factor**number * (1e4 - number if number >= self.jump else 1.0))
        return x


class Two(torch.nn.Module):
    """An encoder and a decoder."""

    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = stack(4), stack(4)

    def forward(self, x):
        return self.decoder(self.encoder(x))


def crossed(figure):
    """Remarks inside charts that a line, a bar or a marker of the same chart runs into."""
    found = []
    for ax in figure.axes:
        frame = ax.get_window_extent()
        inside = [t for t in ax.texts if t.get_text() and frame.contains(*t.get_window_extent().min)]
        ends = [line.get_transform().transform(line.get_xydata()) for line in ax.lines]
        for bars in ax.collections:
            if isinstance(bars, LineCollection):
                ends += [ax.transData.transform(segment) for segment in bars.get_segments()]
        for text in inside:
            if touching(ax, text.get_window_extent()):
                found.append(text.get_text())
            box = text.get_window_extent().padded(-1)
            for line in ends:
                pairs = [pair for pair in pairwise(line) if np.isfinite(pair).all()]
                if any(Path(np.array(pair)).intersects_bbox(box, filled=False) for pair in pairs):
                    found.append(text.get_text())
    return found


def touching(ax, box):
    """Whether a marker reaches into a box; its size is in points, 72 to the inch as the figures' pixels."""
    for line in ax.lines:
        if line.get_marker() in ("None", "", None) or line.get_transform() != ax.transData:
            continue
        x, y = line.get_transform().transform(line.get_xydata()).T
        reach = line.get_markersize() / 2
        near = (x > box.x0 - reach) & (x < box.x1 + reach) & (y > box.y0 - reach) & (y < box.y1 + reach)
        if near.any():
            return True
    return False


def caption(recording, name="depth_profile"):
    return figures.render(recording, name).caption


@pytest.mark.parametrize("case", CASES)
def test_texts_neither_overlap_nor_leave_the_figure(case):
    for drawn in every_figure(record(*CASES[case]())):
        width, height = drawn._figure.bbox.size
        boxes = text_boxes(drawn._figure)
        assert boxes
        for text, box in boxes:
            assert box.x0 > -1, (drawn.name, text)
            assert box.y0 > -1, (drawn.name, text)
            assert box.x1 < width + 1, (drawn.name, text)
            assert box.y1 < height + 1, (drawn.name, text)
        for (one, a), (other, b) in combinations(boxes, 2):
            across = min(a.x1, b.x1) - max(a.x0, b.x0)
            down = min(a.y1, b.y1) - max(a.y0, b.y0)
            assert across < 1 or down < 2, (drawn.name, one, other)
        assert crossed(drawn._figure) == []


def test_bands_of_many_blocks_are_as_wide_as_the_ticks_are_apart():
    few, many = (figures.depth_profile(record(stack(n, 4), normal(2, 3, 4)))[0] for n in (48, 96))
    widths = [[round(patch.get_width(), 6) for patch in ax.patches] for ax in (few, many)]
    assert widths == [[1.0] * 24, [4.0] * 12]
    assert list(many.get_xticks())[:3] == [0, 4, 8]


def test_many_norms_take_lines_and_bands():
    recording = record(stack(160, 4), normal(2, 3, 4))
    top = figures.depth_profile(recording)[0]
    assert max(len(line.get_xdata()) for line in top.lines if line.get_marker() == "o") == 1
    assert len(top.collections) == 2  # a band before, a band after
    (area, *_) = figures.samples_through_depth(recording).collections
    assert area.get_paths()


def test_one_sample_has_no_percentiles():
    recording = record(stack(5), X[:1, :1])
    assert len(figures.depth_profile(recording)) == 2
    assert "samples_through_depth" not in figures.available(recording)
    said = [caption(recording), figures.depth_profile(recording)[0].get_title(loc="left")]
    panel = figures.norm_panel(recording, "layers.2.norm")
    said += [text.get_text() for chart in (3, 5) for text in panel[chart].texts]
    golden(GOLDEN, "one sample", "\n".join(said))


def test_one_feature_shows_the_variance_of_the_feature():
    recording = record(stack(5, 1), normal(5, 4, 1))
    found = summarize(recording.tables)
    expected = recording.features.query("site == 'input' and layer == 'layers.0.norm'")["variance"].iloc[0]
    assert found.site("input")["p50"].iloc[0] == expected > 0
    assert figures.render(recording, "depth_profile").facts["one_feature"] == 6
    golden(GOLDEN, "one feature", figures.depth_profile(recording)[0].get_title(loc="left"))


@pytest.mark.parametrize("value", [NAN, INF])
def test_nan_and_infinity_are_marked_where_they_are(value):
    recording = record(stack(5, breaks=value), X)
    for ax in figures.depth_profile(recording):
        (marks,) = [line for line in ax.lines if line.get_markeredgecolor() == ACCENT]
        assert list(marks.get_xdata()) == [3, 4, 5]
    assert figures.render(recording, "depth_profile").facts["nonfinite"] == 3


def test_without_any_finite_value_the_figure_says_so():
    recording = record(stack(5), X * NAN)
    for ax in figures.depth_profile(recording):
        assert "no finite values" in [text.get_text() for text in ax.texts]
    said = [caption(recording, name) for name in ("outlier_map", "samples_through_depth")]
    said += [text.get_text() for text in figures.norm_panel(recording, "layers.2.norm")[0].texts]
    golden(GOLDEN, "no finite value", "\n".join(said))


def test_zero_variance_stands_at_the_foot():
    model = stack(5)
    for layer in model.layers:
        layer.up.bias.data.zero_()
        layer.norm.bias.data.zero_()
    recording = record(model, X * 0)
    top = figures.depth_profile(recording)[0]
    marks = [line for line in top.lines if line.get_marker() == "v"]
    assert [list(line.get_xdata()) for line in marks] == [[0, 1, 2, 3, 4, 5]] * 2
    assert "all are 0" in [text.get_text() for text in top.texts]


@pytest.mark.parametrize("moves", [0.0, 1e-6])
def test_features_that_vary_by_rounding_alone_are_counted_and_left_out(moves):
    x = X.clone()
    x[..., :3] = 1.0 + moves * X[..., :3]
    model = stack(4)
    for layer in model.layers:
        layer.up.weight.data[:3] = 0
    drawn = figures.render(record(model, x), "depth_profile")
    assert drawn.facts["constant_features"] == 15
    assert " 15 features " in drawn.caption


def test_names_without_integers_give_numbers_and_no_roles():
    recording = record(Chain(["a", "b", "c", "d"]), normal(9, 12))
    ax = figures.depth_profile(recording)[-1]
    assert ax.get_xlabel() == "norm, in order of execution"
    assert {"a", "b", "c", "d"} <= {text.get_text() for text in ax.texts}
    assert "linear_by_role" not in figures.available(recording)


def test_a_long_name_is_shortened_at_the_front():
    recording = record(Chain(["x" * 90, "b", "c", "d"]), normal(9, 12))
    texts = {text.get_text() for text in figures.depth_profile(recording)[-1].texts}
    assert "…" + "x" * 23 in texts


def test_a_wrapper_numbers_no_block():
    ax = figures.depth_profile(record(torch.nn.Sequential(stack(6)), X))[0]
    format_tick = ax.xaxis.get_major_formatter()
    assert [format_tick(x) for x in ax.get_xticks()] == ["0", "1", "2", "3", "4", "5"]


def test_panels_without_kept_rows_say_so():
    recording = record(stack(4), X, values=0)
    panel = figures.norm_panel(recording, "layers.2.norm")
    golden(GOLDEN, "no kept row", "\n".join(text.get_text() for text in panel[2].texts))


def texts(recording, name, **options):
    axes = figures.render(recording, name, **options)._figure.axes
    return [text.get_text() for ax in axes for text in ax.texts]


def test_a_panel_without_a_finite_value_after_says_so_in_each_chart():
    model = stack(5)
    model.layers[2].norm.weight.data[:] = NAN
    said = texts(record(model, X), "norm_panel", layer="layers.2.norm")
    golden(GOLDEN, "no finite value after", "\n".join(text for text in said if text.startswith("no ")))


def test_a_map_without_outliers_says_so():
    golden(GOLDEN, "no outlier", "\n".join(texts(record(stack(5), X), "outlier_map")))
    data = X.clone()
    data[..., 3] *= 90
    assert not any("3×" in text for text in texts(record(stack(5), data), "outlier_map"))


class Wide(torch.nn.Module):
    """Blocks of many Linear layers that read the same tensor."""

    def __init__(self, names):
        super().__init__()
        self.blocks = torch.nn.ModuleList(
            torch.nn.ModuleDict({name: torch.nn.Linear(16, 16) for name in names}) for _ in range(4)
        )

    def forward(self, x):
        for block in self.blocks:
            x = x + sum(layer(x) for layer in block.values()) / len(block)
        return x


def test_roles_that_read_the_same_tensor_are_named_as_far_as_there_is_room():
    torch.manual_seed(0)
    few = texts(record(Wide(["q_proj", "k_proj"]), X), "linear_by_role")
    assert "q_proj, k_proj" in few
    recording = record(Wide([f"{letter}_proj" for letter in "abcdefghijkl"]), X)
    drawn = figures.render(recording, "linear_by_role")
    left, right = (ax.texts for ax in drawn._figure.axes)
    assert len(left) == 8
    assert next(text.get_text() for text in right).endswith("_proj and 6 more")
    assert (drawn.facts["roles"], drawn.facts["left_out"]) == (8, 4)
    assert len(drawn.facts["joined"][0]) == 8
    golden(GOLDEN, "many roles that read one tensor", drawn.caption)


def test_one_role_of_numbers_alone_needs_no_label():
    model = torch.nn.Sequential(*[torch.nn.Linear(16, 16) for _ in range(4)])
    assert texts(record(model, X), "linear_by_role") == []
