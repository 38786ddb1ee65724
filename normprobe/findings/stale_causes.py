"""Why running statistics are stale, where the ledger says it: a momentum, or buffers too coarse to move."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from normprobe.formatting import format_number
from normprobe.vocabulary import INPUT

if TYPE_CHECKING:
    from normprobe.tables.frames import Tables

_SPACING = {"bfloat16": 2.0**-7, "float16": 2.0**-10}
"""Distance of neighbouring numbers from 1 to 2."""

_LAST_BATCH = 0.9
"""A momentum from which on little but the last batch is kept: other frameworks mean 1 - torch's."""

_HARDLY = 1e-3
"""A momentum below which thousands of batches are needed."""


class StaleCause(NamedTuple):
    """What explains stale statistics.

    Attributes:
        words: a sentence that follows the message.
        advice: one sentence of what to do about it.
    """

    words: str
    advice: str


def stale_cause(tables: Tables, layer: str) -> StaleCause | None:
    """What of a batch norm explains that its running statistics are off, or None."""
    ledger = tables.ledger.set_index("layer")
    row: Any = ledger.loc[layer]
    momentum = float(row["momentum"]) if pd.notna(row.get("momentum")) else np.nan
    if momentum == 0:
        return StaleCause(
            "Its momentum is 0, with which they never move.",
            "Set a momentum such as 0.1 and train on, or recalibrate the running statistics.",
        )
    if momentum >= _LAST_BATCH:
        return StaleCause(
            f"Its momentum is {momentum:g}, with which they keep little but the last batch.",
            f"Set momentum to {1 - momentum:.4g} (torch's is the share of the new batch; other frameworks "
            "mean the share of the old), and recalibrate the running statistics.",
        )
    dtype = str(row.get("running_dtype") or "")
    if dtype in _SPACING and _stalls(tables, layer, momentum, _SPACING[dtype]):
        return StaleCause(
            f"They are kept in {dtype}, which rounds away steps of momentum ({momentum:g}) times the "
            "difference: they stall.",
            "Keep the running statistics of batch norms in float32, and recalibrate them.",
        )
    if momentum < _HARDLY:
        return StaleCause(
            f"Its momentum is {format_number(momentum)}, with which they take thousands of batches to move.",
            "Raise the momentum and train on, or recalibrate the running statistics.",
        )
    return None


def _stalls(tables: Tables, layer: str, momentum: float, spacing: float) -> bool:
    """Whether in half of the channels the next update of mean or variance is rounded away."""
    rows = tables.features[(tables.features["layer"] == layer) & (tables.features["site"] == INPUT)]
    for running, seen in (("running_mean", "seen_mean"), ("running_var", "seen_variance")):
        held = rows[running].abs().to_numpy(dtype="float64")
        step = momentum * (rows[seen] - rows[running]).abs().to_numpy(dtype="float64")
        with np.errstate(divide="ignore"):
            # Half the distance to the next number: a smaller step is rounded away.
            half = 2.0 ** np.floor(np.log2(held)) * spacing / 2
        # An update that is rounded away although it is more than float32 would round.
        if np.mean((step <= half) & (step > half * 2.0**-16)) >= 0.5:
            return True
    return False
