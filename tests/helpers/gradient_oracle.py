"""The oracle of gradients: `torch.autograd.grad` with respect to what layers read and wrote, without a probe.

No hook of a tensor is used: the tensors of a forward are kept, and autograd is asked for their gradients.
Copies are float64, moments two-pass over the concatenated real rows.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import normprobe
from tests.helpers.oracle import first, two_pass, worst

Gradients = dict[tuple[str, str], list[np.ndarray]]


def gradients(
    model: nn.Module,
    forwards: Iterable[Callable[[], Tensor]],
    *,
    real: Callable[[int], np.ndarray | None] = lambda _: None,
    retain: bool = False,
) -> Gradients:
    """The gradient of each loss with respect to each layer's input and output, (rows, features) of each call.

    Args:
        model: its Linears and norms are the layers; it is run as it is, in place or not.
        forwards: each runs the model and gives a loss.
        real: from the number of the forward to its real positions, (batch, time); None for all.
        retain: keep the graph, which belongs to someone else.
    """
    found: Gradients = defaultdict(list)
    for number, forward in enumerate(forwards):
        tensors: list[tuple[tuple[str, str], Tensor]] = []
        handles = list(_keep(model, tensors))
        try:
            loss = forward()
        finally:
            for handle in handles:
                handle.remove()
        needed = [(key, tensor) for key, tensor in tensors if tensor.requires_grad]
        got = torch.autograd.grad(loss, [t for _, t in needed], allow_unused=True, retain_graph=retain)
        for (key, _), gradient in zip(needed, got, strict=True):
            if gradient is not None:
                found[key].append(_rows(gradient, real(number)))
    return found


def _keep(model: nn.Module, tensors: list[Any]) -> Iterable[Any]:
    for name, module in model.named_modules():
        if not isinstance(module, (nn.Linear, nn.LayerNorm, nn.modules.batchnorm._BatchNorm)):
            continue

        def before(_: Any, args: Any, kwargs: Any, name: str = name) -> None:
            tensors.append(((name, "input_gradient"), first([*args, *kwargs.values()])))

        def after(_: Any, args: Any, output: Any, name: str = name) -> None:
            tensors.append(((name, "output_gradient"), first(output)))

        yield module.register_forward_pre_hook(before, with_kwargs=True)
        yield module.register_forward_hook(after)


def _rows(gradient: Tensor, real: np.ndarray | None) -> np.ndarray:
    array = gradient.detach().double().numpy()
    if real is not None and array.shape[: real.ndim] == real.shape:
        return array[real]
    return array.reshape(-1, array.shape[-1])


def held(recording: normprobe.Recording, expected: Gradients, *, times: int = 1) -> float:
    """Hold the gradient sites of a recording to what is expected; the worst relative error.

    Args:
        recording: with every sample kept.
        expected: what the oracle found.
        times: how often each gradient is to have been measured.
    """
    layers = recording.layers[recording.layers["site"].str.endswith("gradient")]
    assert set(zip(layers["layer"], layers["site"], strict=True)) == set(expected)
    error = 0.0
    for (layer, site), calls in expected.items():
        row = layers[(layers["layer"] == layer) & (layers["site"] == site)].iloc[0]
        assert row["calls"] == times * len(calls), (layer, site)
        data = np.concatenate(calls)
        assert row["n_samples"] == times * len(data), (layer, site)
        of_all, exact = recording.features, two_pass(data)
        found = of_all[(of_all["layer"] == layer) & (of_all["site"] == site)]
        error = max(error, worst(found["mean"], found["variance"], exact["mean"], exact["variance"]))
        assert np.array_equal(found["count"], times * exact["count"])
        np.testing.assert_allclose(found["min"], exact["min"], rtol=1e-6)
        np.testing.assert_allclose(found["max"], exact["max"], rtol=1e-6)
    return error
