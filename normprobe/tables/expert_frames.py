"""The base frames of experts that one weight holds: built from records, merged."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from normprobe.errors import RecordingError
from normprobe.kernels.moments import MOMENT_FIELDS, Moments, merge
from normprobe.tables.columns.tables import BASE, based, missing
from normprobe.tables.derive import moments_of, starts
from normprobe.tables.records import ExpertRecord
from normprobe.vocabulary import EXPERT_SITES, INPUT

EXPERT_KEY = ["layer", "expert", "site"]
"""What names a row of ``expert_places``."""

_SUMS = ("rows", "weight_sum", "weighted")


class ExpertFrames(NamedTuple):
    """What is held of experts.

    Attributes:
        places: a row per module of experts, site and expert, those of a module and site together.
        moments: a row per place and feature.
    """

    places: pd.DataFrame
    moments: pd.DataFrame

    @property
    def by_name(self) -> dict[str, Any]:
        """The frames as those of a recording are called."""
        return {"expert_places": self.places, "expert_moments": self.moments}

    @staticmethod
    def none() -> ExpertFrames:
        """Those of a recording without such experts, or where nobody asked for them."""
        return ExpertFrames(
            *(
                pd.DataFrame({column: missing(dtype, 0) for column, dtype in BASE[name].items()})
                for name in ("expert_places", "expert_moments")
            )
        )


def no_expert_places() -> pd.DataFrame:
    """Places of no expert."""
    return ExpertFrames.none().places


def no_expert_moments() -> pd.DataFrame:
    """Moments of no expert."""
    return ExpertFrames.none().moments


def expert_frames(records: Sequence[ExpertRecord]) -> ExpertFrames:
    """The frames of what a probe measured, in order of execution."""
    ordered = sorted(records, key=lambda record: record.depth)
    every = [(record, site) for record in ordered for site in record.sites]
    if not every:
        return ExpertFrames.none()
    places = [
        pd.DataFrame(
            {
                "layer": record.layer,
                "depth": record.depth,
                "expert": np.arange(record.count),
                "site": site.site,
                "n_features": site.width,
                "rows": site.rows,
                # At one site alone, so that no sum counts them twice.
                "weight_sum": record.weights if site.site == INPUT else 0.0,
                "weighted": record.weighted if site.site == INPUT else 0,
            }
        )
        for record, site in every
    ]
    moments = {
        field.column: np.concatenate([getattr(site.features, name) for _, site in every])
        for name, field in MOMENT_FIELDS.items()
    }
    return _based(pd.concat(places), pd.DataFrame(moments))


def merge_experts(parts: Sequence[ExpertFrames]) -> ExpertFrames:
    """The frames of the whole: rows add up, moments are merged by the one formula.

    Raises:
        RecordingError: the experts of a module read another number of features in one part than in another.
    """
    held = [part for part in parts if not part.places.empty]
    if not held:
        return ExpertFrames.none()
    union = pd.concat([part.places for part in held], ignore_index=True)
    grouped = union.groupby(EXPERT_KEY, sort=False)
    widths = grouped["n_features"].nunique()
    if (widths > 1).any():
        layer = widths.index[widths > 1][0][0]
        raise RecordingError(
            f"the experts of {layer!r} have different numbers of features; these are different models: merge "
            "recordings of one model only"
        )
    # The first width is that of all parts, as was checked above.
    merged = grouped.agg({**dict.fromkeys(_SUMS, "sum"), "depth": "min", "n_features": "first"}).reset_index()
    # Of equal depths, each the least of those in its parts, names decide.
    merged["depth"] = merged.groupby("layer", sort=False)["depth"].transform("min")
    order = merged.assign(site=merged["site"].map(EXPERT_SITES.index))
    merged = merged.loc[order.sort_values(["depth", "layer", "site", "expert"]).index]
    moments = reduce(merge, (_spread(part, merged) for part in held))
    columns = {field.column: getattr(moments, name) for name, field in MOMENT_FIELDS.items()}
    return _based(merged, pd.DataFrame(columns))


def _based(places: pd.DataFrame, moments: pd.DataFrame) -> ExpertFrames:
    return ExpertFrames(based("expert_places", places), based("expert_moments", moments))


def _spread(part: ExpertFrames, merged: pd.DataFrame) -> Moments:
    """A part's moments among empty ones, one per place and feature of the whole."""
    found = {key: at for at, key in enumerate(_keys(merged))}
    place = np.array([found[key] for key in _keys(part.places)], np.int64)
    widths = part.places["n_features"].to_numpy()
    shift = starts(merged["n_features"])[place] - starts(widths)[:-1]
    feature = np.arange(widths.sum()) + np.repeat(shift, widths)
    whole = Moments.empty(int(merged["n_features"].sum()))
    # Empty moments change nothing when they are merged, so what a part lacks stays as it is.
    for into, own in zip(vars(whole).values(), vars(moments_of(part.moments)).values(), strict=True):
        into[feature] = own
    return whole


def _keys(places: pd.DataFrame) -> list[tuple[object, ...]]:
    return list(zip(*(places[name] for name in EXPERT_KEY), strict=True))
