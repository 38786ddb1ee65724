"""Measures of kept samples: their size beside the median sample's, and how much they differ."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from normprobe.tables.measures.by_site import by_site, divided, numbers, rows_at
from normprobe.tables.measures.common import cached
from normprobe.vocabulary import INPUT

if TYPE_CHECKING:
    from normprobe.tables.frames import Tables


@cached
def sized_samples(tables: Tables) -> pd.DataFrame:
    """``tables.samples`` with ``square`` (variance + mean², over the features of a sample) and ``rms``."""
    samples = tables.samples
    square = numbers(samples, "variance") + numbers(samples, "mean") ** 2
    return samples.assign(square=square, rms=np.sqrt(square))


@cached
def sample_measures(tables: Tables) -> pd.DataFrame:
    """What the kept samples say, by layer and site.

    Columns: ``sample_ratio`` (largest RMS of a sample ÷ the median), ``sample_variance`` (median over samples
    of the variance over features), ``sample_square`` (median of variance + mean²) and ``offset`` (median of
    mean² ÷ variance; infinite for constant samples).
    """
    samples, sites = sized_samples(tables), by_site(tables, "samples")
    mean, variance, square, rms = (numbers(samples, name) for name in ("mean", "variance", "square", "rms"))
    with np.errstate(divide="ignore", invalid="ignore"):
        offset = np.where(square > 0, mean**2 / variance, np.nan)
    columns = {
        "sample_ratio": divided(sites.largest(rms), sites.median(rms)),
        "sample_variance": sites.median(variance),
        "sample_square": sites.median(square),
        "offset": sites.median(offset),
    }
    return pd.DataFrame(columns, index=sites.index)


@cached
def sample_spreads(tables: Tables) -> pd.DataFrame:
    """How far apart samples lie, by layer and site.

    Columns: ``p5``, ``p50``, ``p95`` (percentiles of the variances over features of the kept samples),
    ``ratio`` (p95 ÷ p5; those of variance 0 are left out, and it is NaN where fewer than two are left),
    ``kept`` (how many there are) and ``flat`` (how many have variance 0).
    """
    found = by_site(tables, "samples").spreads(numbers(tables.samples, "variance"))
    return found[found["known"] > 0].rename(columns={"known": "kept", "zero": "flat"})


@cached
def example_measures(tables: Tables) -> pd.DataFrame:
    """How much examples differ at the same position, by layer and site.

    Columns: ``examples`` (how many are compared) and ``example_spread`` (the share of the mean square that
    varies over examples, of what is kept of a sample: its mean, standard deviation, smallest and largest
    value; NaN without two examples at one position).
    """
    samples, sites = tables.samples, by_site(tables, "samples")
    # By repeat, too: a layer that is called twice in a forward computes two things at one position.
    position = _joint(sites.codes, samples["repeat"], samples["position"].fillna(0))
    several = np.bincount(position)[position] > 1
    apart, whole = np.zeros(len(sites.index)), np.zeros(len(sites.index))
    # A position that a single example reaches would count as one at which examples do not differ.
    place, position = sites.codes[several], position[several]
    for name in ("mean", "variance", "min", "max"):
        value = numbers(samples, name)[several]
        value = np.sqrt(value) if name == "variance" else value
        known = ~np.isnan(value)
        at, of, value = (
            (position, place, value) if known.all() else (position[known], place[known], value[known])
        )
        mean = np.bincount(at, value) / np.maximum(np.bincount(at), 1)
        apart += np.bincount(of, (value - mean[at]) ** 2, minlength=len(apart))
        whole += np.bincount(of, value**2, minlength=len(whole))
    example = _joint(place, samples["part"][several], samples["example"][several])
    # The numbers are in order of first appearance: where one exceeds all before it, it is new.
    first = np.flatnonzero(np.diff(np.maximum.accumulate(example), prepend=-1) > 0)
    columns = {
        "examples": np.bincount(place[first], minlength=len(apart)),
        "example_spread": divided(apart, whole),
    }
    return pd.DataFrame(columns, index=sites.index)


def _joint(places: NDArray[np.int64], *columns: pd.Series) -> NDArray[np.int64]:
    """A number for each combination of a place and what columns hold."""
    joint, size = places, int(places.max(initial=0)) + 1
    for column in columns:
        whole = pd.api.types.is_integer_dtype(column.dtype) and not column.hasnans
        codes = column.to_numpy(dtype=np.int64) if whole else pd.factorize(column.array)[0] + 1
        span = int(codes.max(initial=0)) + 1
        if codes.min(initial=0) < 0 or span * size >= 2**62:
            # Numbers of their own: the product of large ones would overflow.
            joint, codes = pd.factorize(joint)[0], pd.factorize(codes)[0]
            size, span = len(joint) + 1, len(joint) + 1
        joint, size = joint * span + codes, size * span
    return np.asarray(pd.factorize(joint)[0], dtype=np.int64)


def made_by_few(tables: Tables, layer: str, share: float = 0.02) -> bool:
    """Whether a few samples make more than half of the mean square of what a layer reads.

    Its moments are then theirs, and say nothing of the data. At least 8 kept samples; few is ``share`` of
    them, one at least.
    """
    rows = by_site(tables, "samples").rows(layer, INPUT)
    square = numbers(sized_samples(tables), "square")[rows]
    square = np.sort(square[~np.isnan(square)])[::-1]
    few = square[: max(1, int(share * len(square)))]
    return len(square) >= 8 and bool(few.sum() > 0.5 * square.sum())


def distinct_samples(tables: Tables, layer: str, site: str) -> int:
    """How many of the kept samples of a site differ in what is kept of them."""
    samples = rows_at(tables, "samples", layer, site)
    return len(samples[["mean", "variance", "min", "max"]].drop_duplicates())
