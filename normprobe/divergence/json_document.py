"""A comparison as one document for programs, whose names do not change."""

from __future__ import annotations

from typing import Any

import pandas as pd

from normprobe.divergence.allowed_error import largest_error
from normprobe.divergence.differences import Differences
from normprobe.divergence.side_names import side_names
from normprobe.divergence.verdict import first_divergence, sentences, verdict_code
from normprobe.findings import changes
from normprobe.findings.json_document import FORMAT, counts, plain_rows, plain_value
from normprobe.vocabulary import OUTPUT


def finding_changes(found: Differences, of_a: pd.DataFrame, of_b: pd.DataFrame) -> pd.DataFrame:
    """The second's findings, which are new or known, and the first's that are gone.

    Args:
        found: what the comparison found, which says what a layer is called in either.
        of_a: findings of the first recording.
        of_b: findings of the second.
    """
    names = dict(zip(found.layers["layer_b"], found.layers["layer"], strict=True))
    return changes(of_b, of_a, names=names)


def document(
    found: Differences, findings: pd.DataFrame, changed: pd.DataFrame | None, facts: dict[str, Any]
) -> dict[str, Any]:
    """A comparison as JSON holds it.

    Args:
        found: what it found.
        findings: its own.
        changed: the recordings' findings, as `finding_changes` gives them; None where they are not known.
        facts: what else the document holds.
    """
    worst, said = largest_error(found), sentences(found)
    largest = None if worst is None else {"layer": worst[0], "site": OUTPUT} | _error(worst[1])
    known = found.facts.get("not_measured")
    return {
        "format": FORMAT,
        "a": _side(found, 0),
        "b": _side(found, 1),
        "same_data": bool(found.facts["same_data"]),
        "verdict": said[0],
        "verdict_code": verdict_code(found),
        "sentences": said,
        "first_divergence": _first(found),
        "largest_error": largest,
        **facts,
        "counts": _counts(found) | {"findings": counts(findings)},
        "layers": _layers(found),
        "unmatched": found.unmatched.to_dict("records"),
        "causes": found.causes.to_dict("records"),
        "not_measured": None if known is None else [{"tensor": name, "said": said} for name, said in known],
        "findings": plain_rows(findings),
        **_changed(changed),
    }


def _side(found: Differences, at: int) -> dict[str, Any]:
    facts = found.facts
    return {
        "name": side_names(facts)[at],
        "model": facts["models"][at],
        "weights": facts.get("weights", (None, None))[at],
        "data": facts["data"][at],
        "dtype": facts["dtypes"][at],
        "examples": int(facts["examples"][at]),
        "recorded": facts["created"][at],
        "normprobe": facts["versions"][at].get("normprobe"),
    }


def _first(found: Differences) -> dict[str, Any] | None:
    first = first_divergence(found)
    if first is None:
        return None
    return {
        "layer": first.layer,
        "layer_b": first.layer_b,
        "site": first.site,
        **_error(first.error_db),
        "noise_db": plain_value(first.noise_db),
        "after": first.after,
        "differs": list(first.differs),
        "undone_behind": first.undone_behind,
    }


def _error(decibels: float) -> dict[str, float | None]:
    """An error in dB and as a ratio of amplitudes: without error the one is null and the other 0."""
    return {
        "error_db": plain_value(decibels),
        # NaN or infinite values in one of the two only: both are null.
        "relative_error": plain_value(float(10 ** (decibels / 20))),
    }


def _counts(found: Differences) -> dict[str, int]:
    each = found.layers.groupby("layer", sort=False)[["beyond", "introduces"]].any()
    return {
        "layers": int(found.facts["matched"]),
        "differ": int(each["beyond"].sum()),
        "introduce": int(each["introduces"].sum()),
        "unmatched": len(found.unmatched),
    }


def _layers(found: Differences) -> list[dict[str, Any]]:
    """An object per layer, with what was found at each of its sites."""
    layers = []
    for name, rows in found.layers.groupby("layer", sort=False):
        row = rows.iloc[0]
        differs = "" if pd.isna(row["differs"]) else str(row["differs"])
        layers.append(
            {
                "layer": str(name),
                "layer_b": str(row["layer_b"]),
                "kind": str(row["kind"]),
                "differs": differs.split("; ") if differs else [],
                "sites": {str(at["site"]): _site(at) for _, at in rows.iterrows()},
            }
        )
    return layers


def _site(row: pd.Series) -> dict[str, Any]:
    split = {name: plain_value(row[name]) for name in ("inherited_db", "introduced_db", "noise_db")}
    said = {name: bool(row[name]) for name in ("beyond", "introduces")}
    return _error(float(row["error_db"])) | split | said


def _changed(changed: pd.DataFrame | None) -> dict[str, Any]:
    """The findings of the second that the first has not, and those of the first that are gone."""
    if changed is None:
        return {"new_findings": None, "gone_findings": None}
    return {f"{name}_findings": plain_rows(changed[changed["change"] == name]) for name in ("new", "gone")}
