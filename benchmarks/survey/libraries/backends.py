"""Layers of other frameworks on torch, and quantized ones."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from benchmarks.survey.libraries.entry import Entry, entry, numbers

X = numbers(16, 32)


def _net() -> nn.Module:
    return nn.Sequential(nn.Linear(32, 64), nn.LayerNorm(64), nn.ReLU(), nn.Linear(64, 32), nn.RMSNorm(32))


def keras() -> Iterator[Entry]:
    """Keras 3 on torch: a functional, a sequential and a subclassed model."""
    os.environ["KERAS_BACKEND"] = "torch"
    import keras as k
    from keras import layers as kl

    def functional() -> nn.Module:
        given = k.Input((32,))
        inner = kl.LayerNormalization()(kl.Dense(16)(given))
        return k.Model(given, kl.Dense(3)(kl.BatchNormalization()(inner)))

    def layers(prefix: str) -> Any:
        """The layers of a functional model, which torch does not see."""
        return lambda model: {
            prefix + layer.name: layer for layer in model._flatten_layers(include_self=False)
        }

    sequential = [k.Input((32,)), kl.Dense(16), kl.RMSNormalization(), kl.Dense(3)]
    image = [k.Input((8, 8, 3)), kl.Conv2D(8, 3), kl.GroupNormalization(4), kl.Flatten(), kl.Dense(3)]
    found = [
        (entry("functional", functional, X), ""),
        (entry("sequential", lambda: k.Sequential(sequential), X), "_functional."),
        (entry("image", lambda: k.Sequential(image), numbers(2, 8, 8, 3)), "_functional."),
    ]
    yield from (replace(one, more=layers(prefix)) for one, prefix in found)


def torchao() -> Iterator[Entry]:
    """Weights of 8 and 4 bits."""
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    def quantized(config: Any) -> nn.Module:
        net = _net().eval()
        quantize_(net, config)
        return net

    yield entry("int8", lambda: quantized(Int8WeightOnlyConfig()), X)


def quanto() -> Iterator[Entry]:
    """Weights and activations of 8 bits."""
    from optimum.quanto import Calibration, freeze, qint8, quantize

    def quantized(activations: bool, frozen: bool) -> nn.Module:
        net = _net().eval()
        quantize(net, weights=qint8, activations=qint8 if activations else None)
        with torch.no_grad(), Calibration():
            net(X)
        if frozen:
            freeze(net)
        return net

    yield entry("weights", lambda: quantized(False, True), X)
    yield entry("activations", lambda: quantized(True, False), X)


def torch_ao() -> Iterator[Entry]:
    """Torch's own dynamic quantization and quantization-aware training."""
    from torch.ao import quantization as q

    yield entry("dynamic", lambda: q.quantize_dynamic(_net().eval(), {nn.Linear}, torch.qint8), X)


LIBRARIES = {"keras": keras, "torchao": torchao, "optimum-quanto": quanto, "torch.ao": torch_ao}
