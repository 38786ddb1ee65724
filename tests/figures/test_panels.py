"""Panels drawn one after the other on the same charts are those that each norm has by itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from normprobe import figures
from normprobe.figures.rendering import render_panels
from tests.helpers.figure_recordings import images, norm_names, normal, record, stack


class Uneven(nn.Module):
    """Norms whose panels are unlike: of constant values, an outlier, one feature, NaN, many features."""

    def __init__(self) -> None:
        super().__init__()
        widths = {"flat": 16, "plain": 16, "loud": 16, "single": 1, "broken": 16, "again": 16, "wide": 200}
        for name, width in widths.items():
            self.add_module(name, nn.LayerNorm(width))

    def forward(self, x: Tensor) -> Tensor:
        loud = x * 1.0
        loud[..., 3] *= 1e5
        self.flat(x * 0 + 2)
        self.plain(x)
        self.loud(loud)
        self.single(x[..., :1])
        self.broken(x * torch.nan)
        self.again(x * 3)
        self.wide(x.repeat(1, 1, 13)[..., :200])
        return x


def every_order(names: list[str]) -> list[list[str]]:
    """Each panel after each other one, and after itself."""
    return [names, names[::-1], [name for name in names for _ in range(2)], names[::2] + names[1::2]]


@pytest.mark.parametrize("values", [64, 0])
def test_a_panel_is_the_same_whatever_was_drawn_before(values: int) -> None:
    recording = record(Uneven(), normal(6, 9, 16), values=values)
    names = norm_names(recording)
    assert len(names) == 7
    alone = {name: figures.render(recording, "norm_panel", layer=name).svg("x") for name in names}
    assert len(set(alone.values())) == 7
    for order in every_order(names):
        drawn = [panel.svg("x") for panel in render_panels(recording, order)]
        assert drawn == [alone[name] for name in order]


def test_panels_of_channels_and_of_tokens_follow_each_other() -> None:
    for recording in (record(stack(3, breaks=3e4), normal(4, 6, 16)), record(images(3), normal(8, 1, 6, 6))):
        names = norm_names(recording)
        drawn = [panel.svg("x") for panel in render_panels(recording, names)]
        assert drawn == [figures.render(recording, "norm_panel", layer=name).svg("x") for name in names]


def test_a_panel_is_saved_as_itself_after_the_next_was_drawn(tmp_path) -> None:
    recording = record(stack(2), normal(4, 6, 16))
    names = norm_names(recording)
    first, *_ = render_panels(recording, names)
    (late,) = first.save(tmp_path / "late", svg=False)
    (alone,) = figures.render(recording, "norm_panel", layer=names[0]).save(tmp_path / "alone", svg=False)
    assert late.read_bytes() == alone.read_bytes()


def test_the_histogram_of_each_panel_has_its_own_numbers() -> None:
    """The bars of the second panel are the shares of the second norm's kept values."""
    recording = record(stack(3), normal(6, 9, 16))
    names = norm_names(recording)
    for name in names:
        ax = figures.norm_panel(recording, name)[0]
        kept = recording.values(name, "input").ravel()
        low, high = np.percentile(kept, [0.5, 99.5])
        counts, _ = np.histogram(kept, 40, (low, high))
        top = max(path.vertices[:, 1].max() for path in ax.collections[0].get_paths())
        assert top == pytest.approx(counts.max() * 100 / kept.size)
        assert ax.get_xlim() == pytest.approx((low - 0.05 * (high - low), high + 0.05 * (high - low)))
        assert ax.get_ylim() == pytest.approx((0, 1.05 * 1.22 * top))


def test_a_map_is_drawn_without_a_drawing_of_the_whole_figure(monkeypatch) -> None:
    """seaborn draws all of a figure to measure the labels of a heatmap; the caller's canvas stays."""
    ax = figures.outlier_map(record(stack(5), normal(3, 12, 16)))
    assert type(ax.figure.canvas).__name__ == "FigureCanvasAgg"
    drawings: list[object] = []
    monkeypatch.setattr(Figure, "draw", lambda self, renderer: drawings.append(self))
    figures.outlier_map(record(stack(5), normal(3, 12, 16)))
    assert drawings == []
