"""What must hold in a recording that was read from a file, whoever wrote it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import datetime
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from normprobe.tables.columns.dtypes import WHOLE
from normprobe.tables.columns.tables import BASE, SITE_KEY
from normprobe.tables.distributions.bin_counts import wrong_counts
from normprobe.tables.groups import wrong_groups
from normprobe.vocabulary import ALL_KINDS, EXPERT_SITES, PLACEMENTS, STATUSES

if TYPE_CHECKING:
    from normprobe.tables.frames import Tables

_MOST = 2**63


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _count(value: Any) -> bool:
    # To Python JSON's true is an int; and 2**63 is more than a column of int64 holds.
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _MOST


def _time(value: Any) -> bool:
    try:
        return _text(value) and bool(datetime.fromisoformat(value))
    except ValueError:
        return False


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(map(_text, value))


def _options(value: Any) -> bool:
    if not isinstance(value, dict) or not isinstance(value.get("seed"), int):
        return False
    kept = value.get("samples") == "all" or _count(value.get("samples"))
    return kept and _count(value.get("values")) and _count(value.get("every")) and value["every"] > 0


_FACTS: dict[str, Callable[[Any], bool]] = {
    **dict.fromkeys(("name", "model", "unit", "example_unit", "device", "dtype", "kernel"), _text),
    "created": _time,
    **dict.fromkeys(("forwards", "measured", "examples", "rows", "padding"), _count),
    **dict.fromkeys(("training", "warnings"), _texts),
    "parts": lambda value: _texts(value) and 0 < len(value) == len(set(value)),
    "data": lambda value: value is None or _text(value),
    "seconds": lambda value: value is None or isinstance(value, (int, float)),
    "versions": lambda value: isinstance(value, dict) and all(v is None or _text(v) for v in value.values()),
    "digests": lambda value: isinstance(value, dict),
    "options": _options,
}


_OF_WINDOW = {
    **dict.fromkeys(("part", "phase"), _text),
    **dict.fromkeys(("first", "last", "first_step", "last_step", "forwards"), _count),
    **dict.fromkeys(("first_call", "last_call", "calls", "examples"), _count),
}


def _windows(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(window, dict) and all(fits(window.get(name)) for name, fits in _OF_WINDOW.items())
        for window in value
    )


def check_meta(meta: Any) -> str:
    """What is wrong with the metadata of a recording, or ""."""
    if not isinstance(meta, dict):
        return "no facts"
    # Reading lets NaN and half a surrogate pair pass, which cannot be saved again; here both raise.
    json.dumps(meta, ensure_ascii=False, allow_nan=False).encode()
    wrong = [name for name, fits in _FACTS.items() if name not in meta or not fits(meta[name])]
    # Recordings of before there were windows name none.
    wrong += [] if _windows(meta.get("windows", [])) else ["windows"]
    return f"no usable {', '.join(wrong)}" if wrong else ""


def check_tables(tables: Tables) -> str:
    """What of a recording's tables does not belong together, or ""; the first thing found."""
    # Lazily: places are used as indices only once nothing before is wrong.
    return next(
        chain(_wrong_texts(tables), _wrong_wholes(tables), _wrong_places(tables), _wrong_experts(tables)), ""
    )


def _wrong_texts(tables: Tables) -> Iterator[str]:
    ledger, sites, parts = tables.ledger_base, tables.sites, set(tables.facts["parts"])
    named: dict[str, tuple[pd.Series, set[str]]] = {
        "status": (ledger["status"], set(STATUSES)),
        "kind": (ledger["kind"], set(ALL_KINDS)),
        "layer of a site": (sites["layer"], set(ledger["layer"])),
        **{f"{end}_part": (sites[f"{end}_part"].dropna(), parts) for end in ("min", "max")},
        # Files of before do not know it: there it is "".
        "nonfinite_part": (sites["nonfinite_part"].dropna(), parts | {""}),
        # Files of before know none: there it is "".
        "placement": (sites["placement"], {*PLACEMENTS, ""}),
        "part of a label": (tables.labels_base["part"], parts),
        "layer of a parameter": (tables.parameter_moments["layer"], set(ledger["layer"])),
    }
    for what, (found, known) in named.items():
        yield from (f"unknown {what} {value!r}" for value in found.unique() if value not in known)
    parameters = tables.parameter_moments[["layer", "parameter"]]
    if parameters["parameter"].isna().any() or parameters.duplicated().any():
        yield "a parameter occurs twice, or has no name"
    if ledger["layer"].duplicated().any() or sites.duplicated(SITE_KEY).any():
        yield "a layer occurs twice"
    if ledger.select_dtypes("string").isna().to_numpy().any() or sites["dtype"].isna().any():
        yield "texts are missing"
    # Any name is a site: a file may come from a process that registered sites of its own.
    if sites["site"].isna().any() or (sites["site"] == "").any():
        yield "a site has no name"


def _wrong_wholes(tables: Tables) -> Iterator[str]:
    """Whole numbers count or number something: none is negative."""
    for name, columns in BASE.items():
        frame = getattr(tables, name)
        for column in (column for column, dtype in columns.items() if dtype == WHOLE):
            if len(frame) and frame[column].min() < 0:
                yield f"negative {column} in {name}"


def _wrong_places(tables: Tables) -> Iterator[str]:
    """Features, samples and rows are those of the sites; each thing rests on those before it."""
    sites, features = tables.sites, len(tables.feature_moments)
    if not sites["depth"].is_monotonic_increasing:
        yield "sites out of order"
    # Each width first: the sum of forged ones may overflow to the right number.
    if (sites["n_features"] > features).any() or sites["n_features"].sum() != features:
        yield "other features than its sites declare"
    spread = sites["placement"] == "features"
    ends = sites["first_feature"][spread] + sites["n_features"][spread]
    # The second: of forged numbers the sum may overflow.
    fits = (sites["first_feature"][spread] >= 0) & (ends >= 0) & (ends <= sites["whole_features"][spread])
    if not fits.fillna(False).all() or sites.loc[~spread, "first_feature"].notna().any():
        yield "features that are not those of the whole"
    for name, frame in (("samples", tables.sample_moments), ("rows", tables.rows)):
        if not frame["place"].is_monotonic_increasing:
            yield f"{name} out of order"
        if (frame["place"] >= len(sites)).any():
            yield f"{name} of unknown sites"
        if (frame["part"] >= len(tables.facts["parts"])).any():
            yield f"{name} of unknown parts"
    place = np.repeat(np.arange(len(sites)), sites["n_features"].to_numpy())
    finite = np.bincount(place, tables.feature_moments["count"], minlength=len(sites))
    yield from wrong_counts(tables.bin_counts, finite)
    # In float64, where no sum of forged widths overflows.
    declared = sites["n_features"].to_numpy(np.float64)[tables.rows["place"]].sum()
    if declared != len(tables.row_values):
        yield "other raw values than its rows declare"
    if wrong := wrong_groups(tables.group_sites, tables.group_moments, sites):
        yield wrong


def _wrong_experts(tables: Tables) -> Iterator[str]:
    """Places of experts are each there once, with as many moments as they declare."""
    places = tables.expert_places
    if places["layer"].isna().any() or places.duplicated(["layer", "expert", "site"]).any():
        yield "an expert occurs twice, or has no name"
    yield from (f"unknown site of experts {site!r}" for site in set(places["site"]) - set(EXPERT_SITES))
    moments = len(tables.expert_moments)
    if (places["n_features"] > moments).any() or places["n_features"].sum() != moments:
        yield "other features of experts than their places declare"
