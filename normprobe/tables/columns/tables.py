"""The columns of the public tables: their order, dtype, meaning, unit and divisor."""

from __future__ import annotations

from collections.abc import Container
from typing import Any

import numpy as np
import pandas as pd

from normprobe.kernels.moments import MOMENT_FIELDS
from normprobe.tables.columns.blocks import ATTENTION, BRANCHES
from normprobe.tables.columns.distributions import FIT, FIT_FEATURES, ON_REQUEST, QUANTILES
from normprobe.tables.columns.dtypes import NUMBER, REAL, TEXT, TRUTH, WHOLE, public_moments
from normprobe.tables.columns.experts import EXPERT_FEATURES, EXPERTS

SITE_KEY = ["layer", "site"]
"""What names a row of `LAYERS`."""

_VALUE = "in the layer's own units"


LAYERS: dict[str, tuple[str, str]] = {
    "layer": (TEXT, "qualified name of the module; empty for a model that is itself a layer"),
    "kind": (
        TEXT,
        "linear, layer_norm, rms_norm, batch_norm, group_norm, instance_norm or norm; on request conv, "
        "activation, embedding, attention or residual",
    ),
    "type": (TEXT, "class name"),
    "site": (
        TEXT,
        "input or output; for a norm, before and after normalization; or the gradient of one; of a residual "
        "block also branch (output - input), of attention max_logit and entropy",
    ),
    "dtype": (TEXT, "dtype of the tensor; several joined by `; `"),
    "sample_unit": (TEXT, "what the layer treats on its own: position or example"),
    "calls": (WHOLE, "measured firings"),
    "n_samples": (WHOLE, "samples, those without a finite value included"),
    "n_features": (WHOLE, "features of one row"),
    "mean": (REAL, f"mean of all finite values, {_VALUE}"),
    "variance": (REAL, "population variance of all finite values (divisor: their number)"),
    "within_sample_variance": (REAL, "mean over samples of the population variance of the sample's values"),
    "within_feature_variance": (
        REAL,
        "mean over features of the population variance of the feature's values",
    ),
    "abs_mean": (REAL, "mean of |value|"),
    "abs_median": (REAL, "median of |value| in the kept rows"),
    "min": (REAL, "smallest finite value"),
    "max": (REAL, "largest finite value"),
    "min_part": (
        TEXT,
        "share of the data, by name or uuid, whose sample holds the smallest value",
    ),
    "min_example": (NUMBER, "its example"),
    "min_position": (NUMBER, "its position"),
    "min_feature": (NUMBER, "the feature that holds it"),
    "max_part": (
        TEXT,
        "share of the data, by name or uuid, whose sample holds the largest value",
    ),
    "max_example": (NUMBER, "its example"),
    "max_position": (NUMBER, "its position"),
    "max_feature": (NUMBER, "the feature that holds it"),
    "zero_fraction": (REAL, "share of exact zeros among the finite values, 0 to 1"),
    "nonfinite": (WHOLE, "NaN or infinite values in real rows; they enter no other column"),
    "masked": (WHOLE, "rows left out as padding"),
    "nonfinite_masked": (WHOLE, "NaN or infinite values in those rows"),
    "depth": (WHOLE, "order of first execution, from 0"),
    # Behind what 0.1.0 had, so that whoever reads by position finds it where it was; so in the other tables.
    "abs_max": (REAL, "largest |value|: the larger of |min| and |max|"),
    "feature_ratio": (REAL, "abs_max ÷ that of the median feature; missing where that is 0"),
    "nonfinite_part": (TEXT, "share of the data that holds the first NaN or Inf; missing on an accelerator"),
    "nonfinite_step": (NUMBER, "its step, as `Probe.step` was told; else its call"),
    "nonfinite_call": (NUMBER, "running number of its forward"),
    "nonfinite_example": (NUMBER, "its example"),
    "nonfinite_position": (NUMBER, "its position"),
    "nonfinite_feature": (NUMBER, "its feature"),
}

GROUP = (TEXT, "where samples are told apart, the group; `(none)` for samples of none")
"""The column behind `site` that `layers` and `features` have where a probe was given `groups`."""

FEATURES: dict[str, tuple[str, str]] = {
    "layer": (TEXT, "qualified name of the module"),
    "kind": (TEXT, "kind of the layer"),
    "site": (TEXT, "input or output"),
    "feature": (WHOLE, "index of the feature, from 0"),
    **{column.name: (WHOLE if column.whole else REAL, column.meaning) for column in public_moments()},
    "weight": (
        REAL,
        "norm outputs: the scale as applied (Gemma: 1 + weight; 1 without one), last measured call",
    ),
    "bias": (REAL, "norm outputs: the shift as applied (0 without one), last measured call"),
    "running_mean": (REAL, "batch-norm inputs: the running mean after the last measured call"),
    "running_var": (REAL, "batch-norm inputs: the running variance (torch collects divisor n - 1)"),
    "seen_mean": (REAL, "batch-norm inputs: mean of what the layer saw, padding included"),
    "seen_variance": (REAL, "batch-norm inputs: population variance of what the layer saw, padding included"),
    "abs_max": (REAL, "largest |value|: the larger of |min| and |max|"),
}

SAMPLES: dict[str, tuple[str, str]] = {
    "layer": (TEXT, "qualified name of the module"),
    "kind": (TEXT, "kind of the layer"),
    "site": (TEXT, "input or output"),
    "part": (TEXT, "the probe's share of the data, by name or uuid"),
    "call": (WHOLE, "running number of the forward, measured or not, from 0"),
    "repeat": (WHOLE, "which of the layer's calls within the forward, from 0"),
    "example": (NUMBER, "running number of the batch element over all forwards, from 0"),
    "position": (NUMBER, "index among the real samples of the example, from 0"),
    "mean": (REAL, f"mean of the sample's finite values, {_VALUE}"),
    "variance": (REAL, "their population variance (divisor: their number)"),
    "min": (REAL, "the smallest"),
    "max": (REAL, "the largest"),
    "count": (WHOLE, "finite values of the sample; what it has beside them is NaN or infinite"),
}

LEDGER: dict[str, tuple[str, str]] = {
    "layer": (TEXT, "qualified name of the module"),
    "aliases": (TEXT, "other names of the same module, joined by `; `"),
    "kind": (TEXT, "kind of the layer"),
    "type": (TEXT, "class name"),
    "n_features": (NUMBER, "features of its input"),
    "eps": (REAL, "the constant in its denominator"),
    "affine": (TRUTH, "whether it has a scale or shift of its own"),
    "training": (TEXT, "modes it ran in: train, eval; several joined by `; `"),
    "grad": (TEXT, "gradient modes it ran in: grad, no_grad, inference; several joined by `; `"),
    "calls": (WHOLE, "measured firings"),
    "status": (
        TEXT,
        "fired, unmeasured (called, but not measured), never fired, bypassed or refused",
    ),
    "via": (TEXT, "how it was seen: hook (its module was called), functional (a function used its weight)"),
    "masked_by": (TEXT, "the padding mask that was applied"),
    "sample_unit": (TEXT, "position or example"),
    "aligned": (TRUTH, "whether its samples could be numbered as the forward's"),
    "reason": (TEXT, "why it did not fire, or what was left out"),
    "normalizes": (TEXT, "a norm's input site is what it normalizes: input; is not: other; or unknown"),
    "groups": (NUMBER, "groups of features, each normalized together; missing where each feature is alone"),
    "activation": (TEXT, "what its output goes through inside it; variance / weight**2 is not of that"),
    "momentum": (REAL, "share of a batch in the running statistics it updates; missing where they average"),
    "running_dtype": (TEXT, "dtype of the running statistics"),
    "statistics": (TEXT, "what a batch norm's calls normalized with: batch, running; joined by `; `"),
    "num_batches_tracked": (NUMBER, "batches that its running statistics have seen, where it counts them"),
    "gradients": (NUMBER, "gradients measured at its output, or at its input where more were"),
    "rows": (NUMBER, "rows behind the statistics of its input, padding left out: tokens, pixels, examples"),
    "expert_of": (TEXT, "the list of experts that it is part of; see the table of experts"),
    "expert": (NUMBER, "which of that list's experts, from 0"),
    "router_of": (TEXT, "the experts that it routes to, by the name of their module; joined by `; `"),
}

OUTLIERS: dict[str, tuple[str, str]] = {
    "layer": (TEXT, "qualified name of the module"),
    "site": (TEXT, "input or output"),
    "feature": (WHOLE, "index of the feature, from 0"),
    "abs_max": (REAL, "its largest |value|"),
    "ratio": (REAL, "abs_max ÷ that of the median feature at the same site"),
    "written_by": (TEXT, "layer that wrote the value; empty where an operation between layers did"),
    "kind": (TEXT, "kind of the layer"),
}

PARAMETERS: dict[str, tuple[str, str]] = {
    "layer": (TEXT, "qualified name of the module"),
    "kind": (TEXT, "kind of the layer"),
    "parameter": (TEXT, "name of the parameter in the module"),
    "size": (WHOLE, "how many numbers it has"),
    "steps": (WHOLE, "steps of an optimizer that were measured"),
    "weight_rms": (REAL, "root mean square of its finite numbers ahead of these steps"),
    "weight_max": (REAL, "largest finite |number|"),
    "weight_nonfinite": (WHOLE, "NaN or infinite numbers over all steps"),
    "gradients": (WHOLE, "steps at which it had a finite gradient"),
    "gradient_rms": (REAL, "root mean square of these gradients, the loss's scale divided out"),
    "gradient_max": (REAL, "largest |number| of them"),
    "gradient_nonfinite": (WHOLE, "NaN or infinite numbers of its gradients over all steps"),
    "skipped": (WHOLE, "steps at which its gradient held such numbers; they enter no other column"),
    "updates": (WHOLE, "steps whose change is known"),
    "update_rms": (REAL, "root mean square of what such a step changed"),
    "update_ratio": (REAL, "update_rms ÷ the root mean square of the parameter ahead of these steps"),
}

TABLES = {
    "layers": LAYERS | ON_REQUEST["layers"],
    "features": FEATURES | ON_REQUEST["features"],
    "samples": SAMPLES | ON_REQUEST["samples"],
    "ledger": LEDGER,
    "outliers": OUTLIERS,
    "parameters": PARAMETERS,
    "branches": BRANCHES,
    "attention": ATTENTION,
    "experts": EXPERTS,
    "expert_features": EXPERT_FEATURES,
    "quantiles": QUANTILES,
    "fit": FIT,
    "fit_features": FIT_FEATURES,
}

_QUANTILES = " ".join(name for name in QUANTILES if name.startswith("p"))
_OF_UNIT = {
    "value": f"{_QUANTILES} abs_median abs_max weight bias running_mean seen_mean",
    "weight": "weight_rms weight_max update_rms",
    "gradient": "gradient_rms gradient_max",
    "value²": "within_sample_variance within_feature_variance running_var seen_variance eps "
    "stream_variance branch_variance output_variance",
    "share": "momentum share bound overflow_share below_normal flushed scaled_below_normal scaled_flushed",
    "logit": "max_logit mean_max_logit",
    "nats": "entropy entropy_min entropy_max",
    "nats²": "entropy_variance",
    "octave": "headroom",
    "dB": "snr_db snr_error_db channel_gain_db block_snr_db block_gain_db static_block_snr_db",
    "ratio": "feature_ratio ratio update_ratio kurtosis scale variance_ratio correlation",
    "count": "zeros num_batches_tracked gradients groups calls n_samples n_features masked nonfinite_masked "
    "size steps weight_nonfinite gradient_nonfinite skipped updates rows tokens",
    "index": "depth expert head feature call repeat example position min_example min_position min_feature "
    "max_example max_position max_feature nonfinite_step nonfinite_call nonfinite_example "
    "nonfinite_position nonfinite_feature",
}
UNITS = {
    **{column.name: column.unit for column in public_moments()},
    **{name: unit for unit, names in _OF_UNIT.items() for name in names.split()},
}
"""The unit of every column of numbers; ``value`` is the unit of the layer's own values."""


def unit_of(table: str, column: str) -> str:
    """The unit of a column of a table, "" for texts and where there is none."""
    # A routing weight is a pure number; weights of the other tables are in the layer's own units.
    return "" if (table, column) == ("experts", "weight") else UNITS.get(column, "")


def shaped(
    frame: pd.DataFrame, columns: dict[str, tuple[str, str]], on_request: str | None = None
) -> pd.DataFrame:
    """The frame with exactly these columns, in order, each of its dtype.

    Args:
        frame: the frame.
        columns: what it has.
        on_request: the table whose columns of `ON_REQUEST` it has, too, where they were asked for.
    """
    if on_request is not None:
        asked = ON_REQUEST[on_request]
        columns = {**columns, **{name: asked[name] for name in asked if name in frame}}
    return _cast(frame, {name: dtype for name, (dtype, _) in columns.items()})


def _cast(frame: pd.DataFrame, dtypes: dict[str, str]) -> pd.DataFrame:
    # A new index: what was filtered, sorted or merged is to equal what was loaded from a file.
    frame = frame[list(dtypes)].reset_index(drop=True)
    # Only what differs: before pandas 3 astype copies columns that are of the dtype already.
    found = dict(zip(frame.columns, map(str, frame.dtypes), strict=True))
    differing = {name: dtype for name, dtype in dtypes.items() if found[name] != dtype}
    return frame.astype(differing) if differing else frame


_HELD = {f"{end}_{name}": NUMBER for end in ("min", "max") for name in ("example", "position", "feature")}
_FIRST_NONFINITE = {
    "nonfinite_part": TEXT,
    **{f"nonfinite_{name}": NUMBER for name in ("step", "call", "example", "position", "feature")},
}
_SUMS_OF_SITE = {
    **dict.fromkeys(("calls", "n_samples", "n_features", "masked", "nonfinite_masked"), WHOLE),
    "within_sum": REAL,
    "within_count": WHOLE,
    **{"min": REAL, "min_part": TEXT, "max": REAL, "max_part": TEXT},
    **_HELD,
    **_FIRST_NONFINITE,
}
_MOMENTS = {field.column: WHOLE if field.whole else REAL for field in MOMENT_FIELDS.values()}
_IDENTITY = dict.fromkeys(("place", "part", "call", "repeat", "example", "position", "hash"), WHOLE)

PARAMETER_COUNTS = (
    *("steps", "weight_count", "weight_nonfinite", "gradients", "gradient_count", "gradient_nonfinite"),
    *("skipped", "updates", "update_count"),
)
PARAMETER_SQUARES = ("weight_square", "gradient_square", "update_square", "updated_square")
PARAMETER_LARGEST = ("weight_max", "gradient_max")
"""What is held of parameters: sums over steps, and the largest magnitudes."""

BASE: dict[str, dict[str, str]] = {
    "ledger_base": {
        # What follows from the moments is not held twice.
        **{name: dtype for name, (dtype, _) in LEDGER.items() if name != "rows"},
        **{"depth": NUMBER, "trainable": TRUTH, "moved": TRUTH, "updates": NUMBER, "firings": NUMBER},
        "unmasked": NUMBER,
        "settings": TEXT,
        **{"train_in_eval": NUMBER, "processes": NUMBER, "weights": NUMBER},
    },
    "sites": {
        **{"layer": TEXT, "site": TEXT, "depth": WHOLE, "dtype": TEXT, **_SUMS_OF_SITE},
        **{"placement": TEXT, "first_feature": NUMBER, "whole_features": NUMBER},
    },
    "feature_moments": {
        **_MOMENTS,
        **{"seen_count": WHOLE, "seen_mean": REAL, "seen_m2": REAL},
        **dict.fromkeys(("weight", "bias", "running_mean", "running_var"), REAL),
    },
    "sample_moments": {
        **_IDENTITY,
        **{
            field.column: WHOLE if field.whole else REAL
            for field in MOMENT_FIELDS.values()
            if field.of_samples
        },
    },
    "rows": _IDENTITY,
    "expert_places": {
        **{"layer": TEXT, "depth": WHOLE, "expert": WHOLE, "site": TEXT, "n_features": WHOLE, "rows": WHOLE},
        **{"weight_sum": REAL, "weighted": WHOLE},
    },
    "expert_moments": {field.column: WHOLE if field.whole else REAL for field in MOMENT_FIELDS.values()},
    "bin_counts": dict.fromkeys(("place", "bin", "count"), WHOLE),
    "labels_base": {"part": TEXT, "example": NUMBER, "position": NUMBER, "text": TEXT},
    "parameter_moments": {
        **{"layer": TEXT, "parameter": TEXT, "size": WHOLE},
        **dict.fromkeys(PARAMETER_COUNTS, WHOLE),
        **dict.fromkeys((*PARAMETER_SQUARES, *PARAMETER_LARGEST), REAL),
    },
    "group_sites": {"layer": TEXT, "site": TEXT, "group": TEXT, **_SUMS_OF_SITE},
    "group_moments": _MOMENTS,
}
"""The frames that hold moments, as they are saved and merged: columns and dtypes.

Large frames hold numbers only: ``place`` is the row of ``sites`` that a sample belongs to, ``part`` the
index of its part in ``meta["parts"]``, and the features of all places follow one another in their order; so
do those of groups.
"""

POWERS = ("m3", "m4")
"""Columns of features' and samples' moments that are there where kurtosis was measured."""

HAVE_POWERS = ("feature_moments", "sample_moments")

OPTIONAL = {
    "sites": frozenset((*_FIRST_NONFINITE, "placement", "first_feature", "whole_features")),
    "feature_moments": frozenset(field.column for field in MOMENT_FIELDS.values() if field.optional),
    "group_moments": frozenset(field.column for field in MOMENT_FIELDS.values() if field.optional),
    "ledger_base": frozenset(
        (
            *("settings", "normalizes", "unmasked", "groups", "activation", "momentum", "running_dtype"),
            *("statistics", "train_in_eval", "processes", "weights", "num_batches_tracked", "gradients"),
            *("expert_of", "expert", "router_of"),
        )
    ),
    "expert_moments": frozenset(field.column for field in MOMENT_FIELDS.values() if field.optional),
}
"""Columns of base frames that a file of before lacks; they read as missing, texts as ""."""


def missing(dtype: Any, size: int) -> Any:
    """A column of which nothing is known: NaN or NA, texts ""."""
    nothing: list[Any] = ["" if dtype == TEXT else pd.NA] * size
    return np.full(size, np.nan) if dtype == REAL else pd.array(nothing, dtype=dtype)


def based(name: str, frame: pd.DataFrame) -> pd.DataFrame:
    """A base frame with exactly its columns, in order, each of its dtype."""
    return _cast(frame, base_columns(name, frame))


def base_columns(name: str, held: Container[str]) -> dict[str, str]:
    """The columns of a base frame and their dtypes; with `POWERS` if what it holds has them."""
    powers = POWERS if name in HAVE_POWERS and POWERS[0] in held else ()
    return {**BASE[name], **dict.fromkeys(powers, REAL)}
