"""The compiled kernel: plain strided tensors on the CPU, in one pass at memory speed."""

from __future__ import annotations

import os

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from normprobe.kernels import Measured, SampleMoments
from normprobe.kernels._cpu import Delta, Plan, State, learn
from normprobe.moments import Moments

_TYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
_FIELDS, _SAMPLE_FIELDS = len(Moments.__match_args__), len(SampleMoments.__match_args__)
_NONE = np.empty(0, np.int64)

_SMALL = 1 << 14
"""Numbers below which one thread is faster than waking others."""

_forked = False

learn(_TYPES)


def _one_thread_from_now_on() -> None:
    """OpenMP's threads do not survive a fork: the child measures alone."""
    global _forked  # noqa: PLW0603
    _forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_one_thread_from_now_on)


def threads() -> int:
    """How many threads may measure one tensor."""
    return 1 if _forked else torch.get_num_threads()


def takes(values: Tensor) -> bool:
    """Whether this kernel measures such a tensor."""
    return values.device.type == "cpu" and not values.is_complex() and values.layout is torch.strided


def measure(values: Tensor, keep: Tensor, real: Tensor | None = None, *, seen: bool = False) -> Measured:
    """Measure ``values`` (samples, rows, features); see `normprobe.kernels.measure`."""
    features = values.shape[2]
    order = np.argsort(keep.numpy(), kind="stable")
    mask = None if real is None else np.ascontiguousarray(real.numpy())
    found, state = _alone(values, mask, keep.numpy()[order])
    columns, kept, within_sum, within_count, hidden, _, _ = state.fields(len(order), 0)
    of_samples = np.empty((len(order), _SAMPLE_FIELDS))
    of_samples[order] = np.frombuffer(kept).reshape(len(order), _SAMPLE_FIELDS)
    _, low_sample, low_feature, _, high_sample, high_feature = found.holders()
    return Measured(
        features=Moments(*torch.from_numpy(_columns(columns, features))),
        kept=SampleMoments(*torch.from_numpy(of_samples).unbind(1)),
        within_sum=_scalar(within_sum),
        within_count=_scalar(within_count),
        minimum_at=torch.tensor(max(low_sample, 0) * features + low_feature),
        maximum_at=torch.tensor(max(high_sample, 0) * features + high_feature),
        seen=_seen(values) if seen else None,
        nonfinite_masked=_scalar(hidden),
    )


def _alone(values: Tensor, real: NDArray[np.bool_] | None, keep: NDArray[np.int64]) -> tuple[Delta, State]:
    """Measure a tensor (samples, rows, features) on its own."""
    samples, rows, features = values.shape
    plan = Plan(samples, rows, True, real, keep, np.arange(len(keep)), _NONE, _NONE)
    state = State(features, -1, 1, -1, True)
    if values.dtype not in _TYPES:
        values = values.to(torch.float64)
    found = state.measure(values, plan, threads(), _SMALL)
    if found is None:
        found = state.measure(values.contiguous(), plan, threads(), _SMALL)
    assert found is not None
    state.add(found, plan)
    return found, state


def _seen(values: Tensor) -> Moments:
    """The features' moments over all rows."""
    columns = _alone(values, None, _NONE)[1].fields(0, 0)[0]
    return Moments(*torch.from_numpy(_columns(columns, values.shape[2])))


def _columns(columns: bytes, features: int) -> NDArray[np.float64]:
    """The features' fields, shape (fields, features)."""
    return np.frombuffer(columns).reshape(_FIELDS, features).copy()


def _scalar(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)
