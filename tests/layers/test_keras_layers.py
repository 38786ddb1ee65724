"""Layers of Keras on torch: in a list and in variables of their own, which torch does not know."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import normprobe


class Variable:
    """A tensor in a holder of its own, as Keras keeps weights."""

    def __init__(self, name: str, value: Tensor) -> None:
        self.name, self.value = name, nn.Parameter(value)


class KerasLayer(nn.Module):
    """A layer in the manner of Keras on torch: variables that torch does not know."""

    def __init__(self, name: str, **variables: Tensor) -> None:
        super().__init__()
        self.name = name
        self._trainable_variables = [Variable(key, value) for key, value in variables.items()]
        self._layers: list[nn.Module] = []

    def _flatten_layers(self) -> list[nn.Module]:
        return self._layers

    def variable(self, name: str) -> Tensor:
        return next(held.value for held in self._trainable_variables if held.name == name)


class Dense(KerasLayer):
    def forward(self, x: Tensor) -> Tensor:
        return x @ self.variable("kernel") + self.variable("bias")


class LayerNormalization(KerasLayer):
    epsilon = 1e-3

    def forward(self, x: Tensor) -> Tensor:
        return functional.layer_norm(x, (5,), self.variable("gamma"), self.variable("beta"), 1e-3)


class Functional(KerasLayer):
    """Calls layers that are no submodules for torch."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__("functional")
        self._layers.extend(layers)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self._layers:
            x = layer(x)
        return x


def test_layers_that_a_keras_model_keeps_in_a_list_of_its_own_are_probed() -> None:
    torch.manual_seed(0)
    dense = Dense("dense", kernel=torch.randn(4, 5), bias=torch.randn(5))
    norm = LayerNormalization("norm", gamma=torch.rand(5) + 0.5, beta=torch.randn(5))
    x = torch.randn(40, 4)
    for model, prefix in (
        (Functional(dense, norm), ""),
        (nn.Sequential(Functional(dense, norm), nn.Linear(5, 2)), "0."),
    ):
        assert "dense" not in dict(model.named_modules())
        recording = normprobe.record(model, x)
        ledger = recording.ledger.set_index("layer")
        columns = ["kind", "type", "n_features", "affine", "status", "via"]
        assert ledger.loc[f"{prefix}dense", columns].tolist() == ["linear", "Dense", 4, True, "fired", "hook"]
        assert ledger.loc[f"{prefix}norm", columns].tolist() == [
            "layer_norm",
            "LayerNormalization",
            5,
            True,
            "fired",
            "hook",
        ]
        output = recording.features.query(f"layer == '{prefix}norm' and site == 'output'")
        for column, name in (("weight", "gamma"), ("bias", "beta")):
            assert output[column].to_numpy() == pytest.approx(norm.variable(name).detach().numpy())
        values = norm(dense(x)).detach().double()
        assert output["variance"].to_numpy() == pytest.approx(values.var(0, correction=0).numpy(), rel=1e-5)
    assert not norm._forward_hooks
