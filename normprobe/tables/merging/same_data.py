"""Parts that saw the same data: which of them count, site by site, and which hold shares of one tensor.

A set of examples is known by its number and digest; that of a merged recording by those of all its parts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np

from normprobe.errors import RecordingError
from normprobe.kernels.moments import MOMENT_FIELDS
from normprobe.tables.columns.tables import POWERS, SITE_KEY
from normprobe.tables.derive import starts
from normprobe.tables.frames import Tables
from normprobe.tables.merging.placements import refuse_summands
from normprobe.tables.merging.shards import Decision, relaid

_MOMENTS = [field.column for field in MOMENT_FIELDS.values()]
_AT_ONCE = "merge the single recordings of these parts all at once"
_ON_REQUEST = "on_same_data='count_once' (--on-same-data count_once) counts the first by name"

Data = frozenset[tuple[int, int]]


def data_of(tables: Tables) -> Data:
    """The sets of examples that are in a recording, as (examples, digest); but for those without a digest."""
    pairs = tables.facts["digests"].values()
    # 0 stands for data that have no fingerprint.
    return frozenset((examples, digest) for examples, digest in pairs if examples and digest)


def content_digests(tables: Tables) -> dict[str, str]:
    """A digest of the moments of each part, by which a copy is known even after merging."""
    known: dict[str, str] = tables.facts.get("contents", {})
    parts = tables.facts["parts"]
    return {parts[0]: _digest(tables)} if len(parts) == 1 and not known else known


def _digest(tables: Tables) -> str:
    """A digest of what is measured, whose order is that of the sites; kept samples are not in it."""
    made = hashlib.blake2b(digest_size=16)
    sites, ledger = tables.sites, tables.ledger_base
    for name in ("layer", "type", "kind"):
        made.update("\0".join(ledger[name]).encode())
    for name in ("layer", "site", "placement"):
        made.update("\0".join(sites[name]).encode())
    for name in ("calls", "n_samples", "n_features", "masked", "nonfinite_masked"):
        made.update(sites[name].to_numpy("<i8").tobytes())
    for name in [*_MOMENTS, *(name for name in POWERS if name in tables.feature_moments)]:
        made.update(np.ascontiguousarray(tables.feature_moments[name].to_numpy()).tobytes())
    return made.hexdigest()


def with_replica(kept: Tables, replica: Tables) -> Tables:
    """The first recording, which says of the other that it adds nothing to it."""
    own, other = kept.facts, replica.facts
    # Behind its own: samples count parts by their place in the list.
    facts = {
        **own,
        "parts": [*own["parts"], *other["parts"]],
        "digests": {**own["digests"], **other["digests"]},
        "contents": {**content_digests(kept), **content_digests(replica)},
        "replicas": sorted({*own.get("replicas", ()), *other["parts"]}),
        "warnings": sorted({*own["warnings"], *other["warnings"]}),
    }
    return replace(kept, facts=facts)


@dataclass(eq=False)
class _Group:
    """Recordings whose data overlap."""

    data: Data
    members: list[Tables] = field(default_factory=list)


def grouped_by_data(parts: Sequence[Tables]) -> list[list[Tables]]:
    """Parts in groups whose data overlap, each in the order given."""
    groups: list[_Group] = []
    for part in parts:
        data = data_of(part)
        joined = [group for group in groups if group.data & data]
        whole = _Group(data.union(*(group.data for group in joined)))
        whole.members = [member for group in joined for member in group.members] + [part]
        groups = [group for group in groups if group not in joined] + [whole]
    return [group.members for group in groups]


def counted_once(members: Sequence[Tables], on_same_data: str) -> list[Tables]:
    """Recordings of the same data such that nothing counts twice when they are merged.

    Args:
        members: in order of their parts' names.
        on_same_data: "error" or "count_once".

    Raises:
        RecordingError: what two of them hold is neither the same nor a share each.
    """
    members = _without(members, content_digests, "")
    whole = data_of(members[0])
    if any(data_of(member) != whole or _has_unknown(member) for member in members[1:] or ()):
        if on_same_data == "count_once":
            members = _without(members, data_of, on_same_data)
        if len(members) > 1:
            raise RecordingError(
                f"recordings of {_names(members)} hold some of the same data, and are merged of several "
                f"parts, of which none can be taken out again; {_AT_ONCE}"
            )
    if len(members) == 1:
        return members
    return _decided(members, on_same_data)


def _has_unknown(tables: Tables) -> bool:
    return any(examples and not digest for examples, digest in tables.facts["digests"].values())


def _without(members: Sequence[Tables], of: Any, on_same_data: str) -> list[Tables]:
    """The recordings without those all of which is in another, by what ``of`` says is in it."""
    kept: list[Tables] = []
    # Those of most parts first: no part can be taken out of them.
    for member in sorted(members, key=lambda member: (-len(member.facts["parts"]), member.facts["parts"])):
        held = of(member)
        here = set(held.values()) if isinstance(held, dict) else held
        for at, other in enumerate(kept):
            there = of(other)
            if here and here <= (set(there.values()) if isinstance(there, dict) else there):
                if not on_same_data and not data_of(member) <= data_of(other):
                    continue
                kept[at] = with_replica(other, member)
                break
        else:
            kept.append(member)
    return sorted(kept, key=lambda member: sorted(member.facts["parts"]))


def _decided(members: Sequence[Tables], on_same_data: str) -> list[Tables]:
    """The recordings with each site in those only where it counts, features where they are in the whole."""
    places: dict[tuple[str, str], list[tuple[int, int]]] = {}
    for at, member in enumerate(members):
        for row, key in enumerate(zip(*(member.sites[name] for name in SITE_KEY), strict=True)):
            places.setdefault(key, []).append((at, row))
    decisions = [Decision.all(len(member.sites)) for member in members]
    first = [starts(member.sites["n_features"]) for member in members]
    for key, held in places.items():
        if len(held) > 1:
            sites = [_Held(members[at], row, first[at][row], at) for at, row in held]
            _decide(key, sites, decisions, on_same_data)
    named = [
        part
        for member, decision in zip(members, decisions, strict=True)
        if not decision.kept.any() and len(decision.kept)
        for part in member.facts["parts"]
    ]
    made = relaid(members, decisions)
    if named:
        facts = made[0].facts
        made[0] = replace(made[0], facts={**facts, "replicas": sorted({*facts.get("replicas", ()), *named})})
    return made


@dataclass(frozen=True, eq=False)
class _Held:
    """A site of one of the recordings."""

    tables: Tables
    row: int
    start: int
    member: int

    def __getattr__(self, name: str) -> Any:
        return self.tables.sites[name].iat[self.row]

    @property
    def kind(self) -> str:
        """Its placement."""
        return str(self.placement) or "whole"

    @property
    def range(self) -> tuple[int, int, int]:
        """The first feature, that behind the last, and how many the whole has."""
        return self.first_feature, self.first_feature + self.n_features, self.whole_features

    def equals(self, other: _Held) -> bool:
        """Whether both hold the same numbers, to the last bit."""
        if any(getattr(self, name) != getattr(other, name) for name in ("n_samples", "n_features", "masked")):
            return False
        stop = self.start + self.n_features
        mine = self.tables.feature_moments[_MOMENTS].iloc[self.start : stop]
        theirs = other.tables.feature_moments[_MOMENTS].iloc[other.start : other.start + other.n_features]
        return mine.reset_index(drop=True).equals(theirs.reset_index(drop=True))


def _decide(
    key: tuple[str, str], sites: list[_Held], decisions: Sequence[Decision], on_same_data: str
) -> None:
    """Note which of the recordings count at one site, and as what."""
    kinds = {site.kind for site in sites}
    if "partial" in kinds:
        refuse_summands(*key)
    if kinds == {"samples"}:
        for site in sites[1:]:
            decisions[site.member].once[site.row] = True
        return
    if kinds != {"features"}:
        _keep_first(key, sites, decisions, on_same_data)
        return
    shards: list[_Held] = []
    for _, alike in _by_range(sites).items():
        _keep_first(key, alike, decisions, on_same_data)
        shards.append(alike[0])
    bounds = [shard.range for shard in shards]
    apart = all(a[1] == b[0] and a[2] == b[2] for a, b in pairwise(bounds))
    if not apart or len({shard.n_samples for shard in shards}) > 1:
        shown = ", ".join(f"{low} to {high - 1} of {whole}" for low, high, whole in bounds)
        raise RecordingError(
            f"the features of {key[0]!r} at its {key[1]} in recordings of the same data ({shown}) do not "
            f"follow one another, or are of other numbers of samples; {_AT_ONCE}"
        )
    for number, shard in enumerate(shards):
        decision = decisions[shard.member]
        decision.width[shard.row] = bounds[-1][1] - bounds[0][0]
        decision.offset[shard.row] = shard.range[0] - bounds[0][0]
        decision.first[shard.row] = bounds[0][0]
        decision.whole[shard.row] = bounds[0][2]
        decision.once[shard.row] = decision.counted[shard.row] = number > 0


def _by_range(sites: list[_Held]) -> dict[tuple[int, int, int], list[_Held]]:
    found: dict[tuple[int, int, int], list[_Held]] = {}
    for site in sorted(sites, key=lambda site: (site.range, site.member)):
        found.setdefault(site.range, []).append(site)
    return found


def _keep_first(
    key: tuple[str, str], sites: list[_Held], decisions: Sequence[Decision], on_same_data: str
) -> None:
    """Count the first of recordings that hold the same at a site.

    Raises:
        RecordingError: they do not hold the same.
    """
    for site in sites[1:]:
        copies = site.kind == sites[0].kind == "replicated"
        if not copies and on_same_data != "count_once" and not sites[0].equals(site):
            raise RecordingError(
                f"{_names([sites[0].tables, site.tables])} saw the same data "
                f"({site.tables.facts['examples']:,} examples), but differ in what they "
                f"measured of {key[0]!r} at its {key[1]}. If one repeats the other, merge "
                f"one of them: {_ON_REQUEST}. If each has a share of the layer's features, "
                "no part says which (column placement of sites): normprobe reads it from "
                "DTensors, of plain tensors it has to be told"
            )
        decisions[site.member].kept[site.row] = False


def _names(members: Sequence[Tables]) -> str:
    parts = [repr(part) for member in members for part in member.facts["parts"][:2]]
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)
