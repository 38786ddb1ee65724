"""What a layer reads and what its caller receives is as the hooks of others leave it, whenever they came."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import normprobe
from normprobe.capture.layer_calls import CHANGED


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 8))


X = torch.randn(50, 8, generator=torch.Generator().manual_seed(1))


def tenfold(module: nn.Module, args: Any, output: Tensor) -> Tensor:
    return output * 10


def tenfold_in_place(module: nn.Module, args: Any, output: Tensor) -> None:
    output.mul_(10)


def tenfold_of_keywords(module: nn.Module, args: Any, kwargs: Any, output: Tensor) -> Tensor:
    return output * 10


def variances(recording: normprobe.Recording) -> dict[tuple[str, str], float]:
    return recording.layers.set_index(["layer", "site"])["variance"].to_dict()


def register(module: nn.Module, hook: Any) -> Any:
    return module.register_forward_hook(hook, with_kwargs=hook is tenfold_of_keywords)


HOOKS = pytest.mark.parametrize("hook", [tenfold, tenfold_in_place, tenfold_of_keywords])


@HOOKS
@pytest.mark.parametrize("when", ["before", "inside", "after a forward"])
def test_an_output_is_what_the_next_layer_reads(hook: Any, when: str) -> None:
    model, batches = net(), [X, X * 2, X * 3]
    with torch.no_grad():
        plain = [model[0](x) for x in batches]
    if when == "before":
        register(model[0], hook)
    with torch.no_grad(), normprobe.Probe(model) as probe:
        if when == "inside":
            register(model[0], hook)
        outputs = []
        for at, x in enumerate(batches):
            outputs.append(model(x))
            if at == 0 and when == "after a forward":
                register(model[0], hook)
    first = plain[0] if when == "after a forward" else plain[0] * 10
    seen = torch.cat([first, plain[1] * 10, plain[2] * 10]).double()
    found = variances(probe.recording)
    assert found["0", "output"] == pytest.approx(float(seen.var(correction=0)), rel=1e-6)
    assert found["0", "output"] == found["1", "input"]
    received = torch.cat(outputs).double().var(correction=0)
    assert found["2", "output"] == pytest.approx(float(received), rel=1e-6)
    reasons = probe.recording.ledger.set_index("layer")["reason"]
    assert reasons.to_dict() == {"0": CHANGED, "1": "", "2": ""}


def test_an_input_is_what_hooks_ahead_of_the_layer_leave() -> None:
    model = net()
    with torch.no_grad(), normprobe.Probe(model) as probe:
        model[2].register_forward_pre_hook(lambda module, args: (args[0] * 3,))
        for _ in range(3):
            model(X)
    found = variances(probe.recording)
    assert found["2", "input"] == pytest.approx(9 * found["1", "output"], rel=1e-6)


def test_a_norm_is_known_by_its_own_output() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.eps = nn.Parameter(torch.linspace(0.5, 2, 8)), 1e-6

        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.rms_norm(x, (8,), self.weight, self.eps)

    Own.__name__ = "OwnLayerNorm"
    model = nn.Sequential(nn.Linear(8, 8), Own())
    model[1].register_forward_hook(lambda module, args, output: output.tanh() + 3)
    recording = normprobe.record(model, [X, X])
    row = recording.ledger.set_index("layer").loc["1"]
    assert row["kind"] == "rms_norm"
    weights = recording.features.query("layer == '1' and site == 'output'")["weight"]
    assert weights.tolist() == pytest.approx(model[1].weight.tolist())
    assert variances(recording)["1", "output"] == pytest.approx(
        float(model(X).detach().double().var(correction=0)), rel=1e-6
    )


def test_hooks_that_only_look_change_no_word() -> None:
    model, seen = net(), []
    model[0].register_forward_hook(lambda module, args, output: seen.append(output.shape))
    recording = normprobe.record(model, [X, X])
    assert recording.ledger["reason"].tolist() == ["", "", ""]
    assert len(seen) == 2


def test_a_hook_that_raises_reaches_the_user_and_the_next_call_is_measured() -> None:
    model, fail = net(), [True]

    def raising(module: nn.Module, args: Any, output: Tensor) -> None:
        if fail.pop():
            raise ValueError("of the user")
        fail.append(False)

    fail[:] = [False, True]
    model[1].register_forward_hook(raising)
    with torch.no_grad(), normprobe.Probe(model) as probe:
        with pytest.raises(ValueError, match="of the user"):
            model(X)
        fail[:] = [False]
        model(X)
    assert probe.recording.ledger.set_index("layer").loc["2", "calls"] == 1


def test_the_users_hooks_keep_their_order_and_their_output() -> None:
    model, twin, order = net(), net(), []

    def noting(name: str) -> Any:
        return lambda module, args, output: order.append(name) or output + len(order)

    for one in (model, twin):
        for name in ("a", "b"):
            one[0].register_forward_hook(noting(name))
        one[0].register_forward_hook(noting("first"), prepend=True)
        one[0].register_forward_hook(noting("always"), always_call=True)
    with torch.no_grad():
        expected, theirs = twin(X), order[:]
        order.clear()
        before = list(model[0]._forward_hooks)
        with normprobe.Probe(model):
            late = model[0].register_forward_hook(noting("late"))
            late.remove()
            assert torch.equal(model(X), expected)
    assert order == theirs == ["first", "a", "b", "always"]
    assert list(model[0]._forward_hooks) == before


def test_two_probes_see_the_same() -> None:
    model = net()
    with torch.no_grad(), normprobe.Probe(model) as one, normprobe.Probe(model) as other:
        model(X)
        register(model[0], tenfold)
        model(X)
        model(X)
    assert variances(one.recording) == variances(other.recording)
    assert one.recording.ledger["reason"].tolist() == other.recording.ledger["reason"].tolist()


class Adapted(nn.Linear):
    """A Linear that holds another: a layer and a container at once."""

    def __init__(self) -> None:
        super().__init__(8, 8)
        self.inner = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.inner(x)


@pytest.mark.parametrize("alone", [False, True])
def test_a_layer_that_holds_layers(alone: bool) -> None:
    torch.manual_seed(0)
    layer = Adapted()
    model = layer if alone else nn.Sequential(nn.Linear(8, 8), layer)
    layer.register_forward_hook(tenfold)
    with torch.no_grad(), normprobe.Probe(model) as probe:
        outputs = torch.cat([model(X), model(X * 2)]).double()
    found = variances(probe.recording)
    name = "" if alone else "1"
    assert found[name, "output"] == pytest.approx(float(outputs.var(correction=0)), rel=1e-6)
    assert ("inner" if alone else "1.inner", "output") in found
    assert probe.recording.ledger["calls"].tolist() == [2] * (2 if alone else 3)
    assert probe.recording.meta["forwards"] == 2
