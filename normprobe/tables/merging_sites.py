"""Sites of several recordings, or their groups, by what names them: counts add up, extremes are compared."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd

from normprobe.tables.build import HELD

SUMS = ("calls", "n_samples", "masked", "nonfinite_masked", "within_sum", "within_count")
"""What is added up."""


def united_sites(
    frames: Sequence[pd.DataFrame], key: list[str], others: Mapping[str, Callable[[Any], Any]]
) -> pd.DataFrame:
    """A row per key of any frame, in the order in which they come.

    Args:
        frames: with the key, `SUMS`, the number of features and who holds extremes.
        key: the columns that name a row.
        others: what is made of further columns.
    """
    union = pd.concat(frames, ignore_index=True)
    # Parts of other widths were refused before, so the first width is that of all.
    merged = union.groupby(key, sort=False).agg(
        {**dict.fromkeys(SUMS, "sum"), "n_features": "first", **others}
    )
    for end in ("min", "max"):
        held = [f"{end}_{name}" for name in ("part", *HELD)]
        # Of equal extremes the first by identity, so that the order of the parts does not matter.
        order = union.sort_values([end, *held], ascending=[end == "min", True, True, True, True])
        merged = merged.join(order.drop_duplicates(key).set_index(key)[[end, *held]])
    first = [f"nonfinite_{name}" for name in ("step", "call", "part", *HELD)]
    merged = merged.join(union.sort_values(first).drop_duplicates(key).set_index(key)[first])
    return merged.reset_index()
