"""Why values are NaN or Inf: stored numbers, an overflow of the dtype, a divisor that is 0."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from normprobe.formatting import format_count, format_number
from normprobe.tables.measures.by_site import rows_at
from normprobe.tables.measures.common import row_of
from normprobe.vocabulary import INPUT, OUTPUT

if TYPE_CHECKING:
    from normprobe.tables.frames import Tables

_LARGEST = {"float16": 65504.0, "bfloat16": 3.39e38, "float32": 3.40e38, "float64": 1.80e308}
"""The largest number of each dtype (IEEE 754-2019; bfloat16 as float32, with 8 bits of significand)."""

_SMALLEST = {"float16": 2.0**-24, "bfloat16": 2.0**-133, "float32": 2.0**-149, "float64": 2.0**-1074}
"""The smallest positive number of each dtype; what is below half of it rounds to 0."""

_NEAR = 8
"""Finite values that reach an eighth of the largest number have neighbours that may well go beyond it."""

_SHOWN = 3
RANGE = "Run in bf16 or float32, or keep this layer in float32."


class Cause(NamedTuple):
    """Why values are NaN or Inf.

    Attributes:
        words: the end of a sentence that names them.
        advice: one sentence of what to do about it.
    """

    words: str
    advice: str


def cause_of(tables: Tables, layers: pd.DataFrame, layer: str, site: str) -> Cause | None:
    """Why the NaN and Inf at a site appear there, or None where nothing that was recorded says it.

    Args:
        tables: the tables.
        layers: `inputs_and_outputs`.
        layer: the first layer that holds them,
        site: at this site.
    """
    row = row_of(layers, layer, site)
    if site == INPUT:
        earlier = layers["abs_max"][layers["depth"] < row["depth"]].tail(1)
        return _stored_elsewhere(tables) or _near_the_end(row, [row["abs_max"], *earlier])
    found = _stored_in(tables, layer)
    if found is not None or row["kind"] != "linear":
        return found or _divisor(tables, layers, layer)
    reads_finite = layers["nonfinite"].get((layer, INPUT), 1) == 0
    return (
        _overflow(row) if reads_finite and "float16" in _dtypes(row) else _near_the_end(row, [row["abs_max"]])
    )


def hidden_behind(tables: Tables, named: Sequence[str]) -> str:
    """Words for the layers, those named aside, that store NaN or Inf too: behind the first nothing shows."""
    by_layer = _by_layer(tables)
    others = {layer: stored for layer, stored in by_layer.items() if layer not in (*named, None)}
    if not others:
        return ""
    tensors = {name: count for stored in others.values() for name, count in stored.items()}
    verb = "stores" if len(others) == 1 else "store"
    further = format_count(len(others), "further layer")
    return f"; {further} {verb} NaN or Inf, hidden behind ({_listed(tensors)})"


def _stored_in(tables: Tables, layer: str) -> Cause | None:
    """The cause that a layer itself stores NaN or Inf."""
    stored = _by_layer(tables).get(layer) or _running(tables, layer)
    if not stored:
        return None
    own = {name.removeprefix(layer).lstrip("."): count for name, count in stored.items()}
    words = f"it stores NaN or Inf itself ({_listed(own)})"
    if any("running_" in name or "moving_" in name for name in stored):
        return Cause(
            words, "Find the batch that put NaN or Inf into it, and recalibrate the running statistics."
        )
    return Cause(
        words, "Load or copy the weights anew, and look for the step that wrote NaN or Inf into them."
    )


def _running(tables: Tables, layer: str) -> dict[str, int]:
    """How many running statistics of a layer are NaN or infinite, as the features say."""
    rows = rows_at(tables, "features", layer, INPUT)
    statistics = rows[["running_mean", "running_var"]]
    if statistics.isna().all(axis=None):  # it has none
        return {}
    counts = (~np.isfinite(statistics)).sum()
    return {f"{layer}.{name}": int(count) for name, count in counts.items() if count}


def _stored_elsewhere(tables: Tables) -> Cause | None:
    """The cause that what is no measured layer (an embedding, a convolution) stores NaN or Inf."""
    stored = _by_layer(tables).get(None)
    if not stored:
        return None
    words = f"modules that are not measured store NaN or Inf ({_listed(stored)})"
    return Cause(
        words, "Load or copy the weights anew, and look for the step that wrote NaN or Inf into them."
    )


def _by_layer(tables: Tables) -> dict[str | None, dict[str, int]]:
    """The stored tensors with NaN or Inf and how many, by the measured layer that holds them, or None."""
    stored = tables.meta.get("stored_nonfinite") or {}
    ledger = tables.ledger[tables.ledger["status"] == "fired"]
    # A projection of attention is a layer by its parameter's name: `attn.in_proj` of `in_proj_weight`.
    # The longest first: what lies in a layer within a layer is the inner one's.
    names = sorted(ledger["layer"], key=len, reverse=True)
    found: dict[str | None, dict[str, int]] = {}
    for tensor, count in stored.items():
        owner = next(
            (name for name in names if tensor.startswith((f"{name}.", f"{name}_")) or not name), None
        )
        found.setdefault(owner, {})[tensor] = int(count)
    return found


def _listed(stored: dict[str, int]) -> str:
    """The first few tensors, each with its count."""
    shown = [f"{format_count(count)} in {name}" for name, count in list(stored.items())[:_SHOWN]]
    more = len(stored) - len(shown)
    return ", ".join(shown) + (f" and {format_number(more)} more" if more else "")


def _divisor(tables: Tables, layers: pd.DataFrame, layer: str) -> Cause | None:
    """The cause that a norm divides by what is no positive number, or that its sums overflow."""
    return _negative(tables, layer) or _rounded_eps(tables, layers, layer) or _sums(layers, layer)


def _negative(tables: Tables, layer: str) -> Cause | None:
    """A running variance that is negative, or 0 without an eps."""
    rows = rows_at(tables, "features", layer, INPUT)
    eps = _eps(tables, layer)
    variance = rows["running_var"] + (0.0 if np.isnan(eps) else eps)
    below = int((variance < 0).sum())
    none = int((variance == 0).sum())
    advice = "Recalibrate the running statistics, and find the step that wrote them."
    if below:
        return Cause(f"its running variance is negative in {format_count(below, 'channel')}", advice)
    if none:
        return Cause(
            f"its running variance is 0 in {format_count(none, 'channel')}, and its eps is 0", advice
        )
    return None


def _rounded_eps(tables: Tables, layers: pd.DataFrame, layer: str) -> Cause | None:
    """A variance of 0 with an eps that is 0 in the dtype."""
    row = row_of(layers, layer, OUTPUT)
    if (layer, INPUT) not in layers.index:
        return None
    dtypes, eps = _dtypes(row) | _dtypes(row_of(layers, layer, INPUT)), _eps(tables, layer)
    # Of several dtypes the coarsest, in which eps is lost first.
    smallest = max((_SMALLEST[name] for name in dtypes if name in _SMALLEST), default=0.0)
    if np.isnan(eps) or eps >= smallest / 2:
        return None
    samples = rows_at(tables, "samples", layer, INPUT)
    size = samples["variance"] + (samples["mean"] ** 2 if row["kind"] == "rms_norm" else 0.0)
    none = int((size < smallest).sum())
    dtype = max(dtypes & _SMALLEST.keys(), key=lambda name: _SMALLEST[name])
    zero = "its eps is 0" if eps == 0 else f"its eps of {format_number(eps)} is 0 in {dtype}"
    seen = f" {format_count(none, 'sample')} of variance 0 and" if none else ""
    return Cause(
        f"it divides by 0, for it reads{seen} {zero}" if none else zero,
        "Raise eps to a number that the dtype holds, such as 1e-5, or compute this norm in float32.",
    )


def _sums(layers: pd.DataFrame, layer: str) -> Cause | None:
    """Squares and sums that leave the range of fp16."""
    if (layer, INPUT) not in layers.index:
        return None
    row = row_of(layers, layer, INPUT)
    if "float16" not in _dtypes(row) or not row["abs_max"] ** 2 > _LARGEST["float16"]:
        return None
    reach = format_number(row["abs_max"])
    return Cause(f"it reads up to {reach}, whose squares and sums overflow float16", RANGE)


def _overflow(row: Any) -> Cause:
    """A Linear in fp16 that reads finite values and stores finite ones: its sums went beyond the range."""
    return Cause(
        f"an overflow of float16, which ends at {format_number(_LARGEST['float16'])} "
        f"(the finite values reach {_reach(row['abs_max'])})",
        RANGE,
    )


def _near_the_end(row: Any, reached: Sequence[float]) -> Cause | None:
    """An overflow that the finite values beside it make likely."""
    for name in _dtypes(row):
        limit = _LARGEST.get(name, np.inf)
        # 0 beside them: of NaN alone nanmax warns.
        most = float(np.nanmax([0.0, *reached]))
        if most > limit / _NEAR:
            return Cause(
                f"an overflow of {name}, as the values beside them, which reach {format_number(most)} of "
                f"{format_number(limit)}, make likely",
                RANGE,
            )
    return None


def _reach(value: float) -> str:
    return "nothing" if np.isnan(value) else format_number(value)


def _dtypes(row: Any) -> set[str]:
    return set(str(row["dtype"]).split("; "))


def _eps(tables: Tables, layer: str) -> float:
    eps = tables.ledger.set_index("layer")["eps"].get(layer)
    return float("nan") if eps is None or pd.isna(eps) else float(eps)
