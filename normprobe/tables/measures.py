"""Quantities per layer and site that checks compare with thresholds and reports draw over depth."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np
import pandas as pd

from normprobe.vocabulary import INPUT, OUTPUT

if TYPE_CHECKING:
    from normprobe.tables.frames import Tables

KEY = ["layer", "site"]
CONSTANT = 1e-10
"""A feature varies no more than rounding if its variance is below this times its mean square."""


def remembered(measure: Callable[[Tables], pd.DataFrame]) -> Callable[[Tables], pd.DataFrame]:
    """Compute a measure once for the same tables: a dozen checks ask for it, and features have many rows."""
    kept: WeakKeyDictionary[Tables, pd.DataFrame] = WeakKeyDictionary()

    @wraps(measure)
    def recall(tables: Tables) -> pd.DataFrame:
        if tables not in kept:
            kept[tables] = measure(tables)
        return kept[tables].copy(deep=False)

    return recall


@remembered
def layer_measures(tables: Tables) -> pd.DataFrame:
    """Return ``tables.layers`` by layer and site, in order of execution, with what follows from its columns.

    Added columns: ``abs_max`` (largest of |min| and |max|), ``mean_square`` (variance + mean²), ``rms``,
    ``abs_ratio`` (abs_max ÷ abs_median; NaN where that is 0), ``shades`` (1 - mean_square ÷ (abs_mean x
    abs_max): 0 when |value| is either 0 or the largest) and ``spread`` (within_feature_variance ÷
    mean_square: 0 when all samples are the same, zero throughout among them).
    """
    frame = tables.layers.sort_values(["depth", "site"], kind="stable").set_index(KEY)
    frame["abs_max"] = frame[["min", "max"]].abs().max(axis=1)
    frame["mean_square"] = frame["variance"] + frame["mean"] ** 2
    frame["rms"] = np.sqrt(frame["mean_square"])
    frame["abs_ratio"] = ratio(frame["abs_max"], frame["abs_median"])
    frame["shades"] = 1 - ratio(frame["mean_square"], frame["abs_mean"] * frame["abs_max"])
    frame["spread"] = ratio(frame["within_feature_variance"], frame["mean_square"])
    frame["spread"] = frame["spread"].mask(frame["mean_square"] == 0, 0.0)
    return frame


@remembered
def feature_measures(tables: Tables) -> pd.DataFrame:
    """Return shares and ratios over the features of each layer and site.

    Columns: ``rows`` (values of a feature), ``zero_features`` (share of features that are 0 in every row),
    ``constant_features`` (share that do not vary, the zero ones included), ``feature_ratio`` (largest |value|
    of the worst feature ÷ the median feature's; NaN where that is 0), ``live_zeros`` (share of zeros among
    the features that are not 0 throughout), ``scale_ratio`` (largest standard deviation ÷ the lower quartile,
    of the features that vary; of less than five ÷ the smallest), ``high_features`` (share that reaches half
    of the largest |value| of all), ``silent_features`` (share that is never
    positive but
    varies) and ``weight_ratio`` (largest |weight| of a norm ÷ the median).
    """
    features = features_with_peaks(tables)
    varying = features["deviation"].where(~features["constant"])
    zeros = features["zero_fraction"].where(~features["zero"])
    extra = {
        "varying": varying,
        "zeros": zeros,
        "size": features["weight"].abs(),
        "silent": (features["max"] <= 0) & ~features["constant"],
    }
    highest = features.groupby(KEY, sort=False, observed=True)["peak"].transform("max")
    extra["high"] = features["peak"] >= 0.5 * highest
    groups = features.assign(**extra).groupby(KEY, sort=False, observed=True)
    peak = groups["peak"]
    return pd.DataFrame(
        {
            "rows": groups["count"].max(),
            "zero_features": groups["zero"].mean(),
            "constant_features": groups["constant"].mean(),
            "feature_ratio": ratio(peak.max(), peak.median()),
            "scale_ratio": ratio(groups["varying"].max(), groups["varying"].quantile(0.25, "lower")),
            "weight_ratio": ratio(groups["size"].max(), groups["size"].median()),
            "live_zeros": groups["zeros"].mean(),
            "high_features": groups["high"].mean(),
            "silent_features": groups["silent"].mean(),
        }
    )


@remembered
def features_with_peaks(tables: Tables) -> pd.DataFrame:
    """Return ``tables.features`` of finite features with ``peak``, ``deviation``, ``zero`` and ``constant``.

    ``peak`` is the largest |value|, ``deviation`` the standard deviation (divided by n), ``zero`` whether
    every value is 0 and ``constant`` whether the feature varies no more than rounding.
    """
    features = tables.features[tables.features["count"] > 0]
    square = features["variance"] + features["mean"] ** 2
    return features.assign(
        peak=features[["min", "max"]].abs().max(axis=1),
        deviation=np.sqrt(features["variance"]),
        zero=features["zero_fraction"] == 1,
        constant=features["variance"] <= CONSTANT * square,
    )


@remembered
def running_measures(tables: Tables) -> pd.DataFrame:
    """Return how far observed moments lie from running statistics, by batch-norm layer and site ``input``.

    Columns: ``running_shift`` (median over channels of |seen_mean - running_mean| ÷ running standard
    deviation), ``running_ratio`` (median over channels of seen_variance x n/(n-1) ÷ running_var, as a factor
    of at least 1: ÷ 4 counts as 4), ``running_noise`` (median absolute deviation of its logarithm) and
    ``untouched`` (running_mean is 0 and running_var is 1 exactly in every channel). Constant channels are
    left out of the medians.
    """
    rows = tables.features[tables.features["running_var"].notna() & (tables.features["site"] == INPUT)]
    unbiased = rows["seen_variance"] * rows["count"] / (rows["count"] - 1).clip(lower=1)
    fit = (rows["running_var"] > 0) & (unbiased > 0)
    factor = np.log(ratio(unbiased, rows["running_var"]).where(fit))
    shift = (rows["seen_mean"] - rows["running_mean"]) / np.sqrt(rows["running_var"].where(fit))
    untouched = (rows["running_mean"] == 0) & (rows["running_var"] == 1)
    frame = rows[KEY].assign(factor=factor, shift=shift.abs(), untouched=untouched)
    groups = frame.groupby(KEY, sort=False, observed=True)
    middle = groups["factor"].median()
    off = (frame.set_index(KEY)["factor"] - middle).abs()
    return pd.DataFrame(
        {
            "running_shift": groups["shift"].median(),
            "running_ratio": np.exp(middle.abs()),
            "running_noise": off.groupby(level=KEY, sort=False).median(),
            "untouched": groups["untouched"].all(),
        }
    )


@remembered
def sample_measures(tables: Tables) -> pd.DataFrame:
    """Return what the kept samples say, by layer and site.

    Columns: ``sample_ratio`` (largest RMS of a sample ÷ the median), ``sample_variance`` (median over samples
    of the variance over features), ``sample_square`` (median of variance + mean²) and ``offset`` (median of
    mean² ÷ variance; infinite for constant samples).
    """
    samples = tables.samples
    square = samples["variance"] + samples["mean"] ** 2
    offset = (samples["mean"] ** 2 / samples["variance"]).where(square > 0)
    frame = samples[KEY].assign(
        variance=samples["variance"], square=square, rms=np.sqrt(square), offset=offset
    )
    groups = frame.groupby(KEY, sort=False, observed=True)
    return pd.DataFrame(
        {
            "sample_ratio": ratio(groups["rms"].max(), groups["rms"].median()),
            "sample_variance": groups["variance"].median(),
            "sample_square": groups["square"].median(),
            "offset": groups["offset"].median(),
        }
    )


def made_by_few(tables: Tables, layer: str, share: float = 0.02) -> bool:
    """Return whether a few samples make more than half of the mean square of what a layer reads.

    Its moments are then theirs, and say nothing of the data. At least 8 kept samples; few is ``share`` of
    them, one at least.
    """
    rows = tables.samples[(tables.samples["layer"] == layer) & (tables.samples["site"] == INPUT)]
    square = (rows["variance"] + rows["mean"] ** 2).dropna().sort_values(ascending=False)
    few = square.iloc[: max(1, int(share * len(square)))]
    return len(square) >= 8 and bool(few.sum() > 0.5 * square.sum())


@remembered
def gain_measures(tables: Tables) -> pd.DataFrame:
    """Return by how much each Linear multiplies what it reads, at site ``output``.

    Columns: ``gain`` (mean square of the output ÷ of the input, of the median sample) and ``spread_gain``
    (within_feature_variance of the output ÷ of the input). A bias moves only the first, a few massive samples
    only the second. Layers that read or write exactly 0 are left out.
    """
    layers = layer_measures(tables)
    linear = layers[layers["kind"] == "linear"]
    squares = linear.join(sample_measures(tables))[["sample_square", "within_feature_variance"]]
    after, before = side(squares, OUTPUT), side(squares, INPUT)
    columns = {"gain": "sample_square", "spread_gain": "within_feature_variance"}
    frame = pd.DataFrame({name: ratio(after[column], before[column]) for name, column in columns.items()})
    frame = frame.reindex(after.index)
    frame = frame[(frame > 0).all(axis=1)]
    return frame.set_index(pd.MultiIndex.from_product([frame.index, [OUTPUT]], names=KEY))


def norms_untrained(tables: Tables, kinds: tuple[str, ...] = ()) -> bool:
    """Return whether every norm (of some kinds) is as initialized: bias 0, and weight 1, or 0 throughout.

    The last norm of a residual branch is often started at 0, so that the branch adds nothing at first.
    """
    rows = tables.features[tables.features["site"] == OUTPUT]
    rows = rows[rows["kind"].isin(kinds) if kinds else rows["kind"] != "linear"]
    weight = rows["weight"].fillna(1)
    started = weight.isin([0, 1]) & (rows["bias"].fillna(0) == 0)
    same = weight.groupby(rows["layer"]).nunique() <= 1
    return bool(started.all() and same.all())


def never_updated(tables: Tables) -> bool:
    """Return whether the model is as initialized in all its batch norms, running statistics included."""
    untouched = running_measures(tables)["untouched"]
    return bool(len(untouched)) and bool(untouched.all()) and norms_untrained(tables, ("batch_norm",))


def side(frame: pd.DataFrame, site: str) -> pd.DataFrame:
    """Return the rows of one site of a frame by layer and site, by layer."""
    return frame[frame.index.get_level_values("site") == site].droplevel("site")


def ratio(above: pd.Series, below: pd.Series) -> pd.Series:
    """Divide; NaN where the divisor is 0, since a ratio to nothing says nothing."""
    return above / below.where(below > 0)


def at(frame: pd.DataFrame, layer: str, site: str) -> Any:
    """Return the row of one layer and site; its columns are of many types."""
    return frame.loc[(layer, site)]
