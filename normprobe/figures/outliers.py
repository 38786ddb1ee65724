"""The outlier map: which features hold large values, through all norms of one width."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, LogNorm, to_rgba
from matplotlib.ticker import FixedLocator, FixedFormatter, NullLocator

from normprobe.figures import frames
from normprobe.figures.axes import push_apart, title
from normprobe.figures.palette import ACCENT, GRID, INK, MUTED, SMALL
from normprobe.figures.plan import Hit, Plan, place
from normprobe.wording import block_of, format_count, format_number, format_tick, role_labels, role_of, shorten_name

if TYPE_CHECKING:
    from normprobe.recording import Recording
    from normprobe.tables import Tables

CLEAR, FULL, OUTLIER = 3.0, 300.0, 10.0  # times the median feature
MOST_COLUMNS = 1000
MOST_NUMBERED = 6
MOST_LABELS = 31


def outlier_map(tables: Tables | Recording, *, ax: Any = None) -> Axes:
    """Draw, for the norms of the commonest width, the largest |value| of each feature ÷ that of the median feature.

    Args:
        tables: a recording or its tables.
        ax: where to draw; a new figure by default.

    Returns:
        The axes; `ax.figure` is the whole figure.

    Raises:
        ValueError: no norm other than BatchNorm has a feature of finite values.
    """
    axes: Axes = place(plan(frames.tables_of(tables)), ax)
    return axes


@dataclass(frozen=True)
class OutlierMap:
    """The numbers of the map.

    Attributes:
        ratios: a row per norm (index: layer), a column per feature: largest |value| ÷ the row's median feature.
        worst: by norm, the largest |value| and its feature.
        columns: features above ten times the median, most norms first: in how many norms.
        pooled: how many neighbouring features share a drawn column.
    """

    ratios: pd.DataFrame
    worst: pd.DataFrame
    columns: pd.Series
    pooled: int


def supported(tables: Tables) -> bool:
    """Return whether there are four norms of one width, other than BatchNorms."""
    return len(_chosen(tables)) >= 4


def _chosen(tables: Tables) -> pd.DataFrame:
    """Return the norms of the commonest width, the wider one of two equally common."""
    norms = frames.norms(tables)
    norms = norms[(norms["kind"] != "batch_norm") & (norms["n_features"] > 1)]
    widths = norms["n_features"].value_counts()
    if widths.empty:
        return norms
    return norms[norms["n_features"] == max(widths.index, key=lambda width: (widths[width], width))]


def summarize(tables: Tables) -> OutlierMap:
    """Take from the tables what the map shows."""
    chosen = _chosen(tables)
    layers = list(chosen["layer"])
    if not layers:
        raise ValueError("the recording has no norm with features to compare (BatchNorms are left out)")
    largest = frames.largest_values(tables, layers)
    grid = largest.pivot(index="layer", columns="feature", values="value").reindex(layers)
    typical = grid.median(axis=1)
    ratios = grid.div(typical.where(typical > 0), axis=0)
    above = (ratios > OUTLIER).sum()
    order = pd.DataFrame({"n": above[above > 0], "peak": ratios.max()[above > 0]})
    columns = order.sort_values(["n", "peak"], ascending=False)["n"]
    return OutlierMap(ratios, frames.peaks(tables, layers), columns, max(1, -(-grid.shape[1] // MOST_COLUMNS)))


def plan(tables: Tables) -> Plan:
    """Decide the outlier map."""
    found = summarize(tables)
    rows = len(found.ratios)
    return Plan(
        title="Which features stand out",
        caption=_caption(found),
        aria_label=_aria_label(found),
        draw=lambda axes: _draw(axes[0], found),
        heights=(float(np.clip(0.16 * rows, 1.3, 5.4)),),
        margins=(1.95, 1.15, 0.5, 0.78),
        hits=tuple(
            Hit(str(layer), row, row + 1, _numbers(found, str(layer))) for row, layer in enumerate(found.ratios.index)
        ),
        hit_axis="y",
    )


def _draw(ax: Axes, found: OutlierMap) -> None:
    """Draw the cells, the names of rows, the numbers of the columns that stand out."""
    values = found.ratios.to_numpy()
    features = values.shape[1]
    if found.pooled > 1:
        values = np.fmax.reduceat(values, np.arange(0, features, found.pooled), axis=1)
    hue = to_rgba(ACCENT)[:3]
    shades = LinearSegmentedColormap.from_list("outliers", [(*hue, 0.0), (*hue, 1.0)])
    shades = shades.with_extremes(bad=(*hue, 0.0), under=(*hue, 0.0))
    bar_ax = ax.inset_axes((1.03, 0, 0.018, 1))
    sns.heatmap(
        values, ax=ax, cmap=shades, norm=LogNorm(CLEAR, FULL), rasterized=True, cbar_ax=bar_ax,
        xticklabels=False, yticklabels=False,
    )  # fmt: skip
    _scale(ax, bar_ax)
    for spine in ax.spines.values():
        spine.set(visible=True, color=GRID)
    _rows(ax, list(map(str, found.ratios.index)))
    per = found.pooled
    ticks = _round_ticks(features)
    ax.xaxis.set_major_locator(FixedLocator([(tick + 0.5) / per for tick in ticks]))
    ax.xaxis.set_major_formatter(FixedFormatter([f"{tick:,}" for tick in ticks]))
    ax.tick_params(axis="x", rotation=0)
    pooled = f"; each column the largest of {per} neighbours" if per > 1 else ""
    ax.set_xlabel(f"feature (0–{features - 1:,}{pooled})", labelpad=6)
    _number_columns(ax, found)
    title(ax, "Largest |value| of each feature before the norm, ÷ the layer's median feature")
    ax.title.set_position((0, 1))
    ax.set_title(ax.get_title(loc="left"), loc="left", pad=34)


def _scale(ax: Axes, bar_ax: Axes) -> None:
    """Write the scale of the opacity."""
    bar = ax.collections[0].colorbar
    if bar is None:
        return
    bar.solids.set_rasterized(True)
    bar.outline.set(visible=True, edgecolor=GRID, linewidth=0.8)
    bar_ax.yaxis.set_major_locator(FixedLocator([CLEAR, 10, 30, 100, FULL]))
    bar_ax.yaxis.set_minor_locator(NullLocator())
    bar_ax.yaxis.set_major_formatter(FixedFormatter(["≤ 3×", "10×", "30×", "100×", "≥ 300×"]))


def _rows(ax: Axes, layers: Sequence[str]) -> None:
    """Name the rows: block and role, every k-th where there are many."""
    names = role_labels(list(dict.fromkeys(map(role_of, layers))))
    step = -(-len(layers) // MOST_LABELS)
    shown = sorted({*range(0, len(layers), step)} - {len(layers) - 2 if step > 2 else -1} | {len(layers) - 1})
    if len(shown) > 1 and shown[-1] - shown[-2] < step:
        del shown[-2]
    texts = []
    for row in shown:
        block = block_of(layers[row])
        text = names[role_of(layers[row])] or "(the model)"
        texts.append(shorten_name(text, 26) + (f"  {block}" if block is not None else ""))
    ax.yaxis.set_major_locator(FixedLocator([row + 0.5 for row in shown]))
    ax.yaxis.set_major_formatter(FixedFormatter(texts))
    ax.tick_params(axis="y", rotation=0, labelsize=SMALL)


def _round_ticks(features: int) -> list[int]:
    """Return round feature numbers, at most eight."""
    raw = max(1.0, features / 7)
    power = 10 ** int(np.floor(np.log10(raw)))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw)
    return list(range(0, features, int(step)))


def _number_columns(ax: Axes, found: OutlierMap) -> None:
    """Number up to six columns on top, with leaders."""
    numbered = sorted(int(feature) for feature in found.columns.index[:MOST_NUMBERED])
    if not numbered:
        return
    width = ax.get_xlim()[1]
    figure = ax.get_figure(root=True)
    points = ax.get_position().width * (figure.get_figwidth() if figure else 1) * 72
    wanted = [(feature + 0.5) / found.pooled / width * points for feature in numbered]
    gap = 6.0 * len(str(numbered[-1])) + 7
    for feature, at, spot in zip(numbered, wanted, push_apart(wanted, gap, 4, points - 4), strict=True):
        ax.plot([at, at, spot], [0, 3, 11], color=MUTED, linewidth=0.7, clip_on=False, transform=_above(ax))
        ax.text(spot, 13.5, str(feature), color=INK, ha="center", va="bottom", clip_on=False, transform=_above(ax))


def _above(ax: Axes) -> Any:
    """Return the transform whose units are points, right and up from the chart's top left corner."""
    from matplotlib.transforms import Affine2D, ScaledTranslation

    figure = ax.get_figure(root=True)
    if figure is None:
        return ax.transAxes
    box = ax.get_position()
    corner = ScaledTranslation(box.x0, box.y1, figure.transFigure)
    return Affine2D().scale(1 / 72) + figure.dpi_scale_trans + corner


def _numbers(found: OutlierMap, layer: str) -> str:
    """Return what hovering over a row says."""
    peak = found.worst.loc[layer]
    if pd.isna(peak["feature"]):
        return f"{layer}\nno finite values"
    ratio = found.ratios.loc[layer].max()
    over = int((found.ratios.loc[layer] > OUTLIER).sum())
    return (
        f"{layer}\nlargest |value|: {format_number(peak['worst'])} in feature {int(peak['feature'])}, "
        f"{format_number(ratio)} × the median feature\nfeatures above 10 ×: {format_count(over)}"
    )


def _caption(found: OutlierMap) -> str:
    """Return what to look at, with the numbers filled in."""
    rows = len(found.ratios)
    facts = [
        f"**Feature {feature}** exceeds 10× the median feature in {count} of {format_count(rows, 'norm')}."
        for feature, count in found.columns.head(3).items()
    ]
    if len(found.columns) > 3:
        facts.append(f"{format_count(len(found.columns) - 3, 'other feature')} exceed it somewhere.")
    if not facts:
        facts = [f"No feature exceeds 10× the median feature; the largest reaches {format_number(found.ratios.max().max())}×."]
    ending = "A lone column is an outlier feature; a full row is a layer where many features differ from the typical one."
    return " ".join(["A column is one feature through all depth.", *facts, ending])


def _aria_label(found: OutlierMap) -> str:
    """Return one sentence for those who do not see the map."""
    if found.columns.empty:
        return f"Outlier map of {format_count(len(found.ratios), 'norm')}: no feature exceeds 10 times the median feature."
    return (
        f"Outlier map of {format_count(len(found.ratios), 'norm')} and {format_tick(found.ratios.shape[1])} features: "
        f"feature {found.columns.index[0]} exceeds 10 times the median feature in {found.columns.iloc[0]} of them."
    )
