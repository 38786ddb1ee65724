"""What the user holds: the tables with their verbs."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from normprobe.errors import RecordingError, names_checked, warn
from normprobe.tables.export import write_csv, write_parquet, write_tables
from normprobe.tables.frames import Tables
from normprobe.tables.further_tables import FurtherTables
from normprobe.tables.measures.outliers import LEAST, ROWS, SHARE, TIMES, outlier_table
from normprobe.tables.measures.recorded_blocks import RecordedBlocks
from normprobe.tables.merging.checks import different_weights, nothing_measured
from normprobe.tables.merging.merge import merge_tables
from normprobe.tables.number_formats.recorded import RecordedDistributions
from normprobe.tables.one_layer import OneLayer
from normprobe.tables.storage import load_tables, save_tables
from normprobe.tables.unmeasured import check_measured
from normprobe.windows.file_names import holds_windows
from normprobe.windows.folder import WindowFolder
from normprobe.windows.over_time import OverTime
from normprobe.windows.series import WindowSeries

if TYPE_CHECKING:
    from normprobe.figures import RecordingFigures
    from normprobe.report import Summary
    from normprobe.tables.quantizer_files import Export

__all__ = ["Recording", "load", "merge"]


class Recording(OverTime, RecordedDistributions, FurtherTables, RecordedBlocks):
    """Everything one probe measured, frozen; made by `Probe`, `record`, `load` and `merge`."""

    @property
    def tables(self) -> Tables:
        """The frames behind the verbs."""
        return self._tables

    @property
    def layers(self) -> pd.DataFrame:
        """A row per layer and site (and group) that fired, in order of first execution."""
        return self._tables.public("layers")

    @property
    def features(self) -> pd.DataFrame:
        """A row per layer, site and feature; where the probe was given ``groups``, one for each of them."""
        return self._tables.public("features")

    @property
    def samples(self) -> pd.DataFrame:
        """A row per layer, site and kept sample."""
        return self._tables.samples

    @property
    def ledger(self) -> pd.DataFrame:
        """A row per layer: fired, unmeasured, never fired, bypassed or refused, and why."""
        return self._tables.ledger

    @property
    def meta(self) -> dict[str, Any]:
        """Model, data, counts, options and versions."""
        return self._tables.meta

    def values(self, layer: str, site: str) -> NDArray[np.float64]:
        """The raw rows of some kept samples, in order of hash, the same samples at both sites.

        Args:
            layer: qualified name.
            site: "input", "output", or a further site that was measured.

        Returns:
            float64, shape (rows, features).

        Raises:
            NoSamplesError: nothing is kept under these names.
        """
        return self._tables.values(layer, site)

    def __getitem__(self, layer: str) -> OneLayer:
        """One layer: its rows of every table.

        >>> recording["bn1"]                     # mean and variance before and after it
        >>> recording["bn1"].features            # channel by channel

        Raises:
            NoLayersError: the recording has no layer of this name; the message has close ones.
        """
        return OneLayer(self._tables, layer)

    def __iter__(self) -> Iterator[str]:
        """The names of all layers, fired or not, in order of definition."""
        return iter(self._tables.ledger["layer"].tolist())

    def __len__(self) -> int:
        """How many layers were probed, fired or not."""
        return len(self._tables.ledger_base)

    def __contains__(self, layer: object) -> bool:
        """Whether a layer of this name was probed."""
        return layer in self._tables.ledger["layer"].tolist()

    @property
    def figures(self) -> RecordingFigures:
        """The figures of the report, each a method: ``recording.figures.depth_profile()`` is a Figure."""
        from normprobe.figures import RecordingFigures  # which loads matplotlib

        return RecordingFigures(self._tables.activations)

    def findings(self, checks: Any = None) -> pd.DataFrame:
        """What is worth a person's attention, a row each, errors first.

        Args:
            checks: which to run, as objects with thresholds of your own or by name, one or several; by
                default all of `normprobe.findings`.

        Raises:
            NoSamplesError: nothing was measured, of which no finding would look like health.
            NormprobeError: a name is not that of a check, or something is neither a name nor a check.
        """
        from normprobe.findings import find  # imported here: loading a recording takes no checks

        check_measured(self._tables)
        # A copy: what is kept is for report and export, too.
        return self._found.copy() if checks is None else find(self._tables.activations, checks)

    @names_checked
    def outliers(
        self, *, least: float = LEAST, times: float = TIMES, share: float = SHARE, rows: int = ROWS
    ) -> pd.DataFrame:
        """The features far above the others, which make 8-bit quantization hard: a row per layer and feature.

        The rule and its defaults are those of the check ``outlier_features``, which names the worst that is
        listed here at an input.

        Args:
            least: an outlier reaches at least this |value|,
            times: and this times the median feature's largest |value| at the same site,
            share: and at most this share of the site's features (one at least) does.
            rows: fewest values of a feature, such as tokens: the largest of fewer says little.

        Returns:
            layer, site, feature, abs_max, ratio (to the median feature), written_by (the layer that wrote it;
            empty where an operation between layers did) and kind, in order of execution, largest ratio first.
            Where no feature has ``rows`` values ``attrs["note"]`` says so; else it is "".

        Raises:
            NormprobeError: a limit is no number, is negative, or ``share`` is above 1.
        """
        return outlier_table(self._tables.activations, least=least, times=times, share=share, rows=rows)

    @cached_property
    def _found(self) -> pd.DataFrame:
        """The findings of all checks: the tables are frozen, and report, export and display all ask.

        None where nothing was measured: what is shown and written says so itself.
        """
        from normprobe.findings import find

        return find(self._tables.activations)

    def summary(self, checks: Any = None) -> Summary:
        """What `normprobe report` prints: what ran, notes, findings with advice, layers that stand out.

        >>> print(recording.summary())

        Args:
            checks: those whose findings are shown, as for `findings`.

        Returns:
            An object that prints as this text, and shows it in a notebook. On a terminal it fits the width;
            elsewhere nothing is cut or wrapped.

        Raises:
            NoSamplesError: nothing was measured.
            NormprobeError: a name is not that of a check, or something is neither a name nor a check.
        """
        from normprobe.report import Summary, terminal_text

        check_measured(self._tables)
        findings = self.findings(checks)
        return Summary(
            lambda width, unicode: terminal_text(
                self._tables.activations, findings, width=width, unicode=unicode, notes=True
            )
        )

    def to_csv(self, directory: str | Path) -> list[Path]:
        """Write layers, features, samples, ledger, findings and outliers as CSV files; return their paths.

        Raises:
            RecordingError: the directory cannot be written.
        """
        return write_csv(self._frames(), directory)

    def to_parquet(self, directory: str | Path) -> list[Path]:
        """Write the same six tables as Parquet files; return their paths.

        Raises:
            RecordingError: the directory cannot be written.
        """
        return write_parquet(self._frames(), directory)

    def export(self, path: str | Path, format: str) -> Export:  # noqa: A002 - the word for it
        """Write statistics of the Linear layers as a file that a quantizer reads.

        Padding is left out where the model was given a mask. Layers that did not fire, or that met NaN or
        Inf, are not in the file; what is returned names them.

        >>> print(recording.export("scales.pt", format="act-scales"))

        Args:
            path: the file; replaced at once or not at all.
            format: "act-scales" (largest |x| of each input feature; SmoothQuant, OmniQuant), "awq" (mean of
                |x|), "llm-compressor" (what its observers hold), "imatrix" (sums of x², GGUF; llama.cpp) or
                "imatrix-dat" (the same in the format before GGUF).

        Returns:
            The file, and what it lacks; prints as sentences.

        Raises:
            NormprobeError: ``format`` is none of these.
            NoSamplesError: nothing was measured.
            RecordingError: no layer can be in the file, a number is beyond float32, llama.cpp has no names
                for the model's weights, the package ``gguf`` is missing, or the file cannot be written.
        """
        from normprobe.tables.quantizer_files import write_export  # what it needs is needed here alone

        return write_export(self._tables, path, format)

    @names_checked
    def report(
        self,
        directory: str | Path = "report",
        *,
        panels: str | None = None,
        tables: str = "auto",
        checks: Any = None,
    ) -> Path:
        """Write report.html, its figures as PNG and SVG, and the tables.

        A report of another model in the same folder is replaced, and a warning says so.

        Args:
            directory: made if it does not exist; files of others in it stay.
            panels: "all" draws a before/after panel for every norm; by default up to 64 norms that stand out
                have one in the page, and "files" also writes each of these as PNG.
            tables: "csv", "parquet" or "none"; "auto" writes the two large ones, features and samples, as
                Parquet, the others as CSV.
            checks: those whose findings are reported, as for `findings`.

        Returns:
            The path of report.html; a notebook shows it as a link.

        Raises:
            NormprobeError: ``panels`` or ``tables`` is none of these, or a name is not that of a check.
            NoSamplesError: nothing was measured.
            RecordingError: the directory cannot be written.
        """
        # Loads templates, which loading and merging do without.
        from normprobe.report import (
            PagePath,
            check_choice,
            earlier_report,
            remove_tables,
            replaced,
            write_report,
        )

        check_choice(panels)
        # Before any file: tables without rows would look like a result.
        check_measured(self._tables)
        earlier = earlier_report(Path(directory))
        findings = self.findings(checks)
        # First, as the page names the tables beside it.
        written = write_tables(self._frames(findings), directory, tables)
        beside = [path.name for path in written]
        page = write_report(self._tables.activations, findings, Path(directory), panels=panels, beside=beside)
        remove_tables(Path(directory), earlier, beside)
        if said := replaced(earlier, str(self._tables.facts["name"])):
            warn(f"{said} in {directory}")
        return PagePath(page)

    def save(self, path: str | Path, *, labels: bool = False) -> Path:
        """Save as one zip file of Parquet tables and JSON.

        Args:
            path: the file, by custom ending in `.normprobe`; replaced at once or not at all.
            labels: also save the texts of samples.

        Raises:
            RecordingError: the file cannot be written.
        """
        return save_tables(self._tables, path, labels=labels)

    def annotate(self, **facts: Any) -> Recording:
        """The same recording with facts for people reading: name, data, unit, example_unit, ...

        Raises:
            RecordingError: JSON cannot hold a fact, or merging rests on it.
        """
        return Recording(self._tables.annotate(facts), self._series)

    def _frames(self, findings: pd.DataFrame | None = None) -> dict[str, pd.DataFrame]:
        """What is exported, by the stem of its file."""
        tables = self._tables
        frames = {name: tables.public(name) for name in ("layers", "features", "samples", "ledger")}
        findings = self._found if findings is None else findings
        further = ("parameters", "experts", "quantiles")
        frames |= {name: table for name in further if len(table := getattr(tables, name))}
        return {**frames, **self._block_frames(), "findings": findings, "outliers": self.outliers()}

    def __repr__(self) -> str:
        """One line: layers by kind, samples, findings."""
        from normprobe.report import one_line

        return one_line(self._tables, self._found)

    def _repr_html_(self) -> str:
        """The cell that a notebook shows."""
        from normprobe.report import notebook_html

        return notebook_html(self._tables.activations, self._found)


def load(path: str | Path) -> Recording:
    """Load a recording that `Recording.save` wrote, or the windows of a run; runs no code from the file.

    Args:
        path: the file; or the folder that ``Probe(out=)`` wrote to, also of a run that was killed or goes on.

    Raises:
        RecordingError: the file is missing, damaged, foreign, too large, or of a newer format.
    """
    if holds_windows(path):
        folder = WindowFolder(path)
        return Recording.of_windows(WindowSeries(folder.windows(), folder.rollups()))
    return Recording(load_tables(Path(path)))


def merge(
    *recordings: Recording,
    on_different_weights: Literal["error", "warn"] = "warn",
    on_same_data: Literal["error", "count_once"] = "error",
) -> Recording:
    """Merge recordings of parts of the data into the recording of the whole.

    Recordings of the same data, known by a digest, never count twice. Copies, as of a task that was tried
    again, count once, and ``meta["replicas"]`` names them; shares of a layer's features, as tensor-parallel
    processes have them, are put side by side, and shares of its samples add up.

    Recordings of different weights are merged, and their means and variances are of none of them. A warning
    says so, and of recordings in which nothing was measured that they add nothing; it is in
    ``meta["warnings"]`` as well.

    Args:
        recordings: of one model, each of another part of the data.
        on_different_weights: "error" refuses recordings of different weights, as ``normprobe merge`` does
            without ``--force``.
        on_same_data: what becomes of recordings of the same data that differ, and of which nothing says that
            each is a share: "error" refuses them, "count_once" counts the first by the name of its part.

    Raises:
        RecordingError: there is none, one of them is no recording, a part occurs twice, they are of different
            models or options, of different weights where these are to be refused, or of the same data and do
            not go together.
    """
    if not recordings:
        raise RecordingError("merge needs at least one recording")
    for recording in recordings:
        if not isinstance(recording, Recording):
            raise RecordingError(
                f"merge takes recordings, got {type(recording).__name__}; "
                "load files first, and unpack a list: merge(*recordings)"
            )
    if on_different_weights not in ("error", "warn"):
        raise RecordingError(f"on_different_weights must be 'error' or 'warn', got {on_different_weights!r}")
    if on_same_data not in ("error", "count_once"):
        raise RecordingError(f"on_same_data must be 'error' or 'count_once', got {on_same_data!r}")
    parts = [recording.tables for recording in recordings]
    merged = merge_tables(parts, on_same_data)
    differ = different_weights(parts)
    if differ and on_different_weights == "error":
        raise RecordingError(
            f"{differ}; --force merges them all the same (in Python on_different_weights='warn')"
        )
    if differ:
        warn(differ)
    # Of the latter a note alone: a rank without data is an ordinary part.
    said = [text for text in (differ, nothing_measured(parts)) if text]
    series = WindowSeries.joined(recordings)
    warnings = sorted({*merged.facts["warnings"], *said})
    return Recording(merged.annotate({"warnings": warnings}) if said else merged, series)
