"""Variance over the steps of a run: windows binned exactly, and what changed most, and when."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from normprobe.tables.measures.common import cached
from normprobe.tables.measures.history import TRAIN, History, history
from normprobe.vocabulary import INPUT, OUTPUT

if TYPE_CHECKING:
    from normprobe.tables.frames import Tables

MOST_BINS = 200


@dataclass(frozen=True, eq=False)
class Binned:
    """A statistic of layers at one site over the windows of a phase, some neighbouring ones of which are one.

    Attributes:
        values: a row per layer in order of execution, a column per bin.
        first: the first step of each bin.
        last: its last step.
    """

    values: pd.DataFrame
    first: NDArray[np.int64]
    last: NDArray[np.int64]


@dataclass(frozen=True)
class Change:
    """How the variance of one layer at one site moved over a run.

    Attributes:
        layer: the layer.
        site: the site.
        begin: variance in the first bin,
        end: and in the last.
        low: the smallest of all bins,
        high: and the largest.
        first: first step of the bin into which the largest step led,
        last: and its last step.
        factor: by how much the variance changed in that step; below 1 where it fell.
    """

    layer: str
    site: str
    begin: float
    end: float
    low: float
    high: float
    first: int
    last: int
    factor: float


def main_phase(tables: Tables) -> str | None:
    """The phase whose time axis is shown: training, or else the one with most windows; None of one window."""
    counts = history(tables).windows["phase"].value_counts()
    counts = counts[counts > 1]
    if counts.empty:
        return None
    return TRAIN if TRAIN in counts else str(counts.index[0])


def other_phases(tables: Tables) -> list[str]:
    """The other phases, the one with most windows first."""
    counts = history(tables).windows["phase"].value_counts()
    return [str(phase) for phase in counts.index if phase != main_phase(tables)]


def binned(tables: Tables, phase: str, site: str, statistic: str, most: int = MOST_BINS) -> Binned:
    """A statistic over the windows of a phase, merged into so many bins at most.

    Of windows in one bin the moments are merged (Chan, Golub, LeVeque 1979): the variance is that of all
    their values.

    Args:
        tables: the tables of a recording.
        phase: the phase.
        site: the site.
        statistic: "variance" or "rms".
        most: how many bins at most.
    """
    past = history(tables)
    windows = past.windows[past.windows["phase"] == phase]
    number = np.arange(len(windows)) * min(most, len(windows)) // max(len(windows), 1)
    rows = past.sites[(past.sites["phase"] == phase) & (past.sites["site"] == site)]
    of_bin = rows["window"].map(dict(zip(windows["window"], number, strict=True)))
    merged = _merged(rows, of_bin)
    value = merged["m2"] / merged["count"]
    value = (value + merged["mean"] ** 2) ** 0.5 if statistic == "rms" else value
    depth = rows.groupby("layer", sort=False)["depth"].min().sort_values(kind="stable")
    wide = value.unstack().reindex(
        index=depth.index, columns=range(int(number[-1]) + 1 if len(number) else 0)
    )
    steps = windows.groupby(number)[["first_step", "last_step"]].agg(
        {"first_step": "min", "last_step": "max"}
    )
    return Binned(wide, steps["first_step"].to_numpy(), steps["last_step"].to_numpy())


def _merged(rows: pd.DataFrame, of_bin: pd.Series) -> pd.DataFrame:
    """The moments of each layer in each bin: count, mean, m2; without rows of no finite value."""
    rows = rows[rows["count"] > 0]
    keys = [rows["layer"], of_bin[rows.index]]
    count = rows["count"].astype("float64")
    total = count.groupby(keys, sort=False).transform("sum")
    mean = (rows["mean"] * (count / total)).groupby(keys, sort=False).transform("sum")
    m2 = rows["m2"] + count * (rows["mean"] - mean) ** 2
    summed = pd.DataFrame({"count": count, "m2": m2}).groupby(keys, sort=False).sum()
    return summed.assign(mean=mean.groupby(keys, sort=False).first())


@cached
def changes(tables: Tables) -> list[Change]:
    """How the variance of each layer moved over the main phase, what moved most first.

    A layer counts at the site at which it moved most; layers whose variance was 0 or unknown in a bin do not.
    """
    phase = main_phase(tables)
    if phase is None:
        return []
    found: dict[str, Change] = {}
    for site in (INPUT, OUTPUT):
        over = binned(tables, phase, site, "variance")
        for layer, values in zip(over.values.index, over.values.to_numpy(), strict=True):
            if len(values) > 1 and (values > 0).all():
                change = _change(str(layer), site, values, over)
                held = found.get(change.layer)
                if held is None or _span(change) > _span(held):
                    found[change.layer] = change
    return sorted(found.values(), key=_span, reverse=True)


def _span(change: Change) -> float:
    return change.high / change.low


def _change(layer: str, site: str, values: NDArray[np.float64], over: Binned) -> Change:
    steps = np.diff(np.log(values))
    at = int(np.abs(steps).argmax())
    return Change(
        *(layer, site, float(values[0]), float(values[-1]), float(values.min()), float(values.max())),
        first=int(over.first[at + 1]),
        last=int(over.last[at + 1]),
        factor=float(np.exp(steps[at])),
    )


def beside(tables: Tables, other: str) -> tuple[str, float] | None:
    """The norm, or else layer, whose variance in another phase lies farthest from that in the main one.

    Returns:
        The layer, and the variance of what it reads there ÷ that in the last windows of the main phase; None
        where no layer was measured in both.
    """
    phase = main_phase(tables)
    if phase is None:
        return None
    now, there = (_last(history(tables), name) for name in (phase, other))
    ratio = (there / now.where(now > 0)).dropna()
    ratio = ratio[ratio > 0]
    if ratio.empty:
        return None
    worst = int(np.abs(np.log(ratio.to_numpy(np.float64))).argmax())
    return str(ratio.index[worst]), float(ratio.iloc[worst])


def _last(past: History, phase: str) -> pd.Series:
    """The variance of what each layer reads in the last window of a phase."""
    rows = past.of_phase(phase)
    rows = rows[rows["site"] == INPUT]
    norms = rows[rows["kind"] != "linear"]
    rows = rows if norms.empty else norms
    values: pd.Series = rows[rows["window"] == rows["window"].max()].set_index("layer")["variance"]
    return values
