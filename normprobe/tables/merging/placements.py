"""What parts have of a site whose tensor is spread over processes, and which of them may be merged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

import pandas as pd

from normprobe.errors import RecordingError
from normprobe.tables.columns.tables import SITE_KEY

_STRONGEST = ("samples", "features", "whole", "replicated", "partial", "")


def _joined(kinds: pd.Series) -> str:
    """The placement of parts on other data: of a copy and a whole it is whole, whoever is merged first."""
    return str(min(kinds, key=_STRONGEST.index))


PLACED: dict[str, Any] = {
    "placement": _joined,
    # Not those of the first row, which may be missing: those of the first that has them.
    **dict.fromkeys(("first_feature", "whole_features"), "first"),
}
"""What becomes of the columns of placements where parts on other data are merged."""


def refuse_summands(layer: str, site: str) -> NoReturn:
    """Raise RecordingError for a site whose numbers no process has added up."""
    raise RecordingError(
        f"{layer!r} has summands at its {site} that were never added up over the processes, of which no "
        "mean or variance is that of the sum; measure behind the reduction, or leave the layer out with "
        "layers="
    )


def check_placements(frames: Sequence[pd.DataFrame]) -> None:
    """Raise RecordingError if sites of parts on other data have sums, or features, that do not fit.

    Args:
        frames: the sites of each part.
    """
    if len(frames) < 2:
        return
    every = pd.concat(frames, ignore_index=True)
    partial = every[every["placement"] == "partial"]
    if len(partial):
        refuse_summands(*partial[SITE_KEY].iloc[0])
    spread = every[every["placement"] == "features"]
    if spread.empty:
        return
    keys = pd.MultiIndex.from_frame(spread[SITE_KEY].drop_duplicates())
    here = every[pd.MultiIndex.from_frame(every[SITE_KEY]).isin(keys)]
    ranges = here[[*SITE_KEY, "n_features", "first_feature", "whole_features"]].drop_duplicates()
    twice = ranges[ranges.duplicated(SITE_KEY)]
    if len(twice):
        layer, site = twice[SITE_KEY].iloc[0]
        raise RecordingError(
            f"the parts have other features of {layer!r} at its {site}, but not of the same data: digests "
            "of their data differ or are unknown; first merge the parts on the same data, all of them at once"
        )
