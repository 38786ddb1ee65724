"""The outlier map: which features hold large values, through all norms, and Linear inputs, of one width."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, LinearSegmentedColormap, LogNorm, to_rgba
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator
from matplotlib.transforms import Affine2D, Transform

from normprobe.figures.data import layer_statistics
from normprobe.figures.drawing.axes import LABEL_GAP, note, push_apart, size_in_points
from normprobe.figures.drawing.canvas import Facts, Hit, Plan, place, without_drawing
from normprobe.figures.drawing.palette import ACCENT, GRID, INK, MUTED, SMALL
from normprobe.formatting import format_count, format_number, role_labels, shorten_name, spots
from normprobe.vocabulary import INPUT

if TYPE_CHECKING:
    from normprobe.tables.frames import HasTables, Tables


CLEAR, FULL = 3.0, 300.0  # times the median feature
OUTLIER = 10.0  # times the median feature
MOST_COLUMNS = 1000
MOST_NUMBERED = 6
MOST_LABELS = 31
FEWEST_ROWS = 4
MOST_LINEAR_CHARTS = 2


def outlier_map(tables: Tables | HasTables, *, ax: Any = None) -> Axes:
    """Draw the largest |value| of each feature ÷ the median feature's, before norms of the commonest width.

    Where inputs of four or more Linear layers of one width hold a feature above ten times the median, they
    have a chart of their own below (two at most; of layers that read one tensor the first).

    Args:
        tables: a recording or its tables.
        ax: where to draw; a new figure by default. One Axes takes the norms' chart alone.

    Returns:
        The axes of the norms' chart; `ax.figure` is the whole figure, with those of Linear inputs.

    Raises:
        ValueError: no norm other than BatchNorm has a feature of finite values, or ``ax`` holds another
            number of axes than there are charts.
    """
    source = layer_statistics.tables_of(tables)
    found = summarize(source)
    if ax is not None and np.size(ax) == 1:
        found = replace(found, linear=())
    axes: Axes = np.ravel(place(_planned(found), ax))[0]
    return axes


@dataclass(frozen=True)
class OutlierMap:
    """The numbers of one chart of the map.

    Attributes:
        ratios: a row per layer (by name), a column per feature: largest |value| ÷ the row's median feature.
        worst: by layer, the largest |value| and its feature.
        columns: features above ten times the median, most norms (of Linear inputs: the largest) first: in
            how many layers.
        pooled: how many neighbouring features share a drawn column.
        linear: the charts of Linear inputs, the one with the largest ratio first; of norms only.
        elsewhere: how many Linear inputs besides hold a feature above ten times the median; of norms only.
    """

    ratios: pd.DataFrame
    worst: pd.DataFrame
    columns: pd.Series
    pooled: int
    linear: tuple[OutlierMap, ...] = ()
    elsewhere: int = 0

    @property
    def clear(self) -> bool:
        """Whether no cell is shaded."""
        return not bool((self.ratios > CLEAR).any(axis=None))


def supported(tables: Tables) -> bool:
    """Whether there are four norms of one width, other than BatchNorms."""
    return len(_commonest_width(tables)) >= FEWEST_ROWS


def _commonest_width(tables: Tables) -> pd.DataFrame:
    """The norms of the commonest width, the wider one of two equally common."""
    norms = layer_statistics.norms(tables, INPUT)
    # BatchNorm scales each feature by itself: a large one before it takes nothing from the others.
    norms = norms[(norms["kind"] != "batch_norm") & (norms["n_features"] > 1)]
    # Norms of one feature are out, too: each is its own median.
    widths = norms["n_features"].value_counts()
    if widths.empty:
        return norms
    commonest = max(widths.index, key=lambda width: (widths[width], width))
    same_width: pd.DataFrame = norms[norms["n_features"] == commonest]
    return same_width


def summarize(tables: Tables) -> OutlierMap:
    """Take from the tables what the map shows.

    Raises:
        ValueError: no norm other than BatchNorm has features to compare.
    """
    chosen = _commonest_width(tables)
    layers = list(chosen["layer"])
    if not layers:
        raise ValueError("the recording has no norm with features to compare (BatchNorms are left out)")
    linear, elsewhere = _linear_maps(tables)
    return replace(_one_map(tables, layers), linear=linear, elsewhere=elsewhere)


def _one_map(tables: Tables, layers: list[str], order: tuple[str, ...] = ("n", "peak")) -> OutlierMap:
    """The numbers of the inputs of some layers of one width, columns by how many layers, or by size."""
    ratios = layer_statistics.largest_ratios(tables, layers)
    above = (ratios > OUTLIER).sum()
    standing = pd.DataFrame({"n": above[above > 0], "peak": ratios.max()[above > 0]})
    columns = standing.sort_values(list(order), ascending=False)["n"]
    return OutlierMap(
        ratios,
        layer_statistics.peaks(tables, layers),
        columns,
        max(1, -(-ratios.shape[1] // MOST_COLUMNS)),
    )


def _linear_maps(tables: Tables) -> tuple[tuple[OutlierMap, ...], int]:
    """The charts of Linear inputs, and how many inputs with such a feature are in none of them.

    Inputs of which a single feature is far above the median in every width are few: a chart takes four.
    """
    layers = tables.layers
    rows = layers[(layers["kind"] == "linear") & (layers["site"] == INPUT) & (layers["n_features"] > 1)]
    # What reads the data is no matter of the model's features; of layers that read one tensor the first.
    rows = rows[rows["depth"] > 0].sort_values("depth", kind="stable")
    rows = rows.drop_duplicates(["n_features", "mean", "variance", "min", "max"])
    high = rows[rows["feature_ratio"] > OUTLIER]
    worst = high.groupby("n_features")["feature_ratio"].max().sort_values(ascending=False, kind="stable")
    counts = rows["n_features"].value_counts()
    widths = [width for width in worst.index if counts[width] >= FEWEST_ROWS][:MOST_LINEAR_CHARTS]
    maps = tuple(
        # Hidden features of one block are not those of the next: what counts is how large one is.
        _one_map(tables, list(map(str, rows.loc[rows["n_features"] == width, "layer"])), ("peak",))
        for width in widths
    )
    return maps, int((~high["n_features"].isin(widths)).sum())


def plan(tables: Tables) -> Plan:
    """Decide the outlier map."""
    return _planned(summarize(tables))


def _planned(found: OutlierMap) -> Plan:
    charts = (found, *found.linear)

    def draw(axes: Sequence[Axes]) -> None:
        for number, (ax, chart) in enumerate(zip(axes, charts, strict=True)):
            _draw(ax, chart, "each Linear" if number else "the norm")

    hits = tuple(
        Hit(layer, row, row + 1, text, chart)
        for chart, shown in enumerate(charts)
        for row, (layer, text) in enumerate(_numbers_of(shown))
    )
    return Plan(
        title="Which features stand out",
        caption=caption(found),
        aria_label=aria_label(found),
        draw=draw,
        heights=tuple(_height(chart, 3.2 if number else 5.4) for number, chart in enumerate(charts)),
        margins=(1.95, 1.15, 0.5, 0.78),
        gaps=(0.5, 1.28),
        hits=hits,
        hit_axis="y",
        facts=facts(found),
    )


def _height(found: OutlierMap, most: float) -> float:
    """Inches of a chart: of one whose cells are all clear no more than its note takes."""
    return 0.4 if found.clear else float(np.clip(0.16 * len(found.ratios), 1.3, most))


def _draw(ax: Axes, found: OutlierMap, reader: str) -> None:
    """Draw the cells, the names of rows, the numbers of the columns that stand out."""
    values = found.ratios.to_numpy()
    features = values.shape[1]
    if found.pooled > 1:  # fmax, as a feature without finite values is not to hide its neighbours
        values = np.fmax.reduceat(values, np.arange(0, features, found.pooled), axis=1)
    hue = to_rgba(ACCENT)[:3]  # opacity alone varies: the page exchanges the colour for that of its theme
    shades: Colormap = LinearSegmentedColormap.from_list("outliers", [(*hue, 0.0), (*hue, 1.0)])
    shades = shades.with_extremes(bad=(*hue, 0.0), under=(*hue, 0.0))
    # Where nothing is shaded there is no shade to read, and no room for its scale.
    bar_ax = None if found.clear else ax.inset_axes((1.03, 0, 0.018, 1))
    with without_drawing(ax):
        sns.heatmap(
            values,
            ax=ax,
            cmap=shades,
            norm=LogNorm(CLEAR, FULL),
            vmin=CLEAR,  # without limits seaborn looks into the values, and numpy warns where all are NaN
            vmax=FULL,
            rasterized=True,  # as a path a cell, fifty norms of width 768 take 5.6 MB
            cbar=bar_ax is not None,
            cbar_ax=bar_ax,
            xticklabels=False,
            yticklabels=False,
        )
    if bar_ax is not None:
        _opacity_scale(ax, bar_ax)
    for spine in ax.spines.values():
        spine.set(visible=True, color=GRID)
    _name_rows(ax, list(map(str, found.ratios.index)))
    _name_columns(ax, found)
    if found.clear:
        finite = np.isfinite(values).any()
        note(ax, f"no feature above {CLEAR:g}× the layer’s median" if finite else "no finite values")
    ax.set_title(
        f"Largest |value| of each feature before {reader}, ÷ the layer’s median feature",
        pad=10 if found.columns.empty else 34,
        loc="left",
    )


def _name_columns(ax: Axes, found: OutlierMap) -> None:
    """Label the axis of features, and number those that stand out."""
    features, per = found.ratios.shape[1], found.pooled
    ticks = _round_ticks(features)
    ax.xaxis.set_major_locator(FixedLocator([(tick + 0.5) / per for tick in ticks]))
    ax.xaxis.set_major_formatter(FixedFormatter([f"{tick:,}" for tick in ticks]))
    ax.tick_params(axis="x", rotation=0)
    pooled = f"; each column the largest of {per} neighbours" if per > 1 else ""
    ax.set_xlabel(f"feature (0–{features - 1:,}{pooled})", labelpad=6)
    _number_columns(ax, found)


def _opacity_scale(ax: Axes, bar_ax: Axes) -> None:
    """Write the scale of the opacity."""
    bar = ax.collections[0].colorbar
    if bar is None or bar.solids is None:
        return
    bar.solids.set_rasterized(True)
    bar.outline.set(visible=True, edgecolor=GRID, linewidth=0.8)
    bar_ax.yaxis.set_major_locator(FixedLocator([CLEAR, 10, 30, 100, FULL]))
    bar_ax.yaxis.set_minor_locator(NullLocator())
    bar_ax.yaxis.set_major_formatter(FixedFormatter(["≤ 3×", "10×", "30×", "100×", "≥ 300×"]))


def _name_rows(ax: Axes, layers: Sequence[str]) -> None:
    """Name the rows: block and role, every k-th where there are many."""
    places = spots(layers)
    names = role_labels(list(dict.fromkeys(spot.role for spot in places.values())))
    step = -(-len(layers) // min(MOST_LABELS, int(size_in_points(ax)[1] / LABEL_GAP)))
    step += step > 1 and step % 2 == 0  # odd, so that two roles in turn are both named
    shown = [*range(0, len(layers) - step, step), len(layers) - 1]
    texts = []
    for row in shown:
        _, block, role = places[layers[row]]
        text = names[role] or "(the model)"
        if "*" in text:  # labels that would not differ without the block's place
            text, block = text.replace("*", str(block), 1), None
        texts.append(shorten_name(text, 26) + (f"  {block}" if block is not None else ""))
    ax.yaxis.set_major_locator(FixedLocator([row + 0.5 for row in shown]))
    ax.yaxis.set_major_formatter(FixedFormatter(texts))
    ax.tick_params(axis="y", rotation=0, labelsize=SMALL)


def _round_ticks(features: int) -> list[int]:
    """Round feature numbers, at most eight."""
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
    points = size_in_points(ax)[0]
    wanted = [(feature + 0.5) / found.pooled / width * points for feature in numbered]
    gap = 6.0 * len(str(numbered[-1])) + 7
    for feature, at, spot in zip(numbered, wanted, push_apart(wanted, gap, 4, points - 4), strict=True):
        ax.plot([at, at, spot], [0, 3, 11], color=MUTED, linewidth=0.7, clip_on=False, transform=_above(ax))
        ax.text(spot, 13.5, str(feature), color=INK, ha="center", va="bottom", transform=_above(ax))


def _above(ax: Axes) -> Transform:
    """The transform whose units are points, right and up from the chart's top left corner."""
    width, height = size_in_points(ax)
    return Affine2D().scale(1 / width, 1 / height).translate(0, 1) + ax.transAxes


def facts(found: OutlierMap) -> Facts:
    """What the caption states: the features above ten times the median one, and in how many norms.

    ``linear`` holds the same of each chart of Linear inputs, as (inputs, features, outliers), worst first.
    """
    norms, features = found.ratios.shape
    return {
        "norms": norms,
        "features": features,
        "outliers": _counts(found),
        "largest_ratio": None if found.ratios.isna().all(axis=None) else found.ratios.max().max(),
        "linear": tuple((*chart.ratios.shape, _counts(chart)) for chart in found.linear),
    }


def _counts(found: OutlierMap) -> tuple[tuple[int, int], ...]:
    return tuple((int(str(feature)), int(count)) for feature, count in found.columns.items())


def caption(found: OutlierMap) -> str:
    """What to look at, with the facts in it."""
    stated = facts(found)
    norms, outliers = format_count(stated["norms"], "norm"), stated["outliers"]
    runs = [
        f"**Feature {feature}** exceeds 10× the median feature in {count} of {norms}."
        for feature, count in outliers[:3]
    ]
    if others := len(outliers[3:]):
        verb = "exceeds" if others == 1 else "exceed"
        runs.append(f"{format_count(others, 'other feature')} {verb} it somewhere.")
    if stated["largest_ratio"] is None:
        runs = ["No feature has a finite value above 0 here."]
    elif not outliers:
        top = format_number(stated["largest_ratio"])
        runs = [f"No feature exceeds 10× the median feature; the largest reaches {top}×."]
    ending = (
        "A lone column is an outlier feature; a full row is a layer where many features differ "
        "from the typical one."
    )
    return " ".join(["A column is one feature through all depth.", *runs, *_linear_words(found), ending])


def _linear_words(found: OutlierMap) -> Iterator[str]:
    """What Linear layers read, beside the norms."""
    for chart in found.linear:
        inputs, features = chart.ratios.shape
        layer = str(chart.worst["ratio"].idxmax())
        feature, times = int(chart.worst["feature"][layer]), format_number(chart.worst["ratio"][layer])
        width = format_count(features, "feature")
        worst = f"**feature {feature}**, {times}×"
        yield f"Of {inputs:,} Linear inputs of {width} {layer} has the worst: {worst}."
    if found.elsewhere:
        further = format_count(found.elsewhere, "further Linear input")
        yield f"{further} with such a feature: see outliers.csv."


def aria_label(found: OutlierMap) -> str:
    """One sentence for those who do not see the map."""
    stated = facts(found)
    text = f"Outlier map of {format_count(stated['norms'], 'norm')} and "
    text += f"{format_count(stated['features'], 'feature')}:"
    if not stated["outliers"]:
        return f"{text} no feature exceeds 10 times the median feature."
    feature, count = stated["outliers"][0]
    return f"{text} feature {feature} exceeds 10 times the median feature in {count} of the norms."


def numbers(found: OutlierMap) -> Iterator[tuple[str, str]]:
    """Each layer and its numbers, as hovering over its row shows them."""
    for chart in (found, *found.linear):
        yield from _numbers_of(chart)


def _numbers_of(found: OutlierMap) -> Iterator[tuple[str, str]]:
    peaks = found.worst.to_dict("records")
    above, largest = (found.ratios > OUTLIER).sum(axis=1), found.ratios.max(axis=1)
    for layer, peak, number, top in zip(map(str, found.ratios.index), peaks, above, largest, strict=True):
        if pd.isna(peak["feature"]):
            yield layer, f"{layer}\nno finite values"
            continue
        over = format_count(int(number))
        worst = f"{format_number(peak['worst'])} in feature {int(peak['feature'])}"
        times = f"{format_number(top)}× the median feature"
        yield layer, f"{layer}\nlargest |value|: {worst}, {times}\nfeatures above 10×: {over}"
