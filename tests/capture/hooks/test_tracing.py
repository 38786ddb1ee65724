"""What is no run of the model is left out in words, and what torch makes of it is as without a probe."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

import normprobe


@pytest.fixture
def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 2)).eval()


X = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))


def _vmap(model: nn.Module) -> Any:
    return torch.func.vmap(model)(X.unsqueeze(0).expand(3, -1, -1))


def _gradient(model: nn.Module) -> Any:
    parameters = dict(model.named_parameters())

    def loss(given: dict[str, Tensor]) -> Tensor:
        return torch.func.functional_call(model, given, (X,)).square().sum()

    return torch.cat([value.flatten() for value in torch.func.grad(loss)(parameters).values()])


def _of_each_sample(model: nn.Module) -> Any:
    parameters = dict(model.named_parameters())

    def loss(given: dict[str, Tensor], x: Tensor) -> Tensor:
        return torch.func.functional_call(model, given, (x.unsqueeze(0),)).square().sum()

    return torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, X)["0.weight"]


def _jvp(model: nn.Module) -> Any:
    return torch.func.jvp(model, (X,), (X,))[1]


def _exported(model: nn.Module) -> Any:
    # Strict was the default once: there dynamo refuses whatever has hooks that are not compiled.
    return torch.export.export(model, (X,), strict=False).graph_module.code


def _made_fx(model: nn.Module) -> Any:
    return make_fx(model)(X).code


def _fake(model: nn.Module) -> Any:
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        return tuple(model(mode.from_tensor(X)).shape)


TRANSFORM = "a forward under a transform of torch.func (vmap, grad, jvp) is left out"
FAKE = "a forward of fake tensors, which hold no numbers, is left out"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("use", "said"),
    [
        (_vmap, TRANSFORM),
        (_gradient, TRANSFORM),
        (_of_each_sample, TRANSFORM),
        (_jvp, TRANSFORM),
        (_exported, FAKE),
        (_made_fx, "a forward that torch exports or traces is left out"),
        (_fake, FAKE),
    ],
)
def test_what_is_no_run_is_left_out_in_words(
    model: nn.Sequential, use: Callable[[nn.Module], Any], said: str
) -> None:
    expected = use(model)
    with normprobe.Probe(model) as probe:
        found = use(model)
        nothing = probe.recording
        model(X)
    assert torch.equal(found, expected) if isinstance(found, Tensor) else found == expected
    assert set(nothing.ledger["status"]) == {"never fired"}
    assert set(nothing.ledger["reason"]) == {f"no forward was measured; {said}"}
    assert set(probe.recording.ledger["calls"]) == {1}
    assert set(probe.recording.ledger["reason"]) == {said}
    assert probe.recording.meta["examples"] == 5


def test_a_model_is_traced_as_it_is(model: nn.Sequential) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = torch.jit.trace(model, X, check_trace=False)
        with normprobe.Probe(model) as probe:
            found = torch.jit.trace(model, X, check_trace=False)
    assert str(found.inlined_graph).count("aten::") == str(expected.inlined_graph).count("aten::")
    assert torch.equal(found(X), expected(X))
    said = "no forward was measured; a forward that torch.jit traces is left out"
    assert set(probe.recording.ledger["reason"]) == {said}


def test_functional_call_runs_the_model(model: nn.Sequential) -> None:
    parameters = {name: value.detach() * 2 for name, value in model.named_parameters()}
    expected = torch.func.functional_call(model, parameters, (X,))
    with normprobe.Probe(model) as probe:
        assert torch.equal(torch.func.functional_call(model, parameters, (X,)), expected)
    layers = probe.recording.layers.set_index(["layer", "site"])
    assert set(probe.recording.ledger["calls"]) == {1}
    assert layers.loc[("2", "output"), "max"] == float(expected.max())


class TransformsPart(nn.Module):
    """Transforms a part of itself while it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.each = nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))

    def forward(self, x: Tensor) -> Tensor:
        return torch.func.vmap(self.each)(self.first(x))


def test_layers_under_a_transform_inside_the_model() -> None:
    model = TransformsPart()
    expected = model(X)
    with normprobe.Probe(model) as probe:
        assert torch.equal(model(X), expected)
    ledger = probe.recording.ledger.set_index("layer")
    assert ledger.loc["first", ["calls", "reason"]].tolist() == [1, ""]
    for layer in ("each.0", "each.1"):
        assert ledger.loc[layer, "calls"] == 0
        assert "a call under a transform of torch.func" in ledger.loc[layer, "reason"]


@pytest.mark.filterwarnings("ignore:nothing was measured")
def test_a_symbolic_trace_calls_no_module(model: nn.Sequential) -> None:
    expected = torch.fx.symbolic_trace(model).code
    with normprobe.Probe(model) as probe:
        assert torch.fx.symbolic_trace(model).code == expected
    assert set(probe.recording.ledger["status"]) == {"never fired"}


def test_a_forward_captured_in_a_cuda_graph(model: nn.Sequential, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "_initialized", True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    with normprobe.Probe(model) as probe:
        model(X)
    said = "a forward captured in a CUDA graph is left out, and replays of the graph call no hook"
    assert set(probe.recording.ledger["reason"]) == {f"no forward was measured; {said}"}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("make", [torch.jit.script, lambda model: torch.jit.trace(model, X)])
def test_script_modules_are_refused_in_words(model: nn.Sequential, make: Callable[..., Any]) -> None:
    scripted = make(model)
    expected = scripted(X)
    for probed in (scripted, nn.Sequential(scripted)):
        with normprobe.Probe(probed) as probe:
            assert torch.equal(probed(X), expected)
        ledger = probe.recording.ledger
        assert set(ledger["status"]) == {"refused"}
        assert set(ledger["reason"]) == {"a scripted module takes no hooks; probe the eager model"}


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")  # torch's own use of it
def test_forward_mode_gradients_are_runs(model: nn.Sequential) -> None:
    from torch.autograd import forward_ad

    with normprobe.Probe(model) as probe, forward_ad.dual_level():
        model(forward_ad.make_dual(X, X))
    assert set(probe.recording.ledger["calls"]) == {1}
