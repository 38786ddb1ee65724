"""Tables of a share of the features, laid out as those of the whole, to be put side by side by merging."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from normprobe.kernels.moments import MOMENT_FIELDS, Moments, merge
from normprobe.tables.build import SAMPLE_MOMENTS, SEEN, VECTORS
from normprobe.tables.columns.tables import POWERS, SITE_KEY, based
from normprobe.tables.derive import row_starts, starts
from normprobe.tables.distributions.power_moments import merged_powers
from normprobe.tables.expert_frames import ExpertFrames
from normprobe.tables.frames import Tables

_COUNTS = ("calls", "n_samples", "masked", "nonfinite_masked")
_SAMPLE = ["call", "repeat", "example", "position"]


@dataclass(frozen=True, eq=False)
class Decision:
    """What becomes of the sites of one recording; arrays of an entry a place.

    Attributes:
        kept: whether it counts.
        once: whether its calls were counted in another recording.
        counted: whether its samples were.
        width: of a share of features how many the merged site has; else -1.
        offset: which of these its own first one is.
        first: which of the whole the merged site's first one is.
        whole: how many the whole has.
    """

    kept: NDArray[np.bool_]
    once: NDArray[np.bool_]
    counted: NDArray[np.bool_]
    width: NDArray[np.int64]
    offset: NDArray[np.int64]
    first: NDArray[np.int64]
    whole: NDArray[np.int64]

    @staticmethod
    def all(places: int) -> Decision:
        """Everything counts as it is."""
        no, zero = np.zeros(places, bool), np.zeros(places, np.int64)
        return Decision(~no, no.copy(), no.copy(), zero - 1, zero.copy(), zero.copy(), zero.copy())


def relaid(members: Sequence[Tables], decisions: Sequence[Decision]) -> list[Tables]:
    """The recordings with what counts of them, shares of features where they are in the merged sites."""
    every = list(zip(members, decisions, strict=True))
    samples, rows, values = _joined_samples(every)
    made = [
        _relaid(member, decision, samples[at], rows[at], values[at])
        for at, (member, decision) in enumerate(every)
    ]
    return _with_others_once(made)


def _relaid(
    tables: Tables, decision: Decision, samples: pd.DataFrame, rows: pd.DataFrame, values: NDArray[Any]
) -> Tables:
    """One recording; its samples and rows were chosen."""
    sites, kept = tables.sites, decision.kept
    number = np.cumsum(kept) - 1
    counts = tables.bin_counts[kept[tables.bin_counts["place"]]]
    keys = list(zip(*(sites[name] for name in SITE_KEY), strict=True))
    found = {key: at for at, key in enumerate(keys)}
    groups = tables.group_sites
    of = np.array([found[key] for key in zip(*(groups[name] for name in SITE_KEY), strict=True)], np.int64)
    return replace(
        tables,
        sites=based("sites", _sites(sites, decision, np.arange(len(sites)))[kept]),
        feature_moments=_spread(
            "feature_moments", tables.feature_moments, sites, decision, np.arange(len(sites))
        ),
        sample_moments=based("sample_moments", samples.assign(place=number[samples["place"]])),
        rows=based("rows", rows.assign(place=number[rows["place"]])),
        row_values=values,
        bin_counts=based("bin_counts", counts.assign(place=number[counts["place"]])),
        group_sites=based("group_sites", _sites(groups, decision, of)[kept[of]]),
        group_moments=_spread("group_moments", tables.group_moments, groups, decision, of),
    )


def _sites(sites: pd.DataFrame, decision: Decision, of: NDArray[np.int64]) -> pd.DataFrame:
    """Rows of sites, or of their groups, as those of the merged sites."""
    once, counted, spread = decision.once[of], decision.counted[of], decision.width[of] >= 0
    columns: dict[str, Any] = {
        name: np.where(once if name == "calls" else counted, 0, sites[name]) for name in _COUNTS
    }
    # The variance of a whole sample does not follow from those of its shares.
    columns |= {name: np.where(spread, 0, sites[name]) for name in ("within_sum", "within_count")}
    columns["n_features"] = np.where(spread, decision.width[of], sites["n_features"])
    for end in ("min", "max", "nonfinite"):
        columns[f"{end}_feature"] = sites[f"{end}_feature"] + np.where(spread, decision.offset[of], 0)
    if "placement" in sites:
        part = spread & (decision.width[of] < decision.whole[of])
        columns["placement"] = sites["placement"].where(~spread | part, "whole")
        for name, held in (("first_feature", decision.first), ("whole_features", decision.whole)):
            now = pd.array(np.where(part, held[of], 0), dtype="Int64")
            now[~part] = pd.NA
            columns[name] = now
    return sites.assign(**columns)


def _spread(
    name: str, moments: pd.DataFrame, sites: pd.DataFrame, decision: Decision, of: NDArray[np.int64]
) -> pd.DataFrame:
    """Moments of the places that are kept, among empty ones where others have the features."""
    widths, kept = sites["n_features"].to_numpy(), decision.kept[of]
    wide = np.where(decision.width[of] >= 0, decision.width[of], widths)
    whole = Moments.empty(int(wide[kept].sum()))
    columns: dict[str, Any] = {field.column: getattr(whole, own) for own, field in MOMENT_FIELDS.items()}
    columns |= {own: np.zeros(len(whole.count)) for own in (*SEEN, *POWERS) if own in moments}
    columns |= {own: np.full(len(whole.count), np.nan) for own in VECTORS if own in moments}
    shift = starts(wide[kept])[:-1] + decision.offset[of][kept] - starts(widths[kept])[:-1]
    at = np.arange(widths[kept].sum()) + np.repeat(shift, widths[kept])
    own_rows = np.repeat(kept, widths)
    for own, into in columns.items():
        into[at] = moments[own].to_numpy()[own_rows]
    return based(name, pd.DataFrame(columns))


_Chosen = tuple[list[pd.DataFrame], list[pd.DataFrame], list[NDArray[Any]]]


def _joined_samples(every: Sequence[tuple[Tables, Decision]]) -> _Chosen:
    """The kept samples and raw rows that stay with each recording.

    Of shares of features those samples that all have, if their numbers name one sample in
    each; the recording with the first features holds them.
    """
    shares: dict[tuple[str, str], list[tuple[int, int]]] = {}
    for at, (tables, decision) in enumerate(every):
        for place in np.flatnonzero(decision.kept & (decision.width >= 0)):
            layer, site = (str(tables.sites[name].iat[int(place)]) for name in SITE_KEY)
            shares.setdefault((layer, site), []).append((at, int(place)))
    samples = [_plain(tables.sample_moments, decision) for tables, decision in every]
    bounds = [row_starts(tables.sites, tables.rows) for tables, _ in every]
    numbers = [
        [tables.row_values[start:stop] for start, stop in pairwise(own)]
        for (tables, _), own in zip(every, bounds, strict=True)
    ]
    rows = [_plain(_numbered(tables.rows), decision) for tables, decision in every]
    kept = [[own[row] for row in frame["_row"]] for own, frame in zip(numbers, rows, strict=True)]
    for held in shares.values():
        held.sort(key=lambda one: every[one[0]][1].offset[one[1]])
        first = held[0][0]
        found = _in_all([_of_place(every[at][0].sample_moments, place) for at, place in held])
        samples[first] = pd.concat([samples[first], _joined(found)])
        raw = _in_all([_of_place(every[at][0].rows, place) for at, place in held])
        rows[first] = pd.concat([rows[first], raw[0]])
        kept[first] += [
            np.concatenate([numbers[at][row] for (at, _), row in zip(held, of, strict=True)])
            for of in zip(*(frame["_row"] for frame in raw), strict=True)
        ]
    empty = [tables.row_values[:0] for tables, _ in every]
    values = [np.concatenate([*empty, *of]) for of in kept]
    return samples, [frame.drop(columns="_row") for frame in rows], values


def _numbered(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(_row=np.arange(len(frame)))


def _of_place(frame: pd.DataFrame, place: int) -> pd.DataFrame:
    return _numbered(frame)[(frame["place"] == place).to_numpy()]


def _plain(frame: pd.DataFrame, decision: Decision) -> pd.DataFrame:
    """Samples of the places that are kept and no share of features."""
    return frame[(decision.kept & (decision.width < 0))[frame["place"]]]


def _in_all(frames: Sequence[pd.DataFrame]) -> list[pd.DataFrame]:
    """The samples that are in all frames, in the order of the first."""
    keys = [pd.MultiIndex.from_frame(frame[_SAMPLE]) for frame in frames]
    # Of parts on other data that were merged first, a number may name a sample of each.
    alone = [~key.duplicated(keep=False) for key in keys]
    frames = [frame[own] for frame, own in zip(frames, alone, strict=True)]
    keys = [key[own] for key, own in zip(keys, alone, strict=True)]
    common = reduce(lambda a, b: a[a.isin(b)], keys)
    return [frame.iloc[key.get_indexer(common)] for frame, key in zip(frames, keys, strict=True)]


def _joined(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """The moments of samples whose features are in several frames, by the one formula."""
    whole = reduce(merge, (_moments(frame) for frame in frames))
    fields = {field.column: getattr(whole, name) for name, field in MOMENT_FIELDS.items()}
    columns: dict[str, Any] = {name: fields[name] for name in SAMPLE_MOMENTS}
    size = len(frames[0])
    columns |= merged_powers([(frame, np.arange(size)) for frame in frames], size)
    return frames[0].drop(columns="_row").assign(**columns)


def _moments(frame: pd.DataFrame) -> Moments:
    empty = Moments.empty(len(frame))
    held = {name: frame[f.column].to_numpy() for name, f in MOMENT_FIELDS.items() if f.column in frame}
    return Moments(**{**vars(empty), **held})


def _with_others_once(members: Sequence[Tables]) -> list[Tables]:
    """Without parameters and experts that an earlier recording holds just so."""
    made: list[Tables] = []
    for member in members:
        parameters, places, moments = member.parameter_moments, member.expert_places, member.expert_moments
        for other in made:
            both = parameters.merge(other.parameter_moments, how="left", indicator=True)
            parameters = based("parameter_moments", parameters[(both["_merge"] == "left_only").to_numpy()])
            if places.equals(other.expert_places) and moments.equals(other.expert_moments):
                places, moments = ExpertFrames.none()
        made.append(
            replace(member, parameter_moments=parameters, expert_places=places, expert_moments=moments)
        )
    return made
