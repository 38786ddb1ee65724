"""The columns of a comparison: their order, dtype, unit and meaning."""

from __future__ import annotations

import numpy as np
import pandas as pd

from normprobe.tables.columns.dtypes import REAL, TEXT, TRUTH, WHOLE

LAYERS: dict[str, tuple[str, str, str]] = {
    "layer": (TEXT, "", "qualified name in the first model"),
    "layer_b": (TEXT, "", "qualified name of its counterpart in the second"),
    "matched_by": (TEXT, "", "name, role or order"),
    "kind": (TEXT, "", "kind of the layer in the first model"),
    "kind_b": (TEXT, "", "kind in the second"),
    "site": (TEXT, "", "input or output"),
    "depth": (WHOLE, "index", "order of first execution in the first model, from 0"),
    "dtype": (TEXT, "", "dtype of the tensor in the first model"),
    "dtype_b": (TEXT, "", "dtype in the second"),
    "n_features": (WHOLE, "count", "features of one row"),
    "pairs": (WHOLE, "count", "rows, or samples without a kept row, that are of the same data and pair"),
    "mean_shift": (
        REAL,
        "share",
        "root mean square over features of the mean's shift, over the first model's root mean square",
    ),
    "log_variance_ratio": (
        REAL,
        "log",
        "natural logarithm of the second's variance over the first's (divisor n)",
    ),
    "features_beyond": (REAL, "share", "share of features whose mean or variance moved beyond the noise"),
    "sample_difference": (
        REAL,
        "share",
        "median over paired samples of the relative difference; missing without",
    ),
    "cosine": (REAL, "share", "cosine between the paired rows of the two models, 1 if they point alike"),
    "error_db": (
        REAL,
        "dB",
        "noise power over signal power, of paired rows (the negative of SQNR) or moments; -inf without error",
    ),
    "error_of": (TEXT, "", "rows, moments or all: what error_db is measured on"),
    "noise_db": (
        REAL,
        "dB",
        "the error that rounding (same data) or sampling (other data) may give by itself",
    ),
    "inherited_db": (REAL, "dB", "the part of the error that the layer's input, or the layers before, bring"),
    "introduced_db": (
        REAL,
        "dB",
        "the part that arises here; the two add up in power unless both are measured",
    ),
    "split": (TEXT, "", "measured or estimated: how the error was split"),
    "likely": (
        REAL,
        "share",
        "other data: how likely chance gives so large a difference anywhere in the model",
    ),
    "beyond": (TRUTH, "", "whether the two differ here beyond the noise"),
    "introduces": (TRUTH, "", "whether more arises here than noise and what was inherited explain"),
    "differs": (
        TEXT,
        "",
        "what of the layer's own differs, eps and scale among it, `; `-joined; at each site",
    ),
}

UNMATCHED: dict[str, tuple[str, str, str]] = {
    "of": (TEXT, "", "the recording or model that has the layer: a, the first, or b"),
    "layer": (TEXT, "", "qualified name"),
    "reason": (TEXT, "", "why it is not compared"),
}


CAUSES: dict[str, tuple[str, str, str]] = {
    "layer": (TEXT, "", "qualified name in the first model"),
    "layer_b": (TEXT, "", "qualified name of its counterpart in the second"),
    "what": (
        TEXT,
        "",
        "eps, scale, shift, unit offset, running mean, running variance, mode, kind, class, dtype, bias, "
        "weight, shift of all rows, or a setting by the name that the layer has for it",
    ),
    "a": (TEXT, "", "what it is in the first model; of a vector the number that differs most"),
    "b": (TEXT, "", "what it is in the second"),
    "said": (TEXT, "", "both in words"),
}


def shaped(rows: list[dict[str, object]], columns: dict[str, tuple[str, str, str]]) -> pd.DataFrame:
    """A frame of exactly these columns, in order, each of its dtype."""
    frame = pd.DataFrame(rows, columns=list(columns))
    return frame.astype({name: dtype for name, (dtype, _, _) in columns.items()})


def decibels(ratio: float) -> float:
    """A ratio of amplitudes in dB: 20 log10, -inf of 0, NaN of NaN."""
    # Of no error −∞ is meant, of which numpy would warn.
    with np.errstate(divide="ignore"):
        return float(20 * np.log10(ratio))
