"""Arrays from .npy, .npz and .safetensors files; nothing pickled is ever read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from normprobe.errors import DataError
from normprobe.loading.inputs.sources import Arrays

_NUMBERS = "biufc"
"""Kinds of numpy dtypes that are numbers: bool, int, unsigned, float, complex."""


def read_npy(path: Path, limit: int | None) -> Arrays:
    """Read one array, mapped into memory rather than loaded.

    Raises:
        DataError: cut off, damaged, pickled, or empty.
    """
    try:
        # Not np.load, which goes by the first bytes: it would read a zip file of this name.
        array = np.lib.format.open_memmap(path, mode="r")
    except Exception as cause:  # a damaged header reaches Python's own parser
        raise DataError(_reason(path, cause)) from cause
    return _checked(path, {0: array}, limit)


def read_npz(path: Path, limit: int | None) -> Arrays:
    """Read arrays by name; ``arr_0``, ``arr_1``, ... are positional arguments.

    Raises:
        DataError: cut off, damaged, pickled, empty, or with arrays of different lengths.
    """
    try:
        # Opened here: given a path, np.load leaves the file open where it fails.
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except Exception as cause:  # zlib, zipfile and numpy each raise their own
        raise DataError(_reason(path, cause)) from cause
    return _checked(path, _positional(arrays), limit)


def read_safetensors(path: Path, limit: int | None) -> Arrays:
    """Read tensors by name.

    Raises:
        DataError: cut off, damaged, empty, or with tensors of different lengths.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError) as cause:
        raise DataError(_reason(path, cause)) from cause
    return _checked(path, tensors, limit)


def _positional(arrays: Mapping[str, Any]) -> Mapping[str | int, Any]:
    """Arrays by place if they have the names that `numpy.savez` gives to arrays without a name."""
    names = [f"arr_{index}" for index in range(len(arrays))]
    if set(arrays) == set(names):
        return {index: arrays[name] for index, name in enumerate(names)}
    return dict(arrays.items())


def _reason(path: Path, cause: Exception) -> str:
    """Why a file cannot be read; numpy refuses pickled objects by a `ValueError` of the general kind."""
    if any(word in str(cause) for word in ("pickle", "Python objects")):
        return (
            f"{path} holds pickled objects, and loading those runs whatever code they "
            "hold; save arrays of numbers"
        )
    return f"{path} is cut off or damaged ({type(cause).__name__}: {' '.join(str(cause).split())[:200]})"


def _checked(path: Path, arrays: Mapping[Any, Any], limit: int | None) -> Arrays:
    """Arrays as a source, checked for rows, numbers and equal lengths.

    Raises:
        DataError: one is empty or holds no numbers, or their lengths differ.
    """
    if not arrays:
        raise DataError(f"{path} holds no arrays")
    for name, array in arrays.items():
        label = path if name == 0 else f"{name} of {path}"
        if isinstance(array, np.ndarray) and array.dtype.kind not in _NUMBERS:
            raise DataError(f"{label} holds {array.dtype}; numbers were needed")
        if array.ndim == 0:
            raise DataError(
                f"{label} is a single number; an array with the batch as its first axis was needed"
            )
        if 0 in array.shape:
            raise DataError(f"{label} is empty: its shape is {tuple(array.shape)}")
    sizes = {name: array.shape[0] for name, array in arrays.items()}
    if len(set(sizes.values())) > 1:
        lengths = ", ".join(f"{name} has {size}" for name, size in sizes.items())
        raise DataError(
            f"the arrays of {path} are of different lengths: {lengths}; one row an example was needed"
        )
    rows = next(iter(sizes.values()))
    return Arrays(path.name, dict(arrays), rows if limit is None else min(rows, limit))
