"""How far what a BatchNorm sees lies from its running statistics, as the layer itself would feel it.

A BatchNorm in evaluation mode divides by sqrt(running_var + eps), and its running variance collects
n / (n - 1) times the population variance (PyTorch issue 19902). Both are taken into account, so that a shift
of 1 moves the layer's output, before its own scale, by 1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from normprobe.tables.columns.tables import SITE_KEY
from normprobe.tables.measures.by_site import BySite, by_site, grouped, numbers
from normprobe.tables.measures.common import cached
from normprobe.tables.measures.features import finite_features, norms_untrained
from normprobe.vocabulary import INPUT

if TYPE_CHECKING:
    from normprobe.tables.frames import Tables

Numbers = NDArray[np.floating[Any]]


def collected_variance(variance: Numbers, count: Numbers) -> Numbers:
    """A population variance as running statistics collect it: x n / (n - 1); NaN for a single value."""
    return variance * count / np.where(count > 1, count - 1, np.nan)


def standard_shift(apart: Numbers, running: Numbers) -> Numbers:
    """(mean seen - running mean) ÷ running standard deviation, eps included; NaN where there is none.

    Args:
        apart: difference of the means.
        running: running variance + eps.
    """
    return apart / np.sqrt(np.where(running > 0, running, np.nan))


def log_variance_ratio(observed: Numbers, running: Numbers) -> Numbers:
    """ln(observed ÷ running variance), NaN where one of them is not positive.

    Args:
        observed: `collected_variance` + eps.
        running: running variance + eps.
    """
    positive = (observed > 0) & (running > 0)
    return np.log(np.where(positive, observed, np.nan) / np.where(positive, running, np.nan))


@cached
def running_channels(tables: Tables) -> pd.DataFrame:
    """The channels of batch norms that have running statistics, in the order of ``tables.features``.

    Columns: ``layer``, ``site`` (always ``input``), ``feature``, ``count``, ``constant`` (as in
    `finite_features`; without a finite value, too), ``untouched`` (running_mean is 0 and running_var 1
    exactly), ``apart`` (mean seen - running mean), ``observed`` and ``running`` (variances with eps, the
    observed one x n / (n - 1)), ``shift`` (`standard_shift`), ``log_variance_ratio`` and ``bare_log_ratio``
    (the same of the variances without eps).
    """
    features, sites = tables.features, by_site(tables, "features")
    rows = features[features["running_var"].notna().to_numpy() & sites.at(INPUT)]
    # Merged parts that differ in eps have none in common; then the shift is that of the bare statistics.
    # Of a layer that was replaced under one name, the later.
    known = tables.ledger.drop_duplicates("layer", keep="last").set_index("layer")["eps"]
    eps = rows["layer"].map(known).astype("float64").fillna(0.0).to_numpy()
    seen_variance, count = (rows[name].to_numpy(np.float64) for name in ("seen_variance", "count"))
    apart = (rows["seen_mean"] - rows["running_mean"]).to_numpy(np.float64)
    bare = collected_variance(seen_variance, count), rows["running_var"].to_numpy(np.float64)
    observed, running = bare[0] + eps, bare[1] + eps
    return rows[[*SITE_KEY, "feature", "count"]].assign(
        constant=finite_features(tables)["constant"].reindex(rows.index, fill_value=True),
        untouched=(rows["running_mean"] == 0) & (rows["running_var"] == 1),
        apart=apart,
        observed=observed,
        running=running,
        shift=standard_shift(apart, running),
        log_variance_ratio=log_variance_ratio(observed, running),
        bare_log_ratio=log_variance_ratio(*bare),
    )


@cached
def running_measures(tables: Tables) -> pd.DataFrame:
    """How far what batch norms see lies from their running statistics, by layer, at site ``input``.

    Columns: ``running_shift`` (median over channels of |shift|), ``running_log_ratio`` (median of
    log_variance_ratio), ``running_ratio`` (exp of its size: a factor of at least 1, ÷ 4 counts as 4),
    ``running_noise`` (median absolute deviation of log_variance_ratio), ``channel_ratio`` and
    ``channel_shift`` (of the worst channel: observed ÷ running variance, and |shift|), ``untouched``
    (running_mean is 0 and running_var is 1 exactly in every channel), ``bare_log_ratio`` and ``bare_noise``
    (median and median absolute deviation of bare_log_ratio: the scale of the data, which eps hides where
    variances are small). Constant channels are left out.
    """
    channels = running_channels(tables)
    # A dead channel has a running variance near 0, too, and would pull the medians towards agreement.
    sites, constant = grouped(channels), channels["constant"].to_numpy(dtype=bool)
    columns = ("shift", "log_variance_ratio", "bare_log_ratio")
    shift, factor, bare = (np.where(constant, np.nan, numbers(channels, name)) for name in columns)
    size = np.abs(shift)
    (middle, noise), (bare_middle, bare_noise) = (_middle_and_noise(sites, each) for each in (factor, bare))
    found = {
        "running_shift": sites.median(size),
        "running_log_ratio": middle,
        "running_ratio": np.exp(np.abs(middle)),
        "running_noise": noise,
        "channel_ratio": np.exp(sites.largest(factor)),
        "channel_shift": sites.largest(size),
        "untouched": sites.number(channels["untouched"].to_numpy(dtype=bool)) == sites.sizes,
        "bare_log_ratio": bare_middle,
        "bare_noise": bare_noise,
    }
    return pd.DataFrame(found, index=sites.index)


def _middle_and_noise(
    sites: BySite, values: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The median of each group, and the median absolute deviation from it."""
    middle = sites.median(values)
    noise: NDArray[np.float64] = np.abs(values - sites.of(middle))
    return middle, sites.median(noise)


def never_updated(tables: Tables) -> bool:
    """Whether the model is as initialized in all its batch norms, running statistics included."""
    untouched = running_measures(tables)["untouched"]
    # Of no batch norm at all everything would be true.
    return bool(len(untouched)) and bool(untouched.all()) and norms_untrained(tables, ("batch_norm",))
