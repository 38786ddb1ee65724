"""The columns of what is told of distributions: quantiles, kurtosis, and how formats fit."""

from __future__ import annotations

from normprobe.tables.columns.dtypes import REAL, TEXT, TRUTH, WHOLE

QUANTILES: dict[str, tuple[str, str]] = {
    "layer": (TEXT, "qualified name of the module"),
    "kind": (TEXT, "kind of the layer"),
    "site": (TEXT, "input or output"),
    "count": (WHOLE, "finite values"),
    "zeros": (WHOLE, "how many of them are exactly 0"),
    **{
        f"p{share}": (REAL, f"the value at or below which {share} % of them lie")
        for share in ("0.1", "1", "5", "25", "50", "75", "95", "99", "99.9")
    },
    "bound": (REAL, "how far off a quantile of the row is at most, as a share of it: the width of its bin"),
}

_OF_FIT: dict[str, tuple[str, str]] = {
    "format": (TEXT, "name of the format"),
    "count": (WHOLE, "finite values"),
    "abs_max": (REAL, "largest |value|"),
    "headroom": (
        REAL,
        "octaves from there to the format's largest number; missing of formats that are always scaled",
    ),
    "overflows": (TRUTH, "whether the largest |value| is beyond it; missing likewise"),
}
FIT: dict[str, tuple[str, str]] = {
    "layer": (TEXT, "qualified name of the module"),
    "kind": (TEXT, "kind of the layer"),
    "site": (TEXT, "input or output"),
    **_OF_FIT,
    "overflow_share": (REAL, "share of values beyond it; missing where some are and none were counted"),
    "below_normal": (REAL, "share below the smallest normal number, zeros aside; missing without counts"),
    "flushed": (REAL, "share below half of the smallest number, which a cast makes 0; missing likewise"),
    "scale": (REAL, "what to divide the tensor by, so that its largest |value| fits"),
    "scaled_below_normal": (REAL, "below_normal under this scale"),
    "scaled_flushed": (REAL, "flushed under this scale"),
    "snr_db": (REAL, "signal over the noise of rounding, one scale for the tensor"),
    "snr_error_db": (
        REAL,
        "how far off that may be: two standard deviations of what counts leave open, and 0.3; else missing",
    ),
    "snr_from": (TEXT, "what that is estimated from: counts of all values, or moments of features"),
    "channel_gain_db": (
        REAL,
        "what a scale for each feature adds to it, from moments of features; missing of block formats",
    ),
    "static_block_snr_db": (
        REAL,
        "the same with a scale for each block of features, one for all rows, from moments of features",
    ),
    "block_snr_db": (REAL, "signal over noise of the kept rows, whose blocks each have a scale of their own"),
    "block_gain_db": (REAL, "what these scales add to that of the same rows under one scale"),
}
FIT_FEATURES: dict[str, tuple[str, str]] = {
    "layer": (TEXT, "qualified name of the module"),
    "kind": (TEXT, "kind of the layer"),
    "site": (TEXT, "input or output"),
    "feature": (WHOLE, "index of the feature, from 0"),
    **_OF_FIT,
    "scale": (REAL, "what to divide the feature by, so that its largest |value| fits"),
    "snr_db": (REAL, "signal over the noise of rounding it, one scale for the tensor"),
    "channel_gain_db": (REAL, "what a scale of its own adds; missing of block formats"),
}

KURTOSIS = "kurtosis"
_POPULATION = (
    "population kurtosis (m4 ÷ m2²; 3 of a normal distribution) of {}; with `Probe(kurtosis=True)` alone"
)
ON_REQUEST = {
    table: {KURTOSIS: (REAL, _POPULATION.format(of))}
    for table, of in (
        ("layers", "all finite values"),
        ("features", "the feature's finite values"),
        ("samples", "the sample's finite values"),
    )
}
"""Columns behind all others, which a table has where a probe was asked for them."""
