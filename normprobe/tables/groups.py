"""The sums of groups of samples: built from records, merged by name, derived as tables with a row a group."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from normprobe.kernels.moments import MOMENT_FIELDS, Moments, merge
from normprobe.tables.build import SEEN, VECTORS, Place, StepOf, extreme_columns, first_nonfinite_columns
from normprobe.tables.columns.tables import BASE, FEATURES, GROUP, LAYERS, SITE_KEY, based, missing, shaped
from normprobe.tables.derive import feature_table, layer_table, moments_of, starts
from normprobe.tables.merging_sites import SUMS, united_sites
from normprobe.tables.records import GroupRecord
from normprobe.vocabulary import group_order

GROUP_KEY = [*SITE_KEY, "group"]


def no_groups() -> dict[str, Any]:
    """The frames of no group, as where samples are not told apart."""
    names = ("group_sites", "group_moments")
    return {
        name: pd.DataFrame({column: missing(dtype, 0) for column, dtype in BASE[name].items()})
        for name in names
    }


def group_frames(every: Sequence[Place], part: str, step_of: StepOf) -> dict[str, Any]:
    """A row per place and group, and a row per place, group and feature.

    Args:
        every: the places.
        part: the probe's share of the data.
        step_of: the step of a forward, by its running number.
    """
    held: list[tuple[Place, GroupRecord]] = [
        (place, group)
        for place in every
        # In one order, whichever group the data began with.
        for group in sorted(place.site.groups, key=lambda group: group_order(group.group))
    ]
    if not held:
        return no_groups()
    records = [group for _, group in held]
    plain = ("group", *SUMS)
    sites = {
        "layer": [place.record.ledger["layer"] for place, _ in held],
        "site": [place.site.site for place, _ in held],
        "n_features": [place.width for place, _ in held],
        **{name: [getattr(group, name) for group in records] for name in plain},
        **extreme_columns("min", [group.minimum for group in records], part),
        **extreme_columns("max", [group.maximum for group in records], part),
        **first_nonfinite_columns([group.nonfinite for group in records], part, step_of),
    }
    moments = {
        moment.column: np.concatenate([getattr(group.features, name) for group in records])
        for name, moment in MOMENT_FIELDS.items()
    }
    return {
        "group_sites": based("group_sites", pd.DataFrame(sites)),
        "group_moments": based("group_moments", pd.DataFrame(moments)),
    }


def merge_groups(parts: Sequence[tuple[pd.DataFrame, pd.DataFrame]], sites: pd.DataFrame) -> dict[str, Any]:
    """The groups of any part, those of one name at one site as one, in the order of the sites.

    Args:
        parts: of each the frames of `group_frames`.
        sites: a row per place of the whole.
    """
    if all(frame.empty for frame, _ in parts):
        return no_groups()
    merged = united_sites([frame for frame, _ in parts], GROUP_KEY, {})
    places = {key: at for at, key in enumerate(zip(sites["layer"], sites["site"], strict=True))}
    order = [
        (places[layer, site], group_order(group))
        for layer, site, group in merged[GROUP_KEY].itertuples(index=False)
    ]
    # A group that only a later part has would come last, behind the groups of other sites.
    merged = merged.iloc[sorted(range(len(order)), key=order.__getitem__)].reset_index(drop=True)
    at = {key: row for row, key in enumerate(merged[GROUP_KEY].itertuples(index=False, name=None))}
    first = starts(merged["n_features"])
    spread = (_spread(frame, moments, at, first) for frame, moments in parts)
    whole = reduce(merge, spread)
    columns = {field.column: getattr(whole, name) for name, field in MOMENT_FIELDS.items()}
    return {
        "group_sites": based("group_sites", merged),
        "group_moments": based("group_moments", pd.DataFrame(columns)),
    }


def _spread(
    sites: pd.DataFrame, moments: pd.DataFrame, at: dict[Any, int], first: NDArray[np.int64]
) -> Moments:
    """A part's moments among empty ones, one per feature of the whole."""
    whole = Moments.empty(int(first[-1]))
    rows = np.array([at[key] for key in sites[GROUP_KEY].itertuples(index=False, name=None)], np.int64)
    index = _ranges(first[rows], sites["n_features"].to_numpy())
    # Empty moments change nothing when they are merged, so what a part lacks stays as it is.
    for into, own in zip(vars(whole).values(), vars(moments_of(moments)).values(), strict=True):
        into[index] = own
    return whole


def _ranges(first: NDArray[np.int64], widths: NDArray[np.int64]) -> NDArray[np.int64]:
    """The whole numbers of runs that begin at ``first`` and are ``widths`` long, one run after another."""
    return np.arange(widths.sum()) + np.repeat(first - starts(widths)[:-1], widths)


def groups_at(group_sites: pd.DataFrame, moments: pd.DataFrame, sites: pd.DataFrame) -> dict[str, Any]:
    """The groups at some of the sites."""
    known = pd.MultiIndex.from_frame(sites[SITE_KEY])
    kept = pd.MultiIndex.from_frame(group_sites[SITE_KEY]).isin(known)
    return {
        "group_sites": based("group_sites", group_sites[kept]),
        "group_moments": based(
            "group_moments", moments[np.repeat(kept, group_sites["n_features"].to_numpy())]
        ),
    }


def grouped_layers(
    group_sites: pd.DataFrame, group_moments: pd.DataFrame, sites: pd.DataFrame, ledger: pd.DataFrame
) -> pd.DataFrame:
    """`layers` with a row per layer, site and group; of kept rows nothing is known by group."""
    place = _places(group_sites, sites)
    # As arrays: pandas would align them by the index of `sites`.
    of_place = {name: sites[name].take(place).array for name in ("depth", "dtype", "first_feature")}
    frame = group_sites.assign(**of_place)
    values = [np.empty(0)] * len(frame)
    return _with_group(layer_table(frame, group_moments, values, ledger), group_sites["group"], LAYERS)


def grouped_features(
    group_sites: pd.DataFrame,
    group_moments: pd.DataFrame,
    sites: pd.DataFrame,
    features: pd.DataFrame,
    ledger: pd.DataFrame,
) -> pd.DataFrame:
    """`features` with a row per layer, site, group and feature; vectors are those of the layer.

    What a batch norm saw, padding included, is not known by group.
    """
    place, widths = _places(group_sites, sites), group_sites["n_features"].to_numpy()
    index = _ranges(starts(sites["n_features"])[place], widths)
    vectors = {name: features[name].to_numpy()[index] for name in VECTORS}
    frame = group_moments.assign(**vectors, **dict.fromkeys(SEEN, 0))
    groups = group_sites["group"].take(np.repeat(np.arange(len(widths)), widths))
    placed = group_sites.assign(first_feature=sites["first_feature"].take(place).array)
    return _with_group(feature_table(frame, placed, ledger), groups, FEATURES)


def _places(group_sites: pd.DataFrame, sites: pd.DataFrame) -> NDArray[np.int64]:
    """The place of each row."""
    found = {key: at for at, key in enumerate(zip(sites["layer"], sites["site"], strict=True))}
    keys = zip(group_sites["layer"], group_sites["site"], strict=True)
    return np.array([found[key] for key in keys], np.int64)


def _with_group(frame: pd.DataFrame, groups: pd.Series, columns: dict[str, tuple[str, str]]) -> pd.DataFrame:
    """A table with the column `group` behind `site`."""
    named = list(columns.items())
    behind = list(columns).index("site") + 1
    # As an array: pandas would align a Series by its index, which is that of other rows.
    return shaped(
        frame.assign(group=groups.to_numpy()), dict([*named[:behind], ("group", GROUP), *named[behind:]])
    )


def wrong_groups(group_sites: pd.DataFrame, group_moments: pd.DataFrame, sites: pd.DataFrame) -> str:
    """What of the groups read from a file does not belong to its sites, or ""."""
    widths = {
        (layer, site): width
        for layer, site, width in sites[[*SITE_KEY, "n_features"]].itertuples(index=False)
    }
    known = [
        (layer, site) in widths and widths[layer, site] == width
        for layer, site, width in group_sites[[*SITE_KEY, "n_features"]].itertuples(index=False)
    ]
    if not all(known):
        return "groups of unknown sites"
    if group_sites["group"].isna().any() or group_sites.duplicated(GROUP_KEY).any():
        return "a group occurs twice, or has no name"
    # Moments have no key but their order, so that only their number can be checked.
    if group_sites["n_features"].sum() != len(group_moments):
        return "other features of groups than its sites declare"
    return ""
