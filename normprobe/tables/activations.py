"""Tables without the sites of gradients, for what is said of activations: findings, figures, comparisons."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from normprobe.tables.columns import based
from normprobe.tables.derive import row_starts
from normprobe.vocabulary import GRADIENT_SITES


def of_activations(
    sites: pd.DataFrame,
    feature_moments: pd.DataFrame,
    sample_moments: pd.DataFrame,
    rows: pd.DataFrame,
    row_values: NDArray[Any],
    *,
    bin_counts: pd.DataFrame,
) -> dict[str, Any] | None:
    """The frames of the places that are none of a gradient; None where all are."""
    kept = ~sites["site"].isin(GRADIENT_SITES).to_numpy()
    if kept.all():
        return None
    # Frames number places by the rows of `sites`: those that stay move up.
    number = np.cumsum(kept) - 1
    bounds = row_starts(sites, rows)
    of_rows = kept[rows["place"].to_numpy()]
    return {
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
