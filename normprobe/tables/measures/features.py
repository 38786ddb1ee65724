"""Measures of features: which are zero, constant or far larger than the median one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from normprobe.tables.columns import SITE_KEY
from normprobe.tables.measures.common import cached, percentile_ratio, ratio
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
    # Without a finite value there is nothing to compare.
    features = tables.features[tables.features["count"] > 0]
    square = features["variance"] + features["mean"] ** 2
    by_site = features.groupby(SITE_KEY, sort=False, observed=True)["abs_max"]
    return features.assign(
        ratio=ratio(features["abs_max"], by_site.transform("median")),
        deviation=np.sqrt(features["variance"]),
        zero=features["zero_fraction"] == 1,
        constant=features["variance"] <= CONSTANT * square,
    )


@cached
def feature_measures(tables: Tables) -> pd.DataFrame:
    """Shares and ratios over the features of each layer and site.

    Columns: ``rows`` (values of a feature), ``zero_features`` (share of features that are 0 in every row),
    ``constant_features`` (share that do not vary, the zero ones included), ``peak`` (largest |value|),
    ``peak_feature`` (the feature that holds it), ``median_peak`` (that of the median feature),
    ``feature_ratio`` (that of ``tables.layers``), ``live_zeros`` (share of zeros among the features that are
    not 0 throughout), ``scale_ratio`` (largest standard deviation ÷ the lower quartile, of the features that
    vary; of less than five ÷ the smallest), ``high_features`` (share that reaches half of the largest |value|
    of all), ``silent_features`` (share that is never positive but varies) and ``weight_ratio`` (largest
    |weight| of a norm ÷ the median).
    """
    features = finite_features(tables)
    # Of a site whose features are on one scale most reach half of the largest; of one with an outlier few do.
    highest = features.groupby(SITE_KEY, sort=False, observed=True)["abs_max"].transform("max")
    extra = {
        "varying": features["deviation"].where(~features["constant"]),
        "zeros": features["zero_fraction"].where(~features["zero"]),
        "size": features["weight"].abs(),
        "weight_square": features["weight"] ** 2,
        "silent": (features["max"] <= 0) & ~features["constant"],
        "high": features["abs_max"] >= 0.5 * highest,
    }
    groups = features.assign(**extra).groupby(SITE_KEY, sort=False, observed=True)
    rows = groups["count"].max()
    # A file may lack the extremes; pandas 3 refuses the idxmax of a group of NaN.
    known = features[features["abs_max"].notna()].groupby(SITE_KEY, sort=False, observed=True)
    peaks = known["abs_max"].idxmax()
    return pd.DataFrame(
        {
            "rows": rows,
            "zero_features": groups["zero"].mean(),
            "constant_features": groups["constant"].mean(),
            "peak": groups["abs_max"].max(),
            "peak_feature": peaks.map(features["feature"]).reindex(rows.index),
            "median_peak": groups["abs_max"].median(),
            "feature_ratio": tables.layers.set_index(SITE_KEY)["feature_ratio"].reindex(rows.index),
            "scale_ratio": ratio(groups["varying"].max(), groups["varying"].quantile(0.25, "lower")),
            "weight_ratio": ratio(groups["size"].max(), groups["size"].median()),
            "weight_rms": np.sqrt(groups["weight_square"].mean()),
            "live_zeros": groups["zeros"].mean(),
            "high_features": groups["high"].mean(),
            "silent_features": groups["silent"].mean(),
        }
    )


@cached
def normalized_variances(tables: Tables) -> pd.DataFrame:
    """The variance of each feature of the norms with and without the layer's own scale.

    Columns: ``layer``, ``site``, ``feature``, ``scaled`` (variance over the rows) and ``variance`` (at
    outputs ÷ weight², what the normalization alone gives; NaN where the weight is 0); both 0 for constant
    features. Features of fewer than two values have no variance: left out.
    """
    features = finite_features(tables)
    features = features[(features["kind"] != "linear") & (features["count"] > 1)]
    weight = features["weight"].astype(float).where(features["site"] == OUTPUT).fillna(1.0)
    scaled = features["variance"].mask(features["constant"], 0.0)
    return features[[*SITE_KEY, "feature"]].assign(
        scaled=scaled, variance=scaled / weight.where(weight != 0) ** 2
    )


@cached
def feature_spreads(tables: Tables) -> pd.DataFrame:
    """How far apart the variances of a norm's features lie, by layer and site.

    Columns: ``ratio`` (95th ÷ 5th percentile of ``variance`` of `normalized_variances` over the features that
    vary; NaN where fewer than two do) and ``scaled`` (the same with the layer's own scale).
    """
    frame = normalized_variances(tables)
    by = [frame["layer"], frame["site"]]
    columns = {"ratio": frame["variance"], "scaled": frame["scaled"]}
    return pd.DataFrame({name: percentile_ratio(column, by) for name, column in columns.items()})


def norms_untrained(tables: Tables, kinds: tuple[str, ...] = ()) -> bool:
    """Whether every norm (of some kinds) is as initialized: bias 0, and weight 1, or 0 throughout.

    The last norm of a residual branch is often started at 0, so that the branch adds nothing at first.
    """
    rows = tables.features[tables.features["site"] == OUTPUT]
    rows = rows[rows["kind"].isin(kinds) if kinds else rows["kind"] != "linear"]
    # Where the applied scale is unknown nothing speaks against it.
    weight = rows["weight"].fillna(1)
    started = weight.isin([0, 1]) & (rows["bias"].fillna(0) == 0)
    same = weight.groupby(rows["layer"]).nunique() <= 1
    return bool(started.all() and same.all())
