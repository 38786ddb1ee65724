"""The table of how a format fits: room, what is lost at either end, scales and the noise of rounding."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from normprobe.errors import NormprobeError
from normprobe.kernels.distributions.bins import bin_edges
from normprobe.kernels.moments import Moments
from normprobe.tables.close_names import close_names
from normprobe.tables.columns.distributions import FIT, FIT_FEATURES
from normprobe.tables.columns.tables import shaped
from normprobe.tables.derive import fact, moments_of, starts
from normprobe.tables.distributions.bin_counts import counts_at
from normprobe.tables.number_formats.formats import FORMATS, NumberFormat
from normprobe.tables.number_formats.noise import noise_in_bins, noise_of_features
from normprobe.tables.number_formats.rounding import (
    Numbers,
    decibels,
    in_blocks,
    rounded,
    tensor_scale,
    value_scale,
)

if TYPE_CHECKING:
    from normprobe.tables.frames import Tables

BY = ("layer", "feature")

UNEVEN = 0.3
"""By how many dB an estimate from counts may be off because values lie unevenly in their bins."""

Counts = tuple[NDArray[np.int64], NDArray[np.int64]]
"""Bins that hold numbers, ascending, and how many each holds; both empty where none were counted."""


def fit_table(tables: Tables, format: str, by: str = "layer") -> pd.DataFrame:  # noqa: A002
    """A row per layer and site, or per feature, of how a format fits.

    Args:
        tables: of a recording.
        format: the name of one of `formats.FORMATS`.
        by: "layer" or "feature".

    Raises:
        NormprobeError: there is no such format, or ``by`` is neither.
    """
    form = FORMATS.get(format)
    if form is None:
        close = close_names(str(format), list(FORMATS))
        hint = f" (close: {', '.join(close)})" if close else ""
        raise NormprobeError(f"fit knows {', '.join(FORMATS)}, got {format!r}{hint}")
    if by not in BY:
        raise NormprobeError(f"by must be 'layer' or 'feature', got {by!r}")
    if by == "feature":
        frames = [pd.DataFrame(_of_features(site, form)) for site in _sites(tables)]
        empty = pd.DataFrame({name: [] for name in FIT_FEATURES})
        return shaped(pd.concat(frames) if frames else empty, FIT_FEATURES)
    rows = [_of_site(site, form) for site in _sites(tables)]
    return shaped(pd.DataFrame(rows, columns=list(FIT)), FIT)


@dataclass(frozen=True, eq=False)
class _Site:
    """What is recorded of one site.

    Attributes:
        names: its layer, kind and site.
        features: the moments of its features.
        counts: how many numbers lie in each bin.
        rows: the kept raw rows, shape (rows, features).
    """

    names: dict[str, str]
    features: Moments
    counts: Counts
    rows: Numbers

    @property
    def peaks(self) -> Numbers:
        """The largest magnitude of each feature; 0 of one without a finite value."""
        largest = np.maximum(np.abs(self.features.minimum), np.abs(self.features.maximum))
        found: Numbers = np.where(self.features.count > 0, largest, 0.0)
        return found

    @property
    def peak(self) -> float:
        """The largest magnitude."""
        return float(self.peaks.max(initial=0.0))

    @property
    def squares(self) -> Numbers:
        """The mean square of each feature."""
        variance = np.nan_to_num(self.features.variance)
        found: Numbers = variance + np.where(self.features.count > 0, self.features.mean, 0.0) ** 2
        return found

    def noise(self, form: NumberFormat, scale: Numbers) -> Numbers:
        """The mean square of the noise of each feature under scales."""
        variance = np.nan_to_num(self.features.variance)
        return noise_of_features(self.features.mean, variance, form, scale)

    def snr(self, noise: Numbers) -> float:
        """The ratio of signal to noise in dB over all features."""
        count = self.features.count
        return float(decibels((self.squares * count).sum(), (noise * count).sum()))


def _sites(tables: Tables) -> Iterator[_Site]:
    """What is recorded of each site."""
    sites, features = tables.sites, moments_of(tables.feature_moments)
    kinds = fact("kind", sites, tables.ledger_base)
    edges = starts(sites["n_features"])
    for place, (layer, site, kind) in enumerate(zip(sites["layer"], sites["site"], kinds, strict=True)):
        part = slice(edges[place], edges[place + 1])
        # At least 1, as reshape cannot tell how many rows of no features there are.
        rows = tables.values_at(place).astype(np.float64).reshape(-1, max(edges[place + 1] - edges[place], 1))
        # Rows with NaN or Inf say nothing of rounding.
        yield _Site(
            names={"layer": layer, "kind": kind, "site": site},
            features=features.map(lambda field, part=part: field[part]),
            counts=counts_at(tables.bin_counts, place),
            rows=rows[np.isfinite(rows).all(1)],
        )


def _of_site(site: _Site, form: NumberFormat) -> dict[str, Any]:
    """The row of one site."""
    peak, known = site.peak, bool(len(site.counts[0]))
    scale = float(tensor_scale(peak, form))
    one = value_scale(np.array([peak]), form)
    by_features = site.snr(site.noise(form, one))
    # A format of blocks has scales of blocks, and none of a channel.
    by_channels = np.nan if form.block else site.snr(site.noise(form, value_scale(site.peaks, form)))
    return {
        **site.names,
        "format": form.name,
        "count": site.features.count.sum(),
        "abs_max": peak if site.features.count.any() else np.nan,
        **_as_it_is(site, form),
        "scale": scale,
        "scaled_below_normal": _share_below(site.counts, form.smallest_normal * float(one[0])),
        # Half the smallest number is a tie, which goes to the even 0.
        "scaled_flushed": _share_below(site.counts, form.smallest / 2 * float(one[0])),
        **(_by_counts(site, form, float(one[0])) if known else _unbounded(by_features)),
        "channel_gain_db": by_channels - by_features,
        **_of_blocks(site, form),
    }


def _by_counts(site: _Site, form: NumberFormat, scale: float) -> dict[str, Any]:
    """The ratio of signal to noise as counts have it, and how far off it may be."""
    some = site.features.count > 0
    extremes = float(site.features.minimum[some].min()), float(site.features.maximum[some].max())
    noise, deviation = noise_in_bins(*site.counts, extremes, form, scale)
    signal = float((site.squares * site.features.count).sum())
    return {
        "snr_db": float(decibels(signal, noise)),
        # Twice the standard deviation, to first order.
        "snr_error_db": UNEVEN + (20 / np.log(10) * deviation / noise if noise > 0 else 0.0),
        "snr_from": "counts",
    }


def _unbounded(snr: float) -> dict[str, Any]:
    """A ratio that rests on a model of each feature: how far off it is depends on the data."""
    return {"snr_db": snr, "snr_error_db": np.nan, "snr_from": "features"}


def _as_it_is(site: _Site, form: NumberFormat) -> dict[str, Any]:
    """What a cast without a scale would do; unknown of formats that are never without one."""
    if form.block or form.is_integer:
        unknown = dict.fromkeys(("headroom", "overflow_share", "below_normal", "flushed"), np.nan)
        return {**unknown, "overflows": pd.NA}
    overflows = site.peak > form.largest
    # The largest value is known without counts: where it fits, all do.
    beyond = _share_above(site.counts, form.largest) if overflows else 0.0
    return {
        "headroom": np.log2(form.largest / site.peak) if site.peak > 0 else np.nan,
        "overflows": overflows,
        "overflow_share": beyond,
        "below_normal": _share_below(site.counts, form.smallest_normal),
        "flushed": _share_below(site.counts, form.smallest / 2),
    }


def _of_blocks(site: _Site, form: NumberFormat) -> dict[str, float]:
    """What a scale for each block of features gives: one for all rows, and one in each kept row."""
    if not form.block:
        return dict.fromkeys(("static_block_snr_db", "block_snr_db", "block_gain_db"), np.nan)
    blocks = np.arange(len(site.peaks)) // form.block
    # In no row has a block a larger value than its features ever have.
    most = np.zeros(int(blocks.max(initial=0)) + 1)
    np.maximum.at(most, blocks, site.peaks)
    static = site.snr(site.noise(form, value_scale(most, form)[blocks]))
    if not len(site.rows):
        return {"static_block_snr_db": static, "block_snr_db": np.nan, "block_gain_db": np.nan}
    one = value_scale(np.array([site.peak]), form)
    of_blocks, of_one = (
        float(decibels((site.rows**2).sum(), ((held - site.rows) ** 2).sum()))
        for held in (in_blocks(site.rows, form, site.peak), rounded(site.rows / one, form) * one)
    )
    return {
        "static_block_snr_db": static,
        "block_snr_db": of_blocks,
        "block_gain_db": of_blocks - of_one,
    }


def _of_features(site: _Site, form: NumberFormat) -> dict[str, Any]:
    """The rows of the features of one site, as columns."""
    peaks, squares = site.peaks, site.squares
    of_one = site.noise(form, value_scale(np.array([site.peak]), form))
    of_each = site.noise(form, value_scale(peaks, form))
    always_scaled = bool(form.block or form.is_integer)
    some = site.features.count > 0
    with np.errstate(divide="ignore"):
        headroom = np.where((peaks > 0) & (not always_scaled), np.log2(form.largest / peaks), np.nan)
    return {
        **{name: [text] * len(peaks) for name, text in site.names.items()},
        "feature": np.arange(len(peaks)),
        "format": [form.name] * len(peaks),
        "count": site.features.count,
        "abs_max": np.where(some, peaks, np.nan),
        "headroom": headroom,
        "overflows": pd.array([pd.NA if always_scaled else bool(peak > form.largest) for peak in peaks]),
        "scale": tensor_scale(peaks, form),
        "snr_db": decibels(squares, of_one),
        "channel_gain_db": np.full(len(peaks), np.nan) if form.block else decibels(of_one, of_each),
    }


def _share_below(counts: Counts, limit: float) -> float:
    """The share of finite values that are below a magnitude and not 0; NaN without counts."""
    bins, held = counts
    if not len(bins):
        return np.nan
    lower, upper = np.sort(np.abs(bin_edges(bins)), axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        # In the bin that the limit lies in, values are taken for evenly spread.
        part = np.where(bins == 0, 0.0, np.clip((limit - lower) / (upper - lower), 0.0, 1.0))
    return float((part * held).sum() / held.sum())


def _share_above(counts: Counts, limit: float) -> float:
    """The share of finite values above a magnitude; NaN without counts."""
    bins, held = counts
    return 1.0 - _share_below(counts, limit) - float(held[bins == 0].sum() / max(held.sum(), 1))
