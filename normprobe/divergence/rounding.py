"""How much two runs of one model may differ by rounding: what is less is no divergence.

The level of a place is the larger of two. One is the rounding of a single layer: 64 units of float32, or one
unit of a coarser dtype (two where the models compute in different ones). The other is eight times the largest
error met in the layers before, as long as none of them diverged: rounding accumulates with depth, and nothing
but the runs themselves says how fast. Both count more for a norm that takes away a large mean, and for what
is small beside the tensors before it, as a difference of two holds the rounding of both.

Measured on 30 models (transformers to 272 layers, MLPs, CNNs) in other batches, on another number of threads,
with another form of attention, and in bfloat16 and float16 against float32: in one dtype errors of at most 15
units of float32, 16 dB below the level; against bfloat16 0.4 units in the first layer, then growing from all
layers before to the next by at most 4 times (`benchmarks.compare` measures it anew).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_UNITS = {"float64": 2.0**-52, "float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}
_FLOAT8 = {"float8_e4m3fn": 2.0**-3, "float8_e5m2": 2.0**-2}
WITHIN = 64.0
GROWTH = 8.0
MEASURED = 4e-6
"""Moments themselves are measured to 1e-6 only, whatever the model's dtype."""


@dataclass(frozen=True)
class Precision:
    """In which dtypes the two models computed.

    Attributes:
        floors: relative error of one layer's rounding, per place.
        throughout: whether the models compute in different dtypes altogether, which is no divergence.
        dtypes: the commonest dtype of each model.
        changed: places (by index) where the dtype differs, in models that otherwise compute alike.
    """

    floors: NDArray[np.float64]
    throughout: bool
    dtypes: tuple[str, str]
    changed: tuple[int, ...]


def precision(a: Sequence[str], b: Sequence[str]) -> Precision:
    """Decide what rounding to expect at each place, in order of execution.

    Args:
        a: dtype at each place of the first model, several joined by `; `.
        b: dtype at each place of the second.
    """
    units_a, units_b = (np.array([unit(dtypes) for dtypes in every]) for every in (a, b))
    differ = units_a != units_b
    throughout = bool(2 * differ.sum() >= len(differ)) and len(differ) > 0
    if throughout:
        # Rounding is inherited: after the first coarse layer nothing is finer.
        units = 2 * np.maximum.accumulate(np.maximum(units_a, units_b))
    else:
        units = np.maximum.accumulate(np.minimum(units_a, units_b)) if len(differ) else units_a
    single = np.minimum(_UNITS["float32"], units)
    dtypes = (_commonest(a), _commonest(b))
    changed = () if throughout else tuple(int(place) for place in np.flatnonzero(differ))
    return Precision(np.maximum(units, WITHIN * single), throughout, dtypes, changed)


def unit(dtypes: str) -> float:
    """The spacing of numbers at 1 in the coarsest of these dtypes; of what is unknown, float32's."""
    # The coarsest: whatever ran in it has its rounding.
    return max((_UNITS | _FLOAT8).get(name, _UNITS["float32"]) for name in dtypes.split("; "))


def _commonest(dtypes: Sequence[str]) -> str:
    # Sorted, so that of equally common ones it is always the same.
    return max(sorted(set(dtypes)), key=list(dtypes).count, default="")


def beyond_rounding(
    errors: NDArray[np.float64], floors: NDArray[np.float64], gains: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """The level of rounding at each place, and whether the error there exceeds it.

    Args:
        errors: relative error per place, in order of execution; NaN where nothing could be compared.
        floors: relative error of one layer's rounding.
        gains: how many times a norm enlarges the relative error of what it reads; 1 elsewhere.
    """
    levels, beyond, largest = np.empty(len(errors)), np.zeros(len(errors), bool), 0.0
    for place, error in enumerate(errors):
        levels[place] = max(floors[place], GROWTH * largest) * gains[place]
        beyond[place] = error > levels[place]
        if error <= levels[place]:
            largest = max(largest, error)
    return levels, beyond
