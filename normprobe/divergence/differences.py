"""From the tables of two recordings to the table of their differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import pandas as pd

from normprobe.divergence.causes import Cause, find_causes, with_weights
from normprobe.divergence.columns import CAUSES, LAYERS, UNMATCHED, shaped
from normprobe.divergence.kept_samples import RecordingArrays
from normprobe.divergence.matched_sites import (
    MatchedSite,
    describe_site,
    dtypes_of,
    fired_layers,
    match_sites,
)
from normprobe.divergence.matching import MatchedLayers, Unmatched, match_layers
from normprobe.divergence.paired import paired_columns
from normprobe.divergence.rounding import Precision, precision
from normprobe.divergence.same_data import Pairing, pair_data
from normprobe.divergence.silent_twins import with_silent_twins
from normprobe.divergence.stored_differences import (
    StoredDifference,
    StoredTensors,
    not_measured,
    stored_differences,
)
from normprobe.divergence.unpaired import unpaired_columns
from normprobe.errors import NormprobeError, NoSamplesError, RecordingError
from normprobe.tables.frames import Tables

# At 5 % one in twenty comparisons of a model with itself would name a layer.
LEVEL = 0.01


@dataclass(frozen=True, eq=False)
class Differences:
    """What a comparison found, as frames and facts.

    Attributes:
        layers: a row per matched layer and site, in the first model's order of execution.
        unmatched: a row per layer that is not compared.
        facts: names, data and precision of the two, as JSON holds them.
        causes: a row per layer and thing of its own that differs, whatever comes of it.
    """

    layers: pd.DataFrame
    unmatched: pd.DataFrame
    facts: Mapping[str, Any]
    causes: pd.DataFrame = field(default_factory=lambda: shaped([], CAUSES))


class HasDifferences(Protocol):
    """What holds differences: a comparison."""

    @property
    def differences(self) -> Differences:
        """The frames behind it."""


def differences(
    a: Tables,
    b: Tables,
    *,
    same_data: bool | None = None,
    level: float = LEVEL,
    stored: tuple[StoredTensors, StoredTensors] | None = None,
) -> Differences:
    """Compare two recordings.

    Args:
        a: tables of the first.
        b: tables of the second.
        same_data: whether they are of the same data; None asks the recordings.
        level: for other data, how often a comparison of one model with itself may name any layer.
        stored: what the two models store, where they were at hand.

    Raises:
        NoSamplesError: nothing was measured in one of them.
        NormprobeError: ``level`` is no probability.
        RecordingError: no layer of the one can be matched with one of the other.
    """
    _check(a, b, level)
    matched = matched_layers(a, b)
    pairing = pair_data(a, b, same_data, [(pair.a, pair.b) for pair in matched.pairs])
    # The second's parts bear the numbers of the first's, so that samples have one identity in both.
    readers = RecordingArrays(a), RecordingArrays(b, pairing.parts if pairing.same else None)
    places = list(match_sites(readers, matched.pairs))
    rounding = precision(*dtypes_of(readers, places))
    examples = (int(a.facts["examples"]), int(b.facts["examples"]))
    # Sample by sample only rounding is forgiven; else chance has to be told from difference.
    if pairing.same:
        columns = paired_columns(readers, places, rounding)
    else:
        columns, examples = unpaired_columns(readers, places, level)
    rows = [describe_site(readers, place) | found for place, found in zip(places, columns, strict=True)]
    facts = facts_of((a, b), matched, pairing, rounding, places) | {"examples": examples, "level": level}
    causes = list(find_causes(readers, matched.pairs))
    if stored is not None:
        found = stored_differences(*stored)
        facts |= {"not_measured": stored_facts(found, readers[0])}
        causes = with_weights(causes, found, readers, matched.pairs)
    return tabulated(rows, matched.unmatched, facts, causes)


def stored_facts(found: Sequence[StoredDifference], reader: RecordingArrays) -> list[list[str]]:
    """Name and difference, in words, of each tensor that differs and is of no layer that was measured."""
    fired = reader.ledger.index[reader.ledger["status"] == "fired"]
    return [[difference.name, difference.said] for difference in not_measured(found, set(fired))]


def tabulated(
    rows: Sequence[dict[str, Any]],
    unmatched: Sequence[Unmatched],
    facts: Mapping[str, Any],
    causes: Sequence[Cause],
) -> Differences:
    """The frames of a comparison.

    Args:
        rows: the columns of each place but `differs`.
        unmatched: the layers that are not compared.
        facts: names, data and precision of the two.
        causes: what of the layers' own differs.
    """
    # A cause belongs to a layer, and its rows of all sites say it.
    own: dict[str, list[str]] = {}
    for cause in causes:
        own.setdefault(cause.layer, []).append(cause.said)
    rows = [row | {"differs": "; ".join(own.get(row["layer"], []))} for row in rows]
    return Differences(
        shaped(rows, LAYERS),
        shaped([layer._asdict() for layer in unmatched], UNMATCHED),
        facts,
        shaped([cause._asdict() for cause in causes], CAUSES),
    )


def matched_layers(a: Tables, b: Tables) -> MatchedLayers:
    """Match the layers of two recordings.

    Raises:
        RecordingError: no layer of the one can be matched with one of the other.
    """
    readers = RecordingArrays(a), RecordingArrays(b)
    fired = fired_layers(readers[0]), fired_layers(readers[1])
    matched = match_layers(*fired)
    if not matched.pairs:
        raise RecordingError(
            f"no layer of {a.facts['model']} can be matched with one of {b.facts['model']}, by name or by "
            "kind, width and order; compare models of one architecture"
        )
    return with_silent_twins(matched, fired, (readers[0].ledger, readers[1].ledger))


def _check(a: Tables, b: Tables, level: float) -> None:
    if not 0 < level < 1:
        raise NormprobeError(f"level is a probability between 0 and 1, got {level!r}")
    for which, tables in (("first", a), ("second", b)):
        if not len(tables.sites) or not tables.sites["n_samples"].sum():
            raise NoSamplesError(
                f"the {which} recording measured nothing, so there is nothing to compare; "
                "run the model in the block"
            )


def facts_of(
    tables: Sequence[Tables],
    matched: MatchedLayers,
    pairing: Pairing,
    rounding: Precision,
    places: Sequence[MatchedSite],
) -> dict[str, Any]:
    """Names, data, precision and order, which verdict and report rest on."""
    meta = [t.facts for t in tables]
    return {
        "names": [str(facts["name"]) for facts in meta],
        "models": [str(facts["model"]) for facts in meta],
        "weights": [facts.get("weights") for facts in meta],
        "data": [facts.get("data") for facts in meta],
        "created": [facts["created"] for facts in meta],
        "parts": [len(facts["parts"]) for facts in meta],
        "versions": [dict(facts["versions"]) for facts in meta],
        "same_data": pairing.same,
        "paired_by": pairing.how,
        "dtypes": list(rounding.dtypes),
        "precision_differs": rounding.throughout,
        "precision_changes": [[places[at].match.a, places[at].site] for at in rounding.changed],
        "matched": len(matched.pairs),
        # Once what both recordings say.
        "warnings": list(dict.fromkeys(text for facts in meta for text in facts["warnings"])),
        "silent_twins": [[*twins[:2], list(twins.twins), twins.status] for twins in matched.silent_twins],
        "reordered": _reordered(tables[1], matched),
    }


def _reordered(b: Tables, matched: MatchedLayers) -> str | None:
    """The first layer that the second model executes earlier than one that comes before it in the first."""
    depth = dict(zip(b.sites["layer"], b.sites["depth"], strict=True))
    latest = -1
    # Pairs are in the first model's order: where the second's depth falls, it has another.
    for pair in matched.pairs:
        if depth[pair.b] < latest:
            return pair.a
        latest = max(latest, depth[pair.b])
    return None
