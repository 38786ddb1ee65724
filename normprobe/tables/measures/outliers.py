"""The rule of outlier features, which check, table and figures read: those far above the median feature."""

from __future__ import annotations

import math
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from normprobe.errors import NormprobeError
from normprobe.tables.columns.tables import OUTLIERS, shaped
from normprobe.tables.measures.by_site import by_site, numbers
from normprobe.tables.measures.features import feature_measures, finite_features
from normprobe.tables.measures.layers import inner_sites, inputs_and_outputs
from normprobe.tables.measures.writers import writers
from normprobe.vocabulary import INPUT

if TYPE_CHECKING:
    from normprobe.tables.frames import Tables

LEAST, TIMES, SHARE, ROWS = 6.0, 10.0, 0.02, 32
"""The defaults of `outlier_features`; the first is that of arXiv:2208.07339."""


def outlier_features(
    tables: Tables, *, least: float = LEAST, times: float = TIMES, share: float = SHARE, rows: int = ROWS
) -> pd.DataFrame:
    """The rows of `finite_features` that are outliers, in order of execution, the largest ratio first.

    Left out are sites that read the data themselves, that have fewer than ``rows`` values of a feature, and
    those of which more than 1 % of the values are NaN or Inf.

    Args:
        tables: the tables.
        least: an outlier reaches at least this |value|,
        times: and this times the median feature's largest |value|,
        share: and at most this share of the site's features (one at least) does.
        rows: fewest values of a feature from which its largest says something.
    """
    features, sites = finite_features(tables), by_site(tables, "features")
    codes = sites.codes if len(features) == len(sites.codes) else sites.codes[features.index]
    ratio = numbers(features, "ratio")
    out = (numbers(features, "abs_max") > least) & (ratio > times)
    size = np.bincount(codes[out], minlength=len(sites.index))
    # 1.5 features: one is always few, whatever rounding makes of 1 ÷ n. Of the features with a finite value,
    # as the median is of these.
    known = np.bincount(codes, minlength=len(sites.index))
    few = size <= np.maximum(share * known, 1.5)
    order = inner_sites(tables, rows).index.get_indexer(sites.index)
    found = np.flatnonzero(out & (few & (order >= 0))[codes])
    found = found[np.lexsort((-ratio[found], order[codes[found]]))]
    return features.iloc[found]


def too_few_values(tables: Tables, rows: int = ROWS) -> str:
    """A sentence that says that outlier features are looked for nowhere, for lack of values; else ""."""
    layers = inputs_and_outputs(tables)
    most = feature_measures(tables)["rows"].reindex(layers.index).max()
    if not 0 < most < rows:
        return ""
    return (
        f"Outlier features are not looked for: that takes {rows:,} values per feature, such as tokens, and "
        f"there are {int(most):,} at most."
    )


def outlier_table(
    tables: Tables, *, least: float = LEAST, times: float = TIMES, share: float = SHARE, rows: int = ROWS
) -> pd.DataFrame:
    """`outlier_features` with who wrote each, in the columns of `normprobe.tables.columns.OUTLIERS`.

    ``attrs["note"]`` is that of `too_few_values`.

    Raises:
        NormprobeError: a limit is no number, is negative, or ``share`` is above 1.
    """
    _check_limits(least=least, times=times, share=share, rows=rows)
    found = outlier_features(tables, least=least, times=times, share=share, rows=rows)
    read = found["site"] == INPUT
    # What a layer writes it has written itself.
    wrote = writers(tables, found[read]).reindex(found.index).fillna(found["layer"])
    table = shaped(found.assign(written_by=wrote), OUTLIERS)
    table.attrs["note"] = too_few_values(tables, rows)
    return table


def _check_limits(**limits: Any) -> None:
    """Raise NormprobeError, with what is allowed, for a limit out of range."""
    for name, given in limits.items():
        most = 1.0 if name == "share" else math.inf
        number = isinstance(given, Real) and not isinstance(given, bool)
        # NaN is in no range.
        if not number or not 0 <= given <= most:
            allowed = "from 0 to 1" if name == "share" else "of at least 0"
            raise NormprobeError(f"{name} must be a number {allowed}, got {given!r}")
