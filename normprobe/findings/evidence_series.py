"""The series over depth that shows a finding: one value per layer, named by a short string.

The string is ``site:measure``, for example ``input:abs_max`` or ``output:variance``. A measure is a numeric
column of ``tables.layers`` or one of the columns of `normprobe.tables.measures`. The site ``stream`` stands
for what the blocks of the residual stream write.
"""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING

import pandas as pd

from normprobe.errors import NormprobeError
from normprobe.tables.measures.divisors import divisor_measures
from normprobe.tables.measures.features import feature_measures
from normprobe.tables.measures.layers import gain_measures, layer_measures
from normprobe.tables.measures.residual import STREAM, stream_measures
from normprobe.tables.measures.running_statistics import running_measures
from normprobe.tables.measures.samples import example_measures, sample_measures
from normprobe.vocabulary import INPUT, OUTPUT

if TYPE_CHECKING:
    from normprobe.tables.frames import Tables

# By hand: to ask each measure for its columns would compute all of them.
_HOME = {
    **dict.fromkeys(
        ("zero_features", "constant_features", "live_zeros", "silent_features", "high_features"),
        feature_measures,
    ),
    **dict.fromkeys(("feature_ratio", "scale_ratio", "weight_ratio", "weight_rms"), feature_measures),
    "divisor": divisor_measures,
    "example_spread": example_measures,
    **dict.fromkeys(("gain", "spread_gain"), gain_measures),
    **dict.fromkeys(("running_shift", "running_ratio", "channel_ratio", "channel_shift"), running_measures),
    **dict.fromkeys(("sample_ratio", "sample_variance", "sample_square", "offset"), sample_measures),
}


def series(tables: Tables, evidence: str) -> pd.DataFrame:
    """The series that ``evidence`` names.

    >>> series(tables, "input:abs_max")  # doctest: +SKIP

    Args:
        tables: the tables the finding was made from.
        evidence: ``site:measure``, as in the ``evidence`` column of findings.

    Returns:
        DataFrame (layers that have the site and the measure) with ``layer``, ``depth`` and ``value``, by
        depth.

    Raises:
        NormprobeError: ``evidence`` names no site or no measure.
    """
    site, _, measure = evidence.partition(":")
    if site == STREAM:
        blocks = stream_measures(tables)
        found = blocks[blocks["site"] == OUTPUT][["layer", "depth", measure]]
        return found.rename(columns={measure: "value"}).dropna(subset="value").reset_index(drop=True)
    layers = layer_measures(tables)
    frame = _HOME[measure](tables) if measure in _HOME else layers
    # Input and output are known where nothing was measured at them, too: the series is empty, and no error.
    known_sites = list(dict.fromkeys([INPUT, OUTPUT, *layers.index.get_level_values("site")]))
    if site not in known_sites or measure not in frame.columns:
        known = sorted({*_HOME, *layers.select_dtypes("number").columns})
        close = ", ".join(get_close_matches(measure, known, n=3)) or ", ".join(known)
        raise NormprobeError(
            f"Evidence {evidence!r} is not {' or '.join(repr(f'{name}:') for name in known_sites)} with a "
            f"measure; measures near it: {close}."
        )
    here = layers.index.get_level_values("site") == site
    # In order of execution, whatever order the measure is in.
    value = frame[measure].reindex(layers.index[here]).astype("float64").to_numpy()
    found = pd.DataFrame(
        {
            "layer": layers.index[here].get_level_values("layer").astype("string"),
            "depth": layers.loc[here, "depth"].to_numpy(),
            "value": value,
        }
    )
    return found.dropna(subset="value").reset_index(drop=True)
