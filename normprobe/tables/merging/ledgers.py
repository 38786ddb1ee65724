"""The ledger and the metadata of merged parts."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from normprobe.errors import RecordingError
from normprobe.tables.counted_notes import over_states, without_counts
from normprobe.tables.window_facts import joined_windows
from normprobe.vocabulary import FIRED, STATUSES, UNMEASURED

_SUMS = ("forwards", "measured", "examples", "rows", "padding", "pad_tokens", "seconds", "weight_changes")
_UNIONS = ("parts", "warnings", "training", "replicas")
_JOINED = ("name", "model", "data", "device", "dtype", "kernel")
_UNITS = {"unit": "position", "example_unit": "example"}
_NEVER_USED = "no function used it as the weight of a Linear"
_TIMES = re.compile(r" \((\d+) times\)$")


def with_every_layer(frames: Sequence[pd.DataFrame]) -> list[pd.DataFrame]:
    """Ledgers that name the same layers, where they differ only in parameters that some parts used as one.

    A parameter that turned out to be a Linear's weight is a layer of the parts where it did; in the others it
    never fired. Such layers stand last, by their names.
    """
    here = [set(zip(frame["layer"], frame["type"], strict=True)) for frame in frames]
    everywhere = set.intersection(*here)
    union = pd.concat(frames, ignore_index=True).drop_duplicates(["layer", "type"])
    found = [(name, kind) in everywhere for name, kind in zip(union["layer"], union["type"], strict=True)]
    parameters = union[~pd.Series(found, index=union.index) & union["via"].eq("functional")].sort_values(
        "layer"
    )
    if parameters.empty:
        return list(frames)
    never_used = never_fired(parameters, _NEVER_USED)
    return [_completed(frame, never_used) for frame in frames]


def never_fired(rows: pd.DataFrame, reason: str) -> pd.DataFrame:
    """Rows of a ledger as those of a part in which these layers did not fire."""
    blank: dict[str, Any] = dict.fromkeys(("via", "masked_by", "training", "grad"), "")
    blank |= {"calls": 0, "firings": 0, "unmasked": 0, "status": "never fired", "reason": reason}
    blank["gradients"] = 0
    blank |= dict.fromkeys(("depth", "aligned"), pd.NA)
    return rows.assign(**blank)


def _completed(frame: pd.DataFrame, never_used: pd.DataFrame) -> pd.DataFrame:
    """A ledger with all these layers at its end, those that it has as they are."""
    own = frame["layer"].isin(never_used["layer"])
    # Of the ledger's dtypes: blank entries made objects of columns, and pandas 2 warns of joining those.
    missing = never_used[~never_used["layer"].isin(frame["layer"])]
    tail = pd.concat([frame[own], missing.astype(frame.dtypes.to_dict())]).sort_values("layer")
    return pd.concat([frame[~own], tail], ignore_index=True)


def merge_ledgers(
    frames: Sequence[pd.DataFrame], *, in_sequence: bool = False, once: bool = False
) -> pd.DataFrame:
    """A row per layer, from frames that name the same layers in the same order.

    Args:
        frames: one a part, or a window of one part.
        in_sequence: whether they are windows in the order of their forwards, as one probe would note them.
        once: whether they are of the same forwards, which count once: of numbers the largest, not the sum.
    """
    every = [frame.to_dict("records") for frame in frames]
    rows = [
        _row(rows, in_sequence=in_sequence, add=max if once else sum) for rows in zip(*every, strict=True)
    ]
    return pd.DataFrame(rows, columns=frames[0].columns)


def _row(rows: Sequence[dict[str, Any]], *, in_sequence: bool, add: Callable[[Any], Any]) -> dict[str, Any]:
    """One layer's row: from the parts in which its status is the first of `STATUSES`."""
    status = min((row["status"] for row in rows), key=STATUSES.index)
    best = [row for row in rows if row["status"] == status]
    kinds = sorted({row["kind"] for row in best})
    if len(kinds) > 1:
        raise RecordingError(
            f"{rows[0]['layer']!r} behaves as {' and as '.join(kinds)}; these are different models: "
            "merge recordings of one model only"
        )
    columns = {name: [row[name] for row in best] for name in best[0]}
    joined = ["aliases", "training", "grad", "masked_by", "via", "sample_unit"]
    joined += ["activation", "running_dtype", "statistics", "normalizes", "expert_of", "router_of"]
    aligned = [value for value in columns["aligned"] if not pd.isna(value)]
    depths = [row["depth"] for row in rows if not pd.isna(row["depth"])]
    return {
        **{name: _common(values) for name, values in columns.items()},
        **{name: pieces(columns[name], in_order=in_sequence) for name in joined},
        # In the module's own order, which joining would sort, where all parts say the same.
        "settings": _common(columns["settings"]) or pieces(columns["settings"]),
        "reason": _reasons(columns["reason"], add=status in (FIRED, UNMEASURED) and add is sum),
        "calls": add(row["calls"] for row in rows),
        **{
            name: _of_known(add, columns[name])
            for name in ("updates", "firings", "unmasked", "train_in_eval", "gradients")
        },
        **{name: _of_known(any, columns[name]) for name in ("moved", "trainable")},
        # Recordings of older versions do not know them.
        **{
            name: (_last_of_known if in_sequence else _common_of_known)(columns[name])
            for name in ("groups", "momentum", "processes", "weights", "num_batches_tracked", "expert")
        },
        "aligned": all(aligned) if aligned else pd.NA,
        "depth": min(depths, default=pd.NA),
    }


def _of_known(add: Callable[[Any], Any], values: Sequence[Any]) -> Any:
    """The sum, or whether any holds, of the values that are known; missing if none is."""
    known = [value for value in values if not pd.isna(value)]
    return add(known) if known else pd.NA


def _common(values: Sequence[Any]) -> Any:
    """The value if all are equal, else a missing one."""
    return values[0] if all(not pd.isna(value) and value == values[0] for value in values) else None


def _common_of_known(values: Sequence[Any]) -> Any:
    """The value if all that are known are equal, else a missing one."""
    return _common([value for value in values if not pd.isna(value)] or [None])


def _last_of_known(values: Sequence[Any]) -> Any:
    """The last value that is known, else a missing one."""
    return next((value for value in reversed(values) if not pd.isna(value)), None)


def pieces(values: Iterable[Any], *, in_order: bool = False) -> str:
    """The `; `-joined parts of all texts, each once, sorted or in the order of their first."""
    found = dict.fromkeys(piece for value in values for piece in str(value).split("; ") if piece)
    return "; ".join(found if in_order else sorted(found))


def _reasons(values: Iterable[str], *, add: bool) -> str:
    """The `; `-joined reasons, each once; where they count calls, their counts added up."""
    counts: dict[str, int] = {}
    for piece in (piece for value in values for piece in value.split("; ") if piece):
        times = _TIMES.search(piece)
        text, count = (piece[: times.start()], int(times[1])) if times else (piece, 1)
        # Parts in which a layer never fired state one reason, not the same one "2 times".
        counts[text] = counts.get(text, 0) + count if add else max(counts.get(text, 0), count)
    shown = {text: f"{text} ({count} times)" if count > 1 else text for text, count in counts.items()}
    return "; ".join(shown[text] for text in sorted(shown))


def merge_meta(metas: Sequence[Mapping[str, Any]], *, once: bool = False) -> dict[str, Any]:
    """Counts add up (of the same data the largest counts), lists are united, differences joined or open."""
    add = max if once else sum
    merged = {name: _fact(name, metas, add) for name in dict.fromkeys(key for meta in metas for key in meta)}
    said = without_counts(merged.get("warnings") or ())
    return merged | {"warnings": sorted([*said, *over_states(merged.get("weight_changes") or 0)])}


def _fact(name: str, metas: Sequence[Mapping[str, Any]], add: Callable[[Any], Any]) -> Any:
    """One entry of the metadata of the whole."""
    values = [meta[name] for meta in metas if name in meta]
    known = [value for value in values if value is not None]
    if name in _SUMS:
        return add(known) if known else None
    if name in _UNIONS or name in _JOINED:
        return _together(known, joined=name in _JOINED)
    if name in _UNITS:
        # A part that measured nothing does not know its unit.
        stated = {meta[name] for meta in metas if meta["measured"]} or set(known)
        return stated.pop() if len(stated) == 1 else _UNITS[name]
    if name in _MAPPINGS:
        return _MAPPINGS[name]([item for value in known for item in value.items()])
    if name == "windows":
        return joined_windows([window for value in known for window in value])
    # All in UTC and in one format, so that texts sort as times do.
    return max(known) if name == "created" else _equal_in_all(values)


def _together(known: Sequence[Any], *, joined: bool) -> Any:
    """Texts as one, or lists as one, each entry once."""
    if joined:
        return pieces(known) if known else None
    return sorted({entry for value in known for entry in value})


def _sorted(items: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    return dict(sorted(items))


def _digests(items: Iterable[tuple[str, list[int]]]) -> dict[str, list[int]]:
    """How many examples each part has, and their digest; those of the windows of a part add up."""
    found: dict[str, list[int]] = {}
    for part, own in sorted(items):
        both = (own, found[part]) if part in found else (own,)
        # 0 stands for data that have no fingerprint: that of a part of them would pass for that of all.
        known = all(digest or not examples for examples, digest in both)
        digests = _wrapped(sum(digest for _, digest in both)) if known else 0
        found[part] = [sum(examples for examples, _ in both), digests]
    return found


def _wrapped(number: int) -> int:
    """A sum as 64 signed bits hold it."""
    return (number + 2**63) % 2**64 - 2**63


_MAPPINGS: dict[str, Callable[[Iterable[Any]], dict[str, Any]]] = {
    "digests": _digests,
    "stored_nonfinite": _sorted,
    "contents": _sorted,
}


def _equal_in_all(values: Sequence[Any]) -> Any:
    """The value if all are equal; of mappings the entries that are; None where they differ."""
    if all(isinstance(value, dict) for value in values):
        keys = dict.fromkeys(key for value in values for key in value)
        return {key: _equal_in_all([value[key] for value in values if key in value]) for key in keys}
    return values[0] if all(value == values[0] for value in values) else None
