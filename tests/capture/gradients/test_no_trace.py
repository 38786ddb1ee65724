"""Hooks on tensors die with the graph, and none is left behind the block; nothing is kept alive by them."""

from __future__ import annotations

import gc
import weakref
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import normprobe
from tests.helpers.gradient_oracle import gradients, held
from tests.helpers.oracle import RELATIVE


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.ReLU(inplace=True), nn.Linear(8, 3))


class Kept(nn.Module):
    """Hands out weak references to what lies between its layers."""

    def __init__(self) -> None:
        super().__init__()
        self.layers, self.seen = model(), list[weakref.ref[Tensor]]()
        self.tensors: list[Tensor] = []

    def forward(self, x: Tensor, *, keep: bool = False) -> Tensor:
        for layer in self.layers:
            x = layer(x)
            self.seen.append(weakref.ref(x))
            if keep:
                self.tensors.append(x)
        return x


def test_no_tensor_outlives_its_graph() -> None:
    net = Kept()
    gc.collect()
    gc.disable()
    try:
        with normprobe.Probe(net, gradients=True):
            for _ in range(3):
                net(torch.randn(5, 4)).sum().backward()
                assert not [ref for ref in net.seen if ref() is not None]
            # Of a forward whose backward never comes, too.
            net(torch.randn(5, 4))
            assert not [ref for ref in net.seen if ref() is not None]
    finally:
        gc.enable()


def test_behind_the_block_a_graph_has_no_hook() -> None:
    net, x = Kept(), torch.randn(5, 4, requires_grad=True)
    with normprobe.Probe(net, gradients=True) as probe:
        loss = net(x, keep=True).sum()
        assert any(tensor._backward_hooks for tensor in net.tensors)
        assert x._backward_hooks
    assert not any(tensor._backward_hooks for tensor in net.tensors)
    assert x._backward_hooks is None
    before = probe.recording.layers
    loss.backward()
    assert probe.recording.layers.equals(before)


def test_hooks_of_a_leaf_that_every_forward_reads_do_not_add_up() -> None:
    net, x = model(), torch.randn(5, 4, requires_grad=True)
    with normprobe.Probe(net, gradients=True, samples="all") as probe:
        for _ in range(4):
            loss = net(x).sum()
            assert len(x._backward_hooks) == 1
            loss.backward()
            del loss
            assert x._backward_hooks is None
    layers = probe.recording.layers.set_index(["layer", "site"])
    assert layers.loc[("0", "input_gradient"), "calls"] == 4


def test_gradients_of_gradients_are_the_models_own() -> None:
    found = []
    for probed in (True, False):
        net, x = model(), torch.randn(5, 4, generator=torch.Generator().manual_seed(1)).requires_grad_()
        net[2] = nn.Tanh()
        with normprobe.Probe(net, gradients=probed):
            (first,) = torch.autograd.grad(net(x).square().sum(), x, create_graph=True)
            first.square().sum().backward()
        found.append([p.grad for p in net.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_an_error_of_the_probe_reaches_no_backward(monkeypatch: pytest.MonkeyPatch) -> None:
    from normprobe.capture.measure import Measurer

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("broken")

    net = model()
    monkeypatch.setattr(Measurer, "observe_numbered", fail)
    with normprobe.Probe(net, gradients=True) as probe:
        net(torch.randn(5, 4)).sum().backward()
    assert all(p.grad is not None for p in net.parameters())
    reasons = probe.recording.ledger.set_index("layer")["reason"]
    assert "a gradient at its output is left out: RuntimeError: broken" in reasons["3"]


def test_options_are_checked() -> None:
    with pytest.raises(normprobe.NormprobeError, match=r"scaler must be a torch\.amp\.GradScaler"):
        normprobe.Probe(model(), gradients=True, scaler=2.0)
    with pytest.raises(normprobe.NormprobeError, match="give gradients=True with it"):
        normprobe.Probe(model(), scaler=torch.amp.GradScaler("cpu"))
    with pytest.raises(normprobe.NormprobeError, match="record runs without gradients"):
        normprobe.record(model(), torch.randn(5, 4), gradients=True)


@settings(max_examples=25, deadline=None)
@given(cuts=st.lists(st.integers(1, 23), max_size=5), seed=st.integers(0, 3), broken=st.booleans())
def test_any_cut_into_micro_batches_gives_the_same_moments(cuts: list[int], seed: int, broken: bool) -> None:
    data = torch.randn(24, 3, 4, generator=torch.Generator().manual_seed(seed))
    if broken:
        data[5, 1, 2] = torch.nan
    net = model()
    edges = [0, *sorted(set(cuts)), 24]
    parts = [data[a:b] for a, b in pairwise(edges)]
    # A fixed gradient of each output number, so that the loss is a sum over examples however they are cut.
    runs = [lambda x=x: net(x).square().sum() for x in parts]
    with normprobe.Probe(net, gradients=True, samples="all") as probe:
        for run in runs:
            run().backward()
    plain = model()
    plain[2] = nn.ReLU()
    expected = gradients(plain, [lambda: plain(data).square().sum()])
    found = probe.recording
    for (layer, site), (whole,) in expected.items():
        rows = found.features.query(f"layer == '{layer}' and site == '{site}'")
        finite = np.isfinite(whole)
        inside = np.where(finite, whole, 0.0)
        assert rows["count"].tolist() == finite.sum(0).tolist()
        mean = inside.sum(0) / finite.sum(0)
        variance = (np.where(finite, whole - mean, 0.0) ** 2).sum(0) / finite.sum(0)
        scale = np.maximum(abs(mean), np.sqrt(variance)) + 1e-30
        assert (abs(rows["mean"] - mean) < 1e-5 * scale).all()
        assert np.allclose(rows["variance"], variance, rtol=1e-5)
    if not broken:
        cut = gradients(plain, [lambda x=x: plain(x).square().sum() for x in parts])
        assert held(found, cut) < RELATIVE
