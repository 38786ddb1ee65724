"""What a recording shows over time: its windows, one of them, and a table of all."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Self

import pandas as pd

from normprobe.errors import names_checked
from normprobe.tables.frames import Tables
from normprobe.windows.series import WindowSeries


class OverTime:
    """Tables, and the windows that they are the merge of; a recording is one."""

    def __init__(self, tables: Tables, series: WindowSeries | None = None) -> None:
        self._series = WindowSeries.of(tables) if series is None else series
        source = partial(self._series.history, replace(tables, history_source=None))
        self._tables = replace(tables, history_source=source)

    @classmethod
    def of_windows(cls, series: WindowSeries) -> Self:
        """Those of a run with these windows."""
        return cls(series.merged(), series)

    @property
    def series(self) -> WindowSeries:
        """The windows behind `windows`, `window` and `over_time`."""
        return self._series

    @property
    def ungrouped(self) -> Self:
        """The recording of all samples together, as a probe without ``groups`` has it; else this very one.

        What is said of a recording (findings, figures, the report, `compare`, exports) rests on this.
        """
        return (
            type(self)(self._tables.ungrouped, self._series.ungrouped()) if self._tables.is_grouped else self
        )

    @property
    def windows(self) -> pd.DataFrame:
        """A row per window of the run, in order: window, phase, first_step, last_step, forwards, file.

        The tables of the recording are the exact merge of its windows, kept samples included. Steps are those
        that `Probe.step` was given; where it was not called, a step is a forward, by its running number.
        """
        return self._series.frame

    def window(self, number: int) -> Self:
        """One window as a recording of its own, by its number in `windows`.

        Raises:
            RecordingError: there is no such window, or it was merged with others before it was saved.
        """
        return type(self)(self._series.tables(number))

    @names_checked
    def over_time(self, table: str, *, phase: str | None = None) -> pd.DataFrame:
        """A table of every window, one after another, with its steps.

        >>> layers = recording.over_time("layers", phase="train")
        >>> layers.query("layer == 'norm' and site == 'input'").plot("last_step", "variance")

        Args:
            table: "layers", "features", "samples", "ledger", "parameters" or "quantiles".
            phase: the windows of one phase; by default of all.

        Returns:
            The table with the columns window, phase, first_step and last_step in front.

        Raises:
            RecordingError: there is no such table or phase, or the windows were merged before they were
                saved.
        """
        return self._series.over_time(table, phase)
