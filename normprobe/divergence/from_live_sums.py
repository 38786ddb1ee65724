"""From sums over running models to the table of their differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from normprobe.divergence.attribution import Attribution
from normprobe.divergence.causes import SHIFT_OF_ROWS, Cause, find_causes, of_tensor
from normprobe.divergence.differences import (
    LEVEL,
    Differences,
    facts_of,
    matched_layers,
    stored_facts,
    tabulated,
)
from normprobe.divergence.kept_samples import RecordingArrays
from normprobe.divergence.matched_sites import (
    MatchedSite,
    RecordingPair,
    describe_site,
    dtypes_of,
    match_sites,
)
from normprobe.divergence.matching import Match, MatchedLayers, Unmatched
from normprobe.divergence.paired import attribute_errors, judge_errors
from normprobe.divergence.rounding import precision
from normprobe.divergence.same_data import Pairing
from normprobe.divergence.stored_differences import StoredTensors, stored_differences
from normprobe.tables.frames import Tables
from normprobe.vocabulary import OUTPUT

__all__ = ["live_differences", "matched_layers"]

Numbers = NDArray[np.float64]


class SummedSite(Protocol):
    """Signal and noise power of one site."""

    rows: int

    @property
    def error(self) -> float:
        """Noise over signal, as a ratio of amplitudes."""

    @property
    def cosine(self) -> float:
        """Cosine between the two models' rows, as one vector each."""

    @property
    def features(self) -> tuple[Numbers, Numbers, Numbers]:
        """Relative error of each feature, both means, both variances."""


class SummedLocal(Protocol):
    """What a layer inherits and introduces, measured."""

    @property
    def inherited(self) -> float:
        """Relative error that the layer makes of the difference of its inputs."""

    @property
    def introduced(self) -> float:
        """Relative error of the second layer on the first one's input."""


class SummedLayer(Protocol):
    """What was summed of one pair of layers."""

    @property
    def sites(self) -> Mapping[str, SummedSite]:
        """What was summed at each site, by its name."""

    @property
    def local(self) -> SummedLocal | None:
        """What arises in the layer; None where it could not be called again."""


def live_differences(
    a: Tables,
    b: Tables,
    matched: MatchedLayers,
    found: Mapping[str, SummedLayer],
    *,
    examples: int,
    tensors: Mapping[str, Mapping[str, float]],
    stored: tuple[StoredTensors, StoredTensors],
) -> Differences:
    """Build the table of differences.

    Args:
        a: tables of the first model on one batch: names, kinds and dtypes come from these.
        b: tables of the second.
        matched: their layers.
        found: what was summed, by the first model's layer.
        examples: how many examples ran.
        tensors: which tensors of two layers are not alike, and by how much, by the first model's layer.
        stored: what the two models store.
    """
    readers = RecordingArrays(a), RecordingArrays(b)
    # Layers that fired on the first batch may not be called on the others.
    seen = tuple(pair for pair in matched.pairs if pair.a in found and found[pair.a].sites[OUTPUT].rows)
    places = list(match_sites(readers, seen))
    rounding = precision(*dtypes_of(readers, places))
    sums: list[SummedSite] = [found[place.match.a].sites[place.site] for place in places]
    errors = np.array([site.error for site in sums])
    splits = attribute_errors(places, errors, [_split(place, found[place.match.a]) for place in places])
    judgement = judge_errors(readers, places, rounding, errors, splits)
    rows = [
        # Features are compared by ratios of amplitudes, of which the noise is in dB.
        describe_site(readers, place) | row | _columns(site, 10 ** (row["noise_db"] / 20))
        for place, row, site in zip(places, judgement, sums, strict=True)
    ]
    lost = [
        Unmatched("a", pair.a, "its module or that of its counterpart is not called")
        for pair in matched.pairs
        if pair not in seen
    ]
    facts = facts_of((a, b), matched, Pairing(True, "live", {}), rounding, places)
    facts |= {"matched": len(seen), "examples": (examples, examples), "level": LEVEL}
    facts |= {"not_measured": stored_facts(stored_differences(*stored), readers[0])}
    return tabulated(rows, (*matched.unmatched, *lost), facts, _causes(readers, seen, tensors))


def _causes(
    readers: RecordingPair, pairs: Sequence[Match], tensors: Mapping[str, Mapping[str, float]]
) -> list[Cause]:
    """What the tables say, and of Linear layers what their tensors do."""
    # What kept rows only suggest, the tensors say.
    stored = {name for name, found in tensors.items() if found}
    stated = [
        cause
        for cause in find_causes(readers, pairs)
        if not (cause.what == SHIFT_OF_ROWS and cause.layer in stored)
    ]
    biases = {cause.layer for cause in stated if cause.what == "bias"}
    own = [
        Cause(pair.a, pair.b, *of_tensor(name, share))
        for pair in pairs
        for name, share in tensors.get(pair.a, {}).items()
        if not (name == "bias" and pair.a in biases)
    ]
    order = {pair.a: at for at, pair in enumerate(pairs)}
    return sorted([*stated, *own], key=lambda cause: order[cause.layer])


def _split(place: MatchedSite, found: SummedLayer) -> Attribution | None:
    if place.site != OUTPUT or found.local is None or not np.isfinite(found.sites[OUTPUT].error):
        return None
    return Attribution(found.local.inherited, found.local.introduced, exact=True)


def _columns(site: SummedSite, limit: float) -> dict[str, Any]:
    each, means, variances = site.features
    size = np.sqrt((np.square(means[0]) + variances[0]).mean()) if len(each) else 0.0
    moved = np.sqrt(np.square(means[1] - means[0]).mean()) if len(each) else np.nan
    # Total variance: within the features, and of their means.
    pooled = [v.mean() + m.var() for v, m in zip(variances, means, strict=True)] if len(each) else [0.0, 0.0]
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = float(np.log(np.divide(pooled[1], pooled[0])))
    return {
        "pairs": site.rows,
        "cosine": site.cosine,
        "error_of": "all",
        "features_beyond": float((each > limit).mean()) if len(each) else np.nan,
        "mean_shift": 0.0 if moved == 0 else float(moved / size) if size > 0 else np.inf,
        "log_variance_ratio": ratio,
    }
