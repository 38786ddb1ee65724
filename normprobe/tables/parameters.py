"""The table of parameters: built from records, merged, and derived from its sums."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
import pandas as pd

from normprobe.tables.columns.tables import (
    BASE,
    PARAMETER_COUNTS,
    PARAMETER_LARGEST,
    PARAMETER_SQUARES,
    PARAMETERS,
    based,
    missing,
    shaped,
)
from normprobe.tables.records import LayerRecord

_KEY = ["layer", "parameter"]


def no_parameters() -> pd.DataFrame:
    """The sums of no parameter, as where no gradients were measured."""
    return pd.DataFrame({name: missing(dtype, 0) for name, dtype in BASE["parameter_moments"].items()})


def parameter_frame(records: Sequence[LayerRecord]) -> pd.DataFrame:
    """A row per parameter in order of definition: sums over steps."""
    rows = [
        {"layer": record.ledger["layer"], **asdict(held)} for record in records for held in record.parameters
    ]
    return based("parameter_moments", pd.DataFrame(rows)) if rows else no_parameters()


def merge_parameters(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """A row per parameter of any part, in the order of the first: sums added up, of the largest the largest.

    The size is the largest of the parts: of one that is spread over processes each has a share.
    """
    union = pd.concat(frames, ignore_index=True)
    if union.empty:
        return no_parameters()
    how = dict.fromkeys((*PARAMETER_COUNTS, *PARAMETER_SQUARES), "sum")
    how |= dict.fromkeys((*PARAMETER_LARGEST, "size"), "max")
    return based("parameter_moments", union.groupby(_KEY, sort=False).agg(how).reset_index())


def parameter_table(moments: pd.DataFrame, ledger: pd.DataFrame) -> pd.DataFrame:
    """A row per parameter: root mean squares, which do not depend on how it is spread over processes."""
    kinds = dict(zip(ledger["layer"], ledger["kind"], strict=True))
    with np.errstate(divide="ignore", invalid="ignore"):
        derived = {
            f"{of}_rms": np.sqrt(moments[f"{of}_square"].to_numpy() / moments[f"{of}_count"].to_numpy(float))
            for of in ("weight", "gradient", "update")
        }
        ratio = np.sqrt(moments["update_square"].to_numpy() / moments["updated_square"].to_numpy())
    known = {
        f"{of}_max": moments[f"{of}_max"].where(moments[f"{of}_count"] > 0) for of in ("weight", "gradient")
    }
    kind = pd.array([kinds[layer] for layer in moments["layer"]], dtype="string")
    return shaped(moments.assign(kind=kind, **derived, **known, update_ratio=ratio), PARAMETERS)
