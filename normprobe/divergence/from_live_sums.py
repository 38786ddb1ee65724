"""From sums over running models to the table of their differences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from normprobe.divergence.attribution import Split
from normprobe.divergence.columns import LAYERS, UNMATCHED, shaped
from normprobe.divergence.differences import LEVEL, Differences, facts_of, matched_layers
from normprobe.divergence.kept_samples import Reader
from normprobe.divergence.matched_sites import Place, described, dtypes_of, shared_places
from normprobe.divergence.matching import Matched, Unmatched
from normprobe.divergence.paired import judged, split_errors
from normprobe.divergence.rounding import precision
from normprobe.divergence.same_data import Pairing
from normprobe.tables.frames import Tables
from normprobe.vocabulary import OUTPUT

__all__ = ["live_differences", "matched_layers"]

Numbers = NDArray[np.float64]


class SummedSite(Protocol):
    """Signal and noise power of one site."""

    rows: int

    @property
    def error(self) -> float:
        """Relative error."""

    @property
    def cosine(self) -> float:
        """Cosine between the two."""

    @property
    def features(self) -> tuple[Numbers, Numbers, Numbers]:
        """Relative error of each feature, both means, both variances."""


class SummedLocal(Protocol):
    """What a layer inherits and introduces, measured."""

    @property
    def inherited(self) -> float:
        """What the input brings."""

    @property
    def introduced(self) -> float:
        """What arises in the layer."""


class SummedLayer(Protocol):
    """What was summed of one pair of layers."""

    @property
    def sites(self) -> Mapping[str, SummedSite]:
        """What was summed at each site, by its name."""

    @property
    def local(self) -> SummedLocal | None:
        """None where the layer could not be called again."""


def live_differences(
    a: Tables, b: Tables, matched: Matched, found: Mapping[str, SummedLayer], examples: int
) -> Differences:
    """Build the table of differences.

    Args:
        a: tables of the first model on one batch: names, kinds and dtypes come from these.
        b: tables of the second.
        matched: their layers.
        found: what was summed, by the first model's layer.
        examples: how many examples ran.
    """
    readers = Reader(a), Reader(b)
    seen = tuple(pair for pair in matched.pairs if found[pair.a].sites[OUTPUT].rows)
    places = list(shared_places(readers, seen))
    rounding = precision(*dtypes_of(readers, places))
    sums: list[SummedSite] = [found[place.match.a].sites[place.site] for place in places]
    errors = np.array([site.error for site in sums])
    splits = split_errors(places, errors, [_split(place, found[place.match.a]) for place in places])
    judgement = judged(readers, places, rounding, errors, splits)
    rows = [
        described(readers, place) | row | _columns(site, 10 ** (row["noise_db"] / 20))
        for place, row, site in zip(places, judgement, sums, strict=True)
    ]
    lost = [
        Unmatched("a", pair.a, "its module or that of its counterpart is not called")
        for pair in matched.pairs
        if pair not in seen
    ]
    facts = facts_of((a, b), matched, Pairing(True, "live", {}), rounding, places)
    facts |= {"matched": len(seen), "examples": (examples, examples), "level": LEVEL}
    unmatched = [layer._asdict() for layer in (*matched.unmatched, *lost)]
    return Differences(shaped(rows, LAYERS), shaped(unmatched, UNMATCHED), facts)


def _split(place: Place, found: SummedLayer) -> Split | None:
    if place.site != OUTPUT or found.local is None or not np.isfinite(found.sites[OUTPUT].error):
        return None
    return Split(found.local.inherited, found.local.introduced, exact=True)


def _columns(site: SummedSite, limit: float) -> dict[str, Any]:
    each, means, variances = site.features
    size = np.sqrt((np.square(means[0]) + variances[0]).mean()) if len(each) else 0.0
    moved = np.sqrt(np.square(means[1] - means[0]).mean()) if len(each) else np.nan
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
