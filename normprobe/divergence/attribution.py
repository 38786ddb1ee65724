"""How much of an error a layer inherits from its input, and how much it introduces.

A norm is a formula, so the first model's norm is applied to the second model's kept rows: what comes out
differs by what the input brought, and the rest is the layer's own. A Linear's weights are not recorded: its
input's relative error is taken to pass through unchanged, and what is left in power is called introduced.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from normprobe.divergence.error_bounds import relative_error
from normprobe.divergence.kept_samples import RecordingArrays, pair_samples
from normprobe.divergence.matching import Match
from normprobe.vocabulary import INPUT, OUTPUT

Numbers = NDArray[np.float64]

PASSES = 4.0
"""An error grows by no more than this on its way through a Linear, in the runs measured for `rounding`."""

# A percent: bfloat16 rounds by 0.4 %, and a formula that is another layer's misses by far more.
_FITS = 1e-2
_TINY = 1e-300


@dataclass(frozen=True)
class Attribution:
    """The error of one place by where it comes from, relative as the error is.

    Attributes:
        inherited: what the input brought.
        introduced: what arose here.
        exact: whether computed from the layer's formula rather than estimated.
    """

    inherited: float
    introduced: float
    exact: bool


def estimate_attribution(error: float, inherited: float) -> Attribution:
    """Split the power of an error, given that of what came in; the parts add up in power."""
    if np.isnan(error):
        return Attribution(np.nan, np.nan, False)
    # An error may shrink on its way: no more than there is can have been brought.
    brought = min(error, inherited)
    own = np.inf if error == np.inf else float(np.sqrt(max(error**2 - brought**2, 0.0)))
    return Attribution(brought, own, exact=False)


def attribute_norm(a: RecordingArrays, b: RecordingArrays, match: Match) -> Attribution | None:
    """Split the error at a norm's output exactly, from kept raw rows; None where its formula does not fit.

    Args:
        a: the first recording.
        b: the second.
        match: the norm and its counterpart.
    """
    (in_a, out_a), (in_b, out_b) = (
        [reader.places[layer, site] for site in (INPUT, OUTPUT)]
        for reader, layer in ((a, match.a), (b, match.b))
    )
    x_a, x_b = pair_samples(a.rows(in_a), b.rows(in_b))
    y_a, y_b = pair_samples(a.rows(out_a), b.rows(out_b))
    # One NaN would be the whole of every sum.
    if not (x_a.shape == y_a.shape and len(x_a)) or not all(
        np.isfinite(rows).all() for rows in (x_a, x_b, y_a, y_b)
    ):
        return None
    again_a, again_b = (_applied(a, match.a, rows) for rows in (x_a, x_b))
    if again_a is None or again_b is None or relative_error(y_a, again_a) > _FITS:
        return None
    # The formula's own distance from what the layer computed (its dtype's rounding) cancels.
    brought = y_a + (again_b - again_a)
    return Attribution(relative_error(y_a, brought), relative_error(y_a, y_a + (y_b - brought)), exact=True)


def _applied(reader: RecordingArrays, layer: str, rows: Numbers) -> Numbers | None:
    """What a norm makes of rows, shape (rows, features); None for a kind that sees more than a row."""
    kind, eps = _facts(reader, layer)
    place = reader.places[layer, OUTPUT]
    weight, bias = _known(reader.vector("weight", place), 1.0), _known(reader.vector("bias", place), 0.0)
    if kind == "batch_norm":
        centre, scale = (
            reader.vector(name, reader.places[layer, INPUT]) for name in ("running_mean", "running_var")
        )
        if np.isnan(centre).any() or np.isnan(scale).any():
            return None
        return (rows - centre) / np.sqrt(scale + eps) * weight + bias
    if kind not in ("layer_norm", "rms_norm"):
        return None
    centred = rows - rows.mean(1, keepdims=True) if kind == "layer_norm" else rows
    size: Numbers = np.sqrt(np.square(centred).mean(1, keepdims=True) + eps)
    return centred / size * weight + bias


def _facts(reader: RecordingArrays, layer: str) -> tuple[str, float]:
    """Kind and eps of a layer."""
    row = reader.ledger.loc[layer]
    return str(row["kind"]), float(np.nan_to_num(row["eps"]))


def _known(vector: Numbers, otherwise: float) -> Numbers:
    return np.where(np.isnan(vector), otherwise, vector)


def gain(reader: RecordingArrays, layer: str) -> float:
    """How many times a norm enlarges the relative error of its input: 1 unless it takes away a large mean."""
    kind, eps = _facts(reader, layer)
    place = reader.places[layer, INPUT]
    moments = reader.features(place)
    variance = np.nan_to_num(moments.variance)
    square = np.square(moments.mean) + variance
    if kind in ("layer_norm", "group_norm", "instance_norm"):
        within = reader.tables.sites.iloc[place]
        before, after = square.mean(), within["within_sum"] / max(within["within_count"], 1) + eps
    elif kind == "batch_norm":
        scale = _known(reader.vector("running_var", place), 0.0) + eps
        # Without running statistics it divides by what it reads.
        scale = np.where(scale > eps, scale, variance + eps).clip(_TINY)
        centre = _known(reader.vector("running_mean", place), 0.0)
        left = np.square(moments.mean - centre) + variance
        before, after = (square / scale).mean(), (left / scale).mean()
    else:
        return 1.0
    # Bounded: a nearly constant input would excuse any error.
    return float(np.clip(np.sqrt(before / after), 1.0, 1e6)) if after > 0 else 1.0
