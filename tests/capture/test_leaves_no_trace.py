"""A probe leaves no trace: not on the model, not on its results, not in memory, however the block ends."""

from __future__ import annotations

import copy
import gc
import io
import random
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers.models.bert import BertConfig, BertModel

import normprobe

# Entering and leaving alone may leave a trace, too.
pytestmark = pytest.mark.filterwarnings("ignore:nothing was measured")


class Block(nn.Module):
    """A convolution, every family of norm, an in-place activation, dropout, and a recurrent part."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.batch_norm = nn.Conv1d(4, 6, 1), nn.BatchNorm1d(6)
        self.group_norm, self.layer_norm, self.rms_norm = nn.GroupNorm(2, 6), nn.LayerNorm(6), nn.RMSNorm(6)
        self.linear, self.dropout, self.head = nn.Linear(6, 6), nn.Dropout(0.5), nn.Linear(6, 3)
        self.lstm = nn.LSTM(6, 6, batch_first=True)
        self.register_buffer("steps", torch.zeros(()))

    def forward(self, x: Tensor, fail: type[BaseException] | None = None) -> Tensor:
        x = self.group_norm(self.batch_norm(self.convolution(x.transpose(1, 2)))).transpose(1, 2)
        if fail is not None:
            raise fail("in forward")
        x = nn.functional.relu(self.linear(self.layer_norm(x)), inplace=True)
        return self.head(self.lstm(self.dropout(self.rms_norm(x)))[0])


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    model = Block()
    model.head.weight.requires_grad_(False)
    model.layer_norm.eval()
    return model


def _data(seed: int = 1) -> Tensor:
    return torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(seed))


def _state(model: nn.Module) -> dict[str, Any]:
    """Everything a module holds, tensors by their bytes, containers by their content and order."""

    def plain(value: Any) -> Any:
        if isinstance(value, Tensor):
            grad = None if value.grad is None else value.grad.numpy().tobytes()
            return id(value), value.requires_grad, value.detach().numpy().tobytes(), grad, value._version
        if isinstance(value, dict):
            return [(key, plain(entry)) for key, entry in value.items()]
        if isinstance(value, (list, tuple, set)):
            return [plain(entry) for entry in value]
        return id(value) if isinstance(value, nn.Module) else repr(value)

    return {name: plain(vars(module)) for name, module in model.named_modules()}


def _surroundings() -> tuple[Any, ...]:
    return (
        torch.get_rng_state().numpy().tobytes(),
        random.getstate(),
        np.random.get_state()[1].tobytes(),
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.get_default_dtype(),
        torch.are_deterministic_algorithms_enabled(),
        torch.get_num_threads(),
    )


@pytest.fixture
def untouched(model: nn.Module) -> Iterator[None]:
    """The model and its surroundings are after the test as they were before it."""
    before, around = _state(model), _surroundings()
    yield
    assert _state(model) == before
    assert _surroundings() == around


@pytest.mark.usefixtures("untouched")
class TestTheModelIsAsBefore:
    def test_without_a_call(self, model: nn.Module) -> None:
        with normprobe.Probe(model):
            pass

    def test_constructing_touches_nothing(self, model: nn.Module) -> None:
        normprobe.Probe(model)

    def test_after_record(self, model: nn.Module) -> None:
        normprobe.record(model, [_data(), _data(2)], samples="all")

    def test_after_record_failed(self, model: nn.Module) -> None:
        with pytest.raises(RuntimeError):
            normprobe.record(model, [torch.zeros(2, 5, 9)])

    @pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
    @pytest.mark.parametrize("where", ["forward", "block"])
    def test_after_an_exception(self, model: nn.Module, error: type[BaseException], where: str) -> None:
        model.eval()  # so that the call itself changes nothing
        probe = normprobe.Probe(model)

        def run() -> None:
            with torch.no_grad(), probe:
                model(_data(), error if where == "forward" else None)
                raise error

        with pytest.raises(error):
            run()
        model.train()
        model.layer_norm.eval()
        assert probe.recording.meta["forwards"] == 1

    def test_after_the_body_tampers_with_nothing_and_enters_again(self, model: nn.Module) -> None:
        probe = normprobe.Probe(model)
        for _ in range(3):
            with probe:
                pass

    def test_after_a_failed_entry(self, model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
        calls = []

        def failing(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
            calls.append(self)
            if len(calls) > 4:
                raise MemoryError
            return register(self, *args, **kwargs)

        register = nn.Module.register_forward_hook
        probe = normprobe.Probe(model)
        with monkeypatch.context() as patch:
            patch.setattr(nn.Module, "register_forward_hook", failing)
            with pytest.raises(MemoryError):
                probe.__enter__()
        assert len(calls) == 5
        with probe:  # and it can be entered afterwards
            pass

    def test_two_probes_left_in_any_order(self, model: nn.Module) -> None:
        first, second = normprobe.Probe(model), normprobe.Probe(model)
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        second.__exit__(None, None, None)


def _with_gradients(model: nn.Module, run: Callable[[], Tensor]) -> list[Tensor]:
    """Output, gradients, buffers and the next random number of a run from a fixed seed."""
    torch.manual_seed(3)
    model.zero_grad()
    output = run()
    output.square().mean().backward()
    grads = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    return [output.detach(), *grads, *(buffer.clone() for buffer in model.buffers()), torch.rand(1)]


def _all_equal(found: list[Tensor], expected: list[Tensor]) -> bool:
    return len(found) == len(expected) and all(map(torch.equal, found, expected))


class TestResultsAreBitwiseEqual:
    def test_training(self, model: nn.Module) -> None:
        twin = copy.deepcopy(model)
        expected = _with_gradients(twin, lambda: twin(_data()))
        with normprobe.Probe(model, samples="all"):
            found = _with_gradients(model, lambda: model(_data()))
        assert len(found) > 15
        assert _all_equal(found, expected)

    def test_gradient_of_the_input(self, model: nn.Module) -> None:
        model.eval()

        def gradient() -> Tensor:
            x = _data().requires_grad_()
            return torch.autograd.grad(model(x).square().sum(), x)[0]

        expected = gradient()
        with normprobe.Probe(model):
            assert torch.equal(gradient(), expected)

    def test_a_step_of_training_inside_the_block(self, model: nn.Module) -> None:
        def train(model: nn.Module) -> list[Tensor]:
            torch.manual_seed(5)
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
            for seed in range(3):
                optimizer.zero_grad()
                model(_data(seed)).square().mean().backward()
                optimizer.step()
            return list(model.state_dict().values())

        expected = train(copy.deepcopy(model))
        with normprobe.Probe(model):
            assert _all_equal(train(model), expected)

    @pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")
    @pytest.mark.parametrize(
        "mode",
        [torch.no_grad, torch.inference_mode, lambda: torch.autocast("cpu", torch.bfloat16)],
        ids=["no_grad", "inference_mode", "autocast"],
    )
    def test_modes(self, model: nn.Module, mode: Callable[[], Any]) -> None:
        model.eval()
        with mode():
            expected = model(_data())
            with normprobe.Probe(model) as probe:
                found = model(_data())
        assert torch.equal(found, expected)
        assert found.dtype == expected.dtype
        assert found.requires_grad == expected.requires_grad
        assert set(probe.recording.ledger["status"]) == {"fired"}
        assert set(probe.recording.ledger["reason"]) == {""}

    def test_what_the_ledger_says_of_the_modes(self, model: nn.Module) -> None:
        with normprobe.Probe(model) as probe:
            model(_data())
            with torch.no_grad():
                model(_data())
            with torch.inference_mode():
                model.eval()(_data())
        ledger = probe.recording.ledger.set_index("layer")
        assert ledger.loc["linear", "grad"] == "grad; no_grad; inference"
        assert ledger.loc["linear", "training"] == "train; eval"
        assert ledger.loc["layer_norm", "training"] == "eval"

    @pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")
    def test_autocast_dtypes_are_recorded(self, model: nn.Module) -> None:
        with normprobe.Probe(model) as probe, torch.autocast("cpu", torch.bfloat16):
            model(_data())
        dtypes = probe.recording.layers.set_index(["layer", "site"])["dtype"]
        assert dtypes["linear", "output"] == "bfloat16"

    def test_transformers(self) -> None:
        torch.manual_seed(0)
        shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
        bert = BertModel(BertConfig(vocab_size=50, max_position_embeddings=16, **shape))
        ids = torch.randint(0, 50, (2, 7))
        mask = torch.tensor([[1] * 7, [1] * 4 + [0] * 3])
        run = lambda: bert(ids, attention_mask=mask).last_hidden_state  # noqa: E731
        expected = _with_gradients(bert, run)
        with normprobe.Probe(bert):
            found = _with_gradients(bert, run)
        assert _all_equal(found, expected)

    @pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
    def test_the_fused_encoder_layer_is_switched_off_and_the_ledger_says_so(self) -> None:
        torch.manual_seed(0)
        model = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2).eval()
        x, padding = torch.randn(2, 4, 8), torch.tensor([[False] * 4, [False] * 3 + [True]])
        with torch.no_grad():
            expected = model(x, src_key_padding_mask=padding)
            with normprobe.Probe(model) as probe:
                found = model(x, src_key_padding_mask=padding)
        assert torch.allclose(found, expected, atol=1e-5)
        assert probe.recording.ledger["reason"].str.contains("hooks switch off torch's fused").all()
        with normprobe.Probe(model) as probe:
            model(x, src_key_padding_mask=padding)
        assert not probe.recording.ledger["reason"].str.contains("hooks switch off").any()


class TestTwoProbes:
    def test_at_once_and_nested(self, model: nn.Module) -> None:
        expected = normprobe.record(model, [_data()], part="x")
        model.eval()
        with torch.no_grad(), normprobe.Probe(model, part="x") as outer:
            with normprobe.Probe(model, part="x", layers="linear") as inner:
                model(_data())
            model(_data(2))
        assert inner.recording.meta["forwards"] == 1
        assert outer.recording.meta["forwards"] == 2
        assert list(inner.recording.ledger["layer"]) == ["linear"]
        of_inner = inner.recording.layers.drop(columns=["depth", "min_part", "max_part"]).reset_index(
            drop=True
        )
        of_one = expected.layers.query("layer == 'linear'").drop(columns=["depth", "min_part", "max_part"])
        assert of_inner.equals(of_one.reset_index(drop=True))

    def test_on_a_part_of_the_model(self, model: nn.Module) -> None:
        with normprobe.Probe(model) as whole, normprobe.Probe(model.layer_norm) as part:
            model(_data())
        assert part.recording.layers["layer"].unique().tolist() == [""]
        mine = whole.recording.layers.query("layer == 'layer_norm'")["mean"].tolist()
        assert part.recording.layers["mean"].tolist() == mine

    def test_entering_an_active_one_raises(self, model: nn.Module) -> None:
        with normprobe.Probe(model) as probe:
            with pytest.raises(normprobe.NormprobeError, match="this probe is already active"), probe:
                pass
            model(_data())  # the block goes on
        assert set(probe.recording.ledger["calls"]) == {1}

    def test_entering_again_goes_on_counting(self, model: nn.Module) -> None:
        probe = normprobe.Probe(model, samples="all")
        with probe:
            model(_data())
            within = probe.recording
        first = probe.recording
        with probe:
            model(_data(2))
        second = probe.recording
        assert set(within.ledger["calls"]) == set(first.ledger["calls"]) == {1}
        assert set(second.ledger["calls"]) == {2}
        assert second.meta["examples"] == 6
        assert set(second.samples["example"]) == set(range(6))
        assert set(first.samples["example"]) == {0, 1, 2}  # a snapshot stays what it was
        assert (second.layers.query("layer == 'linear'")["n_samples"] == 30).all()


class TestCopies:
    @pytest.mark.parametrize("when", ["inside", "after"])
    def test_deepcopy(self, model: nn.Module, when: str) -> None:
        model.eval()
        with normprobe.Probe(model) as probe:
            model(_data())
            twin = copy.deepcopy(model)
            assert torch.equal(twin(_data()), model(_data()))
        if when == "after":
            twin = copy.deepcopy(model)
            assert not any(module._forward_hooks or module._forward_pre_hooks for module in twin.modules())
        assert torch.equal(twin(_data()), model(_data()))
        assert probe.recording.meta["forwards"] == 2

    @pytest.mark.parametrize("when", ["inside", "after"])
    def test_saved_and_loaded(self, model: nn.Module, when: str) -> None:
        model.eval()
        buffer = io.BytesIO()
        with normprobe.Probe(model, mask=lambda args, kwargs: None) as probe:
            model(_data())
            if when == "inside":
                torch.save(model, buffer)
        if when == "after":
            torch.save(model, buffer)
        buffer.seek(0)
        loaded = torch.load(buffer, weights_only=False)
        assert torch.equal(loaded(_data()), model(_data()))
        assert probe.recording.meta["forwards"] == 1

    def test_state_dict_has_the_same_entries(self, model: nn.Module) -> None:
        before = {name: tuple(value.shape) for name, value in model.state_dict().items()}
        with normprobe.Probe(model):
            assert {name: tuple(value.shape) for name, value in model.state_dict().items()} == before


class TestTheBlockChangesTheModel:
    def test_a_layer_is_removed(self, model: nn.Module) -> None:
        gone = model.rms_norm
        with normprobe.Probe(model) as probe:
            model(_data())
            model.rms_norm = nn.Identity()
            model(_data())
        assert not gone._forward_hooks
        assert not gone._forward_pre_hooks
        calls = probe.recording.ledger.set_index("layer")["calls"]
        assert (calls["rms_norm"], calls["linear"]) == (1, 2)

    def test_a_layer_is_replaced(self, model: nn.Module) -> None:
        with normprobe.Probe(model) as probe:
            model(_data())
            model.linear = nn.Linear(6, 6)
            model(_data())
        assert not model.linear._forward_hooks
        assert probe.recording.ledger.set_index("layer").loc["linear", "calls"] == 1
        with probe:
            model(_data())
        ledger = probe.recording.ledger.query("layer == 'linear'")
        assert ledger["calls"].sum() == 2

    def test_hooks_of_the_user_stay(self, model: nn.Module) -> None:
        called = []
        with normprobe.Probe(model):
            handle = model.linear.register_forward_hook(lambda *_: called.append(1))
            model(_data())
        model(_data())
        assert called == [1, 1]
        handle.remove()

    def test_modes_set_in_the_block_stay(self, model: nn.Module) -> None:
        with normprobe.Probe(model):
            model.eval()
            model.head.weight.requires_grad_(True)
        assert not model.training
        assert model.head.weight.requires_grad


class InPlace(nn.Module):
    """Overwrites what its norm read and wrote."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        x.zero_()
        out = y.clone()
        y.fill_(7.0)
        return out


class OverwritingNorm(nn.Module):
    """Normalizes in place, of a class nobody registered."""

    eps = 1e-6

    def forward(self, x: Tensor) -> Tensor:
        return x.div_((x.square().mean(-1, keepdim=True) + self.eps).sqrt())


@pytest.mark.parametrize(
    "norm", [nn.LayerNorm(4), OverwritingNorm(), nn.Sequential(nn.Linear(4, 4), nn.ReLU(True))]
)
def test_measured_before_it_is_overwritten(norm: nn.Module) -> None:
    batches = [torch.randn(6, 4) for _ in range(3)]
    everything = torch.cat(batches).double().numpy()
    with torch.no_grad(), normprobe.Probe(InPlace(norm)) as probe:
        for batch in batches:
            probe.model(batch)
    features = probe.recording.features
    first = features[features["site"] == "input"].groupby("layer", sort=False).head(4).head(4)
    assert np.allclose(first["mean"], everything.mean(0), atol=1e-6)
    assert np.allclose(first["variance"], everything.var(0), rtol=1e-6)
    outputs = features[features["site"] == "output"]
    assert not np.isin(7.0, outputs["max"])
    assert (outputs["min"] != 0).any()


class TestMemory:
    """Activations die when the bare model would let them."""

    @pytest.mark.parametrize("calls", [1, 3])
    @pytest.mark.parametrize("options", [{}, {"samples": "all", "values": 4}, {"every": 2}])
    def test_no_activation_is_kept_alive(self, model: nn.Module, calls: int, options: dict[str, Any]) -> None:
        alive: list[weakref.ref[Any]] = []

        def spy(module: nn.Module, args: Any, output: Any) -> None:
            tensors = [*args, *(output if isinstance(output, tuple) else [output])]
            for tensor in tensors:
                if isinstance(tensor, Tensor):
                    alive.append(weakref.ref(tensor))
                    alive.append(weakref.ref(tensor.untyped_storage()))

        handles = [module.register_forward_hook(spy) for module in model.modules()]
        gc.collect()
        gc.disable()
        try:
            with torch.no_grad(), normprobe.Probe(model, **options):
                for _ in range(calls):
                    model(_data())
                assert len(alive) > 20
                assert [ref() for ref in alive if ref() is not None] == []
        finally:
            gc.enable()
            for handle in handles:
                handle.remove()

    def test_nor_longer_than_the_forward_needs_it(self) -> None:
        model = nn.Sequential(nn.Linear(4, 4), OverwritingNorm(), nn.LayerNorm(4), nn.Linear(4, 4))
        alive: list[weakref.ref[Any]] = []
        dead: list[bool] = []

        def early(module: nn.Module, args: Any, output: Tensor) -> None:
            alive.append(weakref.ref(output.untyped_storage()))

        handles = [model[0].register_forward_hook(early)]
        handles.append(model[3].register_forward_pre_hook(lambda *_: dead.append(alive[-1]() is None)))
        with torch.no_grad(), normprobe.Probe(model):
            model(torch.randn(3, 4))
            model(torch.randn(3, 4))
        assert dead == [True, True]
        for handle in handles:
            handle.remove()

    @pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
    def test_nor_after_a_forward_that_failed(self, model: nn.Module, error: type[BaseException]) -> None:
        data = _data()
        ref = weakref.ref(data)
        probe = normprobe.Probe(model)
        with pytest.raises(error), probe:
            model(data, error)
        del data
        gc.collect()
        assert ref() is None
        assert set(probe.recording.ledger.query("status == 'fired'")["layer"]) == {"batch_norm", "group_norm"}

    def test_layers_see_the_input_of_each_forward_only(self, model: nn.Module) -> None:
        with normprobe.Probe(model) as probe:
            for seed in range(3):
                x = _data(seed)
                ref = weakref.ref(x)
                model(x)
                del x
                assert ref() is None
        assert probe._callbacks.forwards.current is None


class Checkpointed(nn.Module):
    def __init__(self, reentrant: bool | None) -> None:
        super().__init__()
        self.first, self.inner, self.reentrant = (
            nn.Linear(4, 4),
            nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)),
            reentrant,
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        if self.reentrant is None:
            return self.inner(x)
        return checkpoint(self.inner, x, use_reentrant=self.reentrant)


class TestCheckpointing:
    @pytest.mark.parametrize("reentrant", [True, False])
    def test_recomputation_is_not_counted(self, reentrant: bool) -> None:
        torch.manual_seed(0)
        plain = Checkpointed(None)
        model = Checkpointed(reentrant)
        model.load_state_dict(plain.state_dict())
        recordings = []
        for each in (plain, model):
            with normprobe.Probe(each, part="x") as probe:
                for seed in range(2):
                    each(torch.randn(3, 4, generator=torch.Generator().manual_seed(seed))).sum().backward()
            recordings.append(probe.recording)
        expected, found = recordings
        assert set(found.ledger["calls"]) == {2}
        assert found.meta["forwards"] == 2
        assert found.layers.equals(expected.layers)
        assert found.samples.equals(expected.samples)
        for one, other in zip(plain.parameters(), model.parameters(), strict=True):
            assert torch.equal(one.grad, other.grad)  # type: ignore[arg-type]

    @pytest.mark.parametrize("reentrant", [True, False])
    def test_a_forward_that_runs_backward_itself(self, reentrant: bool) -> None:
        class Energy(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.inner = Checkpointed(reentrant)

            def forward(self, x: Tensor) -> Tensor:
                self.inner(x).sum().backward()
                return self.inner(x)

        with normprobe.Probe(Energy()) as probe:
            probe.model(torch.randn(3, 4))
        assert probe.recording.meta["forwards"] == 1
        assert set(probe.recording.ledger["calls"]) == {2}
        assert probe.recording.layers["n_samples"].tolist() == [6] * 6


@pytest.mark.parametrize("every", [1, 2, 3])
def test_every_kth_forward_is_measured(model: nn.Module, every: int) -> None:
    model.eval()
    with torch.no_grad(), normprobe.Probe(model, every=every) as probe:
        for seed in range(7):
            model(_data(seed))
    recording = probe.recording
    measured = list(range(0, 7, every))
    assert set(recording.ledger["calls"]) == {len(measured)}
    assert set(recording.layers["calls"]) == {len(measured)}
    assert sorted(recording.samples["call"].unique()) == measured
    assert (recording.meta["forwards"], recording.meta["measured"]) == (7, len(measured))
    expected = normprobe.record(model, [_data(seed) for seed in measured])
    assert np.allclose(recording.layers["mean"], expected.layers["mean"], rtol=1e-9, atol=1e-12)


def test_a_layer_that_fails_to_be_measured_never_fails_the_forward(
    model: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = model.eval()(_data())

    def broken(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("no memory left\nfor statistics")

    monkeypatch.setattr("normprobe.capture.measure.Measurer.observe", broken)
    with normprobe.Probe(model) as probe:
        assert torch.equal(model(_data()), expected)
    row = probe.recording.ledger.set_index("layer").loc["linear"]
    assert row["status"] == "unmeasured"
    assert row["calls"] == 0
    assert "a call at its input is left out: RuntimeError: no memory left" in row["reason"]
    assert len(probe.recording.layers) == 0
