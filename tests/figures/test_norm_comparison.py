"""Recordings side by side: variances, the order within a sample, the batch size, as scipy and torch say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.lines import Line2D
from PIL import Image
from scipy.stats import spearmanr
from torch import Tensor, nn

import normprobe
from normprobe import figures
from normprobe.figures.data.norm_comparison import change_with_batch, order_within_samples
from normprobe.figures.drawing.canvas import Plan, new_figure
from tests.helpers.figure_recordings import normal, record, stack


def both() -> dict[str, normprobe.Recording]:
    """Blocks with LayerNorm, and the same with BatchNorm, in training mode; 24 samples of 16 features."""
    model = stack(3)
    swapped = normprobe.swap_norms(model, to="batch_norm").train()
    with normprobe.Probe(swapped, part="t", values=20) as probe:
        swapped(normal(4, 6, 16))
    return {"LN": record(model, normal(4, 6, 16), values=20), "BN": probe.recording}


@pytest.fixture(scope="module")
def recordings() -> dict[str, normprobe.Recording]:
    return both()


def network(norm: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(10, 8), norm)


def in_batches(model: nn.Module, data: Tensor, size: int) -> normprobe.Recording:
    with normprobe.Probe(model.train(), part=f"of {size}") as probe, torch.no_grad():
        for batch in data.split(size):
            model(batch)
    return probe.recording


def test_the_order_is_spearmans_without_scale_and_shift(recordings: dict[str, normprobe.Recording]) -> None:
    recording = recordings["BN"]
    found = order_within_samples(recording, "layers.1.norm")
    before, after = (recording.values("layers.1.norm", site) for site in ("input", "output"))
    applied = recording.features.query("layer == 'layers.1.norm' and site == 'output'")
    bare = (after - applied["bias"].to_numpy()) / applied["weight"].to_numpy()
    expected = [spearmanr(x, y).statistic for x, y in zip(before, bare, strict=True)]
    assert found["order"].to_numpy() == pytest.approx(expected, abs=1e-12)
    assert len(found) == len(before)
    assert found[["example", "position"]].duplicated().sum() == 0
    with_scale = [spearmanr(x, y).statistic for x, y in zip(before, after, strict=True)]
    assert np.abs(np.array(with_scale) - expected).max() > 0.05


def test_layer_norm_keeps_every_order(recordings: dict[str, normprobe.Recording]) -> None:
    assert order_within_samples(recordings["LN"], "norm")["order"].min() > 0.999
    assert order_within_samples(recordings["BN"], "norm")["order"].max() < 0.999


def test_features_scaled_by_nothing_are_left_out_and_constant_rows_have_no_order() -> None:
    norm = nn.LayerNorm(6)
    norm.weight.data[2] = 0
    data = torch.cat([normal(3, 6), torch.ones(1, 6)])
    order = order_within_samples(record(norm, data), "")["order"].to_numpy()
    assert np.sort(order)[:3] == pytest.approx([1, 1, 1])
    assert np.isnan(order).sum() == 1


def test_the_change_is_the_distance_from_the_largest_batches() -> None:
    data, model = normal(16, 10), network(nn.BatchNorm1d(8))
    sizes = (2, 4, 16)
    found = change_with_batch({size: in_batches(model, data, size) for size in sizes}, "1")
    with torch.no_grad():
        outputs = {size: torch.cat([model(batch) for batch in data.split(size)]).double() for size in sizes}
    for size in sizes:
        rows = found[found["batch"] == size].set_index("example").sort_index()
        distance = (outputs[size] - outputs[16]).norm(dim=1) / outputs[16].norm(dim=1)
        assert rows["change"].to_numpy() == pytest.approx(distance.numpy(), abs=1e-5)
    assert found[found["batch"] == 2]["change"].median() > 0.1


def test_layer_norm_does_not_see_its_batch() -> None:
    data, model = normal(16, 10), network(nn.LayerNorm(8))
    found = change_with_batch({size: in_batches(model, data, size) for size in (1, 16)}, "1")
    assert found["change"].max() < 1e-5


def test_batches_of_other_data_are_refused() -> None:
    model = network(nn.LayerNorm(8))
    many = normprobe.record(model, normal(40, 10), values=1, seed=1)
    other = normprobe.record(model, normal(40, 10), values=1, seed=2)
    with pytest.raises(normprobe.NoSamplesError, match="share no kept row of '1'; record the same data"):
        change_with_batch({1: many, 2: other}, "1")


def test_the_boxes_show_both_variances(recordings: dict[str, normprobe.Recording]) -> None:
    axes = figures.norm_variances(recordings, "layers.1.norm")
    for ax, table in zip(axes, ("features", "samples"), strict=True):
        assert [tick.get_text() for tick in ax.get_xticklabels()] == ["LN", "BN"]
        medians = [line.get_ydata()[0] for line in ax.lines if len(line.get_ydata()) == 2 and is_median(line)]
        expected = [
            getattr(recording, table).query("layer == 'layers.1.norm' and site == @site")["variance"].median()
            for site in ("input", "output")
            for recording in recordings.values()
        ]
        assert medians == pytest.approx(expected)
        assert [text.get_text() for text in ax.texts] == ["before", "after"]
    assert axes[0].get_title(loc="left") == "Variance per feature, norm layers.1.norm"
    assert axes[1].get_title(loc="left") == "Variance per position, norm layers.1.norm"


def is_median(line: Line2D) -> bool:
    x, y = line.get_xdata(), line.get_ydata()
    return line.get_linewidth() == 1.5 and y[0] == y[1] and x[0] != x[1] and line.get_clip_on()


def test_before_and_after_differ_without_colour(recordings: dict[str, normprobe.Recording]) -> None:
    boxes = figures.norm_variances(recordings)[0].patches
    filled = [box.get_facecolor() == box.get_edgecolor() for box in boxes]
    assert filled == [False, False, True, True]


def test_a_variance_of_nothing_is_marked_at_the_foot() -> None:
    data = normal(8, 10)
    data[3] = 0
    model = network(nn.LayerNorm(8))
    model[0].bias.data.zero_()
    ax = figures.norm_variances({"only": record(model, data)})[1]
    marks = [line for line in ax.lines if line.get_marker() == "v"]
    assert [list(line.get_xdata()) for line in marks] == [[-0.16], [0.16]]


def test_the_lines_are_the_medians_of_the_order(recordings: dict[str, normprobe.Recording]) -> None:
    ax = figures.order_kept(recordings)
    norms = [f"layers.{block}.norm" for block in range(3)] + ["norm"]
    drawn = [line for line in ax.lines if line.get_marker() == "o"]
    for line, recording in zip(drawn, recordings.values(), strict=True):
        medians = [order_within_samples(recording, norm)["order"].median() for norm in norms]
        assert line.get_ydata() == pytest.approx(medians)
    assert len({line.get_linestyle() for line in drawn}) == 2
    assert [text.get_text() for text in ax.texts if text.get_text() in recordings] == ["LN", "BN"]


def test_a_size_that_was_not_run_is_said() -> None:
    data = normal(16, 10)
    runs = {
        "BN": {size: in_batches(network(nn.BatchNorm1d(8)), data, size) for size in (2, 16)},
        "LN": {size: in_batches(network(nn.LayerNorm(8)), data, size) for size in (1, 2, 16)},
    }
    ax = figures.batch_sensitivity(runs)
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["1", "2", "16"]
    assert "BN: not run with 1" in [text.get_text() for text in ax.texts]
    batch, layer = (line.get_ydata() for line in ax.lines if line.get_marker() == "o")
    assert len(batch) == 2
    assert batch[0] > 0.1
    assert layer == pytest.approx([0, 0, 0], abs=1e-5)


def test_each_takes_axes_of_ones_own(recordings: dict[str, normprobe.Recording]) -> None:
    _, axes = new_figure(Plan("", "", "", lambda axes: None, heights=(2, 2), columns=2))
    assert list(figures.norm_variances(recordings, ax=axes[:2])) == axes[:2]
    assert figures.order_kept(recordings, ax=axes[2]) is axes[2]
    sizes = {"LN": {1: recordings["LN"]}}
    assert figures.batch_sensitivity(sizes, "norm", ax=axes[3]) is axes[3]
    with pytest.raises(ValueError, match="2 charts, but `ax` holds 1"):
        figures.norm_variances(recordings, ax=axes[:1])


def test_what_is_not_shared_is_said(recordings: dict[str, normprobe.Recording]) -> None:
    with pytest.raises(
        ValueError, match=r"the norm 'x' must have fired in all 2 recordings; .*LN: 'layers.0"
    ):
        figures.norm_variances(recordings, "x")
    other = record(nn.LayerNorm(16), normal(4, 16))
    with pytest.raises(ValueError, match="a norm must have fired in all 2 recordings"):
        figures.order_kept({"LN": recordings["LN"], "other": other})
    with pytest.raises(ValueError, match=r'no recording to draw; order_kept takes .*\{"LayerNorm": rec'):
        figures.order_kept({})


def test_recordings_of_another_form_are_errors_that_show_the_form(
    recordings: dict[str, normprobe.Recording],
) -> None:
    one = recordings["LN"]
    by_name = r'takes recordings by what to call them, such as \{"LayerNorm": recording, .*; got '
    with pytest.raises(ValueError, match=f"^norm_variances {by_name}Recording$"):
        figures.norm_variances(one, "layers.0.norm")
    with pytest.raises(ValueError, match=f"^order_kept {by_name}list$"):
        figures.order_kept([one])
    with pytest.raises(ValueError, match=f"^order_kept {by_name}dict at 'LN'$"):
        figures.order_kept({"LN": {4: one}})
    by_size = (
        r'batch_sensitivity takes recordings by name and batch size, such as \{"BatchNorm": \{1: .*; got '
    )
    for wrong, got in (
        (one, "Recording"),
        ({}, "dict"),
        ({"LN": one}, "Recording for 'LN'"),
        ({"LN": {"4": one}}, "'4' for the sizes of 'LN'"),
        ({"LN": {4: None}}, "NoneType at 4 for 'LN'"),
    ):
        with pytest.raises(ValueError, match=f"^{by_size}{got}$"):
            figures.batch_sensitivity(wrong)


def test_a_figure_is_saved_sharp_unless_asked_otherwise(
    recordings: dict[str, normprobe.Recording], tmp_path: Path
) -> None:
    figure = figures.order_kept(recordings).figure
    for options, dpi in (({}, 150), ({"dpi": 60}, 60)):
        figure.savefig(tmp_path / "order.png", **options)
        with Image.open(tmp_path / "order.png") as image:
            assert image.width == round(figure.get_figwidth() * dpi)
