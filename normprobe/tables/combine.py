"""Recordings of parts of the data become the recording of the whole, by merging moments only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any

import numpy as np
import pandas as pd

from normprobe.errors import RecordingError
from normprobe.moments import Moments, merge
from normprobe.tables import Tables
from normprobe.tables.build import KEY, MOMENTS, VECTORS
from normprobe.tables.derive import moments_of
from normprobe.tables.schema import based

_STATUS = ("fired", "bypassed", "refused", "never fired")
_NEUTRAL = {"min": np.inf, "max": -np.inf}
_SUMS = ("calls", "n_samples", "masked", "nonfinite_masked", "within_sum", "within_count")


def merge_tables(parts: Sequence[Tables]) -> Tables:
    """Merge tables of different parts; the order of the parts does not matter.

    Raises:
        RecordingError: a part occurs twice, or models, options or layers differ.
    """
    _check(parts)
    ledger = _ledger([part.ledger_base for part in parts])
    depth = ledger.set_index("layer")["depth"]
    features = reduce(_features, [part.feature_moments for part in parts])
    frames = {
        "ledger_base": ledger,
        "sites": _in_order(_sites([part.sites for part in parts], depth), depth),
        "feature_moments": _in_order(features, depth, "feature"),
    }
    options = parts[0].meta["options"]
    for name in ("sample_moments", "rows"):
        union = pd.concat([getattr(part, name) for part in parts])
        limit = _limits(union, ledger, options, rows=name == "rows")
        union = _in_order(union, depth, "hash", "repeat", "part")
        place = union.groupby(list(KEY), sort=False).cumcount()
        frames[name] = union[place < limit(union)]
    labels = pd.concat([part.labels for part in parts]).drop_duplicates()
    frames["labels"] = labels.sort_values(["part", "example", "position"])
    meta = _meta([part.meta for part in parts])
    return Tables(**{name: based(name, frame) for name, frame in frames.items()}, meta=meta)


def _check(parts: Sequence[Tables]) -> None:
    names = [name for part in parts for name in part.meta["parts"]]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise RecordingError(
            f"part {twice[0]!r} occurs twice, so its data would count twice; merge each part once"
        )
    for what, values in (
        ("models", [part.meta["model"] for part in parts]),
        *(
            (f"option {n!r}", [part.meta["options"].get(n) for part in parts])
            for n in ("samples", "values", "seed")
        ),
    ):
        if any(value != values[0] for value in values):
            shown = ", ".join(sorted({repr(value) for value in values}))
            raise RecordingError(
                f"recordings of different {what} cannot be merged: {shown}; record them alike"
            )
    widths = pd.concat([part.sites for part in parts]).groupby(list(KEY))["n_features"].nunique()
    if (widths > 1).any():
        layer, site = widths.index[widths > 1][0]
        raise RecordingError(
            f"{layer!r} has different numbers of features at its {site}; these are different models"
        )


def _features(a: pd.DataFrame, b: pd.DataFrame) -> pd.DataFrame:
    """Two feature frames as one, every feature's moments merged by the one formula."""
    key = [*KEY, "feature"]
    a, b = a.set_index(key), b.set_index(key)
    index = a.index if a.index.equals(b.index) else a.index.union(b.index, sort=False)
    left, right = _filled(a, index), _filled(b, index)
    merged = merge(moments_of(left), moments_of(right))
    frame = pd.DataFrame(dict(zip(MOMENTS, vars(merged).values(), strict=True)), index=index)
    seen = merge(_seen(left), _seen(right))
    frame["seen_count"], frame["seen_mean"], frame["seen_m2"] = seen.count, seen.mean, seen.m2
    only_a, only_b = ~index.isin(b.index), ~index.isin(a.index)
    for name in VECTORS:
        x, y = a[name].reindex(index).to_numpy(), b[name].reindex(index).to_numpy()
        frame[name] = np.select([only_a, only_b, x == y], [x, y, x], np.nan)
    return frame.reset_index()


def _filled(frame: pd.DataFrame, index: pd.Index) -> pd.DataFrame:
    """The frame over a wider index; features it lacks are empty."""
    if frame.index.equals(index):
        return frame
    wide = frame.reindex(index)
    for name in (*MOMENTS, "seen_count", "seen_mean", "seen_m2"):
        wide[name] = wide[name].fillna(_NEUTRAL.get(name, 0)).astype(frame[name].dtype)
    return wide


def _seen(frame: pd.DataFrame) -> Moments:
    empty = Moments.empty(len(frame))
    held = {name: frame[f"seen_{name}"].to_numpy() for name in ("count", "mean", "m2")}
    return Moments(**{**vars(empty), **held})


def _sites(frames: Sequence[pd.DataFrame], depth: pd.Series) -> pd.DataFrame:
    union = pd.concat(frames)
    groups = union.groupby(list(KEY), sort=False)
    merged = groups.agg({**dict.fromkeys(_SUMS, "sum"), "n_features": "first", "dtype": _pieces})
    for end, ascending in (("min", True), ("max", False)):
        held = [f"{end}_{name}" for name in ("part", "example", "position", "feature")]
        order = union.sort_values(
            [end, *held], ascending=[ascending, True, True, True, True], na_position="last"
        )
        first = order.drop_duplicates(list(KEY)).set_index(list(KEY))
        merged = merged.join(first[[end, *held]])
    merged = merged.reset_index()
    return merged.assign(depth=merged["layer"].map(depth))


def _in_order(frame: pd.DataFrame, depth: pd.Series, *then: str) -> pd.DataFrame:
    """Rows by depth, name, site and what follows."""
    frame = frame.assign(_depth=frame["layer"].map(depth))
    frame = frame.sort_values(["_depth", "layer", "site", *then], kind="stable")
    return frame.drop(columns="_depth").reset_index(drop=True)


def _limits(union: pd.DataFrame, ledger: pd.DataFrame, options: Mapping[str, Any], *, rows: bool) -> Any:
    """How many samples (or raw rows) each layer keeps, as a function of a frame's rows."""
    samples = len(union) + 1 if options["samples"] == "all" else options["samples"]
    if not rows:
        return lambda frame: samples
    values = options["values"]
    kinds = ledger.set_index("layer")["kind"]
    of_kind = {kind: min(samples, min(8, values) if kind == "linear" else values) for kind in kinds.unique()}
    return lambda frame: frame["layer"].map(kinds).map(of_kind).to_numpy(np.int64)


def _ledger(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    numbered = [frame.assign(_place=range(len(frame))) for frame in frames]
    union = pd.concat(numbered)
    union["_status"] = union["status"].map({status: index for index, status in enumerate(_STATUS)})
    rows = [_ledger_row(str(layer), group) for layer, group in union.groupby("layer", sort=False)]
    merged = pd.DataFrame(rows).sort_values(["_place", "layer"])
    return based("ledger_base", merged)


def _ledger_row(layer: str, group: pd.DataFrame) -> dict[str, Any]:
    """One layer's row: what the parts in which it got furthest say of it."""
    best = group[group["_status"] == group["_status"].min()]
    if best["kind"].nunique() > 1:
        kinds = ", ".join(sorted(best["kind"]))
        raise RecordingError(f"{layer!r} is of different kinds ({kinds}); these are different models")
    row = {name: _common(best[name]) for name in group.columns}
    row |= {
        name: _pieces(best[name]) for name in ("aliases", "training", "grad", "masked_by", "reason", "via")
    }
    aligned = best["aligned"].dropna()
    depth = group["depth"].dropna()
    return {
        **row,
        "layer": layer,
        "calls": group["calls"].sum(),
        "aligned": aligned.all() if len(aligned) else pd.NA,
        "depth": depth.min() if len(depth) else pd.NA,
        "_place": group["_place"].min(),
    }


def _common(column: pd.Series) -> Any:
    """The value all agree on, else a missing one."""
    values = column.dropna().unique()
    return (
        values[0]
        if len(values) == 1 and column.notna().all()
        else (np.nan if column.dtype == "float64" else pd.NA)
    )


def _pieces(column: pd.Series) -> str:
    """The `; `-joined parts of all values, each once, sorted."""
    return "; ".join(sorted({piece for value in column.dropna() for piece in value.split("; ") if piece}))


def _meta(metas: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the whole says of its circumstances: counts add up, lists are united, what differs is joined."""
    merged: dict[str, Any] = {}
    for name in dict.fromkeys(key for meta in metas for key in meta):
        values = [meta[name] for meta in metas if meta.get(name) is not None]
        if name in ("forwards", "measured", "examples", "rows", "padding", "seconds"):
            merged[name] = sum(values) if values else None
        elif name in ("parts", "warnings", "training"):
            merged[name] = sorted({entry for value in values for entry in value})
        elif name == "digests":
            merged[name] = {part: value for entry in values for part, value in sorted(entry.items())}
        elif name == "created":
            merged[name] = max(values)
        elif values and all(isinstance(value, str) for value in values):
            merged[name] = "; ".join(sorted({piece for value in values for piece in value.split("; ")}))
        else:
            merged[name] = _agreed(values)
    return merged


def _agreed(values: list[Any]) -> Any:
    """The value all agree on; of mappings the entries they agree on."""
    if values and all(isinstance(value, dict) for value in values):
        keys = dict.fromkeys(key for value in values for key in value)
        return {key: _agreed([value.get(key) for value in values]) for key in keys}
    return values[0] if values and all(value == values[0] for value in values) else None
