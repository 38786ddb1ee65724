"""The places that two recordings share, in order of execution, and what is known of each without pairing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from normprobe.divergence.fused_linears import LayerShape
from normprobe.divergence.kept_samples import RecordingArrays
from normprobe.divergence.matching import FiredLayers, Match
from normprobe.kernels.moments import Moments
from normprobe.vocabulary import INPUT, OUTPUT, site_order

RecordingPair = tuple[RecordingArrays, RecordingArrays]
Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class MatchedSite:
    """One site of a layer and of its counterpart.

    Attributes:
        match: the two layers.
        site: input or output.
        at: the number of the place in either recording.
        aligned: whether both number its samples as the forward's, and mean the same by a sample.
        same_rows: whether both measured as many rows there.
    """

    match: Match
    site: str
    at: tuple[int, int]
    aligned: bool
    same_rows: bool


def fired_layers(reader: RecordingArrays) -> FiredLayers:
    """The layers of a recording as matching needs them."""
    sites, ledger = reader.tables.sites, reader.tables.ledger_base
    shapes: dict[str, LayerShape] = {}
    reads: dict[str, bytes] = {}
    for layer in dict.fromkeys(sites["layer"]):
        at = [reader.places.get((layer, site)) for site in (INPUT, OUTPUT)]
        # Without one of them a layer lacks a width to be matched by.
        if at[0] is None or at[1] is None:
            continue
        norm = reader.ledger.loc[layer, "kind"] != "linear"
        shapes[layer] = LayerShape(bool(norm), int(reader.widths[at[0]]), int(reader.widths[at[1]]))
        moments = reader.features(at[0])
        # By their bits: layers that read one tensor have the very same moments.
        reads[layer] = moments.mean.tobytes() + moments.m2.tobytes()
    silent = {str(row.layer): str(row.status) for row in ledger.itertuples() if row.layer not in shapes}
    return FiredLayers(shapes, reads, silent)


def match_sites(readers: RecordingPair, matches: Sequence[Match]) -> Iterator[MatchedSite]:
    """Every site that both layers of a pair have, in the vocabulary's order."""
    sites = [{layer: set(of["site"]) for layer, of in r.tables.sites.groupby("layer")} for r in readers]
    for pair in matches:
        named = list(zip(readers, (pair.a, pair.b), strict=True))
        # Missing where parts disagree.
        aligned = all(reader.ledger["aligned"].fillna(False)[name] for reader, name in named)
        # A BatchNorm in the place of a LayerNorm keeps an example where that keeps a position.
        aligned &= len({reader.ledger.loc[name, "sample_unit"] for reader, name in named}) == 1
        for site in sorted(sites[0][pair.a] & sites[1][pair.b], key=site_order):
            first, second = (reader.places[name, site] for reader, name in named)
            same_rows = _rows(readers[0], first) == _rows(readers[1], second)
            yield MatchedSite(pair, site, (first, second), aligned, same_rows)


def _rows(reader: RecordingArrays, place: int) -> int:
    """How many rows were measured at a place, those with NaN or infinite values included."""
    moments = reader.features(place)
    # Of a feature all rows count, finite or not; features may differ in what is finite.
    return int((moments.count + moments.nonfinite).max(initial=0))


def describe_site(readers: RecordingPair, place: MatchedSite) -> dict[str, Any]:
    """The columns that need no pairing: names, dtypes, and how far the moments moved."""
    rows = [reader.tables.sites.iloc[at] for reader, at in zip(readers, place.at, strict=True)]
    names = (place.match.a, place.match.b)
    kinds = [reader.ledger.loc[name, "kind"] for reader, name in zip(readers, names, strict=True)]
    return {
        "layer": names[0],
        "layer_b": names[1],
        "matched_by": place.match.by,
        "kind": kinds[0],
        "kind_b": kinds[1],
        "site": place.site,
        "depth": int(rows[0]["depth"]),
        "dtype": rows[0]["dtype"],
        "dtype_b": rows[1]["dtype"],
        "n_features": int(rows[0]["n_features"]),
        **shifts(*moments_of(readers, place)),
    }


def dtypes_of(readers: RecordingPair, places: Sequence[MatchedSite]) -> tuple[list[str], list[str]]:
    """The dtype at each place in either recording, several joined by `; `."""
    every = [list(map(str, reader.tables.sites["dtype"])) for reader in readers]
    return [every[0][place.at[0]] for place in places], [every[1][place.at[1]] for place in places]


def moments_of(readers: RecordingPair, place: MatchedSite) -> tuple[Moments, Moments]:
    """The moments of each feature in either recording."""
    return readers[0].features(place.at[0]), readers[1].features(place.at[1])


def shifts(a: Moments, b: Moments) -> dict[str, float]:
    """How far means and variance moved: columns `mean_shift` and `log_variance_ratio`."""
    means = [np.where(m.count > 0, m.mean, np.nan) for m in (a, b)]
    size = rms(a)
    with np.errstate(divide="ignore", invalid="ignore"):
        moved = np.sqrt(np.nanmean(np.square(means[1] - means[0]))) if _any(means) else np.nan
        ratio = np.log(np.divide(pooled_variance(b), pooled_variance(a)))
    return {"mean_shift": 0.0 if moved == 0 else _over(moved, size), "log_variance_ratio": float(ratio)}


def _any(means: Sequence[Numbers]) -> bool:
    return bool((np.isfinite(means[0]) & np.isfinite(means[1])).any())


def _over(value: float, size: float) -> float:
    return float(value / size) if size > 0 else np.inf if value > 0 else np.nan


def rms(moments: Moments) -> float:
    """Root mean square of all values, all features together; 0 without any."""
    square = np.square(moments.mean) + np.nan_to_num(moments.variance)
    return float(np.sqrt(square.mean())) if square.size else 0.0


def median_sample_rms(reader: RecordingArrays, place: int) -> float:
    """Median over kept samples of their root mean square, so that a few huge ones count for nothing."""
    kept = reader.samples(place).values
    return float(np.median(np.sqrt(np.square(kept).sum(1)))) if len(kept) else rms(reader.features(place))


def pooled_variance(moments: Moments) -> float:
    """Population variance of all values, all features together."""
    return float(np.nan_to_num(moments.variance).mean() + np.var(moments.mean))
