"""The rules of the figures that a reader relies on: what is drawn when, and what is said of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.axes import Axes
from torch import nn

from normprobe import figures
from normprobe.figures.data import layer_statistics
from normprobe.figures.data.depth_profile import Profile
from normprobe.figures.drawing.depth_axis import DepthAxis
from normprobe.figures.drawing.palette import ACCENT, BEFORE, ROLE_COLOURS, ROLE_DASHES
from normprobe.figures.plots.norm_panel_charts import MOST_BARS, MOST_DOTS
from tests.helpers.figure_recordings import images, normal, record, stack
from tests.helpers.golden import golden
from tests.report.html.test_colours import contrast, themes

X = normal(6, 7, 16)
GOLDEN = Path(__file__).parent / "golden" / "captions.txt"


def texts(ax: Axes) -> list[str]:
    return [text.get_text() for text in ax.texts]


def crosses(ax: Axes) -> list[float]:
    """Heights of the marks of pooled variances."""
    marks = [line.get_ydata() for line in ax.lines if line.get_marker() == "x"]
    return [float(y) for y in np.concatenate(marks) if np.isfinite(y)] if marks else []


def test_a_pooled_variance_is_marked_only_where_a_few_samples_carry_it() -> None:
    calm = figures.depth_profile(record(stack(5), X))[0]
    assert crosses(calm) == []
    assert not any("pooled" in text for text in texts(calm))
    loud = normal(6, 17, 16)
    loud[3, 0] *= 100
    recording = record(stack(5), loud)
    ax = figures.depth_profile(recording)[0]
    inputs = recording.layers.query("kind != 'linear' and site == 'input'").set_index("layer")["variance"]
    medians = layer_statistics.sample_quantiles(recording.tables, list(inputs.index))["p50"].xs(
        "input", level="site"
    )
    expected = inputs[inputs > 5 * medians]
    assert len(expected) > 0
    assert crosses(ax) == pytest.approx(list(expected))
    assert any("pooled" in text for text in texts(ax))
    assert figures.render(recording, "depth_profile").facts["pooled"] == len(expected)


def test_a_pooled_variance_is_shown_above_five_times_the_median_ones() -> None:
    sites = pd.DataFrame({"p50": [2.0, 2.0, 0.0], "pooled": [9.99, 10.01, 1.0]})
    depth = DepthAxis(("a", "b", "c"), ("layer_norm",) * 3)
    shown = Profile(depth, (), sites, pd.DataFrame(), "token", (), single=False, stream=pd.DataFrame()).pooled
    assert list(shown.fillna(0)) == [0, 10.01, 1.0]


@pytest.mark.parametrize(("largest", "near"), [(2000.0, False), (2400.0, True), (60000.0, True)])
def test_the_limit_of_fp16_is_drawn_within_a_factor_of_30(largest: float, near: bool) -> None:
    """65,504 ÷ 30 is 2,183."""
    ax = figures.depth_profile(record(stack(5, breaks=largest), X))[3]
    across = ax.get_yaxis_transform()
    lines = [line for line in ax.lines if line.get_color() == ACCENT and line.get_transform() == across]
    assert [float(line.get_ydata()[0]) for line in lines] == ([65504.0] if near else [])
    assert ("fp16 limit 65,504" in texts(ax)) is near


def test_the_caption_counts_what_the_charts_show() -> None:
    drawn = figures.render(record(stack(5, breaks=3e4), X), "depth_profile")
    layer, feature, worst, _ = drawn.facts["largest"]
    assert (layer, feature, worst) == ("layers.3.norm", 3, 3e4)
    for word in ("**Top:**", "**Middle:**", "**Bottom:**"):
        assert word in drawn.caption


def outlying(model: nn.Module, features: list[int]) -> Any:
    data = X.clone()
    data[..., features] *= 60
    return record(model, data)


def test_at_most_six_columns_of_the_map_are_numbered() -> None:
    for features in ([3], [1, 3, 5, 7, 9, 11, 13]):
        drawn = figures.render(outlying(stack(5), features), "outlier_map")
        numbers = [int(text) for text in texts(drawn._figure.axes[0]) if text.isdigit()]
        assert numbers == sorted(numbers)
        assert set(numbers) <= set(features)
        assert len(numbers) == min(6, len(features))
        assert set(features) <= {feature for feature, _ in drawn.facts["outliers"]}


def test_of_more_than_60_rows_every_kth_is_named() -> None:
    data = normal(2, 3, 8)
    data[..., 3] *= 60
    ax = figures.render(record(stack(70, 8), data), "outlier_map")._figure.axes[0]
    names = [tick.get_text() for tick in ax.get_yticklabels()]
    assert 10 < len(names) < 40
    assert names[-1] == "norm"
    few = figures.render(record(stack(9, 8), data), "outlier_map")._figure.axes[0]
    assert len(few.get_yticklabels()) == 10


@pytest.mark.parametrize("first", [[3], [1, 3]])
def test_first_samples_are_counted(first: list[int]) -> None:
    data = X.clone()
    data[first, 0] *= 400
    drawn = figures.render(record(stack(5), data), "samples_through_depth")
    assert (drawn.facts["kept"], drawn.facts["over"], drawn.facts["first"]) == (42, len(first), len(first))
    golden(GOLDEN, f"{len(first)} first samples", drawn.caption)


def panel(norm: nn.Module, data: torch.Tensor) -> list[Axes]:
    return list(figures.norm_panel(record(norm, data), ""))


def test_one_sample_is_symmetric_logarithmic_from_twenty_times_its_median() -> None:
    data = normal(4, 64).clip(-3, 3)
    assert panel(nn.LayerNorm(64), data)[2].get_xscale() == "linear"
    data[:, 5] = 500.0
    ax = panel(nn.LayerNorm(64), data)[2]
    assert ax.get_xscale() == "symlog"
    assert "symlog" in ax.get_title(loc="left")
    assert len(ax.get_xticks()) >= 3


def test_over_96_features_neighbours_share_a_bar() -> None:
    for width in (MOST_BARS, MOST_BARS + 1, 300):
        ax = panel(nn.LayerNorm(width), normal(9, width))[3]
        bars = [patch for patch in ax.patches if patch.get_facecolor()[:3] != (1, 1, 1)]
        assert len(bars) == (1 if width <= MOST_BARS else 2)
        assert max(len(patch.get_data().values) for patch in bars) <= MOST_BARS


def test_near_zero_features_are_counted() -> None:
    data = normal(9, 12)
    data[:, [2, 5, 6]] = 0.25
    assert "3 near 0" in texts(panel(nn.LayerNorm(12), data)[3])


def test_of_many_features_the_extreme_ones_keep_a_dot() -> None:
    width = 3 * MOST_DOTS
    data = normal(3, width)
    data[:, 1234] = 90.0
    dots = panel(nn.LayerNorm(width), data)[2].collections[0].get_offsets()
    assert len(dots) <= MOST_DOTS
    assert np.asarray(dots)[:, 0].max() == pytest.approx(90)


def test_values_that_are_nearly_all_the_same_say_so() -> None:
    data = torch.full((300, 16), 2.5)
    data[0, 0] = 3
    assert any(text.endswith(" 2.5") for text in texts(panel(nn.LayerNorm(16), data)[0]))


def test_running_statistics_of_many_norms_are_bands() -> None:
    model = images(160, nn.BatchNorm2d).train()
    ax = figures.running_statistics(record(model, normal(4, 1, 3, 3)))[0]
    bands = [band for band in ax.collections if band.get_facecolor().size]
    assert len(bands) >= 2
    assert not any(line.get_marker() == "o" for line in ax.lines)


@pytest.mark.parametrize("theme", ["light", "dark by preference"])
def test_lines_of_roles_stand_out_on_either_paper(theme: str) -> None:
    for behind in ("paper", "surface"):
        assert min(contrast(colour, themes()[theme][behind]) for colour in ROLE_COLOURS) >= 3
    assert len(set(ROLE_COLOURS)) == len(set(ROLE_DASHES)) == len(ROLE_COLOURS)


def test_markers_of_a_role_differ_from_those_of_another_by_dashes() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            pairs = [nn.ModuleDict({"first": nn.LayerNorm(16), "second": nn.LayerNorm(16)}) for _ in range(4)]
            self.blocks = nn.ModuleList(pairs)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for block in self.blocks:
                x = x + block["second"](block["first"](x))
            return x

    lines = figures.depth_profile(record(Two(), X))[0].lines
    dashes = {
        str(line.get_linestyle())
        for line in lines
        if line.get_color() == BEFORE and len(line.get_xdata()) == 4
    }
    assert len(dashes) == 2


def test_samples_are_said_to_be_named_only_where_some_are() -> None:
    loud = X.clone()
    loud[3, 0] *= 400
    calm, named = (figures.render(record(stack(5), x), "samples_through_depth").facts for x in (X, loud))
    assert (calm["named"], calm["over"]) == ((), 0)
    assert len(named["named"]) == 1
