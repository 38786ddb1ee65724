"""From the base frames to the public tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from normprobe.kernels.moments import MOMENT_FIELDS, Moments, over, pool
from normprobe.tables.columns.dtypes import public_moments
from normprobe.tables.columns.tables import FEATURES, LAYERS, LEDGER, SAMPLES, shaped
from normprobe.tables.distributions.power_moments import kurtosis_columns, layer_kurtosis
from normprobe.vocabulary import INPUT, OUTPUT


def moments_of(frame: pd.DataFrame) -> Moments:
    """The moments held in a frame's columns."""
    return Moments(*(frame[field.column].to_numpy() for field in MOMENT_FIELDS.values()))


def starts(sizes: Any) -> NDArray[np.int64]:
    """Where each of consecutive runs of these sizes begins, and where the last ends."""
    return np.concatenate([[0], np.cumsum(np.asarray(sizes, np.int64))])


def first_features(sites: pd.DataFrame) -> NDArray[np.int64]:
    """Which feature of the whole tensor the first one of each place is; 0 where it has all of them."""
    return sites["first_feature"].to_numpy(np.int64, na_value=0)


def row_starts(sites: pd.DataFrame, rows: pd.DataFrame) -> NDArray[np.int64]:
    """Where the numbers of each kept raw row begin, and where the last ends."""
    return starts(sites["n_features"].to_numpy()[rows["place"]])


def ledger_table(ledger: pd.DataFrame, sites: pd.DataFrame, features: pd.DataFrame) -> pd.DataFrame:
    """A row per layer, with the rows behind the statistics of its input."""
    # Whether finite or not, each row has a number at the first feature.
    known = sites["n_features"].to_numpy() > 0
    first = starts(sites["n_features"])[:-1][known]
    rows = (features["count"].to_numpy() + features["nonfinite"].to_numpy())[first]
    counts = dict(zip(zip(sites["layer"][known], sites["site"][known], strict=True), rows, strict=True))
    found = [counts.get((layer, INPUT), counts.get((layer, OUTPUT))) for layer in ledger["layer"]]
    return shaped(ledger.assign(rows=pd.array(found, dtype="Int64")), LEDGER)


def layer_table(
    sites: pd.DataFrame, features: pd.DataFrame, values: Sequence[NDArray[Any]], ledger: pd.DataFrame
) -> pd.DataFrame:
    """A row per layer and site, from the moments of its features.

    Args:
        sites: a row per place.
        features: the moments of their features.
        values: the numbers of the kept raw rows of each place.
        ledger: a row per layer.
    """
    moments, widths = moments_of(features), sites["n_features"].to_numpy()
    total, within = pooled(moments, widths)
    held = {f"{name}_feature": sites[f"{name}_feature"] for name in ("min", "max", "nonfinite")}
    frame = sites.assign(
        **{name: index + first_features(sites) for name, index in held.items()},
        **{name: fact(name, sites, ledger) for name in ("kind", "type", "sample_unit")},
        # The mean of an empty set is 0, the neutral value of merging; in a table it is unknown.
        mean=np.where(total.count > 0, total.mean, np.nan),
        variance=total.variance,
        within_sample_variance=over(sites["within_sum"], sites["within_count"]),
        within_feature_variance=within,
        abs_mean=total.abs_mean,
        abs_median=[_abs_median(numbers) for numbers in values],
        zero_fraction=total.zero_fraction,
        nonfinite=total.nonfinite,
        abs_max=np.maximum(sites["min"].abs(), sites["max"].abs()),
        # Files of before have "" for whatever they do not know.
        nonfinite_part=sites["nonfinite_part"].where(sites["nonfinite_call"].notna()),
        feature_ratio=_feature_ratio(_abs_max(moments), widths),
        **layer_kurtosis(features, _by_width(widths), sites),
    )
    return shaped(frame, LAYERS, "layers")


def _by_width(widths: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Places of one width, and the rows of their features, shape (width, places).

    Places of one width are computed together: a model has hundreds of places and few widths.
    """
    first = starts(widths)[:-1]
    for width in np.unique(widths[widths > 0]):
        at = np.flatnonzero(widths == width)
        yield at, first[at] + np.arange(width)[:, None]


def pooled(features: Moments, widths: NDArray[np.int64]) -> tuple[Moments, NDArray[np.float64]]:
    """Moments of each place over all its features, and the mean over these of their variances."""
    totals, within = Moments.empty(len(widths)), np.full(len(widths), np.nan)
    for at, grid in _by_width(widths):
        # Features are along the first axis: the one over which `pool` merges.
        block = features.map(lambda field, grid=grid: field[grid])
        for total, pooled in zip(vars(totals).values(), vars(pool(block)).values(), strict=True):
            total[at] = pooled[0]
        # A feature without a finite value has no variance and no weight in the mean.
        filled = block.count > 0
        within[at] = over(np.where(filled, block.variance, 0.0).sum(0), filled.sum(0))
    return totals, within


def _abs_max(features: Moments) -> NDArray[np.float64]:
    """The largest |value| of each feature; NaN where it has no finite value."""
    largest = np.maximum(np.abs(features.minimum), np.abs(features.maximum))
    return np.where(features.count > 0, largest, np.nan)


def _feature_ratio(largest: NDArray[np.float64], widths: NDArray[np.int64]) -> NDArray[np.float64]:
    """The largest of each place's features ÷ their median; NaN where that is 0 or none is finite."""
    found = np.full(len(widths), np.nan)
    for at, grid in _by_width(widths):
        # Sorting puts NaN, of features without a finite value, behind the others.
        ordered = np.sort(largest[grid], axis=0)
        known = np.isfinite(ordered).sum(0)
        some = known > 0
        ordered, known = ordered[:, some], known[some]
        last, *middle = (
            np.take_along_axis(ordered, index[None], axis=0)[0]
            for index in (known - 1, (known - 1) // 2, known // 2)
        )
        median = (middle[0] + middle[1]) / 2
        found[at[some]] = last / np.where(median > 0, median, np.nan)
    return found


def _abs_median(values: NDArray[Any]) -> float:
    """Median of |value| over the finite numbers, NaN without any."""
    sizes = np.abs(values)
    finite = np.isfinite(sizes)
    sizes = sizes if finite.all() else sizes[finite]
    if not len(sizes):
        return np.nan
    # By one place: numpy finds two at half the speed.
    middle = len(sizes) // 2
    sizes.partition(middle)
    below = sizes[middle] if len(sizes) % 2 else sizes[:middle].max()
    # Not np.median, which is float32 for float32 rows: the mean of the middle two would be rounded.
    return (float(below) + float(sizes[middle])) / 2


def feature_table(features: pd.DataFrame, sites: pd.DataFrame, ledger: pd.DataFrame) -> pd.DataFrame:
    """A row per layer, site and feature."""
    moments = moments_of(features)
    widths = sites["n_features"].to_numpy()
    place = np.repeat(np.arange(len(sites)), widths)
    frame = features.assign(
        **_names(place, sites, ledger),
        feature=np.arange(len(place)) - np.repeat(starts(widths)[:-1] - first_features(sites), widths),
        **{public.name: public.derive(moments) for public in public_moments()},
        seen_mean=np.where(features["seen_count"] > 0, features["seen_mean"], np.nan),
        seen_variance=over(features["seen_m2"], features["seen_count"]),
        abs_max=_abs_max(moments),
        **kurtosis_columns(features),
    )
    return shaped(frame, FEATURES, "features")


def sample_table(
    samples: pd.DataFrame, sites: pd.DataFrame, ledger: pd.DataFrame, parts: Sequence[str]
) -> pd.DataFrame:
    """A row per layer, site and kept sample."""
    filled = samples["count"].to_numpy() > 0
    # Mostly all have a finite value: then the columns are those of the moments, and not copies of them.
    known = (
        {}
        if filled.all()
        else {name: np.where(filled, samples[name], np.nan) for name in ("mean", "min", "max")}
    )
    frame = samples.assign(
        **_names(samples["place"].to_numpy(), sites, ledger),
        part=_taken(pd.array(list(parts), dtype="string"), samples["part"].to_numpy()),
        variance=over(samples["m2"], samples["count"]),
        **known,
        **kurtosis_columns(samples),
    )
    return shaped(frame, SAMPLES, "samples")


def _names(place: NDArray[np.int64], sites: pd.DataFrame, ledger: pd.DataFrame) -> dict[str, Any]:
    """Layer, kind and site of each place."""
    names = {"layer": sites["layer"], "kind": fact("kind", sites, ledger), "site": sites["site"]}
    return {name: _taken(column.array, place) for name, column in names.items()}


def fact(name: str, sites: pd.DataFrame, ledger: pd.DataFrame) -> pd.Series:
    """A column of the ledger, by place."""
    known = dict(zip(ledger["layer"], ledger[name], strict=True))
    return pd.Series([known[layer] for layer in sites["layer"]], dtype="string")


def _taken(texts: Any, index: NDArray[np.int64]) -> Any:
    return texts.take(index) if len(texts) else pd.array([], dtype="string")
