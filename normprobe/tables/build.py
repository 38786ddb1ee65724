"""From records to the base frames: moments and identities, column by column, as they are saved and merged."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from normprobe.moments import Moments
from normprobe.records import Holder, Kept, LayerRecord, SiteRecord

MOMENTS = ("count", "mean", "m2", "min", "max", "abs_sum", "zeros", "nonfinite")
SEEN = ("seen_count", "seen_mean", "seen_m2")
VECTORS = ("weight", "bias", "running_mean", "running_var")
SAMPLE_MOMENTS = ("count", "mean", "m2", "min", "max")
KEY = ("layer", "site")
IDENTITY = ("layer", "site", "part", "call", "repeat", "example", "position", "hash")
HELD = ("example", "position", "feature")


def texts(values: Iterable[Any], repeats: Sequence[int] | None = None) -> pd.Series:
    """A text column of the values, each repeated as often as ``repeats`` says."""
    column = pd.Series(list(values), dtype="string")
    return column if repeats is None else column.repeat(repeats).reset_index(drop=True)


def pairs(records: Sequence[LayerRecord]) -> list[tuple[str, SiteRecord, LayerRecord]]:
    """Every (layer, site) in order of depth, input before output."""
    fired = sorted((r for r in records if r.depth is not None), key=lambda r: r.depth or 0)
    return [(record.ledger["layer"], site, record) for record in fired for site in record.sites]


def ledger_frame(records: Sequence[LayerRecord]) -> pd.DataFrame:
    """A row per layer in order of definition."""
    frame = pd.DataFrame([record.ledger for record in records])
    frame["depth"] = pd.array([record.depth for record in records], dtype="Int64")
    return frame


def site_frame(records: Sequence[LayerRecord], part: str) -> pd.DataFrame:
    """A row per layer and site with what is neither a feature's nor a sample's."""
    rows = []
    for layer, site, record in pairs(records):
        row: dict[str, Any] = {"layer": layer, "site": site.site, "depth": record.depth, "dtype": site.dtype}
        for name in ("calls", "n_samples", "masked", "nonfinite_masked", "within_sum", "within_count"):
            row[name] = getattr(site, name)
        row["n_features"] = len(site.features.count)
        row.update(_extreme("min", site.minimum, part))
        row.update(_extreme("max", site.maximum, part))
        rows.append(row)
    columns = [*KEY, "depth", "dtype", "calls", "n_samples", "masked", "nonfinite_masked", "within_sum"]
    columns += ["within_count", "n_features", *_extreme("min", None, ""), *_extreme("max", None, "")]
    frame = pd.DataFrame(rows, columns=columns)
    whole = [f"{end}_{name}" for end in ("min", "max") for name in HELD]
    text = ["layer", "site", "dtype", "min_part", "max_part"]
    return frame.astype(dict.fromkeys(whole, "Int64") | dict.fromkeys(text, "string"))


def _extreme(end: str, held: Holder | None, part: str) -> dict[str, Any]:
    """The five columns of one extreme."""
    if held is None:
        return {end: np.nan, f"{end}_part": pd.NA, **{f"{end}_{name}": pd.NA for name in HELD}}
    return {end: held.value, f"{end}_part": part, **{f"{end}_{name}": getattr(held, name) for name in HELD}}


def feature_frame(records: Sequence[LayerRecord]) -> pd.DataFrame:
    """A row per layer, site and feature: its moments, what the layer saw, and the vectors it applied."""
    every = pairs(records)
    widths = [len(site.features.count) for _, site, _ in every]
    columns: dict[str, Any] = {
        "layer": texts((layer for layer, _, _ in every), widths),
        "site": texts((site.site for _, site, _ in every), widths),
        "feature": _joined([np.arange(width) for width in widths], np.int64),
    }
    for name, field in zip(MOMENTS, Moments.__match_args__, strict=True):
        whole = name in ("count", "zeros", "nonfinite")
        columns[name] = _joined(
            [getattr(s.features, field) for _, s, _ in every], np.int64 if whole else np.float64
        )
    for name, field in zip(SEEN, ("count", "mean", "m2"), strict=True):
        seen = [getattr(s.features if s.seen is None else s.seen, field) for _, s, _ in every]
        columns[name] = _joined(seen, np.int64 if name == "seen_count" else np.float64)
    for name in VECTORS:
        at = "output" if name in ("weight", "bias") else "input"
        columns[name] = _joined([_vector(site, record, name, at) for _, site, record in every], np.float64)
    return pd.DataFrame(columns)


def _vector(site: SiteRecord, record: LayerRecord, name: str, at: str) -> Any:
    """A vector of the layer at the site where it belongs, NaN elsewhere."""
    width = len(site.features.count)
    vector = record.vectors.get(name) if site.site == at else None
    return vector if vector is not None and len(vector) == width else np.full(width, np.nan)


def _joined(arrays: list[Any], dtype: Any) -> Any:
    return np.concatenate(arrays).astype(dtype) if arrays else np.empty(0, dtype)


def sample_frame(records: Sequence[LayerRecord], part: str) -> pd.DataFrame:
    """A row per layer, site and kept sample: its identity and moments."""
    every = [(layer, site.site, site.samples) for layer, site, _ in pairs(records)]
    frame = _identities(every, part)
    data = _joined([kept.data for _, _, kept in every if kept is not None], np.float64).reshape(len(frame), 5)
    for index, name in enumerate(SAMPLE_MOMENTS):
        frame[name] = data[:, index].astype(np.int64) if name == "count" else data[:, index]
    return frame


def row_frame(records: Sequence[LayerRecord], part: str) -> pd.DataFrame:
    """A row per layer, site and kept raw row; its values as one list."""
    every = [(layer, site.site, site.rows) for layer, site, _ in pairs(records)]
    frame = _identities(every, part)
    frame["values"] = pd.Series(
        [row for _, _, kept in every if kept is not None for row in kept.data], dtype=object
    )
    return frame


def _identities(every: list[tuple[str, str, Kept | None]], part: str) -> pd.DataFrame:
    present = [(layer, site, kept) for layer, site, kept in every if kept is not None]
    sizes = [len(kept.hash) for _, _, kept in present]
    columns: dict[str, Any] = {
        "layer": texts((layer for layer, _, _ in present), sizes),
        "site": texts((site for _, site, _ in present), sizes),
        "part": texts([part] * sum(sizes)),
    }
    for name in ("call", "repeat", "example", "position", "hash"):
        columns[name] = _joined([getattr(kept, name) for _, _, kept in present], np.int64)
    return pd.DataFrame(columns)


def label_frame(records: Sequence[LayerRecord], part: str) -> pd.DataFrame:
    """The text of kept samples and of those that hold an extreme: part, example, position, text."""
    found: dict[tuple[int, int], str] = {}
    for _, site, _ in pairs(records):
        for held in (site.minimum, site.maximum):
            if held is not None and held.text:
                found[held.example, held.position] = held.text
        if site.samples is not None:
            named = zip(site.samples.example, site.samples.position, site.samples.text, strict=True)
            found.update({(int(e), int(p)): text for e, p, text in named if text})
    keys = sorted(found)
    return pd.DataFrame(
        {
            "part": texts([part] * len(keys)),
            "example": pd.array([example for example, _ in keys], dtype="Int64"),
            "position": pd.array([position for _, position in keys], dtype="Int64"),
            "text": texts(found[key] for key in keys),
        }
    )
