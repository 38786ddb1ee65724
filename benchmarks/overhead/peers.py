"""What people would use instead, doing the nearest thing that it can."""

from __future__ import annotations

import importlib.util
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from normprobe.layers.find import find_layers


def _hooked(model: nn.Module, seen: Callable[[Tensor], None]) -> AbstractContextManager[None]:
    """Call ``seen`` with the input and the output of each Linear and norm."""

    def hook(module: nn.Module, args: Any, output: Any) -> None:
        seen(args[0])
        seen(output)

    @contextmanager
    def attached() -> Iterator[None]:
        handles = [layer.module.register_forward_hook(hook) for layer in find_layers(model).layers]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    return attached()


@contextmanager
def nothing(model: nn.Module) -> Iterator[None]:
    """Two hooks on each layer that do nothing: what there is to pay for being called at all."""

    def before(module: nn.Module, args: Any) -> None: ...

    def after(module: nn.Module, args: Any, output: Any) -> None: ...

    modules = [layer.module for layer in find_layers(model).layers]
    handles = [module.register_forward_pre_hook(before) for module in modules]
    handles += [module.register_forward_hook(after) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def torch_sum(model: nn.Module) -> AbstractContextManager[None]:
    """`torch.sum`, of a tensor that several layers read once: each number is read from memory once."""
    recent: list[weakref.ref[Tensor]] = []

    def seen(tensor: Tensor) -> None:
        if not any(held() is tensor for held in recent):
            torch.sum(tensor.detach())
            recent[:] = [*recent[-7:], weakref.ref(tensor)]

    return _hooked(model, seen)


def var_mean(model: nn.Module) -> AbstractContextManager[None]:
    """`torch.var_mean` over both axes: no extremes, no masks, no merging over batches."""

    def seen(tensor: Tensor) -> None:
        values = tensor.detach().flatten(0, -2)
        torch.var_mean(values, 0, correction=0)
        torch.var_mean(values, -1, correction=0)

    return _hooked(model, seen)


def activation_stats(model: nn.Module) -> AbstractContextManager[None]:
    """As fastai's ActivationStats: mean, standard deviation and near zeros of a whole tensor."""

    def seen(tensor: Tensor) -> None:
        values = tensor.detach().float()
        _ = values.mean().item(), values.std().item(), (values.abs() <= 0.05).float().mean().item()

    return _hooked(model, seen)


@contextmanager
def torchlens(model: nn.Module) -> Iterator[Callable[..., object]]:
    """TorchLens runs the model itself and records every operation with its output; it computes no moments."""
    trace = importlib.import_module("torchlens").trace
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield lambda **given: trace(model, [], input_kwargs=given)


PEERS: dict[str, Callable[[nn.Module], AbstractContextManager[object]]] = {
    "var_mean": var_mean,
    "ActivationStats": activation_stats,
    **({"TorchLens": torchlens} if importlib.util.find_spec("torchlens") else {}),
}
