"""The residual stream between blocks, and what each block adds to it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from normprobe.tables.columns.blocks import BRANCHES
from normprobe.tables.columns.tables import shaped
from normprobe.tables.measures.common import cached, ratio
from normprobe.tables.measures.samples import sample_measures, sample_spreads
from normprobe.vocabulary import BRANCH, INPUT, OUTPUT

if TYPE_CHECKING:
    from normprobe.tables.frames import Tables

STREAM = "stream"
"""What stands for the site in the name of a series of evidence that is the stream."""


@cached
def stream_measures(tables: Tables) -> pd.DataFrame:
    """The stream where blocks read and write it, a row per block and site, in order of execution.

    Of tables of activations, which are without the blocks, those that they were made from are asked.

    Columns: ``layer``, ``site``, ``depth``, ``variance``, ``n_samples``, and of the kept samples
    ``sample_square`` (median of variance + mean²), ``p5``, ``p50``, ``p95`` (of their variances).
    """
    whole = tables.whole or tables
    layers = whole.layers
    blocks = layers[(layers["kind"] == "residual") & layers["site"].isin([INPUT, OUTPUT])]
    rows = blocks[["layer", "site", "depth", "variance", "n_samples"]].reset_index(drop=True)
    key = pd.MultiIndex.from_frame(rows[["layer", "site"]])
    if rows.empty:
        return rows.assign(**dict.fromkeys(("sample_square", "p5", "p50", "p95"), pd.Series(dtype="float64")))
    # Reindexed, so that blocks of which no sample is kept stay, with NaN.
    squares = sample_measures(whole)["sample_square"].reindex(key).to_numpy()
    spreads = sample_spreads(whole)[["p5", "p50", "p95"]].reindex(key).reset_index(drop=True)
    return rows.assign(sample_square=squares).join(spreads)


def branch_table(tables: Tables) -> pd.DataFrame:
    """A row per block of the residual stream: the stream ahead of it, and what it adds.

    The correlation follows from the three variances, of the sum and of both summands.
    """
    layers = tables.layers
    blocks = layers[layers["kind"] == "residual"]
    values = {site: blocks[blocks["site"] == site].set_index("layer") for site in (INPUT, BRANCH, OUTPUT)}
    stream = values[INPUT]
    variances = {site: rows["variance"].reindex(stream.index) for site, rows in values.items()}
    both = (variances[INPUT] * variances[BRANCH]) ** 0.5
    # The covariance, as Var(a + b) = Var(a) + Var(b) + 2 Cov(a, b).
    shared = (variances[OUTPUT] - variances[INPUT] - variances[BRANCH]) / 2
    frame = pd.DataFrame(
        {
            **{name: stream[name] for name in ("depth", "calls", "n_samples")},
            "stream_variance": variances[INPUT],
            "branch_variance": variances[BRANCH],
            "output_variance": variances[OUTPUT],
            "variance_ratio": ratio(variances[BRANCH], variances[INPUT]),
            "correlation": ratio(shared, both),
        }
    )
    return shaped(frame.rename_axis("layer").reset_index(), BRANCHES)
