"""The oracle: float64 two-pass numpy over the concatenated real rows, by hooks of its own."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch import nn

RELATIVE = 1e-6


def first(values: Any) -> torch.Tensor | None:
    """The first tensor in whatever a module takes or gives."""
    if isinstance(values, torch.Tensor):
        return values
    several = values.values() if isinstance(values, dict) else values
    for value in several if isinstance(values, (dict, tuple, list)) else ():
        found = first(value)
        if found is not None:
            return found
    return None


def tensors(
    model: nn.Module, names: Iterable[str], run: Callable[[], Any]
) -> dict[tuple[str, str], list[torch.Tensor]]:
    """Clones of every input and output of the named modules while ``run`` runs."""
    modules = dict(model.named_modules())
    seen: dict[tuple[str, str], list[torch.Tensor]] = defaultdict(list)
    handles = []
    for name in names:

        def before(_: Any, args: Any, kwargs: Any, name: str = name) -> None:
            seen[name, "input"].append(first([*args, *kwargs.values()]).detach().clone())

        def after(_: Any, args: Any, output: Any, name: str = name) -> None:
            seen[name, "output"].append(first(output).detach().clone())

        handles.append(modules[name].register_forward_pre_hook(before, with_kwargs=True))
        handles.append(modules[name].register_forward_hook(after))
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    return seen


def rows(tensor: torch.Tensor, axis: int = -1, trailing: int = 1) -> np.ndarray:
    """Every row of features as float64, shape (rows, features)."""
    array = tensor.to(torch.float64).numpy()
    if trailing > 1:
        array = array.reshape(*array.shape[:-trailing], -1)
        axis = -1
    array = np.moveaxis(array, axis, -1)
    return array.reshape(-1, array.shape[-1])


def two_pass(data: np.ndarray, axis: int = 0) -> dict[str, np.ndarray]:
    """Mean and population variance along an axis over the finite numbers, in two passes."""
    finite = np.isfinite(data)
    count = finite.sum(axis)
    inside = np.where(finite, data, 0.0)
    mean = inside.sum(axis) / np.maximum(count, 1)
    centred = np.where(finite, data - np.expand_dims(mean, axis), 0.0)
    return {
        "count": count,
        "mean": np.where(count > 0, mean, np.nan),
        "variance": np.where(count > 0, (centred**2).sum(axis) / np.maximum(count, 1), np.nan),
        "min": np.where(count > 0, np.where(finite, data, np.inf).min(axis, initial=np.inf), np.nan),
        "max": np.where(count > 0, np.where(finite, data, -np.inf).max(axis, initial=-np.inf), np.nan),
    }


def worst(found_mean: Any, found_variance: Any, mean: Any, variance: Any) -> float:
    """The largest relative error: of means to max(|mean|, std), of variances to themselves."""
    found_mean, found_variance = np.asarray(found_mean, float), np.asarray(found_variance, float)
    assert np.array_equal(np.isnan(found_mean), np.isnan(mean)), "NaN in other places"
    std = np.sqrt(np.nan_to_num(variance))
    scale = np.maximum(np.maximum(np.abs(np.nan_to_num(mean)), std), 1e-300)
    of_mean = np.abs(np.nan_to_num(found_mean) - np.nan_to_num(mean)) / scale
    # The variance of a constant column is the rounding of its mean, squared: a few 1e-16 of it, to 1e-6.
    floor = np.maximum(np.nan_to_num(variance), (1e-12 * scale) ** 2) + 1e-300
    of_variance = np.abs(np.nan_to_num(found_variance) - np.nan_to_num(variance)) / floor
    return float(max(of_mean.max(initial=0.0), of_variance.max(initial=0.0)))
