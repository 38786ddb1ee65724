"""The columns of the tables of experts: their order, dtype, meaning, unit and divisor."""

from __future__ import annotations

from normprobe.tables.columns.dtypes import REAL, TEXT, WHOLE, public_moments

EXPERTS: dict[str, tuple[str, str]] = {
    "layer": (TEXT, "qualified name of the module, or list of modules, that holds the experts"),
    "expert": (WHOLE, "index of the expert, from 0"),
    "site": (TEXT, "input, intermediate (what its last Linear reads) or output (before the routing weight)"),
    "router": (TEXT, "the layer that routes, whose input is in the other tables; empty where none was found"),
    "tokens": (WHOLE, "rows that were routed to it and measured at the site, padding left out"),
    "share": (REAL, "its tokens ÷ those of all experts of the layer at the site"),
    "weight": (REAL, "mean routing weight of its tokens; missing where the call does not say it"),
    "n_features": (WHOLE, "features of one row"),
    "mean": (REAL, "mean of all finite values at the site"),
    "variance": (REAL, "their population variance (divisor: their number)"),
    "min": (REAL, "the smallest"),
    "max": (REAL, "the largest"),
    "abs_mean": (REAL, "mean of |value|"),
    "nonfinite": (WHOLE, "NaN or infinite values beside them"),
    "entropy": (REAL, "of the layer: entropy, in nats, of the shares of its experts at the input"),
    "entropy_max": (REAL, "of the layer: that of equal shares, the logarithm of the number of experts"),
}

EXPERT_FEATURES: dict[str, tuple[str, str]] = {
    "layer": (TEXT, "qualified name of the module, or list of modules, that holds the experts"),
    "expert": (WHOLE, "index of the expert, from 0"),
    "site": (TEXT, "input, intermediate or output"),
    "feature": (WHOLE, "index of the feature, from 0"),
    **{column.name: (WHOLE if column.whole else REAL, column.meaning) for column in public_moments()},
}
