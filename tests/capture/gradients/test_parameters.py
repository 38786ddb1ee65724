"""Weights, gradients and updates of parameters against float64 copies made around each step."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import normprobe


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inp, self.norm, self.out = nn.Linear(6, 70), nn.LayerNorm(70), nn.Linear(70, 3)
        self.other = nn.Embedding(4, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.norm(self.inp(x)))


def model() -> Net:
    torch.manual_seed(0)
    return Net()


def data(count: int = 4) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(5, 6, generator=generator) for _ in range(count)]


class Copies:
    """Float64 copies of every parameter and gradient, made by hand around each step of an optimizer."""

    def __init__(self, net: nn.Module) -> None:
        self.net, self.weights, self.gradients, self.changes = net, *(defaultdict(list) for _ in range(3))

    def around(self, step: Any, *, scale: float = 1.0) -> None:
        before = {name: p.detach().double().numpy().copy() for name, p in self.net.named_parameters()}
        for name, p in self.net.named_parameters():
            if p.grad is not None:
                self.weights[name].append(before[name])
                self.gradients[name].append(p.grad.double().numpy().copy() / scale)
        step()
        for name, p in self.net.named_parameters():
            if p.grad is not None:
                self.changes[name].append(p.detach().double().numpy() - before[name])


def rms(arrays: list[np.ndarray]) -> float:
    return float(np.sqrt(np.mean(np.concatenate([a.ravel() for a in arrays]) ** 2)))


def hold(found: pd.DataFrame, copies: Copies, *, relative: float = 1e-6) -> None:
    names = [f"{layer}.{name}" for layer, name in zip(found["layer"], found["parameter"], strict=True)]
    assert names == [name for name, _ in copies.net.named_parameters() if not name.startswith("other")]
    for name, row in zip(names, found.itertuples(), strict=True):
        steps = len(copies.gradients[name])
        assert (row.steps, row.gradients, row.updates) == (steps, steps, steps)
        assert row.size == copies.weights[name][0].size
        assert row.weight_rms == pytest.approx(rms(copies.weights[name]), rel=relative)
        assert row.gradient_rms == pytest.approx(rms(copies.gradients[name]), rel=relative)
        changed = rms(copies.changes[name])
        assert row.update_rms == pytest.approx(changed, rel=relative)
        assert row.update_ratio == pytest.approx(changed / rms(copies.weights[name]), rel=relative)
        largest = max(abs(gradient).max() for gradient in copies.gradients[name])
        assert row.gradient_max == pytest.approx(largest, rel=relative)


OPTIMIZERS = {
    "SGD": lambda net: torch.optim.SGD(net.parameters(), lr=0.1),
    "AdamW": lambda net: torch.optim.AdamW(net.parameters(), lr=1e-2),
    "fused AdamW": lambda net: torch.optim.AdamW(net.parameters(), lr=1e-2, fused=True),
    "foreach SGD": lambda net: torch.optim.SGD(net.parameters(), lr=0.1, foreach=True, momentum=0.9),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("zero_last", [False, True])
def test_root_mean_squares_are_those_of_float64_copies(name: str, zero_last: bool) -> None:
    net = model()
    optimizer, copies = OPTIMIZERS[name](net), Copies(net)
    with normprobe.Probe(net, gradients=True) as probe:
        for x in data():
            if not zero_last:
                optimizer.zero_grad()
            net(x).square().sum().backward()
            copies.around(optimizer.step)
            if zero_last:
                optimizer.zero_grad()
    hold(probe.recording.parameters, copies)


def test_the_model_trains_as_without_a_probe() -> None:
    nets = [model(), model()]
    for net, probed in zip(nets, (True, False), strict=True):
        optimizer = OPTIMIZERS["AdamW"](net)
        probe = normprobe.Probe(net, gradients=probed)
        with probe:
            for x in data():
                optimizer.zero_grad()
                net(x).square().sum().backward()
                optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(*(net.parameters() for net in nets), strict=True))
    assert probe.recording.parameters.empty


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("unscale", [False, True])
def test_the_scale_is_divided_out_once(fused: bool, unscale: bool) -> None:
    net, scale = model(), 2.0**14
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2, fused=fused)
    scaler, copies = torch.amp.GradScaler("cpu", init_scale=scale), Copies(net)
    with normprobe.Probe(net, gradients=True, scaler=scaler) as probe:
        for x in data():
            optimizer.zero_grad()
            scaler.scale(net(x).square().sum()).backward()
            if unscale:
                scaler.unscale_(optimizer)
            copies.around(lambda: scaler.step(optimizer), scale=1.0 if unscale else scale)
            scaler.update()
    hold(probe.recording.parameters, copies)


def test_a_gradient_that_is_not_finite_is_counted_apart() -> None:
    net, copies = model(), None
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3)
    copies = Copies(net)
    with normprobe.Probe(net, gradients=True) as probe:
        for number, x in enumerate(data(3)):
            optimizer.zero_grad()
            net(x).square().sum().backward()
            if number == 2:
                net.inp.weight.grad[0, :3] = torch.nan
                optimizer.step()
            else:
                copies.around(optimizer.step)
    found = probe.recording.parameters.set_index(["layer", "parameter"])
    row = found.loc[("inp", "weight")]
    assert (row["steps"], row["gradients"], row["skipped"], row["updates"]) == (3, 2, 1, 2)
    assert row["gradient_nonfinite"] == 3
    assert row["gradient_rms"] == pytest.approx(rms(copies.gradients["inp.weight"]), rel=1e-6)
    assert row["update_rms"] == pytest.approx(rms(copies.changes["inp.weight"]), rel=1e-6)
    assert found.loc[("out", "weight"), "gradients"] == 3


@pytest.mark.parametrize("fused", [False, True])
def test_steps_that_a_scaler_skips_are_counted_at_the_end_of_the_step(fused: bool) -> None:
    net = model()
    optimizer, copies = torch.optim.AdamW(net.parameters(), lr=1e-2, fused=fused), Copies(net)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
    with normprobe.Probe(net, gradients=True, scaler=scaler) as probe:
        for number, x in enumerate(data(4)):
            optimizer.zero_grad()
            scaler.scale(net(x).square().sum()).backward()
            if number % 2:
                copies.around(lambda: scaler.step(optimizer), scale=scaler.get_scale())
            else:
                scaler.step(optimizer)
            scaler.update(2.0**10 if number % 2 == 0 else 2.0**127)
            probe.step()
    found = probe.recording.parameters
    # Gradients behind those that overflowed may be finite: they are of no step that was taken.
    assert found["skipped"].tolist()[:1] == [2]
    assert set(found["skipped"]) <= {0, 1, 2}
    assert ((found["gradient_nonfinite"] > 0) == (found["skipped"] > 0)).all()
    assert set(found["gradients"]) == set(found["updates"]) == {2}
    for row in found.itertuples():
        exact = rms(copies.gradients[f"{row.layer}.{row.parameter}"])
        assert row.gradient_rms == pytest.approx(exact, rel=1e-6)


def test_windows_hold_the_steps_that_they_are_of() -> None:
    net = model()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with normprobe.Probe(net, gradients=True, window=2) as probe:
        for step, x in enumerate(data(6)):
            optimizer.zero_grad()
            net(x).square().sum().backward()
            optimizer.step()
            net.eval()
            with torch.no_grad():
                net(x)
            net.train()
            probe.step(step)
    recording = probe.recording
    found = recording.over_time("parameters", phase="train")
    weights = found[(found["layer"] == "inp") & (found["parameter"] == "weight")]
    assert weights["steps"].tolist() == [2, 2, 2]
    assert set(recording.parameters["steps"]) == {6}
    gradients = recording.over_time("layers", phase="train").query(
        "site == 'output_gradient' and layer == 'out'"
    )
    assert gradients["calls"].tolist() == [2, 2, 2]
    assert recording.over_time("layers", phase="eval").query("site == 'output_gradient'").empty


def test_only_steps_behind_a_measured_forward_are_read() -> None:
    net = model()
    optimizer, counted = torch.optim.SGD(net.parameters(), lr=1e-3), []
    with normprobe.Probe(net, gradients=True, every=4) as probe:
        for x in data(9):
            optimizer.zero_grad()
            net(x).square().sum().backward()
            optimizer.step()
            counted.append(probe.recording.parameters["steps"].tolist()[:1])
    assert counted == [[1]] * 4 + [[2]] * 4 + [[3]]


def test_two_optimizers_have_steps_of_their_own_and_frozen_parameters_no_gradient() -> None:
    net = model()
    net.norm.requires_grad_(False)
    first = torch.optim.SGD(net.inp.parameters(), lr=1e-3)
    second = torch.optim.SGD([*net.norm.parameters(), *net.out.parameters()], lr=1e-3)
    with normprobe.Probe(net, gradients=True) as probe:
        for x in data(2):
            net(x).square().sum().backward()
            first.step()
            second.step()
    found = probe.recording.parameters.set_index(["layer", "parameter"])
    assert set(found["steps"]) == {2}
    assert found.loc[("norm", "weight"), "gradients"] == 0
    assert np.isnan(found.loc[("norm", "weight"), "gradient_rms"])
    assert np.isnan(found.loc[("norm", "weight"), "update_ratio"])
    assert found.loc[("out", "bias"), "updates"] == 2


def test_tiny_and_huge_gradients_keep_their_root_mean_square() -> None:
    for scale in (1e-30, 1e30):
        net = model()
        optimizer, copies = torch.optim.SGD(net.parameters(), lr=0.0), Copies(net)
        with normprobe.Probe(net, gradients=True) as probe:
            net(data(1)[0]).square().sum().backward()
            for p in net.parameters():
                if p.grad is not None:
                    p.grad.mul_(scale)
            copies.around(optimizer.step)
        row = probe.recording.parameters.iloc[0]
        assert row["gradient_rms"] == pytest.approx(rms(copies.gradients["inp.weight"]), rel=1e-6)
        assert row["update_ratio"] == 0


def test_bfloat16_weights() -> None:
    net = model().bfloat16()
    optimizer, copies = torch.optim.SGD(net.parameters(), lr=0.1), Copies(net)
    with normprobe.Probe(net, gradients=True) as probe:
        for x in data():
            optimizer.zero_grad()
            net(x.bfloat16()).square().sum().backward()
            copies.around(optimizer.step)
    hold(probe.recording.parameters, copies)


def test_merged_parts_add_up(tmp_path: Any) -> None:
    recordings, every = [], Copies(model())
    for part in range(2):
        net = model()
        optimizer, copies = torch.optim.SGD(net.parameters(), lr=0.1), Copies(net)
        with normprobe.Probe(net, gradients=True, part=f"rank{part}") as probe:
            for x in data(4)[2 * part : 2 * part + 2]:
                optimizer.zero_grad()
                net(x).square().sum().backward()
                copies.around(optimizer.step)
        probe.recording.save(tmp_path / f"{part}.normprobe")
        recordings.append(normprobe.load(tmp_path / f"{part}.normprobe"))
        for of in ("weights", "gradients", "changes"):
            for name, arrays in getattr(copies, of).items():
                getattr(every, of)[name] += arrays
    with pytest.warns(UserWarning, match="weights"):
        merged = normprobe.merge(*recordings)
    hold(merged.parameters, every)
    merged.to_csv(tmp_path)
    assert len(pd.read_csv(tmp_path / "parameters.csv")) == 6


def test_no_hook_of_optimizers_is_left() -> None:
    from torch.optim import optimizer as module

    before = len(module._global_optimizer_pre_hooks), len(module._global_optimizer_post_hooks)

    def fail() -> None:
        with normprobe.Probe(model(), gradients=True):
            assert len(module._global_optimizer_pre_hooks) == before[0] + 1
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert (len(module._global_optimizer_pre_hooks), len(module._global_optimizer_post_hooks)) == before
