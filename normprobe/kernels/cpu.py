"""The compiled kernel: plain strided tensors on the CPU, in one pass at memory speed."""

from __future__ import annotations

import os

import torch
from torch import Tensor

from normprobe.kernels import Measured, SampleMoments
from normprobe.kernels._cpu import measure as _measure
from normprobe.moments import Moments

_TYPES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}
_FIELDS, _SAMPLE_FIELDS, _SCALARS = len(Moments.__match_args__), len(SampleMoments.__match_args__), 8
_SMALL = 1 << 14
"""Numbers below which one thread is faster than waking others."""

_forked = False


def _one_thread_from_now_on() -> None:
    """OpenMP's threads do not survive a fork: the child measures alone."""
    global _forked  # noqa: PLW0603
    _forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_one_thread_from_now_on)


def takes(values: Tensor) -> bool:
    """Whether this kernel measures such a tensor."""
    return values.device.type == "cpu" and not values.is_complex() and values.layout is torch.strided


def measure(values: Tensor, keep: Tensor, real: Tensor | None = None, *, seen: bool = False) -> Measured:
    """Measure ``values`` (samples, rows, features); see `normprobe.kernels.measure`."""
    if values.dtype not in _TYPES:
        values = values.to(torch.float64)
    features = values.shape[2]
    if values.stride(2) != 1 and values.numel():
        values = values.contiguous()
    found = _run(values, keep, real)
    scalars = found[_FIELDS * features :][:_SCALARS]
    kept = found[_FIELDS * features + _SCALARS :].view(_SAMPLE_FIELDS, len(keep))
    return Measured(
        features=_columns(found, features),
        kept=SampleMoments(*kept.unbind(0)),
        within_sum=scalars[0],
        within_count=scalars[1],
        minimum_at=scalars[2].to(torch.int64),
        maximum_at=scalars[3].to(torch.int64),
        seen=_columns(_run(values, keep[:0], None), features) if seen else None,
        nonfinite_masked=scalars[4],
    )


def _columns(found: Tensor, features: int) -> Moments:
    """The features' fields, which come first in what the extension wrote."""
    return Moments(*found[: _FIELDS * features].view(_FIELDS, features).unbind(0))


def _run(values: Tensor, keep: Tensor, real: Tensor | None) -> Tensor:
    """Call the extension; features' fields, scalars and kept samples' fields in one float64 tensor."""
    samples, rows, features = values.shape
    out = torch.empty(_FIELDS * features + _SCALARS + _SAMPLE_FIELDS * len(keep), dtype=torch.float64)
    real = None if real is None else real.contiguous()
    keep = keep.contiguous()
    parts = 1 if _forked or values.numel() < _SMALL else torch.get_num_threads()
    storage = values.untyped_storage()
    _measure(
        values.data_ptr(),
        int(storage.nbytes()) - int(values.storage_offset()) * values.element_size(),
        _TYPES[values.dtype],
        samples,
        rows,
        features,
        values.stride(0),
        values.stride(1),
        0 if real is None else real.data_ptr(),
        keep.data_ptr(),
        len(keep),
        parts,
        out.data_ptr(),
    )
    return out
