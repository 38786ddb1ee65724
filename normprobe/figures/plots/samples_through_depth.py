"""Samples through depth: the size of each sample before the norms of one role, and which ones are extreme."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes

from normprobe.figures.data import layer_statistics
from normprobe.figures.drawing.axes import Label, foot, label_ends, log_limits, title, use_log
from normprobe.figures.drawing.canvas import Facts, Plan, column_hits, place, without_ticks
from normprobe.figures.drawing.depth_axis import DepthAxis, margins, prepare, span
from normprobe.figures.drawing.palette import ACCENT, AFTER, BEFORE, SURFACE
from normprobe.formatting import format_count, format_number, name_sample, plural, sample_word, shorten_name
from normprobe.tables.measures.by_site import by_site
from normprobe.tables.measures.samples import sized
from normprobe.vocabulary import INPUT

if TYPE_CHECKING:
    from normprobe.tables.frames import HasTables, Tables


IDENTITY = ["part", "call", "example", "position", "repeat"]
MOST_EXTREME = 4
EXTREME = 10.0  # times the median sample


def samples_through_depth(tables: Tables | HasTables, *, ax: Any = None) -> Axes:
    """Draw the root mean square of the kept samples before the norms of one role.

    Median, bands, extreme samples. The root mean square is sqrt(mean² + variance) over a sample's values; the
    role is the one whose samples differ most.

    Args:
        tables: a recording or its tables.
        ax: where to draw; a new figure by default.

    Returns:
        The axes; `ax.figure` is the whole figure.

    Raises:
        ValueError: no norm fired whose samples are those of the batch.
    """
    axes: Axes = place(plan(layer_statistics.tables_of(tables)), ax)
    return axes


@dataclass(frozen=True)
class SampleSizes:
    """The numbers of the figure.

    Attributes:
        depth: the columns: the norms of one role.
        sizes: root mean square, a row per sample, a column per norm.
        bands: quantiles over samples, a row per norm: 0.01, 0.05, 0.5, 0.95, 0.99.
        extreme: the samples drawn by name: row of `sizes` to name.
        over: samples above ten times the median somewhere; `first` of those are at position 0.
        top: the most any sample exceeds the median, a ratio.
        unit: what one sample is called, singular.
        example: what one example is called.
        role: label of the role, empty where norms have none.
        nonfinite: columns whose input has NaN or Inf.
    """

    depth: DepthAxis
    sizes: pd.DataFrame
    bands: pd.DataFrame
    extreme: dict[Any, str]
    over: int
    top: float
    first: int
    unit: str
    example: str
    role: str
    nonfinite: tuple[int, ...]


def supported(tables: Tables) -> bool:
    """Whether there are four norms that number their samples by the batch, and eight samples."""
    norms = _aligned(tables)
    return len(norms) >= 4 and int(norms["n_samples"].max()) >= 8


def _aligned(tables: Tables) -> pd.DataFrame:
    """The norms measured at the input whose samples are numbered by the batch: one sample can be followed."""
    norms = layer_statistics.norms(tables, INPUT)
    aligned = tables.ledger.set_index("layer")["aligned"].reindex(norms.index)
    return norms[aligned.astype("boolean").fillna(True).to_numpy(dtype=bool)]


def summarize(tables: Tables) -> SampleSizes:
    """Take from the tables what the figure shows.

    Raises:
        ValueError: no norm that fired numbers its samples by the batch.
    """
    norms = _aligned(tables)
    if norms.empty:
        raise ValueError("no norm of this recording numbers its samples by the batch: nothing to follow")
    chosen, sizes, role = _widest(tables, norms)
    depth = layer_statistics.depth_axis(chosen)
    medians = sizes.median()
    ratios = sizes.div(medians.where(medians > 0)).max(axis=1).sort_values(ascending=False)
    over = ratios[ratios > EXTREME]
    unit = str(chosen["sample_unit"].iloc[0])
    position = sizes.index.names.index("position")
    bands = sizes.quantile([0.01, 0.05, 0.5, 0.95, 0.99]).T.reset_index(drop=True)
    return SampleSizes(
        depth=depth,
        sizes=sizes,
        bands=bands,
        extreme=_name_extreme(tables, ratios[ratios > 2], unit),
        over=len(over),
        top=float(ratios.max()),
        # The position of an example is always 0, and says nothing.
        first=sum(int(identity[position] == 0) for identity in over.index) if unit == "position" else 0,
        unit=sample_word(tables.meta, unit),
        example=sample_word(tables.meta, "example"),
        role=role,
        nonfinite=tuple(int(i) for i in np.flatnonzero(chosen["nonfinite"].to_numpy() > 0)),
    )


def _widest(tables: Tables, norms: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame, str]:
    """The norms of the role whose samples differ most, the sizes of their samples, the role's label.

    Roles count with at least half as many norms as the commonest one; without a role of three norms all norms
    of the commonest sample unit are taken.
    """
    unit = norms["sample_unit"].mode().iloc[0]
    norms = norms[norms["sample_unit"] == unit]
    depth = layer_statistics.depth_axis(norms)
    roles = pd.Series(depth.roles, index=norms.index)
    counts = roles.value_counts()
    names = depth.labels(list(dict.fromkeys(roles)))
    if counts.max() < 3:
        return norms, _sizes(tables, list(norms["layer"])), ""
    best: tuple[float, pd.DataFrame, pd.DataFrame, str] | None = None
    for role in counts.index[counts >= max(3, counts.max() / 2)]:
        mine = norms[roles == role]
        sizes = _sizes(tables, list(mine["layer"]))
        medians = sizes.median()
        widest = float(sizes.max().div(medians.where(medians > 0)).max())
        if best is None or widest > best[0]:
            best = (widest, mine, sizes, names[role])
    assert best is not None
    return best[1:]


def _sizes(tables: Tables, layers: list[str]) -> pd.DataFrame:
    """The root mean square of each kept sample before each layer, a row per sample."""
    sites = by_site(tables, "samples")
    rows = [sites.rows(layer, INPUT) for layer in layers]
    every = np.concatenate(rows)
    samples = sized(tables.samples.iloc[every])
    # By their places among these.
    rows = np.split(np.arange(len(every)), np.cumsum([len(at) for at in rows])[:-1])
    if found := _sizes_of_same(samples, rows):
        identities, sizes = found
        return pd.DataFrame(sizes, index=identities, columns=pd.Index(layers, name="layer")).sort_index()
    frame = samples[IDENTITY].assign(layer=samples["layer"].astype(object), size=samples["rms"])
    frame[IDENTITY] = frame[IDENTITY].astype(object)
    # pivot_table sorts its columns by name; here they are in order of execution.
    return frame.pivot_table(index=IDENTITY, columns="layer", values="size", aggfunc="first").reindex(
        columns=layers
    )


def _sizes_of_same(samples: pd.DataFrame, rows: list[np.ndarray]) -> tuple[pd.MultiIndex, np.ndarray] | None:
    """The samples and their sizes, a column per layer, where all layers hold the same in the same order."""
    first = samples.iloc[rows[0]][IDENTITY]
    identities = pd.MultiIndex.from_frame(first.astype(object))
    if any(len(at) != len(first) for at in rows) or first.isna().any(axis=None) or identities.has_duplicates:
        return None
    places = np.stack(rows)
    for name in IDENTITY:
        codes = pd.factorize(samples[name])[0][places]
        if (codes != codes[0]).any():
            return None
    return identities, samples["rms"].to_numpy(dtype=float)[places].T


def _name_extreme(tables: Tables, ratios: pd.Series, unit: str) -> dict[Any, str]:
    """Name up to four samples, the most extreme first, each of another text."""
    labels = tables.labels
    identities = zip(labels["part"], labels["example"], labels["position"], strict=True)
    texts = dict(zip(identities, labels["text"], strict=True))
    chosen: dict[Any, str] = {}
    seen = set()
    for identity in ratios.index:
        part, _, example, position, _ = identity
        text: Any = texts.get((part, example, position))
        key = text if text is not None else (part, example)
        if key in seen:
            continue
        seen.add(key)
        chosen[identity] = name_sample(tables.meta, (example, position), unit, text, part)
        if len(chosen) == MOST_EXTREME:
            break
    return chosen


def plan(tables: Tables) -> Plan:
    """Decide the figure."""
    found = summarize(tables)
    return Plan(
        title="Which samples stand out",
        caption=caption(found),
        aria_label=aria_label(found),
        draw=lambda axes: _draw(axes[0], found),
        heights=(2.5,),
        margins=margins(found.depth),
        hits=column_hits(numbers(found)),
        facts=facts(found),
    )


def _draw(ax: Axes, found: SampleSizes) -> None:
    """Draw bands, the median, the extreme samples, and their names."""
    span(ax, found.depth)
    x = np.arange(len(found.depth.layers))
    bands, lines = found.bands, [found.sizes.loc[[key]].iloc[0] for key in found.extreme]
    limits = log_limits(np.concatenate([bands.to_numpy().ravel(), *(line.to_numpy() for line in lines)]))
    use_log(ax.yaxis, limits)
    floor = limits[0]
    for low, high, alpha in ((0.01, 0.99, 0.13), (0.05, 0.95, 0.2)):
        ax.fill_between(
            x,
            bands[low].clip(lower=floor),
            bands[high].clip(lower=floor),
            color=BEFORE,
            alpha=alpha,
            linewidth=0,
        )
    ends = []
    for name, line in zip(found.extreme.values(), lines, strict=True):
        ax.plot(x, line, color=AFTER, linewidth=1.0)
        shown = line[line > 0]
        if len(shown):
            ends.append(Label(shorten_name(name, 34), float(shown.iloc[-1]), AFTER))
    median = bands[0.5].where(bands[0.5] > 0)
    with without_ticks(ax):
        sns.lineplot(x=x, y=median, color=BEFORE, linewidth=1.9, ax=ax, estimator=None)
    if median.notna().any():
        ends.append(Label(f"median {found.unit}", float(median.dropna().iloc[-1]), BEFORE))
    label_ends(ax, ends)
    foot(ax, list(x[bands[0.5] == 0]), BEFORE)
    foot(ax, found.nonfinite, ACCENT, marker="X", fill=SURFACE)
    role = f" ({found.role})" if found.role else ""
    ax.set(xlabel="", ylabel="")
    title(ax, f"Root mean square of one {found.unit} before the norm{role}: median, 5–95 % and 1–99 %")
    prepare(ax, found.depth, last=True)


def facts(found: SampleSizes) -> Facts:
    """What the caption states: how many samples stand out, how far, and how many of them are first."""
    medians = found.bands[0.5]
    return {
        "norms": len(medians),
        "role": found.role or None,
        "kept": len(found.sizes),
        "over": found.over,
        "first": found.first,
        "largest_ratio": found.top if found.top > 0 else None,
        "named": tuple(found.extreme.values()),
        "medians": (medians.iloc[0], medians.iloc[-1]) if medians.notna().any() else None,
    }


def caption(found: SampleSizes) -> str:
    """What to look at, with the facts in it."""
    stated = facts(found)
    kept, over, first = stated["kept"], stated["over"], stated["first"]
    if stated["largest_ratio"] is None:
        return f"No kept {found.unit} has finite values above 0 before these norms."
    shown = "median, bands, the most extreme by name" if stated["named"] else "median and bands"
    text = f"The same {format_count(kept, found.unit)} in every layer: {shown}."
    if not over:
        largest = format_number(stated["largest_ratio"])
        return f"{text} None exceeds ten times the median; the largest reaches {largest} times."
    verb = "exceeds" if over == 1 else "exceed"
    text += f" **{format_count(over)} of {format_count(kept)}** {verb} ten times the median somewhere"
    if first and over == 1:
        text += f"; it is the first {found.unit} of its {found.example}"
    elif first:
        which = "all of those" if first == over else f"{first} of those {over}"
        text += f"; {which} are the first {found.unit} of their {found.example}"
    ending = "far above all others through many blocks carry massive activations"
    return f"{text}. A few {plural(found.unit)} {ending}."


def aria_label(found: SampleSizes) -> str:
    """One sentence for those who do not see the figure."""
    stated = facts(found)
    norms = format_count(stated["norms"], "norm")
    if stated["medians"] is None:
        return f"Root mean square before {norms}: no finite values."
    return (
        f"Root mean square of {format_count(stated['kept'], found.unit)} before "
        f"{norms}: the median goes from {' to '.join(map(format_number, stated['medians']))}; "
        f"{format_count(stated['over'])} above ten times the median somewhere."
    )


def numbers(found: SampleSizes) -> Iterator[tuple[str, str]]:
    """Each layer and its numbers, as hovering shows them."""
    for column, layer in enumerate(found.depth.layers):
        row, sizes = found.bands.iloc[column], found.sizes.iloc[:, column]
        low, middle, high = (format_number(row[q]) for q in (0.05, 0.5, 0.95))
        yield (
            layer,
            (
                f"{layer}\nroot mean square of one {found.unit}: median {middle}\n"
                f"5–95 %: {low} to {high}\n"
                f"largest of {format_count(int(sizes.count()))} kept: {format_number(sizes.max())}"
            ),
        )
