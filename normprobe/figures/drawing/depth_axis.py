"""The axis of depth: norms in order of first execution, blocks as bands, names where there is no block."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from normprobe.figures.drawing.axes import show_grid, size_in_points
from normprobe.figures.drawing.palette import BAND, MUTED, SMALL
from normprobe.formatting import Spot, role_labels, shorten_name, spots, text_width

MANY = 150  # norms from which markers are left off and bars become bands
MOST_TICKS = 24
LINES = 4  # roles that get a line
LETTER = 4.3  # points an average letter of the small size takes


@dataclass(frozen=True)
class Run:
    """Neighbouring norms of one block: columns `first` to `last`."""

    first: int
    last: int
    block: int | None
    stack: str | None


@dataclass(frozen=True)
class DepthAxis:
    """Layers in order of first execution, a column each; `noun` is what one of them is called."""

    layers: tuple[str, ...]
    kinds: tuple[str, ...]
    noun: str = "norm"

    @cached_property
    def roles(self) -> tuple[str, ...]:
        """The role of each column; without any integer in the names, the kind and the unbroken run of it."""
        if self.numbered:
            return tuple(spot.role for spot in self.spots)
        # By runs: a line through all norms of a kind would pass over those of another between them.
        runs = np.cumsum([a != b for a, b in zip(self.kinds, self.kinds[:1] + self.kinds[:-1], strict=True)])
        return tuple(f"{kind} {run}" for kind, run in zip(self.kinds, runs, strict=True))

    @cached_property
    def spots(self) -> tuple[Spot, ...]:
        """Stack, block and role of each column."""
        found = spots(self.layers)
        return tuple(found[layer] for layer in self.layers)

    @cached_property
    def numbered(self) -> bool:
        """Whether any layer stands in a block."""
        return any(spot.block is not None for spot in self.spots)

    @cached_property
    def runs(self) -> tuple[Run, ...]:
        """Neighbouring columns of one block."""
        runs: list[Run] = []
        for column, (stack, block, _) in enumerate(self.spots):
            if runs and block is not None and (runs[-1].block, runs[-1].stack) == (block, stack):
                runs[-1] = Run(runs[-1].first, column, block, stack)
            else:
                runs.append(Run(column, column, block, stack))
        return tuple(runs)

    @property
    def many(self) -> bool:
        """Whether there are too many columns for a marker each."""
        return len(self.layers) > MANY

    def lines(self, spread: pd.Series) -> tuple[str, ...]:
        """The roles that get a line, in order: those of two columns or more, the widest four.

        Args:
            spread: how wide each role ranges, indexed by role.

        Returns:
            At most four roles.
        """
        counts = pd.Series(self.roles).value_counts()
        shared = [role for role in dict.fromkeys(self.roles) if counts[role] > 1]
        # NaN compares with nothing: as a key it would leave the order to chance.
        widest = sorted(shared, key=lambda role: -float(np.nan_to_num(spread.get(role, 0.0))))[:LINES]
        return tuple(role for role in shared if role in widest)

    def labels(self, roles: Sequence[str], width: int = 25) -> dict[str, str]:
        """What to call each role beside its line; nothing where there is nothing to tell apart."""
        if not self.numbered or (len(roles) == 1 and roles[0].endswith("*")):
            return dict.fromkeys(roles, "")
        return {role: shorten_name(text, width) for role, text in role_labels(list(roles)).items()}


def margins(depth: DepthAxis, right: float = 2.15) -> tuple[float, float, float, float]:
    """The room left, right, below and above the charts, inches: less below where no names stand."""
    return 0.78, right, 0.62 if _names_below(depth) else 0.46, 0.34


def span(ax: Axes, depth: DepthAxis) -> None:
    """Give each column its room: before anything is drawn, as remarks look for places between the marks."""
    ax.set_xlim(-0.7, len(depth.layers) - 0.3)
    # The ticks come later: seaborn reads those that it finds.
    ax.xaxis.set_major_locator(NullLocator())


def prepare(ax: Axes, depth: DepthAxis, *, last: bool) -> None:
    """Draw bands and block numbers; under the last chart also the names of layers outside any block."""
    span(ax, depth)
    blocks = [run for run in depth.runs if run.block is not None]
    ticks = {(run.first + run.last) / 2: str(run.block) for run in blocks}
    if not depth.numbered:
        ticks = {float(column): str(column) for column in range(len(depth.layers))}
    step = int(np.ceil(len(ticks) / MOST_TICKS))
    wide = 1 if len(blocks) <= 2 * MOST_TICKS else step  # blocks to a band; finer ones flicker
    for start in range(0, len(blocks), 2 * wide):
        band = blocks[start : start + wide]
        ax.axvspan(band[0].first - 0.5, band[-1].last + 0.5, color=BAND, linewidth=0, zorder=-5)
    shown = {x: text for index, (x, text) in enumerate(ticks.items()) if index % step == 0}
    ax.xaxis.set_major_locator(FixedLocator(list(shown)))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: shown.get(x, "")))
    show_grid(ax.xaxis, False)
    if last:
        _name_columns(ax, depth)


def _name_columns(ax: Axes, depth: DepthAxis) -> None:
    """Write under the axis: its title, the stacks where there are several, the layers outside any block."""
    words = "block, in order of execution" if depth.numbered else f"{depth.noun}, in order of execution"
    texts = _names_below(depth)
    _pack(ax, texts, len(depth.layers))
    ax.set_xlabel(words, labelpad=15 if texts else 5)


def _names_below(depth: DepthAxis) -> list[tuple[float, str]]:
    """Place and name of the layers outside any block, and of the stacks where there are several."""
    texts: list[tuple[float, str]] = []
    texts += [(run.first, depth.layers[run.first]) for run in depth.runs if run.block is None]
    if len({run.stack for run in depth.runs} - {None}) > 1:
        texts += [(middle, f"{stack}.*") for middle, stack in _stack_spans(depth)]
    return texts


def _stack_spans(depth: DepthAxis) -> list[tuple[float, str]]:
    """The middle and the name of each unbroken stretch of blocks of one stack."""
    spans: list[list[float]] = []
    names: list[str] = []
    for run in depth.runs:
        if run.stack is None:
            continue
        if names and names[-1] == run.stack:
            spans[-1][1] = run.last
        else:
            spans.append([run.first, run.last])
            names.append(run.stack)
    return [((first + last) / 2, name) for (first, last), name in zip(spans, names, strict=True)]


def _pack(ax: Axes, texts: Sequence[tuple[float, str]], columns: int) -> None:
    """Write names below their columns in two rows; what finds no room in either is left to hovering."""
    points = size_in_points(ax)[0]
    room = [-60.0, -60.0]
    for column, name in sorted(texts):
        text = shorten_name(name, 24)
        half = text_width(text) * LETTER / 2
        at = (column + 0.7) / (columns + 0.4) * points
        # Names may reach into the margins: 56 points on the left, and more on the right.
        at = float(np.clip(at, half - 50, points + 120 - half))
        row = next((row for row in (0, 1) if at - half > room[row] + 6), None)
        middle = points / 2
        if row == 1 and abs(at - middle) < half + 75:
            row = None  # the axis' own title stands there
        if row is None:
            continue
        room[row] = at + half
        x, y = at / points, -(17 + 10 * row)
        ax.annotate(
            text,
            (x, 0),
            (0, y),
            xycoords="axes fraction",
            textcoords="offset points",
            ha="center",
            va="top",
            fontsize=SMALL,
            color=MUTED,
        )
