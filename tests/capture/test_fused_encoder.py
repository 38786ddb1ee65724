"""Torch's fused encoder layer, which hooks switch off: said at each layer, whatever wraps a part of it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import normprobe

ROUNDING = "so outputs equal the bare model's only to rounding"
PAST = "which reads weights past the {} that wraps one of them: the bare model's outputs differ"


class WrappedLinear(nn.Module):
    """Adds to a Linear, and has its weight and bias, which is all that the fused kernel asks for."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base_layer, self.shift = base, nn.Parameter(torch.ones(base.out_features))

    @property
    def weight(self) -> Tensor:
        return self.base_layer.weight

    @property
    def bias(self) -> Tensor:
        return self.base_layer.bias

    def forward(self, x: Tensor) -> Tensor:
        return self.base_layer(x) + self.shift


class WrappedAttention(nn.Module):
    """Doubles an attention, and hands on whatever else it is asked for."""

    def __init__(self, base: nn.MultiheadAttention) -> None:
        super().__init__()
        self.base_layer = base

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("base_layer"), name)

    def forward(self, *args: Tensor, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
        attended, weights = self.base_layer(*args, **kwargs)
        return 2 * attended, weights


def encoder(part: str) -> nn.Module:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model = nn.Sequential(nn.TransformerEncoder(layer, 2, enable_nested_tensor=False))
    if part:
        wrapper = WrappedAttention if part == "self_attn" else WrappedLinear
        for block in model[0].layers:
            setattr(block, part, wrapper(getattr(block, part)))
    return model.requires_grad_(False).eval()


@pytest.mark.parametrize("part", ["", "linear1", "self_attn"])
@pytest.mark.parametrize("grad", [False, True])
def test_each_layer_of_a_fused_encoder_says_that_hooks_switch_it_off(part: str, grad: bool) -> None:
    model, x = encoder(part), torch.randn(2, 5, 8)
    with torch.set_grad_enabled(grad):
        bare = model(x)
        with normprobe.Probe(model) as probe:
            probed = model(x)
    # The wrapped part is left out by the fused kernel alone.
    assert torch.allclose(bare, probed, atol=1e-5) is (part == "")
    wrapper = {"": "", "linear1": "WrappedLinear", "self_attn": "WrappedAttention"}[part]
    said = PAST.format(wrapper) if wrapper else ROUNDING
    ledger = probe.recording.ledger
    assert len(ledger) >= 12
    assert ledger["reason"].str.contains(said, regex=False).all()


@pytest.mark.parametrize("change", ["training", "activation", "trained"])
def test_what_torch_does_not_fuse_says_nothing(change: str) -> None:
    model = encoder("")
    for block in model[0].layers:
        block.train(change == "training")
        block.activation_relu_or_gelu = 0 if change == "activation" else 1
        block.requires_grad_(change == "trained")
    with normprobe.Probe(model) as probe:
        model(torch.randn(2, 5, 8))
    assert not probe.recording.ledger["reason"].str.contains("fused encoder").any()
