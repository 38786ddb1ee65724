"""From records to the base frames: moments and identities, column by column, as they are saved and merged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from normprobe.kernels.moments import MOMENT_FIELDS, Moments
from normprobe.tables.columns.tables import BASE, OPTIONAL, POWERS, missing
from normprobe.tables.distributions.power_moments import power_columns
from normprobe.tables.records import FirstNonfinite, Holder, Kept, LayerRecord, SiteRecord, valid_text
from normprobe.vocabulary import INPUT, OUTPUT

SEEN = ("seen_count", "seen_mean", "seen_m2")
VECTORS = {"weight": OUTPUT, "bias": OUTPUT, "running_mean": INPUT, "running_var": INPUT}
SAMPLE_MOMENTS = tuple(field.column for field in MOMENT_FIELDS.values() if field.of_samples)
IDENTITY = ("call", "repeat", "example", "position", "hash")
HELD = ("example", "position", "feature")
OF_NONFINITE = ("call", *HELD)


StepOf = Callable[[int], int]


class Place(NamedTuple):
    """One site of one layer that fired."""

    record: LayerRecord
    site: SiteRecord

    @property
    def width(self) -> int:
        """How many features it has."""
        return len(self.site.features.count)


def places(records: Sequence[LayerRecord]) -> list[Place]:
    """Every site in order of depth, input before output."""
    fired = sorted((record for record in records if record.depth is not None), key=lambda r: r.depth or 0)
    return [Place(record, site) for record in fired for site in record.sites]


def ledger_frame(records: Sequence[LayerRecord]) -> pd.DataFrame:
    """A row per layer in order of definition."""
    frame = pd.DataFrame([{"settings": "", **record.ledger} for record in records])
    # Nullable: what never fired has no depth, and one NaN would make floats of all.
    frame["depth"] = pd.array([record.depth for record in records], dtype="Int64")
    # Kinds of records that do not know a column (of tests, of converters) leave it out.
    dtypes, optional = BASE["ledger_base"], OPTIONAL["ledger_base"]
    unknown = {name: missing(dtypes[name], len(frame)) for name in optional if name not in frame}
    return frame.assign(**unknown)


def site_frame(every: Sequence[Place], part: str, step_of: StepOf) -> pd.DataFrame:
    """A row per place with what is neither a feature's nor a sample's.

    Args:
        every: the places.
        part: the probe's share of the data.
        step_of: the step of a forward, by its running number.
    """
    plain = ("site", "dtype", "calls", "n_samples", "masked", "nonfinite_masked")
    columns: dict[str, Any] = {
        "layer": [place.record.ledger["layer"] for place in every],
        "depth": [place.record.depth for place in every],
        "n_features": [place.width for place in every],
        **{name: [getattr(place.site, name) for place in every] for name in plain},
        **{name: [getattr(place.site, name) for place in every] for name in ("within_sum", "within_count")},
        **extreme_columns("min", [place.site.minimum for place in every], part),
        **extreme_columns("max", [place.site.maximum for place in every], part),
        **first_nonfinite_columns([place.site.nonfinite for place in every], part, step_of),
        "placement": [place.site.placement.kind for place in every],
        **{name: _of_placement(name, every) for name in ("first_feature", "whole_features")},
    }
    return pd.DataFrame(columns)


def _of_placement(name: str, every: Sequence[Place]) -> Any:
    return pd.array([getattr(place.site.placement, name) for place in every], dtype="Int64")


def extreme_columns(end: str, holders: Sequence[Holder | None], part: str) -> dict[str, Any]:
    """The five columns of one extreme."""
    columns: dict[str, Any] = {
        end: [np.nan if held is None else held.value for held in holders],
        f"{end}_part": pd.array([pd.NA if held is None else part for held in holders], dtype="string"),
    }
    for name in HELD:
        known = [pd.NA if held is None else getattr(held, name) for held in holders]
        columns[f"{end}_{name}"] = pd.array(known, dtype="Int64")
    return columns


def first_nonfinite_columns(
    holders: Sequence[FirstNonfinite | None], part: str, step_of: StepOf
) -> dict[str, Any]:
    """The six columns of the first NaN or Inf."""
    steps = [pd.NA if held is None else step_of(held.call) for held in holders]
    columns: dict[str, Any] = {
        "nonfinite_part": pd.array([pd.NA if held is None else part for held in holders], dtype="string"),
        "nonfinite_step": pd.array(steps, dtype="Int64"),
    }
    for name in OF_NONFINITE:
        known = [pd.NA if held is None else getattr(held, name) for held in holders]
        columns[f"nonfinite_{name}"] = pd.array(known, dtype="Int64")
    return columns


def feature_frame(every: Sequence[Place]) -> pd.DataFrame:
    """A row per place and feature: its moments, what the layer saw, and the vectors it applied."""
    columns: dict[str, Any] = {}
    for name, moment in MOMENT_FIELDS.items():
        columns[moment.column] = _joined(getattr(place.site.features, name) for place in every)
    seen = [_seen(place) for place in every]
    for name, field in zip(SEEN, ("count", "mean", "m2"), strict=True):
        columns[name] = _joined(getattr(moments, field) for moments in seen)
    for name, at in VECTORS.items():
        columns[name] = _joined(_vector(place, name, at) for place in every)
    held = [place.site.distribution for place in every]
    return pd.DataFrame(columns | power_columns(held, [place.width for place in every]))


def _seen(place: Place) -> Moments:
    """What a batch norm read, padding included; of other layers nothing is kept."""
    # Only running statistics are held against these, and they are over the padding, too.
    if place.record.ledger["kind"] != "batch_norm" or place.site.site != INPUT:
        return Moments.empty(place.width)
    # Without padding both are the same numbers, and the site did not sum them twice.
    return place.site.features if place.site.seen is None else place.site.seen


def _vector(place: Place, name: str, at: str) -> Any:
    """A vector of the layer at the site where it belongs, NaN elsewhere."""
    # A site may be of another width than the output that the vector was read for.
    vector = place.record.vectors.get(name) if place.site.site == at else None
    return vector if vector is not None and len(vector) == place.width else np.full(place.width, np.nan)


def _joined(arrays: Any) -> NDArray[Any]:
    # Of no place at all there would be nothing to concatenate; int64 changes no dtype that tables have.
    return np.concatenate([*arrays, np.empty(0, np.int64)])


def sample_frame(every: Sequence[Place]) -> pd.DataFrame:
    """A row per place and kept sample: its identity and moments."""
    kept = [place.site.samples for place in every]
    data = [k.data for k in kept if k is not None]
    # All have the third and fourth moments, or none.
    names = (*SAMPLE_MOMENTS, *POWERS)[: data[0].shape[1] if data else len(SAMPLE_MOMENTS)]
    joined = np.concatenate([np.empty((0, len(names))), *data])
    return _identities(kept).assign(**dict(zip(names, joined.T, strict=True)))


def row_frame(every: Sequence[Place]) -> tuple[pd.DataFrame, NDArray[Any]]:
    """A row per place and kept raw row, and the numbers of all rows, one row after the other.

    The numbers are float32 where no layer ran in float64: half the memory, and nothing is lost.
    """
    kept = [place.site.rows for place in every]
    values = [np.empty(0, np.float32), *(k.data.reshape(-1) for k in kept if k is not None)]
    return _identities(kept), np.concatenate(values)


def _identities(kept: Sequence[Kept | None]) -> pd.DataFrame:
    """Which place and which sample each row is of; all are of the one part."""
    sizes = [0 if k is None else len(k) for k in kept]
    columns = {"place": np.repeat(np.arange(len(kept)), sizes), "part": np.zeros(sum(sizes), np.int64)}
    columns |= {name: _joined(getattr(k, name) for k in kept if k is not None) for name in IDENTITY}
    return pd.DataFrame(columns)


def label_frame(every: Sequence[Place], part: str) -> pd.DataFrame:
    """The text of kept samples and of those that hold an extreme: part, example, position, text."""
    found: dict[tuple[int, int], str] = {}
    for _, site in every:
        for held in (site.minimum, site.maximum):
            if held is not None and held.text:
                found[held.example, held.position] = held.text
        if site.samples is not None:
            named = zip(site.samples.example, site.samples.position, site.samples.text, strict=True)
            found.update({(int(e), int(p)): text for e, p, text in named if text})
    # In this order merging has them, too: a merge of one recording is that recording.
    keys = sorted(found)
    columns = {"part": [part] * len(keys), "text": [valid_text(str(found[key])) for key in keys]}
    return pd.DataFrame({**columns, "example": [e for e, _ in keys], "position": [p for _, p in keys]})
