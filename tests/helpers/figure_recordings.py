"""Small models and recordings for the tests of the figures."""

from __future__ import annotations

from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

import normprobe
from normprobe import figures
from normprobe.figures.drawing.palette import house_style
from normprobe.figures.drawing.svg import quiet_fonts
from normprobe.figures.rendering import Rendered


class Block(nn.Module):
    """A residual block: norm, Linear."""

    def __init__(self, width: int, norm: type[nn.Module]) -> None:
        super().__init__()
        self.norm = norm(width)
        self.up = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.up(self.norm(x))


class Stack(nn.Module):
    """Blocks and a final norm; `breaks` puts a value into the stream after block 2."""

    def __init__(
        self, blocks: int, width: int = 16, norm: type[nn.Module] = nn.LayerNorm, breaks: float | None = None
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Block(width, norm) for _ in range(blocks))
        self.norm = norm(width)
        self.breaks = breaks

    def forward(self, x: Tensor) -> Tensor:
        for index, layer in enumerate(self.layers):
            x = layer(x)
            if index == 2 and self.breaks is not None:
                x = x.clone()
                x[0, 0, 3] = self.breaks
        return self.norm(x)


class Chain(nn.Module):
    """LayerNorms under names of one's own."""

    def __init__(self, names: list[str], width: int = 12) -> None:
        super().__init__()
        self.names = names
        for name in names:
            self.add_module(name, nn.LayerNorm(width))

    def forward(self, x: Tensor) -> Tensor:
        for name in self.names:
            x = getattr(self, name)(x) * 2
        return x


def images(blocks: int = 5, norm: type[nn.Module] = nn.BatchNorm2d) -> nn.Sequential:
    """A network of convolutions and norms for images of one channel."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for index in range(blocks):
        layers += [nn.Conv2d(8 if index else 1, 8, 3, padding=1), norm(8), nn.ReLU()]
    return nn.Sequential(*layers)


def normal(*shape: int) -> Tensor:
    """The same random numbers every time."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def stack(*args: Any, **options: Any) -> Stack:
    """A stack of seeded weights whose norms have scales that differ."""
    torch.manual_seed(0)
    model = Stack(*args, **options)
    for name, parameter in model.named_parameters():
        if name.endswith("norm.weight"):
            parameter.data.uniform_(0.2, 2.0)
    return model


def record(model: nn.Module, *batches: Tensor, **options: Any) -> normprobe.Recording:
    """Record a model on batches, as part "t"."""
    return normprobe.record(model, list(batches), part="t", **options)


def norm_names(recording: normprobe.Recording) -> list[str]:
    """The norms in order of execution."""
    layers = recording.layers
    return list(dict.fromkeys(layers.loc[layers["kind"] != "linear", "layer"]))


def every_figure(recording: normprobe.Recording) -> list[Rendered]:
    """Render all that a recording supports, and the panel of its middle norm."""
    norms = norm_names(recording)
    drawn = [figures.render(recording, name) for name in figures.available(recording)]
    return [*drawn, figures.render(recording, "norm_panel", layer=norms[len(norms) // 2])]


def text_boxes(figure: Figure) -> list[tuple[str, Any]]:
    """Each visible text of a figure and its box in pixels."""
    with house_style(), quiet_fonts():
        figure.canvas.draw()
        renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
        artists = []
        for ax in [axes for parent in figure.axes for axes in (parent, *parent.child_axes)]:
            artists += [*ax.texts, ax._left_title, ax.xaxis.label, ax.yaxis.label]
            for axis in (ax.xaxis, ax.yaxis):
                low, high = sorted(axis.get_view_interval())
                artists += [tick.label1 for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
        shown = [artist for artist in artists if artist.get_visible() and artist.get_text().strip()]
        return [(artist.get_text(), artist.get_window_extent(renderer)) for artist in shown]
