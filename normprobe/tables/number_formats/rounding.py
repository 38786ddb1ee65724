"""Rounds numbers as casts do: to the nearest, ties to even, and what is beyond the largest to the largest."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from normprobe.tables.number_formats.formats import FP8_E4M3, MXFP8, NVFP4, NumberFormat

Numbers = NDArray[np.float64]


def step_of(values: Numbers, form: NumberFormat) -> Numbers:
    """The distance of the format's numbers at each value."""
    if form.is_integer:
        return np.ones_like(values)
    # frexp gives fractions from 0.5 to 1, formats have them from 1 to 2.
    exponent = np.frexp(values)[1] - 1
    least = int(np.log2(form.smallest_normal))
    # Below the smallest normal number steps stay as they are: these are subnormals.
    found: Numbers = np.ldexp(1.0, np.maximum(exponent, least) - form.fraction_bits)
    return found


def rounded(values: Numbers, form: NumberFormat) -> Numbers:
    """Values as the format holds them, unscaled."""
    # Dividing by a power of two is exact, and rint rounds ties to even as casts do.
    step = step_of(values, form)
    found: Numbers = np.clip(np.rint(values / step) * step, -form.largest, form.largest)
    return found


def tensor_scale(largest: Numbers | float, form: NumberFormat) -> Numbers:
    """What to divide values by whose largest magnitude is ``largest``; 1 where nothing has to be divided.

    Of MXFP8 a power of two that brings the largest below 512 (MX 1.0, section 6.3), so that some of it may be
    cut off; of NVFP4 the scale of the tensor, under which those of its blocks are E4M3 numbers.
    """
    size = np.asarray(largest, np.float64)
    known = np.where(size > 0, size, 1.0)
    if form is MXFP8:
        # The largest power of two of E4M3 is 2**8; E8M0 holds scales from 2**-127 to 2**127.
        found = np.ldexp(1.0, np.clip(np.frexp(known)[1] - 1 - 8, -127, 127))
    elif form is NVFP4:
        found = known / (form.largest * FP8_E4M3.largest)
    elif form.scaled:
        found = known / form.largest
    else:
        # Where it fits it is cast as it is; else by the power of two that is enough.
        found = np.exp2(np.ceil(np.log2(np.maximum(known / form.largest, 1.0))))
    return np.where(size > 0, found, 1.0)


def value_scale(largest: Numbers, form: NumberFormat) -> Numbers:
    """What is divided by under one scale alone: of NVFP4 that of the tensor and the block together."""
    if form is not NVFP4:
        return tensor_scale(largest, form)
    # 1 for zeros alone, which are 0 under any scale.
    return np.where(largest > 0, largest, form.largest) / form.largest


def in_blocks(rows: Numbers, form: NumberFormat, largest: float) -> Numbers:
    """Rows as a format of blocks holds them, each block of consecutive features under a scale of its own.

    Args:
        rows: shape (rows, features); a last block that is not whole is one of fewer values.
        form: MXFP8 or NVFP4.
        largest: the largest magnitude of the whole tensor, for the scale of NVFP4's scales.
    """
    width = rows.shape[1]
    # No magnitude is below 0, so what fills the last block does not change its scale.
    filled = np.pad(rows, ((0, 0), (0, -width % form.block)))
    blocks = filled.reshape(len(rows), -1, form.block)
    peak = np.abs(blocks).max(2, keepdims=True)
    if form is NVFP4:
        tensor = tensor_scale(largest, form)
        # A block's scale is an E4M3 number; one that is too small for it leaves the block 0.
        scale = rounded(peak / form.largest / tensor, FP8_E4M3) * tensor
    else:
        scale = tensor_scale(peak, form)
    held = rounded(blocks / np.where(scale > 0, scale, 1.0), form) * scale
    found: Numbers = held.reshape(len(rows), -1)[:, :width]
    return found


def decibels(signal: Numbers | float, noise: Numbers | float) -> Numbers:
    """Signal over noise power in dB: infinite without noise, NaN without signal."""
    with np.errstate(divide="ignore", invalid="ignore"):
        found = 10 * np.log10(np.asarray(signal, np.float64) / np.asarray(noise, np.float64))
    return np.where(np.asarray(signal) > 0, found, np.nan)
