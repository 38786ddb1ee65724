"""Recordings of parts of the data become the recording of the whole, by merging moments only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from normprobe.errors import RecordingError
from normprobe.kernels.distributions.options import DistributionOptions
from normprobe.kernels.moments import MOMENT_FIELDS, Moments, merge
from normprobe.tables.build import SEEN, VECTORS
from normprobe.tables.columns.tables import SITE_KEY, based
from normprobe.tables.derive import moments_of, row_starts, starts
from normprobe.tables.distributions.bin_counts import merge_counts
from normprobe.tables.distributions.power_moments import merged_powers
from normprobe.tables.expert_frames import ExpertFrames, merge_experts
from normprobe.tables.frames import Tables
from normprobe.tables.groups import merge_groups
from normprobe.tables.merging.checks import check_apart
from normprobe.tables.merging.ledgers import merge_ledgers, merge_meta, pieces, with_every_layer
from normprobe.tables.merging.placements import PLACED, check_placements
from normprobe.tables.merging_sites import united_sites
from normprobe.tables.parameters import merge_parameters
from normprobe.tables.window_facts import first_call, last_call
from normprobe.vocabulary import site_order

# Not `layers` and `kinds`, which may be written in many ways: the ledgers are compared instead.
ALIKE = ("samples", "values", "every", "seed", "mask", "groups")
"""The options that recordings share which are merged."""


@dataclass(frozen=True, eq=False)
class _Share:
    """One part's tables and where its places, features and parts lie in the whole."""

    tables: Tables
    place: NDArray[np.int64]
    feature: NDArray[np.int64]
    part: NDArray[np.int64]


def merge_tables(parts: Sequence[Tables]) -> Tables:
    """Merge tables of different parts, or of other windows of a part; their order does not matter.

    Windows of one part are merged first, into what one probe over all of them would have measured: the last
    one says which vectors a norm applied.

    Raises:
        RecordingError: a part or window occurs twice, or models, options or layers differ.
    """
    check_apart(parts)
    groups: dict[tuple[str, ...], list[Tables]] = {}
    for part in parts:
        groups.setdefault(tuple(part.facts["parts"]), []).append(part)
    of_parts = [
        _merged(sorted(group, key=first_call), in_sequence=True) if len(group) > 1 else group[0]
        for group in groups.values()
    ]
    if len(of_parts) == 1 and len(parts) > 1:
        return of_parts[0]
    # In one order whatever the caller's, so that even rounding does not depend on it.
    return _merged(sorted(of_parts, key=lambda part: sorted(part.facts["parts"])), in_sequence=False)


def _merged(parts: Sequence[Tables], *, in_sequence: bool) -> Tables:
    """Merge tables of different parts, or of windows of one in the order of their forwards."""
    ledgers = with_every_layer([part.ledger_base for part in parts])
    parts = [replace(part, ledger_base=ledger) for part, ledger in zip(parts, ledgers, strict=True)]
    _check(parts)
    # A part that measured nothing does not know why a layer did not fire.
    measured = [part for part in parts if part.facts["measured"] or len(part.sites)] or parts
    ledgers = [part.ledger_base for part in measured]
    ledger = based("ledger_base", merge_ledgers(ledgers, in_sequence=in_sequence))
    meta = merge_meta([part.meta for part in parts])
    sites = based("sites", _sites([part.sites for part in parts], ledger))
    shares = [_share(part, sites, meta["parts"]) for part in parts]
    samples = meta["options"]["samples"]
    most = np.full(len(sites), np.iinfo(np.int64).max if samples == "all" else samples)
    sample_moments = _smallest([_moved(s, s.tables.sample_moments) for s in shares], most)
    # As many rows as a probe keeps, so that merged parts are the recording of the whole.
    linear = sites["layer"].isin(set(ledger["layer"][ledger["kind"] == "linear"])).to_numpy(bool)
    values = meta["options"]["values"]
    rows = _smallest(
        [_moved(s, s.tables.rows) for s in shares],
        np.minimum(most, np.where(linear, min(8, values), values)),
    )
    merged = Tables(
        ledger_base=ledger,
        sites=sites,
        feature_moments=based(
            "feature_moments",
            _features(shares, int(sites["n_features"].sum()), _last_known if in_sequence else _equal_in_all),
        ),
        sample_moments=based("sample_moments", sample_moments),
        rows=based("rows", rows),
        row_values=_values(shares, rows["_row"].to_numpy()),
        labels_base=based("labels_base", pd.concat([part.labels_base for part in parts])),
        facts=meta,
        parameter_moments=merge_parameters([part.parameter_moments for part in parts]),
        bin_counts=merge_counts([_placed(s, s.tables.bin_counts) for s in shares]),
        **merge_experts([ExpertFrames(part.expert_places, part.expert_moments) for part in parts]).by_name,
        **merge_groups([(part.group_sites, part.group_moments) for part in parts], sites),
    )
    return _with_labels_in_use(merged)


def _check(parts: Sequence[Tables]) -> None:
    compared = {"models": [part.facts["model"] for part in parts]}
    compared |= {f"option {name!r}": [part.facts["options"].get(name) for part in parts] for name in ALIKE}
    # Else the experts of some parts alone would stand for those of all.
    if any(len(part.expert_places) for part in parts):
        compared["option 'experts'"] = [bool(part.facts["options"].get("experts")) for part in parts]
    for what, values in compared.items():
        if any(value != values[0] for value in values):
            shown = ", ".join(sorted({repr(value) for value in values}))
            without = ", or merge recording.ungrouped of each" if what == "option 'groups'" else ""
            raise RecordingError(
                f"recordings of different {what} cannot be merged: {shown}; record them alike{without}"
            )
    _check_distributions(parts)
    layers = [list(zip(part.ledger_base["layer"], part.ledger_base["type"], strict=True)) for part in parts]
    for other in layers[1:]:
        if other != layers[0]:
            moved = [here for here, there in zip(layers[0], other, strict=False) if here != there]
            name, kind = (sorted(set(layers[0]) ^ set(other)) or moved)[0]
            raise RecordingError(
                f"recordings of different layers cannot be merged: not all have {name!r} ({kind}) in the "
                "same place; probe one model with the same layers= and kinds="
            )
    check_placements([part.sites for part in parts])
    widths = pd.concat([part.sites for part in parts]).groupby(SITE_KEY, sort=False)["n_features"].nunique()
    if (widths > 1).any():
        layer, site = widths.index[widths > 1][0]
        raise RecordingError(
            f"{layer!r} has different numbers of features at its {site}; these are different models, "
            "or inputs of different widths: merge those of one width"
        )


def _check_distributions(parts: Sequence[Tables]) -> None:
    """Refuse to merge what has kurtosis or quantiles with what has none: of the whole there would be none."""
    for name in DistributionOptions._fields:
        # Recordings of before there was the option do not name it.
        asked = {bool(part.facts["options"].get(name)) for part in parts}
        if len(asked) > 1:
            raise RecordingError(
                f"recordings with {name} and without cannot be merged: the {name} of the whole would be "
                "unknown; record all with the option, or all without"
            )


def _sites(frames: Sequence[pd.DataFrame], ledger: pd.DataFrame) -> pd.DataFrame:
    """A row per place of any part, in order of depth, the sites of a layer in the vocabulary's order."""
    merged = united_sites(frames, SITE_KEY, {"dtype": pieces, **PLACED})
    merged["depth"] = merged["layer"].map(dict(zip(ledger["layer"], ledger["depth"], strict=True)))
    # Two layers may have one depth now, each the least of those in its parts: then names decide.
    order = merged[["depth", "layer"]].assign(site=merged["site"].map(site_order))
    return merged.loc[order.sort_values(["depth", "layer", "site"], kind="stable").index]


def _share(tables: Tables, sites: pd.DataFrame, parts: list[str]) -> _Share:
    """Find a part's places, features and parts among those of the whole."""
    found = {key: at for at, key in enumerate(zip(sites["layer"], sites["site"], strict=True))}
    own = tables.sites
    place = np.array([found[key] for key in zip(own["layer"], own["site"], strict=True)], np.int64)
    widths = own["n_features"].to_numpy()
    shift = starts(sites["n_features"])[place] - starts(widths)[:-1]
    feature = np.arange(widths.sum()) + np.repeat(shift, widths)
    part = np.array([parts.index(name) for name in tables.facts["parts"]], np.int64)
    return _Share(tables, place, feature, part)


def _features(
    shares: Sequence[_Share],
    size: int,
    of_vectors: Callable[[str, Sequence[_Share], int], NDArray[np.float64]],
) -> pd.DataFrame:
    """Every feature's moments merged by the one formula; of vectors what ``of_vectors`` makes of them."""
    merged = reduce(merge, (_spread(moments_of(s.tables.feature_moments), s, size) for s in shares))
    seen = reduce(merge, (_spread(_seen(s.tables.feature_moments), s, size) for s in shares))
    columns: dict[str, Any] = {field.column: getattr(merged, name) for name, field in MOMENT_FIELDS.items()}
    columns |= merged_powers([(s.tables.feature_moments, s.feature) for s in shares], size)
    columns |= dict(zip(SEEN, (seen.count, seen.mean, seen.m2), strict=True))
    return pd.DataFrame(columns | {name: of_vectors(name, shares, size) for name in VECTORS})


def _spread(moments: Moments, share: _Share, size: int) -> Moments:
    """A part's moments among empty ones, one per feature of the whole."""
    whole = Moments.empty(size)
    # Empty moments change nothing when they are merged, so what a part lacks stays as it is.
    for into, own in zip(vars(whole).values(), vars(moments).values(), strict=True):
        into[share.feature] = own
    return whole


def _seen(frame: pd.DataFrame) -> Moments:
    empty = Moments.empty(len(frame))
    held = dict(zip(("count", "mean", "m2"), (frame[name].to_numpy() for name in SEEN), strict=True))
    return Moments(**{**vars(empty), **held})


def _equal_in_all(name: str, shares: Sequence[_Share], size: int) -> NDArray[np.float64]:
    """A vector where it is equal in all parts that have the feature, NaN elsewhere."""
    common, known = np.full(size, np.nan), np.zeros(size, bool)
    for share in shares:
        at, own = share.feature, share.tables.feature_moments[name].to_numpy()
        # NaN is equal to nothing, so that what differed once stays NaN whatever comes later.
        common[at] = np.where(~known[at] | (common[at] == own), own, np.nan)
        known[at] = True
    return common


def _last_known(name: str, shares: Sequence[_Share], size: int) -> NDArray[np.float64]:
    """A vector as the last window has it in which the feature was measured."""
    last = np.full(size, np.nan)
    for share in sorted(shares, key=lambda share: last_call(share.tables)):
        last[share.feature] = share.tables.feature_moments[name].to_numpy()
    return last


def _moved(share: _Share, frame: pd.DataFrame) -> pd.DataFrame:
    """A part's samples or rows with places and parts as the whole numbers them."""
    return _placed(share, frame).assign(part=share.part[frame["part"]])


def _placed(share: _Share, frame: pd.DataFrame) -> pd.DataFrame:
    """Rows of a part with places as the whole numbers them."""
    return frame.assign(place=share.place[frame["place"]])


def _smallest(frames: Sequence[pd.DataFrame], most: NDArray[np.int64]) -> pd.DataFrame:
    """Of each place the samples of smallest hash, at most so many; ``_row`` says where they were."""
    union = pd.concat(frames, ignore_index=True)
    # Each place has its smallest hashes in front; repeat and part decide between equal ones, as in a probe.
    order = np.lexsort([union[name].to_numpy() for name in ("call", "part", "repeat", "hash", "place")])
    place = union["place"].to_numpy()[order]
    rank = np.arange(len(order)) - np.searchsorted(place, place)
    # The smallest hashes of all data are among the smallest of each part, so no sample is missed.
    kept = order[rank < most[place]]
    chosen: pd.DataFrame = union.iloc[kept].assign(_row=kept)
    return chosen


def _values(shares: Sequence[_Share], kept: NDArray[np.int64]) -> NDArray[Any]:
    """The numbers of these rows of all parts' rows."""
    every = [
        share.tables.row_values[start:stop]
        for share in shares
        for bounds in [row_starts(share.tables.sites, share.tables.rows)]
        for start, stop in pairwise(bounds)
    ]
    # Of every part, so that the dtype does not depend on whose rows are kept.
    empty = [share.tables.row_values[:0] for share in shares]
    return np.concatenate([*empty, *(every[row] for row in kept)])


def _with_labels_in_use(merged: Tables) -> Tables:
    """Without the texts of samples that are no longer kept."""
    identity = ["part", "example", "position"]
    samples, sites = merged.sample_moments, merged.sites
    part = pd.array(merged.facts["parts"], dtype="string").take(samples["part"].to_numpy())
    used = [samples.assign(part=part)[identity]]
    used += [
        sites[[f"{end}_{name}" for name in identity]].set_axis(identity, axis=1) for end in ("min", "max")
    ]
    # Extremes without a holder have no identity.
    index = pd.MultiIndex.from_frame(pd.concat(used).drop_duplicates().dropna())
    labels = merged.labels_base
    inside = pd.MultiIndex.from_frame(labels[identity]).isin(index)
    labels = labels[inside].sort_values([*identity, "text"])
    return replace(merged, labels_base=based("labels_base", labels))
