"""Measures of kept samples: their size beside the median sample's, and how much they differ."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from normprobe.tables.measures.by_site import by_site, divided, numbers, rows_at
from normprobe.tables.measures.common import cached
from normprobe.vocabulary import INPUT

if TYPE_CHECKING:
    from normprobe.tables.frames import Tables


def sized(samples: pd.DataFrame) -> pd.DataFrame:
    """Rows of ``tables.samples`` with ``square`` (variance + mean², over a sample's features) and ``rms``.

    Not kept for all rows: of a thousand layers there are two million.
    """
    square = numbers(samples, "variance") + numbers(samples, "mean") ** 2
    return samples.assign(square=square, rms=np.sqrt(square))


@cached
def sample_measures(tables: Tables) -> pd.DataFrame:
    """What the kept samples say, by layer and site.

    Columns: ``sample_ratio`` (largest RMS of a sample ÷ the median), ``sample_variance`` (median over samples
    of the variance over features), ``sample_square`` (median of variance + mean²) and ``offset`` (median of
    mean² ÷ variance; infinite for constant samples).
    """
    samples, sites = tables.samples, by_site(tables, "samples")
    mean, variance = (numbers(samples, name) for name in ("mean", "variance"))
    square = variance + mean**2
    with np.errstate(divide="ignore", invalid="ignore"):
        offset = sites.median(np.where(square > 0, mean**2 / variance, np.nan))
    rms = np.sqrt(square)
    columns = {
        "sample_ratio": divided(sites.largest(rms), sites.median(rms)),
        "sample_variance": sites.median(variance),
        "sample_square": sites.median(square),
        "offset": offset,
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
    found = {name: np.zeros(len(sites.index)) for name in ("examples", "apart", "whole")}
    # By portions: numbers for the positions of two million samples take memory.
    for rows in sites.portions(_PORTION):
        part = _compared(sites.codes[rows], samples.iloc[rows])
        for name, of_site in zip(found, part, strict=True):
            found[name][: len(of_site)] += of_site
    columns = {
        "examples": found["examples"].astype(np.int64),
        "example_spread": divided(found["apart"], found["whole"]),
    }
    return pd.DataFrame(columns, index=sites.index)


_PORTION = 1 << 17


def _compared(place: NDArray[Any], samples: pd.DataFrame) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """By place, how many examples are compared, how far apart they are, and the whole: sums of squares."""
    # By repeat, too: a layer that is called twice in a forward computes two things at one position.
    position = _joint(place, samples["repeat"], samples["position"].fillna(0))
    # A position that a single example reaches would count as one at which examples do not differ.
    several = np.bincount(position)[position] > 1
    if not several.all():
        place, position, samples = place[several], position[several], samples[several]
    sites = int(place.max(initial=-1)) + 1
    apart, whole = np.zeros(sites), np.zeros(sites)
    for name in ("mean", "variance", "min", "max"):
        value = numbers(samples, name)
        value = np.sqrt(value) if name == "variance" else value
        known = ~np.isnan(value)
        at, of, value = position[known], place[known], value[known]
        mean = np.bincount(at, value) / np.maximum(np.bincount(at), 1)
        apart += np.bincount(of, (value - mean[at]) ** 2, minlength=sites)
        whole += np.bincount(of, value**2, minlength=sites)
    example = _joint(place, samples["part"], samples["example"])
    # The numbers are in order of first appearance: where one exceeds all before it, it is new.
    first = np.flatnonzero(np.diff(np.maximum.accumulate(example), prepend=-1) > 0)
    return np.bincount(place[first], minlength=sites), apart, whole


def _joint(places: NDArray[Any], *columns: pd.Series) -> NDArray[np.int64]:
    """A number for each combination of a place and what columns hold."""
    joint, size = places.astype(np.int64), int(places.max(initial=0)) + 1
    for column in columns:
        whole = pd.api.types.is_integer_dtype(column.dtype) and not column.hasnans
        codes = column.to_numpy(dtype=np.int64) if whole else pd.factorize(column)[0] + 1
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
    square = numbers(sized(rows_at(tables, "samples", layer, INPUT)), "square")
    square = np.sort(square[~np.isnan(square)])[::-1]
    few = square[: max(1, int(share * len(square)))]
    return len(square) >= 8 and bool(few.sum() > 0.5 * square.sum())


def distinct_samples(tables: Tables, layer: str, site: str) -> int:
    """How many of the kept samples of a site differ in what is kept of them."""
    samples = rows_at(tables, "samples", layer, site)
    return len(samples[["mean", "variance", "min", "max"]].drop_duplicates())
