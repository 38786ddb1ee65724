"""What the user holds after a comparison: its tables with their verbs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from normprobe.divergence import StoredTensors, document, error_above, finding_changes
from normprobe.divergence.as_findings import findings_of
from normprobe.divergence.differences import LEVEL, Differences, differences
from normprobe.divergence.verdict import Divergence, first_divergence, sentences, verdict_code
from normprobe.errors import RecordingError, warn
from normprobe.tables.export import write_csv

if TYPE_CHECKING:
    from normprobe.recording import Recording
    from normprobe.report import Summary


class Comparison:
    """Where two models differ, frozen; made by `compare` and `compare_live`.

    `print(comparison)` writes it in sentences.
    """

    def __init__(self, found: Differences, recordings: tuple[Recording, Recording] | None = None) -> None:
        self._found = found
        self._recordings = recordings

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

    def finding_changes(self) -> pd.DataFrame:
        """What became of the first recording's findings in the second: better, or worse?

        Returns:
            The second's findings, with a last column ``change`` that says whether they are new or known; then
            the first's that are gone.

        Raises:
            RecordingError: it is a comparison of `compare_live`, which keeps no recordings.
        """
        if self._recordings is None:
            raise RecordingError(
                "compare_live keeps no recordings, so there are no findings of the two; record both on the "
                "same batches and pass the recordings to compare"
            )
        a, b = self._recordings
        return finding_changes(self._found, a.findings(), b.findings())

    def fails(self, *, above: float | None = None) -> bool:
        """Whether the two differ too much.

        Args:
            above: the largest error at a layer's output that is allowed, in dB, such as -30; None allows none
                beyond the noise.

        Raises:
            NormprobeError: ``above`` is no number.
        """
        if above is None:
            return self.first_divergence is not None
        return bool(error_above(self._found, above))

    def to_dict(self, **facts: Any) -> dict[str, Any]:
        """The comparison for programs, as JSON holds it; docs/outputs.md lists what is in it.

        Args:
            facts: what else it is to hold.
        """
        changed = None if self._recordings is None else self.finding_changes()
        return document(self._found, self.findings(), changed, facts)

    def to_json(self, **facts: Any) -> str:
        """The same as the text of one JSON document."""
        return json.dumps(self.to_dict(**facts), indent=2, ensure_ascii=False, allow_nan=False)

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

    def summary(self) -> Summary:
        """What `normprobe compare` prints: the answer, what it rests on, and the layers that matter.

        Returns:
            An object that prints as this text, and shows it in a notebook.
        """
        from normprobe.report import Summary, comparison_text

        found, said = self._found, sentences(self._found)
        changed = None
        if self._recordings is not None:
            changed = self._recordings[1].tables, self.finding_changes()
        return Summary(
            lambda width, unicode: comparison_text(found, said, width=width, unicode=unicode, changed=changed)
        )

    def report(self, directory: str | Path = "comparison") -> Path:
        """Write comparison.html, its figure as PNG and SVG, and the CSV files.

        A report of another comparison in the same folder is replaced, and a warning says so.

        Args:
            directory: made if it does not exist; other files in it stay.

        Returns:
            The path of comparison.html; a notebook shows it as a link.

        Raises:
            RecordingError: the directory cannot be written.
        """
        # Loads templates, which comparing does without.
        from normprobe.report import (
            COMPARISON_PAGE,
            PagePath,
            comparison_title,
            earlier_report,
            replaced,
            write_comparison,
        )

        earlier = earlier_report(Path(directory), COMPARISON_PAGE)
        beside = [path.name for path in self.to_csv(directory)]
        said, findings = sentences(self._found), self.findings()
        page = write_comparison(self._found, said, findings, Path(directory), beside=beside)
        if note := replaced(earlier, comparison_title(self._found)):
            warn(f"{note} in {directory}")
        return PagePath(page)

    def __str__(self) -> str:
        return "\n".join(sentences(self._found))

    def __repr__(self) -> str:
        return f"<Comparison: {self.verdict}>"


def stored_tensors(model: Any) -> StoredTensors:
    """What a model stores in a few numbers a tensor, to compare with one that is not in memory at once.

    Args:
        model: an `nn.Module`.
    """
    from normprobe.capture.live_pairs.stored_tensors import stored_tensors as sketched

    return sketched(model)


def compare(
    a: Recording,
    b: Recording,
    *,
    same_data: bool | None = None,
    level: float = LEVEL,
    models: tuple[Any, Any] | None = None,
) -> Comparison:
    """Find where two recordings differ first: two models, checkpoints, precisions or implementations.

    >>> comparison = normprobe.compare(normprobe.record(a, batches), normprobe.record(b, batches))
    >>> print(comparison)
    >>> comparison.first_divergence.layer

    Recordings of the same data (recordings know: equal fingerprints) are compared sample by sample, and only
    rounding is forgiven. Of other data the moments are compared, and what chance would give
    is forgiven; then a recording of a few hundred examples is needed to see anything but a large difference.

    Args:
        a: the first recording, against which errors are measured.
        b: the second.
        same_data: True or False where the recordings cannot know: the same images in another order of
            bytes, or the same data merged from other parts, of which only the moments then compare.
        level: for other data, how often a comparison of one model with itself may name any layer.
        models: both models, if they are at hand: then their parameters and buffers are compared too, those of
            layers that are not measured (convolutions, embeddings) among them. Where the two do not fit into
            memory together, what `normprobe.comparison.stored_tensors` gives for each.

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
    stored = None
    if models is not None:
        of_a, of_b = (given if isinstance(given, Mapping) else stored_tensors(given) for given in models)
        stored = of_a, of_b
    found = differences(
        a.tables.activations, b.tables.activations, same_data=same_data, level=level, stored=stored
    )
    return Comparison(found, (a, b))
