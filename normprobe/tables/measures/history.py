"""What changes over the windows of a run, in few numbers a window: what checks over time and figures read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from normprobe.tables.columns.tables import SITE_KEY
from normprobe.tables.derive import moments_of, pooled
from normprobe.tables.frames import Tables
from normprobe.tables.measures.common import cached
from normprobe.tables.measures.running_statistics import running_measures
from normprobe.tables.window_facts import WindowFacts, windows_of
from normprobe.vocabulary import INPUT

TRAIN = "train"
"""The phase of forwards in training mode that are of no named phase."""

_MOMENTS = ("count", "mean", "m2")
_STEPS = ("phase", "first_step", "last_step")
_OF_WINDOW = ("window", *_STEPS)
_SITES = (
    *(*_OF_WINDOW, "layer", "site", "kind", "depth", "n_features", "n_samples", *_MOMENTS),
    *("nonfinite", "trains", "running_shift", "running_ratio"),
)


@dataclass(frozen=True, eq=False)
class History:
    """The windows of a run, one after another.

    Attributes:
        windows: a row per window: window, phase, first_step, last_step, forwards.
        sites: a row per window, layer and site: these, ``kind``, ``depth``, ``n_features``, ``n_samples``,
            ``count`` (of finite values), ``mean``, ``m2`` (their sum of squared deviations), ``nonfinite``,
            ``trains`` (whether a batch norm normalized with a batch's own statistics), ``running_shift`` and
            ``running_ratio`` (of batch norms, as `measures.running_statistics` has them).
        parameters: a row per window and parameter, as ``Tables.parameters`` has it.
        dead: of each phase and layer, in how many windows up to the last one each feature that it reads was 0
            in every sample; arrays of shape (features,).
        measured: of each phase and layer, in how many windows its input was measured.
    """

    windows: pd.DataFrame
    sites: pd.DataFrame
    parameters: pd.DataFrame
    dead: dict[tuple[str, str], NDArray[np.int64]]
    measured: dict[tuple[str, str], int]

    @cached_property
    def variance(self) -> pd.Series:
        """Population variance of each row of ``sites``; NaN without a finite value."""
        count = self.sites["count"].to_numpy(np.float64)
        return pd.Series(np.where(count > 0, self.sites["m2"] / np.maximum(count, 1), np.nan))

    @cached_property
    def rms(self) -> pd.Series:
        """Root mean square of each row of ``sites``."""
        squares = self.variance + self.sites["mean"] ** 2
        return squares**0.5

    def of_phase(self, phase: str) -> pd.DataFrame:
        """The rows of ``sites`` of one phase, with ``variance`` and ``rms``."""
        frame = self.sites.assign(variance=self.variance.to_numpy(), rms=self.rms.to_numpy())
        return frame[frame["phase"] == phase]


@dataclass(eq=False)
class HistoryBuilder:
    """Adds up windows as they are closed or loaded; what it holds of one is a row per layer and site.

    Attributes:
        most: how many windows it holds at most: the oldest go.
    """

    most: int | None = None
    _count: int = 0
    _windows: list[dict[str, Any]] = field(default_factory=list)
    _sites: list[dict[str, Any]] = field(default_factory=list)
    _before: pd.DataFrame | None = None
    _parameters: list[pd.DataFrame] = field(default_factory=list)
    _dead: dict[tuple[str, str], NDArray[np.int64]] = field(default_factory=dict)
    _measured: dict[tuple[str, str], int] = field(default_factory=dict)

    def add(self, facts: WindowFacts, tables: Tables, number: int | None = None) -> None:
        """Add a window that was closed after those so far, of its Linears and norms.

        Args:
            facts: which window it is.
            tables: what was measured in it.
            number: its number in the run; by default it is the one behind those so far.
        """
        tables = tables.of_default_kinds
        steps = {"first_step": facts["first_step"], "last_step": facts["last_step"]}
        number = self._count if number is None else number
        of: dict[str, Any] = {"window": number, "phase": facts["phase"], **steps}
        self._count += 1
        self._windows.append({**of, "forwards": facts["forwards"]})
        self._sites.append(_site_rows(tables) | {name: [of[name]] * len(tables.sites) for name in of})
        if not tables.parameter_moments.empty:
            self._parameters.append(tables.parameters.assign(**of))
        self._count_dead(facts["phase"], tables)

    def extend(self, later: History, numbers: Sequence[int]) -> None:
        """Add windows that were closed after those so far, whose history is known.

        Args:
            later: it.
            numbers: the number in the run of each of its windows.
        """
        self._count += len(numbers)
        of = np.array(numbers, np.int64)
        windows = later.windows.assign(window=of[later.windows["window"]])
        self._windows += [{str(name): row[name] for name in row} for row in windows.to_dict("records")]
        rows = {str(name): later.sites[name].to_numpy() for name in later.sites}
        self._sites.append(rows | {"window": of[rows["window"]]})
        if not later.parameters.empty:
            of_each = of[later.parameters["window"].to_numpy()]
            self._parameters.append(later.parameters.assign(window=of_each))
        for key, streak in later.dead.items():
            before, count = self._dead.get(key), later.measured[key]
            if before is None or len(before) != len(streak):
                # Another number of features is another model or input: what was counted of it does not go on.
                before = np.zeros_like(streak)
            # Zero in every one of its windows goes on with what was before them.
            self._dead[key] = np.where(streak == count, before + streak, streak)
            self._measured[key] = self._measured.get(key, 0) + count

    def history(self) -> History:
        """All windows so far."""
        self._windows = self._windows[-self.most :] if self.most is not None else self._windows
        first = self._count - len(self._windows)
        # One frame from many, so that the next call has few to join.
        added = _in_order(pd.DataFrame({name: _column(name, self._sites) for name in _SITES}))
        every = added if self._before is None else pd.concat([self._before, added], ignore_index=True)
        self._before, self._sites = _since(first, every), []
        self._parameters = [_since(first, _in_order(_joined(self._parameters)))]
        windows = _in_order(pd.DataFrame(self._windows, columns=[*_OF_WINDOW, "forwards"]))
        return History(windows, self._before, self._parameters[0], dict(self._dead), dict(self._measured))

    def _count_dead(self, phase: str, tables: Tables) -> None:
        features, widths = tables.feature_moments, tables.sites["n_features"].to_numpy()
        count = features["count"].to_numpy()
        # Without a finite value a feature is not dead but unknown.
        dead = (features["zeros"].to_numpy() == count) & (count > 0)
        ends = np.cumsum(widths)
        names = zip(tables.sites["layer"], tables.sites["site"], strict=True)
        for (layer, site), end, width in zip(names, ends, widths, strict=True):
            if site == INPUT:
                before = self._dead.get((phase, str(layer)))
                streak = np.zeros(width, np.int64) if before is None or len(before) != width else before
                self._dead[phase, str(layer)] = np.where(dead[end - width : end], streak + 1, 0)
                self._measured[phase, str(layer)] = self._measured.get((phase, str(layer)), 0) + 1


def history_of(windows: Iterable[tuple[WindowFacts, Tables]]) -> History:
    """The history of windows in order."""
    builder = HistoryBuilder()
    for facts, tables in windows:
        builder.add(facts, tables)
    return builder.history()


@cached
def history(tables: Tables) -> History:
    """The windows of a recording; of tables that stand for themselves one, over all that they hold."""
    if tables.history_source is None:
        return history_of_tables(tables)
    found: History = tables.history_source()
    return found


def history_of_tables(tables: Tables) -> History:
    """The history of a recording by itself: of one window, that over all that it holds."""
    facts = windows_of(tables)
    if not facts:
        return history_of([])
    # One row can have one phase: that of the window with most forwards. Copied, for it is changed below.
    whole = max(facts, key=lambda window: window["forwards"]).copy()
    whole["first_step"] = min(window["first_step"] for window in facts)
    whole["last_step"] = max(window["last_step"] for window in facts)
    return history_of([(whole, tables)])


def _site_rows(tables: Tables) -> dict[str, Any]:
    """What is held of each site of a window, column by column: a frame takes longer than all else."""
    sites = tables.sites
    # Squares of numbers near the largest of all overflow: the variance is infinite, and said to be.
    with np.errstate(over="ignore", invalid="ignore"):
        total, _ = pooled(moments_of(tables.feature_moments), sites["n_features"].to_numpy())
    facts = ("kind", "training", "statistics")
    ledger = tables.ledger_base
    known = dict(zip(ledger["layer"], zip(*(ledger[name] for name in facts), strict=True), strict=True))
    layers = [str(name) for name in sites["layer"]]
    rows = {
        **{"layer": layers, "site": [str(name) for name in sites["site"]]},
        "kind": [str(known[name][0]) for name in layers],
        **{name: sites[name].to_numpy() for name in ("depth", "n_features", "n_samples")},
        **{name: getattr(total, name) for name in _MOMENTS},
        "nonfinite": total.nonfinite,
        "trains": ["train" in known[name][1] and known[name][2] != "running" for name in layers],
    }
    return rows | _lag(tables, rows)


def _lag(tables: Tables, rows: Mapping[str, Any]) -> dict[str, Any]:
    """How far batch norms lie from their running statistics."""
    columns = ("running_shift", "running_ratio")
    if "batch_norm" not in rows["kind"]:
        return {name: np.full(len(rows["kind"]), np.nan) for name in columns}
    index = pd.MultiIndex.from_arrays([rows["layer"], rows["site"]], names=SITE_KEY)
    measured = running_measures(tables)
    return {name: measured[name].reindex(index).to_numpy(np.float64) for name in columns}


def _column(name: str, rows: Sequence[Mapping[str, Any]]) -> Any:
    """A column of all windows, one behind the other."""
    return np.concatenate([np.asarray(row[name]) for row in rows]) if rows else []


def _in_order(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows in order of windows: one that was begun earlier may have been closed later."""
    if frame.empty or frame["window"].is_monotonic_increasing:
        return frame
    # Stable, so that the layers of a window stay in order of execution.
    return frame.sort_values("window", kind="stable", ignore_index=True)


def _since(first: int, frame: pd.DataFrame) -> pd.DataFrame:
    """The rows from a window on."""
    if frame.empty or frame["window"].iloc[0] >= first:
        return frame
    return frame[frame["window"] >= first].reset_index(drop=True)


def _joined(frames: list[pd.DataFrame]) -> pd.DataFrame:
    # Before pandas 3 an empty frame has a say in the dtypes of what it is joined to.
    filled = [frame for frame in frames if not frame.empty]
    return pd.concat(filled, ignore_index=True) if filled else pd.DataFrame()
