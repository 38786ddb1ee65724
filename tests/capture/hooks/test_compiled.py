"""Compiled models are measured in their graphs, or as they were written; nothing else is uncompiled."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import pandas as pd
import pytest
import torch
import torch._dynamo
from torch import Tensor, nn

import normprobe
from normprobe.capture.hooks.compiled import IN_GRAPH, UNCOMPILED

pytestmark = pytest.mark.filterwarnings("ignore")  # the compiler's own
BACKENDS = ["eager", "aot_eager"]


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    logging.getLogger("torch._dynamo").setLevel(logging.ERROR)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    with torch._dynamo.config.patch(recompile_limit=8, accumulated_recompile_limit=256):
        yield
    assert torch._dynamo.eval_frame._stance.stance == "default"
    assert torch._C._len_torch_function_stack() == 0
    torch._dynamo.reset()


class Model(nn.Module):
    """Of a class of the user's: torch compiles no call of its own containers in place."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 2)
        self.inner: nn.Module = nn.Sequential(nn.LayerNorm(6), nn.GELU())

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.inner(self.first(x)))


@pytest.fixture
def model() -> Model:
    torch.manual_seed(0)
    return Model().eval()


def _x(rows: int = 5) -> Tensor:
    return torch.randn(rows, 4, generator=torch.Generator().manual_seed(rows))


def _whole(model: nn.Module, backend: str, **options: bool) -> nn.Module:
    return torch.compile(model, backend=backend, **options)


def _in_place(model: nn.Module, backend: str, **options: bool) -> nn.Module:
    model.compile(backend=backend, **options)
    return model


def _a_part(model: Model, backend: str, **options: bool) -> nn.Module:
    model.inner = torch.compile(model.inner, backend=backend, **options)
    return model


WAYS = [_whole, _in_place, _a_part]


def _expected(model: nn.Module, part: str = "x") -> normprobe.Recording:
    with normprobe.Probe(model, part=part) as probe:
        for rows in (5, 3, 5):
            model(_x(rows))
    return probe.recording


@pytest.mark.parametrize("fullgraph", [False, True])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("compile_it", WAYS)
def test_compiled_before(
    model: Model, compile_it: Callable[..., nn.Module], backend: str, fullgraph: bool
) -> None:
    expected = _expected(model)
    outputs = {rows: model(_x(rows)) for rows in (5, 3)}
    compiled = compile_it(model, backend, fullgraph=fullgraph)
    compiled(_x())
    with normprobe.Probe(compiled, part="x") as probe:
        for rows in (5, 3, 5):
            assert torch.equal(compiled(_x(rows)), outputs[rows])
    recording = probe.recording
    assert recording.layers.equals(expected.layers)
    assert recording.features.equals(expected.features)
    said = recording.ledger.set_index("layer")["reason"]
    assert said[["first", "last"]].str.contains(UNCOMPILED).all() == (compile_it is not _a_part)
    assert UNCOMPILED in said["inner.0"]
    graphs = _graphs()
    compiled(_x())
    assert _graphs() == graphs  # what was compiled is still there
    assert recording.meta["forwards"] == probe._callbacks.forwards.calls == 3


def _graphs() -> int:
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]


def _step(model: nn.Module, backend: str, **options: bool) -> nn.Module:
    def step(x: Tensor) -> Tensor:
        return model(x)

    return torch.compile(step, backend=backend, **options)


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("fullgraph", [False, True])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("compile_it", [*WAYS, _step])
def test_measured_in_the_graph(
    model: Model, compile_it: Callable[..., Any], backend: str, fullgraph: bool, inside: bool
) -> None:
    expected = _expected(model)
    compiled = compile_it(model, backend, fullgraph=fullgraph)
    bare = [compiled(_x(rows)) for rows in (5, 3, 5)]
    graphs = _graphs()
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    fresh = Model().eval()
    fresh.load_state_dict(
        {name.replace("_orig_mod.", ""): value for name, value in model.state_dict().items()}
    )
    if not inside:
        compiled = compile_it(fresh, backend, fullgraph=fullgraph)
    with normprobe.Probe(fresh, part="x") as probe:
        if inside:
            compiled = compile_it(fresh, backend, fullgraph=fullgraph)
        outputs = [compiled(_x(rows)) for rows in (5, 3, 5)]
        assert _graphs() == graphs
        assert not torch._dynamo.utils.counters["graph_break"]
    recording = probe.recording
    assert all(map(torch.equal, outputs, bare))
    pd.testing.assert_frame_equal(recording.layers, expected.layers, rtol=1e-6, atol=1e-12)
    pd.testing.assert_frame_equal(recording.features, expected.features, rtol=1e-6, atol=1e-12)
    pd.testing.assert_frame_equal(recording.samples, expected.samples, rtol=1e-6, atol=1e-12)
    said = recording.ledger.set_index("layer")["reason"]
    assert said["inner.0"] == IN_GRAPH
    # Once without the hooks; then as if they had never been there.
    compiled(_x())
    graphs = _graphs()
    compiled(_x())
    assert _graphs() == graphs
    assert not torch._dynamo.utils.counters["graph_break"]


def test_steps_that_are_not_measured_run_compiled_and_nothing_else_is_uncompiled() -> None:
    ran = [0]

    def backend(graph: Any, example: Any) -> Any:
        def run(*args: Any) -> Any:
            ran[0] += 1
            return graph(*args)

        return run

    model = Model().eval()
    compiled, loss = torch.compile(model, backend=backend), torch.compile(torch.logsumexp, backend=backend)
    loss(compiled(_x()), -1)
    with normprobe.Probe(compiled, every=3):
        found = []
        for _ in range(4):
            ran[0] = 0
            loss(compiled(_x()), -1)
            found.append(ran[0])
    # The loss alone where the model runs as written; torch 2.7 makes a graph with hooks of the first call.
    assert found in ([1, 2, 2, 1], [2, 2, 2, 1])


def test_many_layers_do_not_spend_the_limit_of_compilations() -> None:
    blocks = [nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 4)) for _ in range(12)]

    class Many(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList(blocks)

        def forward(self, x: Tensor) -> Tensor:
            for block in self.blocks:
                x = block(x)
            return x

    model = Many()
    compiled = torch.compile(model, backend="aot_eager")
    with normprobe.Probe(model) as probe:
        compiled(_x()).sum().backward()
    assert _graphs() == 1
    assert not torch._dynamo.utils.counters["graph_break"]
    assert set(probe.recording.ledger["calls"]) == {1}
    assert set(probe.recording.ledger["grad"]) == {"grad"}


def test_gradients_flow_through_a_compiled_model(model: Model) -> None:
    wanted = list(model.parameters())
    expected = torch.autograd.grad(model(_x()).square().sum(), wanted)
    compiled = torch.compile(model, backend="aot_eager")
    with normprobe.Probe(compiled):
        found = torch.autograd.grad(compiled(_x()).square().sum(), wanted)
    assert all(map(torch.equal, found, expected))


def test_two_probes_left_in_any_order(model: Model) -> None:
    compiled = torch.compile(model, backend="eager")
    first, second = normprobe.Probe(compiled), normprobe.Probe(compiled)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    compiled(_x())
    second.__exit__(None, None, None)
    assert set(second.recording.ledger["calls"]) == {1}


def test_after_an_error(model: Model) -> None:
    compiled = torch.compile(model, backend="eager")
    with pytest.raises(KeyboardInterrupt), normprobe.Probe(compiled):
        raise KeyboardInterrupt


def test_a_stance_taken_in_the_block_stays(model: Model) -> None:
    with normprobe.Probe(torch.compile(model, backend="eager")):
        torch.compiler.set_stance("eager_on_recompile")
    assert torch._dynamo.eval_frame._stance.stance == "eager_on_recompile"
    torch.compiler.set_stance("default")


def test_models_that_are_not_compiled_leave_the_compiler_alone(model: Model) -> None:
    with normprobe.Probe(model):
        assert torch._dynamo.eval_frame._stance.stance == "default"


def test_code_that_no_probe_can_know_of_is_not_silently_empty(model: Model) -> None:
    def call(x: Tensor) -> Tensor:
        return model(x)

    function = torch.compile(call, backend="eager")
    function(_x())
    with normprobe.Probe(model) as probe:
        function(_x())
    assert probe.recording.ledger["reason"].str.contains("code compiled before it calls no hook").all()


@pytest.mark.parametrize("fullgraph", [False, True])
def test_a_function_that_the_model_has_compiled_goes_on_as_it_was(fullgraph: bool) -> None:
    @torch.compile(backend="aot_eager", fullgraph=fullgraph)
    def softened(x: Tensor) -> Tensor:
        return (x * 2).softmax(-1)

    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.last.forward(softened(self.first(x)))

    model = Own()
    expected = model(_x())
    with normprobe.Probe(model) as probe:
        for _ in range(4):
            assert torch.equal(model(_x()), expected)
    graphs = _graphs()
    assert torch.equal(model(_x()), expected)
    assert _graphs() == graphs
    assert set(probe.recording.ledger["calls"]) == {4}


class Blocks(nn.Module):
    """More modules of one class than dynamo makes graphs of one function."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(11))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.linear = nn.LayerNorm(4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.linear(self.norm(x))


def test_each_of_many_compiled_blocks_is_measured_and_none_fails_for_it() -> None:
    torch.manual_seed(0)
    model = Blocks().eval()
    before = torch._dynamo.config.recompile_limit
    with torch.no_grad():
        expected = _expected(model)
        with normprobe.Probe(model, part="x") as probe:
            for block in model.blocks:
                block.compile(backend="aot_eager", fullgraph=True, dynamic=True)
            for rows in (5, 3, 5):
                model(_x(rows))
        assert {*probe.recording.ledger["reason"]} == {IN_GRAPH}
        pd.testing.assert_frame_equal(probe.recording.layers, expected.layers)
        made = _graphs()
        # As many graphs more are allowed as hooks asked for; dynamo may begin one twice.
        assert before + made <= torch._dynamo.config.recompile_limit <= before + 2 * made
        model(_x())
        assert _graphs() == made + 1


def test_what_is_compiled_again_and_again_reaches_the_limit_as_ever(model: Model) -> None:
    calls = []

    def forward(self: Model, x: Tensor) -> Tensor:
        return self.last(self.inner(self.first(x))) * self.scale

    again = type("Again", (Model,), {"forward": forward, "scale": 0})().eval()
    with torch.no_grad(), normprobe.Probe(again):
        again.compile(backend="eager", dynamic=False)
        for scale in range(40):
            again.scale = scale
            again(_x())
            calls.append(_graphs())
    assert calls[-1] == calls[-2] < 40


@pytest.mark.parametrize("probed_first", [True, False])
def test_the_graph_of_another_model_of_the_class_is_never_taken_for_ones_own(
    model: Model, probed_first: bool
) -> None:
    other = Model().eval()
    with torch.no_grad():
        expected = _expected(model)
        compiled, compiled_other = (torch.compile(one, backend="aot_eager") for one in (model, other))
        with normprobe.Probe(model, part="x") as probe:
            if probed_first:
                compiled(_x(5))
                compiled_other(_x(5))
            else:
                compiled_other(_x(5))
                compiled(_x(5))
            for rows in (3, 5):
                compiled_other(_x(rows))
                compiled(_x(rows))
    reasons = probe.recording.ledger["reason"]
    assert reasons.str.contains(UNCOMPILED, regex=False).all()
    assert reasons.str.contains(IN_GRAPH, regex=False).all() == probed_first
    pd.testing.assert_frame_equal(probe.recording.layers, expected.layers, rtol=1e-6)


def _graphs() -> int:
    return int(torch._dynamo.utils.counters["stats"]["unique_graphs"])


def test_a_call_under_vmap_is_left_out_and_does_not_fail() -> None:
    class Mapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))

        def forward(self, x: Tensor) -> Tensor:
            return torch.func.vmap(self.inner)(x)

    model = Mapped()
    with torch.no_grad():
        bare = torch.compile(model, backend="aot_eager")(torch.ones(3, 2, 4))
        torch._dynamo.reset()
        with normprobe.Probe(model) as probe:
            assert torch.equal(torch.compile(model, backend="aot_eager")(torch.ones(3, 2, 4)), bare)
    assert (probe.recording.ledger["calls"] == 0).all()
    assert probe.recording.ledger["reason"].str.contains("torch.func").all()


@pytest.mark.parametrize("inside", [True, False])
def test_checkpointed_code_counts_once(model: Model, inside: bool) -> None:
    def checkpointed(x: Tensor) -> Tensor:
        return torch.utils.checkpoint.checkpoint(called, x, use_reentrant=False)

    called: Any = model if inside else torch.compile(model, backend="aot_eager")
    whole = torch.compile(checkpointed, backend="aot_eager") if inside else checkpointed
    with normprobe.Probe(model) as probe:
        for rows in (5, 3, 5):
            whole(_x(rows).requires_grad_()).sum().backward()
    assert probe.recording.meta["forwards"] == 3
    assert (probe.recording.layers["calls"] == 3).all()
    assert (probe.recording.ledger["status"] == "fired").all()
