"""Gradients against the oracle in every situation in which networks are trained: right, and once each."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import normprobe
from tests.helpers.gradient_oracle import gradients, held
from tests.helpers.oracle import RELATIVE

Forward = Callable[[], Tensor]


class Block(nn.Module):
    """A tensor that three layers read, a tuple as output, a view, and an activation that may be in place."""

    def __init__(self, *, inplace: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(8)
        self.q, self.k, self.v = (nn.Linear(8, 8) for _ in range(3))
        self.both = Tuple(8, 8)
        self.act, self.down = nn.ReLU(inplace=inplace), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        a = self.q(h) * self.k(h).sigmoid() + self.v(h)
        b, _ = self.both(a.view(-1, 8))
        return x + self.down(self.act(b).view(x.shape))


class Tuple(nn.Linear):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        return super().forward(x), x


class Net(nn.Module):
    def __init__(self, *, inplace: bool = False, reentrant: bool | None = None) -> None:
        super().__init__()
        self.inp, self.reentrant = nn.Linear(4, 8), reentrant
        self.act = nn.ReLU(inplace=inplace)
        self.blocks = nn.ModuleList(Block(inplace=inplace) for _ in range(3))
        self.norm, self.out = nn.LayerNorm(8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.inp(x))
        for block in self.blocks:
            x = block(x) if self.reentrant is None else checkpoint(block, x, use_reentrant=self.reentrant)
        return self.out(self.norm(x))


def net(**kwargs: Any) -> Net:
    torch.manual_seed(0)
    return Net(**kwargs)


def batches(count: int = 3, seed: int = 1) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(4, 5, 4, generator=generator) for _ in range(count)]


def loss_of(model: nn.Module, x: Tensor) -> Tensor:
    return model(x).square().sum()


def expected_of(model: nn.Module, data: list[Tensor], loss: Any = loss_of) -> Any:
    # In place or checkpointed, the gradients are those of the plain model, which autograd can be asked for.
    plain = net()
    plain.load_state_dict(model.state_dict())
    return gradients(plain, [lambda x=x: loss(plain, x) for x in data])


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("reentrant", [None, False, True])
def test_each_gradient_once_and_the_models_own_as_without_a_probe(
    inplace: bool, reentrant: bool | None
) -> None:
    model, data = net(inplace=inplace, reentrant=reentrant), batches()
    bare = copy.deepcopy(model)
    with normprobe.Probe(model, gradients=True, samples="all") as probe:
        for x in data:
            loss_of(model, x).backward()
    for x in data:
        loss_of(bare, x).backward()
    for (name, parameter), other in zip(model.named_parameters(), bare.parameters(), strict=True):
        assert torch.equal(parameter.grad, other.grad), name
    expected = expected_of(model, data)
    assert held(probe.recording, expected) < RELATIVE


def test_what_a_reentrant_part_reads_is_its_own_copy() -> None:
    class Beside(nn.Module):
        def __init__(self, *, reentrant: bool | None) -> None:
            super().__init__()
            self.inp, self.layer, self.reentrant = nn.Linear(4, 8), nn.Linear(8, 8), reentrant

        def forward(self, x: Tensor) -> Tensor:
            h = self.inp(x)
            if self.reentrant is None:
                return self.layer(h) * h
            return checkpoint(self.layer, h, use_reentrant=self.reentrant) * h

    torch.manual_seed(0)
    x, found = batches(1)[0], {}
    model = Beside(reentrant=None)
    exact = gradients(model, [lambda: loss_of(model, x)])
    for model.reentrant in (None, False, True):
        with normprobe.Probe(model, gradients=True, samples="all") as probe:
            loss_of(model, x).backward()
        found[model.reentrant] = probe.recording.layers.set_index(["layer", "site"])[
            "within_feature_variance"
        ]
    # Of all readers of the tensor, and of those in the part alone: the layer's own share.
    of_layer = exact["layer", "output_gradient"][0] @ model.layer.weight.detach().double().numpy()
    of_all = exact["layer", "input_gradient"][0]
    for reentrant, expected in ((None, of_all), (False, of_all), (True, of_layer)):
        variance = found[reentrant]["layer", "input_gradient"]
        assert variance == pytest.approx(expected.var(0).mean(), rel=1e-5)
    assert not np.allclose(of_all, of_layer)


def test_samples_have_the_numbers_of_their_activations() -> None:
    model, data = net(reentrant=True), batches()
    with normprobe.Probe(model, gradients=True, samples=20) as probe:
        for x in data:
            loss_of(model, x).backward()
    samples = probe.recording.samples
    identity = ["call", "repeat", "example", "position"]
    for layer in ("blocks.1.q", "out", "norm"):
        sites = {
            site: rows[identity].to_numpy()
            for site, rows in samples[samples["layer"] == layer].groupby("site")
        }
        assert set(sites) == {"input", "output", "input_gradient", "output_gradient"}
        for rows in sites.values():
            assert np.array_equal(np.sort(rows, axis=0), np.sort(sites["input"], axis=0))
        assert len(sites["input"]) == 20


def test_kept_rows_are_the_gradients_of_the_same_samples() -> None:
    model, data = net(), batches(1)
    with normprobe.Probe(model, gradients=True, values=64) as probe:
        loss_of(model, data[0]).backward()
    recording = probe.recording
    exact = expected_of(model, data)["norm", "input_gradient"][0]
    read = _read(model, data[0])
    values = {site: recording.values("norm", site) for site in ("input", "input_gradient")}
    at = [int(np.abs(read - row).sum(1).argmin()) for row in values["input"]]
    assert sorted(at) == list(range(20))
    np.testing.assert_allclose(values["input_gradient"], exact[at], rtol=1e-5)


def _read(model: Net, x: Tensor) -> np.ndarray:
    found: list[np.ndarray] = []
    handle = model.norm.register_forward_pre_hook(
        lambda _, args: found.append(args[0].detach().numpy().reshape(-1, 8))
    )
    model(x)
    handle.remove()
    return found[0].reshape(-1, 8)


def test_accumulated_losses_of_several_forwards_in_one_backward() -> None:
    model, data = net(reentrant=True), batches()
    with normprobe.Probe(model, gradients=True, samples="all") as probe:
        sum(loss_of(model, x) for x in data).backward()
    assert held(probe.recording, expected_of(model, data)) < RELATIVE


@pytest.mark.parametrize("reentrant", [None, True])
def test_backward_in_the_order_of_the_forwards(reentrant: bool | None) -> None:
    model, data = net(reentrant=reentrant), batches()
    with normprobe.Probe(model, gradients=True, samples="all") as probe:
        for loss in [loss_of(model, x) for x in data]:
            loss.backward()
    recording = probe.recording
    assert held(recording, expected_of(model, data)) < RELATIVE
    # Each forward's gradient under that forward's own numbers.
    exact = expected_of(model, data)["blocks.0.q", "output_gradient"]
    samples = recording.samples
    found = samples[(samples["layer"] == "blocks.0.q") & (samples["site"] == "output_gradient")]
    means = found.sort_values(["call", "example", "position"])["mean"].to_numpy().reshape(3, 20)
    np.testing.assert_allclose(means, [call.mean(1) for call in exact], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("reentrant", [None, False, True])
def test_each_backward_of_a_kept_graph_is_a_gradient_with_a_number_of_its_own(reentrant: bool | None) -> None:
    model, data = net(reentrant=reentrant), batches(2)
    with normprobe.Probe(model, gradients=True, samples="all") as probe:
        for x in data:
            loss = loss_of(model, x)
            loss.backward(retain_graph=True)
            loss.backward()
    recording = probe.recording
    assert held(recording, expected_of(model, data), times=2) < RELATIVE
    samples = recording.samples[recording.samples["site"] == "output_gradient"]
    assert not samples.duplicated(["layer", "call", "repeat", "example", "position"]).any()
    assert set(samples["repeat"]) == {0, 1}


def test_a_layer_called_twice_in_a_forward() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inp, self.layer = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(self.layer(self.inp(x)).relu())

    torch.manual_seed(0)
    model, data = Twice(), batches(2)
    with normprobe.Probe(model, gradients=True, samples="all") as probe:
        for x in data:
            loss = loss_of(model, x)
            loss.backward(retain_graph=True)
            loss.backward()
    expected = gradients(model, [lambda x=x: loss_of(model, x) for x in data])
    assert held(probe.recording, expected, times=2) < RELATIVE
    samples = probe.recording.samples
    mine = samples[(samples["layer"] == "layer") & (samples["site"] == "input_gradient")]
    assert set(mine["repeat"]) == {0, 1, 2, 3}


def test_padding_enters_no_gradient() -> None:
    class Masked(Net):
        def forward(self, x: Tensor, attention_mask: Tensor) -> Tensor:  # type: ignore[override]
            return super().forward(x)

    torch.manual_seed(0)
    model, data = Masked(), batches()
    masks = [torch.ones(4, 5, dtype=torch.long) for _ in data]
    for number, mask in enumerate(masks):
        mask[number, 3:] = 0
    with normprobe.Probe(model, gradients=True, samples="all") as probe:
        for x, mask in zip(data, masks, strict=True):
            model(x=x, attention_mask=mask).square().sum().backward()
    runs = [
        lambda x=x, m=m: model(x=x, attention_mask=m).square().sum() for x, m in zip(data, masks, strict=True)
    ]
    expected = gradients(model, runs, real=lambda number: masks[number].bool().numpy())
    # `both` reads (batch x positions, features), which its rows say nothing of here.
    wanted = {key: calls for key, calls in expected.items() if "both" not in key[0]}
    layers = probe.recording.layers.set_index(["layer", "site"])
    for (layer, site), calls in wanted.items():
        assert layers.loc[(layer, site), "n_samples"] == 54
        data_of = np.concatenate(calls)
        assert layers.loc[(layer, site), "masked"] == 6
        assert layers.loc[(layer, site), "mean"] == pytest.approx(data_of.mean(), rel=1e-5, abs=1e-7)


def test_frozen_layers_say_that_there_is_no_gradient() -> None:
    model, data = net(), batches(2)
    for part in (model.inp, model.blocks[0]):
        part.requires_grad_(False)
    with normprobe.Probe(model, gradients=True, samples="all") as probe:
        for x in data:
            loss_of(model, x).backward()
    recording = probe.recording
    expected = gradients(model, [lambda x=x: loss_of(model, x) for x in data])
    assert held(recording, expected) < RELATIVE
    assert not any(layer.startswith(("inp", "blocks.0")) for layer, _ in expected)
    ledger = recording.ledger.set_index("layer")
    assert ledger.loc["inp", "gradients"] == 0
    assert ledger.loc["blocks.1.q", "gradients"] == 2
    none = "no gradient at its {}: the tensor requires none (2 times)"
    assert none.format("output") in ledger.loc["inp", "reason"]
    assert ledger.loc["blocks.1.norm", "gradients"] == 2
    assert (
        ledger.loc["blocks.1.norm", "reason"]
        == "no gradient at its input: the tensor requires none (2 times)"
    )


def test_a_forward_without_gradients_and_one_without_backward_say_so() -> None:
    model, data = net(), batches(1)
    with normprobe.Probe(model, gradients=True) as probe:
        with torch.no_grad():
            model(data[0])
        kept = model(data[0])
    ledger = probe.recording.ledger.set_index("layer")
    assert (
        "no gradient of a call without gradients (no_grad or inference mode)" in ledger.loc["out", "reason"]
    )
    assert "no gradient came for 2 of its tensors" in ledger.loc["out", "reason"]
    assert set(probe.recording.layers["site"]) == {"input", "output"}
    kept.sum().backward()


def test_autocast() -> None:
    model, data = net(), batches()

    def loss(model: nn.Module, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            y = model(x)
        return y.float().square().sum()

    with normprobe.Probe(model, gradients=True, samples="all") as probe:
        for x in data:
            loss(model, x).backward()
    expected = gradients(model, [lambda x=x: loss(model, x) for x in data])
    assert held(probe.recording, expected) < RELATIVE
    layers = probe.recording.layers.set_index(["layer", "site"])
    assert layers.loc[("blocks.0.q", "output_gradient"), "dtype"] == "bfloat16"


@pytest.mark.parametrize("reentrant", [None, True])
@pytest.mark.parametrize("scale", [2.0**12, 1000.0])
def test_the_scale_of_a_scaler_is_divided_out(scale: float, reentrant: bool | None) -> None:
    # In float64: of a scale that is no power of two float32 gradients are rounded otherwise.
    model, data = net(reentrant=reentrant).double(), [x.double() for x in batches(4)]
    scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=2)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    plain, states = net().double(), []
    with normprobe.Probe(model, gradients=True, scaler=scaler, samples="all") as probe:
        for x in data:
            states.append(copy.deepcopy(model.state_dict()))
            optimizer.zero_grad()
            scaler.scale(loss_of(model, x)).backward()
            scaler.step(optimizer)
            scaler.update()
    assert scaler.get_scale() == 4 * scale

    def run(x: Tensor, state: Any) -> Tensor:
        plain.load_state_dict(state)
        return loss_of(plain, x)

    expected = gradients(plain, [lambda x=x, s=s: run(x, s) for x, s in zip(data, states, strict=True)])
    assert held(probe.recording, expected) < RELATIVE


def test_values_that_overflow_are_counted_apart() -> None:
    model, data = net(), batches(2)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    with normprobe.Probe(model, gradients=True, scaler=scaler, samples="all") as probe:
        for x in data:
            scaler.scale(loss_of(model, x)).backward()
            scaler.step(optimizer)
            scaler.update(2.0**127)
    layers = probe.recording.layers.set_index(["layer", "site"])
    row = layers.loc[("out", "output_gradient")]
    assert 0 < row["nonfinite"] < row["n_samples"] * row["n_features"]
    assert np.isfinite(row["mean"])


def test_a_parameter_that_a_layer_reads_has_each_gradient_once_and_no_hook_left() -> None:
    class Queries(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.queries, self.layer, self.key = (
                nn.Parameter(torch.randn(3, 4)),
                nn.Linear(4, 4),
                nn.Linear(4, 4),
            )

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(self.queries) @ self.key(x).transpose(1, 2)

    torch.manual_seed(0)
    model, data = Queries(), batches(3)
    with normprobe.Probe(model, gradients=True, samples="all") as probe:
        losses = [loss_of(model, x) for x in data[:2]]
        for loss in losses:
            loss.backward()
        del loss, losses
        assert model.queries._backward_hooks is None
        loss_of(model, data[2]).backward()
    expected = gradients(model, [lambda x=x: loss_of(model, x) for x in data])
    found = probe.recording.layers.set_index(["layer", "site"])
    assert found.loc[("layer", "input_gradient"), "calls"] == 3
    exact = np.concatenate(expected["layer", "input_gradient"])
    assert found.loc[("layer", "input_gradient"), "mean"] == pytest.approx(exact.mean(), rel=1e-5)
    assert model.queries._backward_hooks is None
