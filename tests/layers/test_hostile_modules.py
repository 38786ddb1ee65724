"""Whatever a foreign module raises when it is asked for something, entering and recording go on."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import normprobe


class Unreadable(RuntimeError):  # noqa: N818 - no AttributeError, on purpose
    """What a property or a `__getattr__` raises."""


def _raising(self: Any) -> Any:
    raise Unreadable("ask me nothing")


NAMES = [
    *("eps", "epsilon", "weight", "bias", "gamma", "in_features", "out_features", "num_features"),
    *("normalized_shape", "data_format", "running_mean", "running_var", "num_batches_tracked", "config"),
    *("group_size", "num_groups", "batch_first", "_hf_hook", "self_attn", "padding_idx"),
]


class MeanNorm(nn.Module):
    """A norm of nobody's library, without parameters."""

    def forward(self, x: Tensor) -> Tensor:
        return (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, correction=0) + 1e-5).sqrt()


class PlainLinear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.eye(8))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.matrix


def _with_getattr(self: Any, name: str) -> Any:
    parameters = self.__dict__.get("_parameters", {})
    if name in parameters:
        return parameters[name]
    raise Unreadable(name) if name in NAMES else AttributeError(name)


def subclass(base: type[nn.Module], **attributes: Any) -> type[nn.Module]:
    return type(base.__name__, (base,), attributes)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("base", [MeanNorm, PlainLinear])
def test_a_property_that_raises_says_nothing(base: type[nn.Module], name: str) -> None:
    _runs(subclass(base, **{name: property(_raising)}))


@pytest.mark.parametrize("base", [MeanNorm, PlainLinear])
def test_a_getattr_that_raises_says_nothing(base: type[nn.Module]) -> None:
    _runs(subclass(base, __getattr__=_with_getattr))


def _runs(foreign: type[nn.Module]) -> None:
    model, x = nn.Sequential(nn.Linear(8, 8), foreign(), nn.LayerNorm(8)), torch.randn(5, 8)
    expected = model(x)
    with normprobe.Probe(model) as probe:
        assert torch.equal(model(x), expected)
    ledger = probe.recording.ledger.set_index("layer")
    assert ledger.loc[["0", "2"], "status"].tolist() == ["fired", "fired"]
    if isinstance(model[1], MeanNorm):
        assert ledger.loc["1", "status"] == "fired"


class GraphInstanceNorm(nn.modules.instancenorm._InstanceNorm):
    """As graph libraries write it: over the nodes, and without what torch's own classes say of axes."""

    def __init__(self, features: int) -> None:
        super().__init__(features, 1e-5, 0.1, True, False)

    def forward(self, x: Tensor) -> Tensor:
        scaled: Tensor = (x - x.mean(0)) / (
            x.var(0, correction=0) + self.eps
        ).sqrt() * self.weight + self.bias
        return scaled


def test_a_subclass_of_torchs_base_that_leaves_out_its_methods_is_probed() -> None:
    model = nn.Sequential(nn.Linear(4, 4), GraphInstanceNorm(4))
    with normprobe.Probe(model) as probe:
        model(torch.randn(5, 4))
    assert probe.recording.ledger["status"].tolist() == ["fired", "fired"]
