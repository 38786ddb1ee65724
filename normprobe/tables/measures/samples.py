"""Measures of kept samples: their size beside the median sample's, and how much they differ."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from normprobe.tables.columns import SITE_KEY
from normprobe.tables.measures.common import cached, percentile_ratio, ratio, site_rows
from normprobe.vocabulary import INPUT

if TYPE_CHECKING:
    from normprobe.tables.frames import Tables


@cached
def sized_samples(tables: Tables) -> pd.DataFrame:
    """``tables.samples`` with ``square`` (variance + mean², over the features of a sample) and ``rms``."""
    samples = tables.samples
    square = samples["variance"] + samples["mean"] ** 2
    return samples.assign(square=square, rms=np.sqrt(square))


@cached
def sample_measures(tables: Tables) -> pd.DataFrame:
    """What the kept samples say, by layer and site.

    Columns: ``sample_ratio`` (largest RMS of a sample ÷ the median), ``sample_variance`` (median over samples
    of the variance over features), ``sample_square`` (median of variance + mean²) and ``offset`` (median of
    mean² ÷ variance; infinite for constant samples).
    """
    samples = sized_samples(tables)
    offset = (samples["mean"] ** 2 / samples["variance"]).where(samples["square"] > 0)
    groups = samples.assign(offset=offset).groupby(SITE_KEY, sort=False, observed=True)
    return pd.DataFrame(
        {
            "sample_ratio": ratio(groups["rms"].max(), groups["rms"].median()),
            "sample_variance": groups["variance"].median(),
            "sample_square": groups["square"].median(),
            "offset": groups["offset"].median(),
        }
    )


@cached
def sample_spreads(tables: Tables) -> pd.DataFrame:
    """How far apart samples lie, by layer and site.

    Column: ``ratio``, 95th ÷ 5th percentile of the variances over features of the kept samples; those of
    variance 0 are left out, and it is NaN where fewer than two are left.
    """
    samples = tables.samples
    spread = percentile_ratio(samples["variance"], [samples["layer"], samples["site"]])
    return spread.to_frame("ratio")


@cached
def example_measures(tables: Tables) -> pd.DataFrame:
    """How much examples differ at the same position, by layer and site.

    Columns: ``examples`` (how many are compared) and ``example_spread`` (the share of the mean square that
    varies over examples, of what is kept of a sample: its mean, standard deviation, smallest and largest
    value; NaN without two examples at one position).
    """
    samples = tables.samples
    # By numbers: to group by the names of all rows takes as long as all the rest.
    place, part = (tables.sample_moments[name].to_numpy() for name in ("place", "part"))
    moments = samples[["mean", "min", "max"]].assign(deviation=samples["variance"] ** 0.5)
    # By repeat, too: a layer that is called twice in a forward computes two things at one position.
    positions = [place, samples["repeat"], samples["position"].fillna(0)]
    groups = moments.groupby(positions, sort=False, observed=True)
    # A position that a single example reaches would count as one at which examples do not differ.
    several = groups["mean"].transform("size") > 1
    apart = ((moments - groups.transform("mean")) ** 2).sum(axis=1).where(several, 0)
    whole = (moments**2).sum(axis=1).where(several, 0)
    sums = pd.DataFrame({"apart": apart, "whole": whole}).groupby(place, sort=False).sum()
    examples = pd.DataFrame({"place": place, "part": part, "example": samples["example"].to_numpy()})
    compared = examples[several.to_numpy()].drop_duplicates()
    found = pd.DataFrame(
        {
            "examples": compared.groupby("place", sort=False).size().reindex(sums.index, fill_value=0),
            "example_spread": ratio(sums["apart"], sums["whole"]),
        }
    )
    found.index = pd.MultiIndex.from_frame(tables.sites[SITE_KEY].iloc[sums.index])
    return found


def made_by_few(tables: Tables, layer: str, share: float = 0.02) -> bool:
    """Whether a few samples make more than half of the mean square of what a layer reads.

    Its moments are then theirs, and say nothing of the data. At least 8 kept samples; few is ``share`` of
    them, one at least.
    """
    rows = site_rows(tables, "samples").get((layer, INPUT), np.empty(0, dtype=np.int64))
    square = sized_samples(tables)["square"].to_numpy(dtype=float)[rows]
    square = np.sort(square[~np.isnan(square)])[::-1]
    few = square[: max(1, int(share * len(square)))]
    return len(square) >= 8 and bool(few.sum() > 0.5 * square.sum())


def distinct_samples(tables: Tables, layer: str, site: str) -> int:
    """How many of the kept samples of a site differ in what is kept of them."""
    samples = tables.samples[(tables.samples["layer"] == layer) & (tables.samples["site"] == site)]
    return len(samples[["mean", "variance", "min", "max"]].drop_duplicates())
