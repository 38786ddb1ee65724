"""Which findings are new against an earlier recording, which were there before, and which are gone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd

from normprobe.errors import NormprobeError
from normprobe.vocabulary import SEVERITIES

if TYPE_CHECKING:
    from normprobe.tables.frames import Tables

NEW, KNOWN, GONE = "new", "known", "gone"


def changes(
    findings: pd.DataFrame, before: pd.DataFrame, *, names: Mapping[str, str] | None = None
) -> pd.DataFrame:
    """Hold findings against those of an earlier recording.

    A finding is known if the earlier ones have one of the same check and site, no milder, among whose layers
    is the layer that it names. The layer named is the worst, or the first, of several; it may be another one
    from run to run, and how many layers follow moves with the data: neither makes a finding new. That a
    layer is named which did not show it before does, and so does a worse severity.

    Args:
        findings: of the recording in question.
        before: those of the earlier one.
        names: the earlier recording's name of a layer for each of this one's that has another.

    Returns:
        The findings with a last column ``change``: new or known; then, as ``gone``, the earlier ones of which
        none of the same check and site is left at the layer that they name.

    Raises:
        NormprobeError: what is given is no table of findings.
    """
    for given in (findings, before):
        if not isinstance(given, pd.DataFrame) or "check" not in given:
            kind = (
                "a table without the column `check`"
                if isinstance(given, pd.DataFrame)
                else type(given).__name__
            )
            raise NormprobeError(
                f"changes takes two tables of findings, got {kind}; "
                "give recording.findings() of both: changes(new.findings(), old.findings())"
            )
    renamed = names or {}
    now = [_of(row, renamed) for row in findings.to_dict("records")]
    then = [_of(row, {}) for row in before.to_dict("records")]
    known = [any(_covers(old, this) and old["rank"] <= this["rank"] for old in then) for this in now]
    gone = [not any(_covers(this, old) for this in now) for old in then]
    kept = findings.assign(change=[KNOWN if is_known else NEW for is_known in known])
    left = before[gone].assign(change=GONE)
    # Concatenated, columns of an empty frame would change the dtypes of the other.
    every = kept if left.empty else left if kept.empty else pd.concat([kept, left])
    return every.reset_index(drop=True).astype({"change": "string"})


def other_data(now: Tables, before: Tables) -> bool:
    """Whether two recordings are known to be of other data: examples by number, or fingerprints, differ."""
    digests: list[list[tuple[int, int]]] = [
        sorted((int(number), int(digest)) for number, digest in tables.facts["digests"].values())
        for tables in (now, before)
    ]
    # 0 stands for data that have no fingerprint: then only numbers compare.
    if any(digest == 0 for side in digests for _, digest in side):
        return sum(number for number, _ in digests[0]) != sum(number for number, _ in digests[1])
    return digests[0] != digests[1]


def _of(row: Mapping[Any, Any], renamed: Mapping[str, str]) -> dict[str, Any]:
    layer = str(row["layer"])
    affected = [layer, *str(row["affected"]).split("; ")]
    return {
        "what": (str(row["check"]), str(row["site"])),
        "layer": renamed.get(layer, layer),
        "layers": {renamed.get(name, name) for name in affected},
        "rank": SEVERITIES.index(row["severity"]),
    }


def _covers(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether a finding is of another's kind and shows at the layer that the other names."""
    return one["what"] == other["what"] and other["layer"] in one["layers"]
