"""What the user holds after a comparison: its tables with their verbs."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from normprobe.divergence.as_findings import findings_of
from normprobe.divergence.differences import LEVEL, Differences, differences
from normprobe.divergence.verdict import Divergence, first_divergence, sentences, verdict_code
from normprobe.errors import RecordingError
from normprobe.tables.export import write_csv

if TYPE_CHECKING:
    from normprobe.recording import Recording


class Comparison:
    """Where two models differ, frozen; made by `compare` and `compare_live`.

    `print(comparison)` writes it in sentences.
    """

    def __init__(self, found: Differences) -> None:
        self._found = found

    @property
    def differences(self) -> Differences:
        """The frames behind the verbs."""
        return self._found

    @property
    def layers(self) -> pd.DataFrame:
        """A row per matched layer and site, in the first model's order of execution.

        Columns: see `normprobe.divergence.LAYERS`. `error_db` is noise power over signal power, the negative
        of SQNR; `inherited_db` and `introduced_db` say how much of it comes in and how much arises there.
        """
        return self._found.layers.copy()

    @property
    def unmatched(self) -> pd.DataFrame:
        """A row per layer that is not compared, and why: of, layer, reason."""
        return self._found.unmatched.copy()

    @property
    def causes(self) -> pd.DataFrame:
        """What of the layers' own differs, whatever comes of it: a row per layer and thing that differs.

        Columns: see `normprobe.divergence.CAUSES`: layer, layer_b, what (eps, scale, shift, running mean,
        running variance, mode, dtype, ...), a, b, said. Recordings hold no weights of Linear layers: of these
        `compare_live` says whether they differ.
        """
        return self._found.causes.copy()

    @property
    def meta(self) -> dict[str, Any]:
        """Names, data, dtypes and counts of the two."""
        return dict(self._found.facts)

    @cached_property
    def first_divergence(self) -> Divergence | None:
        """The first place that differs beyond the noise; None if the two are equal up to it."""
        return first_divergence(self._found)

    @property
    def verdict(self) -> str:
        """The answer in one sentence or two."""
        return sentences(self._found)[0]

    @property
    def verdict_code(self) -> str:
        """The answer for programs, one of `normprobe.divergence.VERDICTS`; ``differs`` or why it does not."""
        return verdict_code(self._found)

    def findings(self) -> pd.DataFrame:
        """What is worth a person's attention, a row each, with the columns of `Recording.findings`."""
        return findings_of(self._found)

    def to_csv(self, directory: str | Path) -> list[Path]:
        """Write comparison.csv, unmatched.csv and comparison_findings.csv; return their paths.

        Raises:
            RecordingError: the directory cannot be written.
        """
        frames = {
            "comparison": self._found.layers,
            "unmatched": self._found.unmatched,
            "comparison_findings": self.findings(),
        }
        return write_csv(frames, directory)

    def report(self, directory: str | Path) -> Path:
        """Write comparison.html, its figure as PNG and SVG, and the CSV files.

        Args:
            directory: made if it does not exist; other files in it stay.

        Returns:
            The path of comparison.html; a notebook shows it as a link.

        Raises:
            RecordingError: the directory cannot be written.
        """
        # Loads templates, which comparing does without.
        from normprobe.report import PagePath, write_comparison

        self.to_csv(directory)
        return PagePath(
            write_comparison(self._found, sentences(self._found), self.findings(), Path(directory))
        )

    def __str__(self) -> str:
        return "\n".join(sentences(self._found))

    def __repr__(self) -> str:
        return f"<Comparison: {self.verdict}>"


def compare(a: Recording, b: Recording, *, same_data: bool | None = None, level: float = LEVEL) -> Comparison:
    """Find where two recordings differ first: two models, checkpoints, precisions or implementations.

    >>> comparison = normprobe.compare(normprobe.record(a, batches), normprobe.record(b, batches))
    >>> print(comparison)
    >>> comparison.first_divergence.layer

    Recordings of the same data (recordings know: equal fingerprints) are compared sample by sample, and only
    rounding is forgiven. Of other data the moments are compared, and what drawing other examples would give
    is forgiven; then a recording of a few hundred examples is needed to see anything but a large difference.

    Args:
        a: the first recording, against which errors are measured.
        b: the second.
        same_data: True or False where the recordings cannot know: the same images in another order of
            bytes, or the same data merged from other parts, of which only the moments then compare.
        level: for other data, how often a comparison of one model with itself may name any layer.

    Raises:
        NoSamplesError: nothing was measured in one of them.
        NormprobeError: ``level`` is no probability.
        RecordingError: they are no recordings, no layer can be matched, or the same data are claimed of
            different numbers of examples.
    """
    for given in (a, b):
        if not hasattr(given, "tables"):
            raise RecordingError(
                f"compare takes two recordings, got {type(given).__name__}; load files first, and "
                "record models on the same batches or pass them to compare_live"
            )
    return Comparison(differences(a.tables, b.tables, same_data=same_data, level=level))
