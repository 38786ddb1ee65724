"""Tables of what Linears and norms read and write, for findings, figures and comparisons.

Without the sites of gradients, and without the layers of further kinds: most of what is said of a model rests
on there being Linears and norms alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from normprobe.tables.columns.tables import based
from normprobe.tables.derive import row_starts
from normprobe.vocabulary import FURTHER_KINDS


def without(
    ledger_base: pd.DataFrame,
    sites: pd.DataFrame,
    feature_moments: pd.DataFrame,
    *,
    sample_moments: pd.DataFrame,
    rows: pd.DataFrame,
    row_values: NDArray[Any],
    bin_counts: pd.DataFrame,
    left_out: Iterable[str] = (),
) -> dict[str, Any] | None:
    """The frames without the layers of further kinds, and without some sites; None if nothing is left out."""
    further = ledger_base["kind"].isin(FURTHER_KINDS).to_numpy(dtype=bool)
    kept = ~sites["site"].isin(list(left_out)).to_numpy()
    if kept.all() and not further.any():
        return None
    kept &= ~sites["layer"].isin(ledger_base["layer"][further]).to_numpy()
    # Frames number places by the rows of `sites`: those that stay move up.
    number = np.cumsum(kept) - 1
    bounds = row_starts(sites, rows)
    of_rows = kept[rows["place"].to_numpy()]
    return {
        "ledger_base": based("ledger_base", ledger_base[~further]),
        "sites": based("sites", sites[kept]),
        "feature_moments": based(
            "feature_moments", feature_moments[np.repeat(kept, sites["n_features"].to_numpy())]
        ),
        "sample_moments": _moved("sample_moments", sample_moments, kept, number),
        "rows": _moved("rows", rows, kept, number),
        "bin_counts": _moved("bin_counts", bin_counts, kept, number),
        "row_values": row_values[np.repeat(of_rows, np.diff(bounds))],
    }


def _moved(
    name: str, frame: pd.DataFrame, kept: NDArray[np.bool_], number: NDArray[np.int64]
) -> pd.DataFrame:
    place = frame["place"].to_numpy()
    here = kept[place]
    return based(name, frame[here].assign(place=number[place[here]]))
