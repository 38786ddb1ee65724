"""The figure of scaling with width: its lines are the means, its labels the slopes."""

from __future__ import annotations

from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from torch import nn

import normprobe
from normprobe import NormprobeError, figures

WIDTHS = (8, 16, 64)


def recording(width: int, layers: int = 2, seed: int = 0) -> normprobe.Recording:
    torch.manual_seed(seed)
    sizes = [4, *[width] * layers]
    model = nn.Sequential(*(nn.Linear(a, b) for a, b in pairwise(sizes)))
    return normprobe.record(model, torch.randn(30, 4), part=f"{width} {seed}")


def labels(ax: plt.Axes) -> list[str]:
    return [text.get_text() for text in ax.texts]


def test_lines_are_the_means_and_labels_the_slopes() -> None:
    made = {width: [recording(width, seed=seed) for seed in (0, 1)] for width in WIDTHS}
    ax = figures.width_scaling(made)
    fitted = normprobe.scaling(made)
    assert labels(ax) == [f"{row.layer}  {row.slope:+.2f}" for row in fitted.itertuples()]
    for line, layer in zip(ax.lines, fitted["layer"], strict=False):
        tables = [[one.layers.set_index(["layer", "site"]) for one in of] for of in made.values()]
        means = [[table.loc[(layer, "output"), "abs_mean"] for table in of] for of in tables]
        assert line.get_xdata() == pytest.approx(WIDTHS)
        assert line.get_ydata() == pytest.approx(np.exp(np.log(means).mean(axis=1)))
    assert sum(len(dots.get_offsets()) for dots in ax.collections) == 12
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    assert [float(tick) for tick in ax.get_xticks()] == list(map(float, WIDTHS))
    assert not plt.get_fignums()


def test_of_many_layers_the_steepest_are_drawn() -> None:
    made = {width: recording(width, layers=11) for width in WIDTHS}
    ax = figures.width_scaling(made)
    slopes = normprobe.scaling(made).set_index("layer")["slope"]
    *drawn, rest = labels(ax)
    assert rest == "3 layers not drawn"
    steep = slopes.abs().nlargest(8).index
    assert [text.split()[0] for text in drawn] == [layer for layer in slopes.index if layer in steep]
    chosen = figures.width_scaling(made, layers=["3", "1"])
    assert [text.split()[0] for text in labels(chosen)][:2] == ["3", "1"]
    with pytest.raises(NormprobeError, match=r"layer 'x' has no slope; those that have one: '0', '1'"):
        figures.width_scaling(made, layers=["x"])


def test_it_is_drawn_on_axes_of_ones_own() -> None:
    own = Figure().subplots()
    assert figures.width_scaling({w: recording(w) for w in WIDTHS}, site="input", ax=own) is own
    assert "at the input" in own.get_title(loc="left")


def test_the_model_may_be_a_layer_itself() -> None:
    torch.manual_seed(0)
    made = {w: normprobe.record(nn.Linear(4, w), torch.randn(9, 4)) for w in WIDTHS}
    assert labels(figures.width_scaling(made))[0].startswith("model  ")
