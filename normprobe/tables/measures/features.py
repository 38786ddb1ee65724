"""Measures of features: which are zero, constant or far larger than the median one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from normprobe.tables.columns.tables import SITE_KEY
from normprobe.tables.measures.by_site import by_site, divided, numbers
from normprobe.tables.measures.common import cached
from normprobe.vocabulary import OUTPUT

if TYPE_CHECKING:
    from normprobe.tables.frames import Tables

CONSTANT = 1e-10
"""A feature varies no more than rounding if its variance is at most this times its mean square."""


@cached
def finite_features(tables: Tables) -> pd.DataFrame:
    """``tables.features`` of the features with a finite value, and what follows from their columns.

    Added columns: ``ratio`` (abs_max ÷ the median feature's at that site; NaN where that is 0),
    ``deviation`` (standard deviation, divisor n), ``zero`` (every value is 0) and ``constant`` (the feature
    varies no more than rounding: variance at most `CONSTANT` x (variance + mean²); the zero ones are
    constant, too, and so is a feature of a single value).
    """
    features, sites = tables.features, by_site(tables, "features")
    # Without a finite value there is nothing to compare.
    finite = features["count"].to_numpy() > 0
    variance, mean, largest = (numbers(features, name) for name in ("variance", "mean", "abs_max"))
    median = sites.of(sites.median(np.where(finite, largest, np.nan)))
    found = features.assign(
        ratio=largest / np.where(median > 0, median, np.nan),
        deviation=np.sqrt(variance),
        zero=numbers(features, "zero_fraction") == 1,
        constant=variance <= CONSTANT * (variance + mean**2),
    )
    return found if finite.all() else found[finite]


@cached
def feature_measures(tables: Tables) -> pd.DataFrame:
    """Shares and ratios over the features of each layer and site.

    Columns: ``rows`` (values of a feature), ``zero_features`` (share of features that are 0 in every row),
    ``constant_features`` (share that do not vary, the zero ones included), ``peak`` (largest |value|),
    ``peak_feature`` (the feature that holds it), ``median_peak`` (that of the median feature),
    ``feature_ratio`` (that of ``tables.layers``), ``live_zeros`` (share of zeros among the features that are
    not 0 throughout), ``scale_ratio`` (largest standard deviation ÷ the lower quartile, of the features that
    vary; of less than five ÷ the smallest), ``high_features`` (share that reaches half of the largest |value|
    of all), ``silent_features`` (share that is never positive but varies), ``weight_ratio`` (largest |weight|
    of a norm ÷ the median) and ``weight_rms`` (the root of the mean of its squares).
    """
    features = finite_features(tables)
    every = by_site(tables, "features")
    sites = every if len(features) == len(every.codes) else every.part(features.index.to_numpy())
    zero, constant = (features[name].to_numpy() for name in ("zero", "constant"))
    peak, weight = numbers(features, "abs_max"), np.abs(numbers(features, "weight"))
    deviation = np.where(constant, np.nan, numbers(features, "deviation"))
    highest = sites.largest(peak)
    holder = sites.first(peak == sites.of(highest))
    held = numbers(features, "feature")[np.maximum(holder, 0)]
    # Of a site whose features are on one scale most reach half of the largest; of one with an outlier few do.
    high = peak >= 0.5 * sites.of(highest)
    columns = {
        "rows": sites.largest(numbers(features, "count")),
        "zero_features": sites.mean(zero.astype(np.float64)),
        "constant_features": sites.mean(constant.astype(np.float64)),
        "peak": highest,
        "peak_feature": np.where(holder < 0, np.nan, held),
        "median_peak": sites.median(peak),
        "scale_ratio": divided(sites.largest(deviation), sites.quantiles(deviation, (0.25,), how="lower")[0]),
        "weight_ratio": divided(sites.largest(weight), sites.median(weight)),
        "weight_rms": np.sqrt(sites.mean(weight**2)),
        "live_zeros": sites.mean(np.where(zero, np.nan, numbers(features, "zero_fraction"))),
        "high_features": sites.mean(high.astype(np.float64)),
        "silent_features": sites.mean(((numbers(features, "max") <= 0) & ~constant).astype(np.float64)),
    }
    found = pd.DataFrame(columns, index=sites.index)
    # Another width of the index than that of the layers' table, which has no finite value at some.
    ratios = tables.layers.set_index(SITE_KEY)["feature_ratio"]
    return found.assign(feature_ratio=ratios.reindex(found.index))


@cached
def normalized_variances(tables: Tables) -> pd.DataFrame:
    """The variance of each feature with and without the layer's own scale, as the rows of `tables.features`.

    Columns: ``layer``, ``site``, ``scaled`` (variance over the rows) and ``variance`` (at outputs ÷ weight²,
    what the normalization alone gives; NaN where the weight is 0); both 0 for constant features. NaN of
    Linear layers, and of features of fewer than two values, which have no variance.
    """
    features, sites = tables.features, by_site(tables, "features")
    variance, mean, weight = (numbers(features, name) for name in ("variance", "mean", "weight"))
    constant = variance <= CONSTANT * (variance + mean**2)
    norm = (features["kind"] != "linear").to_numpy(dtype=bool)
    known = norm & (features["count"].to_numpy() > 1)
    scaled = np.where(known, np.where(constant, 0.0, variance), np.nan)
    weight = np.where(sites.at(OUTPUT) & ~np.isnan(weight), weight, 1.0)
    bare = scaled / np.where(weight != 0, weight, np.nan) ** 2
    return features[SITE_KEY].assign(scaled=scaled, variance=bare)


@cached
def feature_spreads(tables: Tables) -> pd.DataFrame:
    """How far apart the variances of a norm's features lie, by layer and site.

    Columns: ``p5``, ``p50``, ``p95`` (percentiles of ``variance`` of `normalized_variances`), ``ratio`` (p95
    ÷ p5 of the features that vary; NaN where fewer than two do), ``scaled`` (the same with the layer's own
    scale), ``features`` (how many there are) and ``constant`` (how many of them do not vary).
    """
    found, sites = normalized_variances(tables), by_site(tables, "features")
    spread = sites.spreads(numbers(found, "variance"))
    spread = spread.rename(columns={"known": "features", "zero": "constant"})
    spread["scaled"] = sites.spreads(numbers(found, "scaled"))["ratio"]
    return spread[spread["features"] > 0]


def norms_untrained(tables: Tables, kinds: tuple[str, ...] = ()) -> bool:
    """Whether every norm (of some kinds) is as initialized: bias 0, and weight 1, or 0 throughout.

    The last norm of a residual branch is often started at 0, so that the branch adds nothing at first.
    """
    features, sites = tables.features, by_site(tables, "features")
    kind = features["kind"]
    wanted = (kind.isin(kinds) if kinds else kind != "linear").to_numpy(dtype=bool) & sites.at(OUTPUT)
    # Where the applied scale is unknown nothing speaks against it.
    weight, bias = np.nan_to_num(numbers(features, "weight"), nan=1.0), numbers(features, "bias")
    started = np.isin(weight, (0, 1)) & (np.nan_to_num(bias, nan=0.0) == 0)
    of_norms = np.where(wanted, weight, np.nan)
    least, most = sites.smallest(of_norms), sites.largest(of_norms)
    return bool(started[wanted].all() and (least == most)[~np.isnan(least)].all())
