"""Numbers and histograms of a recording, under stable names, as every experiment tracker takes them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from normprobe.errors import NormprobeError, NoSamplesError
from normprobe.findings import series
from normprobe.tables.unmeasured import check_measured
from normprobe.vocabulary import GRADIENT_SITES, INPUT, NORM_KINDS, OUTPUT

if TYPE_CHECKING:
    from normprobe.recording import Recording

__all__ = ["histograms", "scalars"]

PREFIX = "normprobe"
COUNTS = ("error", "warning")
"""The severities of findings that are counted."""

OF_OUTLIERS = ("abs_max", "feature_ratio")

Key = tuple[str, str, str]
"""What a number is of: layer, site or parameter, and measure."""


def scalars(recording: Recording, limit: int | None = 50) -> dict[str, float]:
    """The numbers of a recording that deserve a chart, those that stand out first.

    >>> wandb.log(normprobe.scalars(recording))
    >>> for name, value in normprobe.scalars(recording).items():
    ...     writer.add_scalar(name, value, step)

    First how many findings and how many NaN and Inf there are; then what findings rest on, errors first; then
    layers with outlier features; then, spread over the depth of the model, the variance before and after each
    layer, that of its gradients, and the ratio of updates to weights, where these were measured.

    Args:
        recording: of a run, or one of its windows.
        limit: how many at most; None for all.

    Returns:
        Numbers by name, such as ``normprobe/encoder.0.norm/input/variance``: the measure is a column of
        ``layers``, of ``parameters``, or what a finding names as its evidence. A number that is not finite is
        left out.

    Raises:
        NormprobeError: ``limit`` is no whole number.
        NoSamplesError: nothing was measured.
    """
    check_limit(limit)
    check_measured(recording.tables)
    numbers = Numbers(recording)
    found = numbers.counts()
    for key in numbers.ranked():
        value = numbers.of(key)
        # Trackers draw NaN as gaps or refuse it, and counts of NaN are a number of their own.
        if math.isfinite(value):
            found.setdefault(name_of(key), value)
    return dict(islice(found.items(), limit))


def histograms(
    recording: Recording, limit: int | None = 50, *, bins: int = 64
) -> dict[str, tuple[NDArray[np.int64], NDArray[np.float64]]]:
    """Histograms of what layers read and write, already binned: a tracker stores some numbers and no tensor.

    >>> for name, (counts, edges) in normprobe.histograms(recording).items():
    ...     run.log({name: wandb.Histogram(np_histogram=(counts, edges))})

    Of the raw rows that a recording keeps (``Probe(values=)``), so that they are a sample, as large for each
    site whatever the length of the run. NaN and Inf are in no bin; `scalars` counts them.

    Args:
        recording: of a run, or one of its windows.
        limit: how many at most, those that stand out first, as in `scalars`; None for all.
        bins: how many bins, all of one width.

    Returns:
        By name, such as ``normprobe/encoder.0.norm/input``: counts, shape (bins,), and edges, shape
        (bins + 1,).

    Raises:
        NormprobeError: ``limit`` or ``bins`` is no whole number of at least 1.
        NoSamplesError: nothing was measured.
    """
    check_limit(limit)
    check_limit(bins, "bins")
    check_measured(recording.tables)
    sites = dict.fromkeys((layer, site) for layer, site, _ in Numbers(recording).ranked())
    made = (
        ("/".join(filter(None, (PREFIX, *key))), np.histogram(values, bins))
        for key in sites
        if len(values := _kept_values(recording, *key))
    )
    return dict(islice(made, limit))


def check_limit(limit: int | None, name: str = "limit") -> None:
    """Raise NormprobeError if a limit is neither None nor a whole number of at least 1."""
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
        raise NormprobeError(f"{name} must be a whole number of at least 1, got {limit!r}")


def name_of(key: Key, phase: str = "") -> str:
    """The name that a number is logged under."""
    return "/".join(filter(None, (PREFIX, phase, *key)))


class Numbers:
    """The numbers of one recording: which stand out, and each by its key."""

    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        self._held: dict[tuple[str, str], dict[str, float]] = {}

    def counts(self, phase: str = "") -> dict[str, float]:
        """How many findings there are of each severity that is counted, and how many NaN and Inf."""
        found = self._recording.findings()["severity"].value_counts()
        nonfinite = self._recording.tables.layers["nonfinite"].sum()
        names = [("findings", severity, "") for severity in COUNTS]
        return {
            **{name_of(key, phase): float(found.get(key[1], 0)) for key in names},
            name_of(("nonfinite", "", ""), phase): float(nonfinite),
        }

    def of(self, key: Key) -> float:
        """A number by its key; NaN where it was not measured."""
        layer, site, measure = key
        if (site, measure) not in self._held:
            self._held[site, measure] = self._measured(site, measure)
        return self._held[site, measure].get(layer, math.nan)

    def ranked(self) -> Iterator[Key]:
        """The keys of what is worth a chart, the most telling first; one may come twice."""
        for finding in self._recording.findings().itertuples():
            site, _, measure = str(finding.evidence).partition(":")
            yield str(finding.layer), site, measure
        for outlier in self._recording.outliers().drop_duplicates("layer").itertuples():
            yield from (
                (str(outlier.layer), str(outlier.site), name) for name in ("abs_max", "feature_ratio")
            )
        layers, parameters = self._recording.tables.layers, self._recording.parameters
        sites = [name for name in (INPUT, OUTPUT, *GRADIENT_SITES) if (layers["site"] == name).any()]
        kinds = layers.sort_values("depth", kind="stable").drop_duplicates("layer").set_index("layer")["kind"]
        for layer in _norms_between([str(name) for name in kinds.index], kinds.isin(NORM_KINDS)):
            yield from ((layer, site, "variance") for site in sites)
            own = parameters.loc[parameters["layer"] == layer, "parameter"]
            yield from ((layer, str(name), "update_ratio") for name in own)

    def _measured(self, site: str, measure: str) -> dict[str, float]:
        """A measure at a site, or of a parameter, by layer."""
        layers, parameters = self._recording.tables.layers, self._recording.parameters
        at_site, of_parameter = layers["site"] == site, parameters["parameter"] == site
        if measure in layers and at_site.any():
            return _by_layer(layers[at_site], measure)
        if measure in parameters and of_parameter.any():
            return _by_layer(parameters[of_parameter], measure)
        try:
            return _by_layer(series(self._recording.tables.activations, f"{site}:{measure}"), "value")
        except NormprobeError:  # of what this recording does not have
            return {}


def _by_layer(rows: pd.DataFrame, column: str) -> dict[str, float]:
    # Of nullable columns pandas would give objects without a value for what is missing.
    numbers = rows[column].to_numpy(np.float64, na_value=np.nan)
    return dict(zip(rows["layer"].astype(str), numbers.tolist(), strict=True))


def _norms_between(layers: list[str], is_norm: pd.Series) -> list[str]:
    """Layers in an order of which every beginning is spread over the depth, a norm and another in turn."""
    norms, others = (
        [layers[i] for i in _spread(np.flatnonzero(mask))]
        for mask in (is_norm.to_numpy(), ~is_norm.to_numpy())
    )
    paired = [layer for pair in zip(norms, others, strict=False) for layer in pair]
    return paired + norms[len(others) :] + others[len(norms) :]


def _spread(places: NDArray[np.int64]) -> list[int]:
    """Places in the order of the reversed bits of their number: first, middle, quarters (van der Corput)."""
    width = max(len(places) - 1, 1).bit_length()
    order = sorted(range(len(places)), key=lambda i: int(f"{i:0{width}b}"[::-1], 2))
    return [int(places[i]) for i in order]


def _kept_values(recording: Recording, layer: str, site: str) -> NDArray[np.float64]:
    """The finite numbers of the rows that are kept of a site; empty where none are."""
    try:
        values = recording.values(layer, site)
    except NoSamplesError:
        return np.empty(0)
    return values[np.isfinite(values)]
