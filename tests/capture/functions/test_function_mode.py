"""Layers whose modules are never called are found by their weights, and nothing else changes for it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.overrides import TorchFunctionMode
from transformers.pytorch_utils import Conv1D

import normprobe
from normprobe.capture.functions.function_mode import BIAS_APART
from tests.helpers.oracle import two_pass


def modes() -> int:
    return torch._C._len_torch_function_stack()


def ledger(recording: normprobe.Recording) -> Any:
    return recording.ledger.set_index("layer")


def holds(recording: normprobe.Recording, layer: str, site: str, rows: list[Tensor]) -> None:
    """The features of one site are those of a float64 two-pass over what was read or written there."""
    width = rows[0].shape[-1]
    oracle = two_pass(torch.cat([row.detach().reshape(-1, width) for row in rows]).double().numpy())
    frame = recording.features.query("layer == @layer and site == @site")
    np.testing.assert_allclose(frame["mean"], oracle["mean"], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(frame["variance"], oracle["variance"], rtol=1e-5, atol=1e-9)


class Calls(nn.Module):
    """One layer of a kind and a way to compute what it does without calling it."""

    def __init__(self, layer: nn.Module, way: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.layer, self.way = layer, way

    def forward(self, x: Tensor) -> Tensor:
        return self.way(self.layer, x)


WAYS: dict[str, tuple[nn.Module, Callable[[Any, Tensor], Tensor]]] = {
    "forward": (nn.Linear(6, 3), lambda layer, x: layer.forward(x)),
    "F.linear": (nn.Linear(6, 3), lambda layer, x: F.linear(x, layer.weight, layer.bias)),
    "keywords": (nn.Linear(6, 3), lambda layer, x: F.linear(bias=layer.bias, input=x, weight=layer.weight)),
    "matmul": (nn.Linear(6, 3, bias=False), lambda layer, x: torch.matmul(x, layer.weight.t())),
    "@": (nn.Linear(6, 3, bias=False), lambda layer, x: x @ layer.weight.T),
    "mm": (nn.Linear(6, 3, bias=False), lambda layer, x: x.mm(layer.weight.transpose(0, 1))),
    "addmm": (nn.Linear(6, 3), lambda layer, x: torch.addmm(layer.bias, x, layer.weight.t())),
    "cast": (
        nn.Linear(6, 3, bias=False),
        lambda layer, x: F.linear(x.double(), layer.weight.double()).float(),
    ),
    "detached": (nn.Linear(6, 3, bias=False), lambda layer, x: F.linear(x, layer.weight.detach())),
    "Conv1D": (Conv1D(3, 6), lambda layer, x: torch.addmm(layer.bias, x, layer.weight)),
    "Conv1D turned": (Conv1D(3, 6), lambda layer, x: F.linear(x, layer.weight.T, layer.bias)),
    "layer_norm": (nn.LayerNorm(6), lambda n, x: F.layer_norm(x, (6,), n.weight, n.bias)),
    "layer_norm forward": (nn.LayerNorm(6), lambda layer, x: layer.forward(x)),
    "torch.layer_norm": (nn.LayerNorm(6), lambda n, x: torch.layer_norm(x, (6,), n.weight, n.bias, 1e-5)),
    "rms_norm": (nn.RMSNorm(6), lambda layer, x: F.rms_norm(x, (6,), layer.weight)),
    "group_norm": (nn.GroupNorm(2, 6), lambda n, x: F.group_norm(x, 2, n.weight, n.bias)),
    "batch_norm": (
        nn.BatchNorm1d(6),
        lambda n, x: F.batch_norm(x, n.running_mean, n.running_var, n.weight, n.bias),
    ),
    "batch_norm without a scale": (
        nn.BatchNorm1d(6, affine=False),
        lambda n, x: F.batch_norm(x, n.running_mean, n.running_var),
    ),
    "batch_norm forward": (nn.BatchNorm1d(6), lambda layer, x: layer.forward(x)),
}


@pytest.mark.parametrize("way", list(WAYS))
@pytest.mark.parametrize("grad", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_a_call_past_the_module_is_measured(way: str, grad: Callable[[], Any]) -> None:
    layer, call = WAYS[way]
    model = Calls(layer, call).eval()
    batches = [torch.randn(5, 6) for _ in range(3)]
    with grad():
        expected = [model(batch) for batch in batches]
        with normprobe.Probe(model) as probe:
            found = [model(batch) for batch in batches]
    assert all(map(torch.equal, found, expected))
    row = ledger(probe.recording).loc["layer"]
    assert (row["status"], row["via"], row["calls"], row["reason"]) == ("fired", "functional", 3, "")
    holds(probe.recording, "layer", "input", batches)
    holds(probe.recording, "layer", "output", expected)


def test_an_instance_norm_past_its_module() -> None:
    model = Calls(
        nn.InstanceNorm1d(4, affine=True), lambda n, x: F.instance_norm(x, weight=n.weight, bias=n.bias)
    )
    x = torch.randn(3, 4, 7)
    with normprobe.Probe(model) as probe:
        model(x)
    assert ledger(probe.recording).loc["layer", "via"] == "functional"
    holds(probe.recording, "layer", "input", [x.transpose(1, 2)])


@pytest.mark.parametrize(
    "way",
    [
        lambda layer, x: layer(x),
        lambda layer, x: layer(x) + F.linear(x, layer.weight * 2),
        lambda layer, x: layer(x) + x @ layer.weight,
        lambda layer, x: layer(x) + F.linear(x, layer.weight[:1]),
        lambda layer, x: layer(x) + F.linear(x, layer.weight.t()),
    ],
    ids=["its own forward", "another weight", "turned round", "a part", "turned round in F.linear"],
)
def test_what_is_not_the_layers_own_computation_is_not_counted(way: Callable[[Any, Tensor], Tensor]) -> None:
    model = Calls(nn.Linear(6, 6, bias=False), way)
    with normprobe.Probe(model) as probe:
        for _ in range(3):
            model(torch.randn(5, 6))
    assert ledger(probe.recording).loc["layer", ["calls", "via"]].tolist() == [3, "hook"]


@pytest.mark.parametrize(
    ("way", "apart"),
    [
        (lambda layer, x: x @ layer.weight.T + layer.bias, True),
        (lambda layer, x: F.linear(x, layer.weight), True),
        (lambda layer, x: F.linear(x, layer.weight, layer.bias), False),
        (lambda layer, x: torch.addmm(layer.bias, x, layer.weight.T), False),
    ],
)
def test_a_bias_that_is_added_elsewhere_is_said(way: Callable[[Any, Tensor], Tensor], apart: bool) -> None:
    with normprobe.Probe(Calls(nn.Linear(6, 3), way)) as probe:
        probe.model(torch.randn(5, 6))
    assert ledger(probe.recording).loc["layer", "reason"] == (BIAS_APART if apart else "")


def test_seen_both_ways() -> None:
    model = Calls(nn.Linear(6, 6), lambda layer, x: layer(x) + F.linear(x, layer.weight, layer.bias))
    with normprobe.Probe(model, samples="all") as probe:
        model(torch.randn(5, 6))
    assert ledger(probe.recording).loc["layer", ["calls", "via"]].tolist() == [2, "functional; hook"]
    assert sorted(set(probe.recording.samples["repeat"])) == [0, 1]


class TestAttention:
    def _seen(self, model: nn.Module, *given: Tensor, calls: int = 3, **options: Any) -> normprobe.Recording:
        torch.manual_seed(0)
        expected = model(*given, **options)
        torch.manual_seed(0)
        with normprobe.Probe(model) as probe:
            found, *_ = [model(*given, **options) for _ in range(calls)]
        for one, other in zip(found, expected, strict=True):
            assert one is other is None or torch.equal(one, other)
        return probe.recording

    @pytest.mark.parametrize("batch_first", [True, False])
    @pytest.mark.parametrize("average", [True, False])
    def test_self(self, batch_first: bool, average: bool) -> None:
        attention = nn.MultiheadAttention(8, 2, batch_first=batch_first)
        x = torch.randn(3, 5, 8)
        recording = self._seen(attention, x, x, x, average_attn_weights=average)
        rows = ledger(recording)
        assert rows["via"].to_dict() == {"in_proj": "functional", "out_proj": "functional"}
        assert rows["calls"].tolist() == [3, 3]
        assert rows["type"]["in_proj"] == "MultiheadAttention"
        holds(recording, "in_proj", "input", [x])
        holds(recording, "in_proj", "output", [F.linear(x, attention.in_proj_weight, attention.in_proj_bias)])
        holds(recording, "out_proj", "output", [attention(x, x, x)[0]])
        samples = recording.samples.query("layer == 'in_proj' and site == 'input' and call == 0")
        batch, time = (3, 5) if batch_first else (5, 3)
        assert set(zip(samples["example"], samples["position"], strict=True)) == {
            (example, position) for example in range(batch) for position in range(time)
        }

    def test_across(self) -> None:
        attention = nn.MultiheadAttention(8, 2)
        x, memory = torch.randn(5, 3, 8), torch.randn(4, 3, 8)
        recording = self._seen(attention, x, memory, memory)
        rows = ledger(recording)
        assert rows["status"].to_dict() == {
            "in_proj": "bypassed",
            "out_proj": "fired",
            "in_proj.kv": "fired",
            "in_proj.q": "fired",
        }
        assert "are used apart and are layers of their own" in rows["reason"]["in_proj"]
        weight, bias = attention.in_proj_weight, attention.in_proj_bias
        holds(recording, "in_proj.q", "input", [x])
        holds(recording, "in_proj.q", "output", [F.linear(x, weight[:8], bias[:8])])
        holds(recording, "in_proj.kv", "output", [F.linear(memory, weight[8:], bias[8:])])

    def test_all_apart(self) -> None:
        attention = nn.MultiheadAttention(8, 2)
        q, k, v = torch.randn(3, 5, 2, 8)
        recording = self._seen(attention, q, k, v)
        for index, (name, given) in enumerate((("q", q), ("k", k), ("v", v))):
            weight = attention.in_proj_weight[8 * index : 8 * index + 8]
            holds(recording, f"in_proj.{name}", "input", [given])
            holds(recording, f"in_proj.{name}", "output", [F.linear(given, weight)])

    def test_other_sizes_of_keys_and_values(self) -> None:
        attention = nn.MultiheadAttention(8, 2, kdim=6, vdim=4)
        q, k, v = torch.randn(5, 2, 8), torch.randn(3, 2, 6), torch.randn(3, 2, 4)
        recording = self._seen(attention, q, k, v)
        assert ledger(recording)["n_features"].to_dict() == {
            "q_proj": 8,
            "k_proj": 6,
            "v_proj": 4,
            "out_proj": 8,
        }
        for name, given in (("q", q), ("k", k), ("v", v)):
            holds(recording, f"{name}_proj", "input", [given])
            weight = getattr(attention, f"{name}_proj_weight")
            holds(recording, f"{name}_proj", "output", [F.linear(given, weight)])

    def test_gradients_are_the_same(self) -> None:
        attention, x = nn.MultiheadAttention(8, 2), torch.randn(5, 3, 8, requires_grad=True)
        wanted = (x, *attention.parameters())
        expected = torch.autograd.grad(attention(x, x, x)[0].square().sum(), wanted)
        with normprobe.Probe(attention):
            found = torch.autograd.grad(attention(x, x, x)[0].square().sum(), wanted)
        assert all(map(torch.equal, found, expected))

    def test_the_fused_kernel_stays_and_the_ledger_says_what_it_hides(self) -> None:
        attention, x = nn.MultiheadAttention(8, 2, batch_first=True).eval(), torch.randn(3, 5, 8)
        with torch.no_grad():
            recording = self._seen(attention, x, x, x)
        assert set(recording.ledger["status"]) == {"bypassed"}
        assert recording.ledger["reason"].str.contains("reads its weight in a fused kernel").all()

    def test_an_encoder_layer_that_left_its_own_kernel_shows_its_attention(self) -> None:
        model = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
        x = torch.randn(3, 5, 8)
        with torch.no_grad():
            expected = model(x)
            with normprobe.Probe(model) as probe:
                found = model(x)
        assert torch.allclose(found, expected, atol=1e-6)
        rows = ledger(probe.recording)
        assert set(rows["status"]) == {"fired"}
        assert rows["reason"].str.contains("equal the bare model's only to rounding").all()
        assert (rows["via"]["self_attn.in_proj"], rows["via"]["norm1"]) == ("functional", "hook")
        holds(probe.recording, "self_attn.in_proj", "input", [x])

    def test_a_whole_transformer_with_padding(self) -> None:
        model = nn.Transformer(8, 2, 1, 1, 16, batch_first=True).eval()
        model.encoder.use_nested_tensor = False
        source, target = torch.randn(2, 5, 8), torch.randn(2, 4, 8)
        padding = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
        masks = {"src_key_padding_mask": padding, "memory_key_padding_mask": padding}
        with normprobe.Probe(model) as probe:
            model(source, target, **masks)
        rows = ledger(probe.recording)
        assert rows.loc["encoder.layers.0.self_attn.in_proj", "masked_by"] == "src_key_padding_mask"
        across = "decoder.layers.0.multihead_attn.in_proj"
        assert rows.loc[f"{across}.kv", ["masked_by", "aligned"]].tolist() == [
            "memory_key_padding_mask",
            True,
        ]
        assert rows.loc[f"{across}.q", ["masked_by", "aligned"]].tolist() == ["", True]
        samples = probe.recording.layers.set_index(["layer", "site"])["n_samples"]
        assert samples[f"{across}.kv", "input"] == 8
        assert samples[f"{across}.q", "input"] == 8
        assert samples["decoder.layers.0.self_attn.in_proj", "input"] == 8


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.norm = nn.Embedding(11, 6), nn.LayerNorm(6)

    def forward(self, ids: Tensor) -> Tensor:
        return F.linear(self.norm(self.embedding(ids)), self.embedding.weight)


class TestParametersThatBecomeLayers:
    def test_a_tied_decoder(self) -> None:
        model, ids = Tied(), torch.randint(0, 11, (2, 3))
        with normprobe.Probe(model) as probe:
            model(ids)
        row = ledger(probe.recording).loc["embedding"]
        columns = ["kind", "type", "n_features", "status", "via"]
        assert row[columns].tolist() == ["linear", "Embedding", 6, "fired", "functional"]
        assert probe.recording.ledger["layer"].tolist() == ["norm", "embedding"]
        holds(probe.recording, "embedding", "output", [model(ids)])

    def test_of_parts_that_did_not_all_see_it(self) -> None:
        model, recordings = Tied(), []
        for part in "abc":
            ids = torch.tensor([[1, 2, 3], [4, 5, ord(part) - ord("a")]])
            with normprobe.Probe(model, part=part) as probe:
                model(ids) if part != "b" else model.norm(torch.randn(2, 6))
            recordings.append(probe.recording)
        assert recordings[1].ledger["layer"].tolist() == ["norm"]
        for order in ((0, 1, 2), (2, 1, 0), (1, 0, 2)):
            merged = normprobe.merge(*(recordings[index] for index in order))
            assert merged.ledger["layer"].tolist() == ["norm", "embedding"]
            assert ledger(merged).loc["embedding", ["status", "calls"]].tolist() == ["fired", 2]
            assert ledger(merged).loc["norm", "calls"] == 3
        once = normprobe.merge(recordings[0], recordings[1])
        again = normprobe.merge(once, recordings[2])
        assert again.ledger.equals(merged.ledger)
        assert again.features.equals(merged.features)

    def test_filters_hold_for_them(self) -> None:
        with normprobe.Probe(Tied(), layers="norm") as probe:
            probe.model(torch.randint(0, 11, (2, 3)))
        assert probe.recording.ledger["layer"].tolist() == ["norm"]
        with normprobe.Probe(Tied(), kinds="layer_norm") as probe:
            probe.model(torch.randint(0, 11, (2, 3)))
        assert probe.recording.ledger["layer"].tolist() == ["norm"]


class Counting(TorchFunctionMode):
    """A mode of the user's, which counts what it hears."""

    def __init__(self) -> None:
        super().__init__()
        self.linear_calls = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.linear_calls += func is F.linear
        return func(*args, **(kwargs or {}))


class Failing(nn.Module):
    """Raises in the middle of its forward."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor, error: type[BaseException] | None = None) -> Tensor:
        x = self.linear.forward(x)
        if error is not None:
            raise error
        return x


class TestTheModeLeavesNoTrace:
    @pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt, SystemExit])
    @pytest.mark.parametrize("around", ["nothing", "a mode", "a device", "both", "inside the block"])
    def test_after_the_block(self, error: type[BaseException] | None, around: str) -> None:
        model, x, own = Failing(), torch.randn(2, 4), Counting()

        def run() -> None:
            if around == "inside the block":
                with normprobe.Probe(model), own, torch.device("cpu"):
                    model(x, error)
            elif around == "both":
                with torch.device("cpu"), own, normprobe.Probe(model):
                    model(x, error)
            elif around == "nothing":
                with normprobe.Probe(model):
                    model(x, error)
            else:
                with own if around == "a mode" else torch.device("cpu"), normprobe.Probe(model):
                    model(x, error)

        if error is None:
            run()
        else:
            with pytest.raises(error):
                run()
        assert modes() == 0
        assert own.linear_calls == (around in ("a mode", "both", "inside the block"))

    def test_between_calls_in_the_block(self) -> None:
        model = Failing()
        with normprobe.Probe(model) as probe:
            for error in (None, ValueError, KeyboardInterrupt, None):
                try:
                    model(torch.randn(2, 4), error)
                except (ValueError, KeyboardInterrupt):
                    assert modes() == (error is KeyboardInterrupt)
                else:
                    assert modes() == 0
        assert modes() == 0
        assert ledger(probe.recording).loc["linear", "calls"] == 4

    def test_a_mode_of_the_users_is_taken_away_by_its_own_block(self) -> None:
        model, own = Failing(), Counting()
        with normprobe.Probe(model):
            with pytest.raises(KeyboardInterrupt), own:
                model(torch.randn(2, 4), KeyboardInterrupt)
            before = own.linear_calls
            F.linear(torch.randn(2, 4), torch.randn(3, 4))
            assert own.linear_calls == before
        assert modes() == 0

    def test_two_probes_left_in_any_order(self) -> None:
        model = Failing()
        first, second = normprobe.Probe(model), normprobe.Probe(model)
        first.__enter__()
        second.__enter__()
        model(torch.randn(2, 4))
        first.__exit__(None, None, None)
        model(torch.randn(2, 4))
        second.__exit__(None, None, None)
        assert modes() == 0
        assert ledger(first.recording).loc["linear", "calls"] == 1
        assert ledger(second.recording).loc["linear", "calls"] == 2

    def test_torchs_functions_are_torchs(self) -> None:
        before = dict(vars(F))
        attention = nn.MultiheadAttention(4, 2)
        with normprobe.Probe(attention):
            attention(*[torch.randn(3, 2, 4)] * 3)
            assert dict(vars(F)) == before
        assert dict(vars(F)) == before


class Late(nn.Module):
    """Uses its layer's weight alone from a certain forward on."""

    def __init__(self, first: int) -> None:
        super().__init__()
        self.first, self.count = first, 0
        self.inner = nn.Sequential(nn.Linear(4, 4))
        self.late = nn.Linear(4, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        self.count += 1
        x = self.inner(x)
        return F.linear(x, self.late.weight) if self.count >= self.first else x


class TestWhenItListens:
    def test_in_the_modules_where_a_layer_was_used(self) -> None:
        model = nn.Sequential(nn.MultiheadAttention(4, 2), nn.LayerNorm(4))
        modes_on: list[int] = []
        model[0].register_forward_pre_hook(lambda *_: modes_on.append(modes()))
        model[1].register_forward_pre_hook(lambda *_: modes_on.append(modes()))

        def run() -> Tensor:
            x = torch.randn(3, 2, 4)
            return model[1](model[0](x, x, x)[0])

        class Whole(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.parts = model

            def forward(self) -> Tensor:
                return run()

        whole = Whole()
        with normprobe.Probe(whole) as probe:
            for _ in range(5):
                whole()
        # The attention's own hook runs ahead of the probe's, which puts the mode in place there alone.
        assert modes_on == [1, 1, 0, 0, 0, 0, 1, 1, 0, 0]
        assert set(ledger(probe.recording)["calls"]) == {5}

    def test_never_where_hooks_see_everything(self) -> None:
        model, modes_on = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)), []
        model[1].register_forward_pre_hook(lambda *_: modes_on.append(modes()))
        with normprobe.Probe(model):
            for _ in range(17):
                model(torch.randn(2, 4))
        assert [index for index, on in enumerate(modes_on, 1) if on] == [1, 4, 16]

    def test_anew_for_another_kind_of_forward(self) -> None:
        model = Late(first=2)
        with normprobe.Probe(model) as probe:
            model(torch.randn(2, 4))
            model.eval()
            model(torch.randn(2, 4))
        assert ledger(probe.recording).loc["late", ["calls", "reason"]].tolist() == [1, ""]

    def test_what_began_unseen_is_found_later_and_the_ledger_says_so(self) -> None:
        model = Late(first=2)
        with normprobe.Probe(model) as probe:
            for _ in range(6):
                model(torch.randn(2, 4))
        row = ledger(probe.recording).loc["late"]
        assert row["calls"] == 3
        assert row["reason"] == "uses of its weight alone before forward 4 of a kind may be missing"

    def test_not_in_forwards_that_are_not_measured(self) -> None:
        model, modes_on = Failing(), []
        model.register_forward_pre_hook(lambda *_: None)
        with normprobe.Probe(model, every=2) as probe:
            model.linear.forward = lambda x: (
                modes_on.append(modes()),
                nn.Linear.forward(model.linear, x),
            )[1]
            for _ in range(4):
                model(torch.randn(2, 4))
            del model.linear.forward
        assert modes_on == [1, 0, 1, 0]
        assert ledger(probe.recording).loc["linear", "calls"] == 2


def test_weights_replaced_in_the_block_are_known() -> None:
    model = Failing()
    with normprobe.Probe(model) as probe:
        for _ in range(3):
            model(torch.randn(2, 4))
            model.linear.weight = nn.Parameter(torch.randn(4, 4))
    assert ledger(probe.recording).loc["linear", "calls"] == 3


@pytest.mark.parametrize("cast", [False, True])
def test_layers_that_share_a_weight_each_count_their_own_calls(cast: bool) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 4), nn.LayerNorm(4))
    model[2].weight, model[3].weight = model[0].weight, model[1].weight
    x = torch.randn(3, 4)
    with torch.no_grad(), torch.autocast("cpu", enabled=cast), normprobe.Probe(model) as probe:
        model(x)
    rows = ledger(probe.recording)
    assert rows[["calls", "via"]].values.tolist() == [[1, "hook"]] * 4


@pytest.mark.parametrize("cast", [False, True])
@pytest.mark.parametrize("layers", [["2", "3"], ["0", "3"], ["1"]])
def test_calls_of_layers_left_out_are_not_those_of_layers_that_share_their_weight(
    layers: list[str], cast: bool
) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 4), nn.LayerNorm(4))
    model[2].weight, model[3].weight = model[0].weight, model[1].weight
    x = torch.randn(3, 4)
    with torch.no_grad(), torch.autocast("cpu", enabled=cast), normprobe.Probe(model, layers=layers) as probe:
        model(x)
        model[int(layers[0])].forward(x)
        model[int(layers[0])](x)
    rows = ledger(probe.recording)
    assert rows.loc[layers, ["calls", "via"]].values.tolist()[1:] == [[1, "hook"]] * (len(layers) - 1)
    assert rows.loc[layers[0], ["calls", "via"]].tolist() == [2, "hook"]
    assert set(rows.index) == set(layers)


def test_recomputation_in_backward_is_not_counted() -> None:
    from torch.utils.checkpoint import checkpoint

    model = Failing()
    with normprobe.Probe(model) as probe:
        for reentrant in (True, False):
            x = torch.randn(2, 4, requires_grad=True)

            class Outer(nn.Module):
                def __init__(self) -> None:
                    super().__init__()
                    self.inner = model

            outer = Outer()
            checkpoint(outer.inner, x, use_reentrant=reentrant).sum().backward()
    assert ledger(probe.recording).loc["linear", "calls"] == 2


def test_threads_each_have_their_own() -> None:
    model, attention = nn.Module(), nn.MultiheadAttention(4, 2)
    model.attention = attention
    x = torch.randn(3, 2, 4)

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention, self.norm = attention, nn.LayerNorm(4)

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(self.attention(x, x, x)[0])

    model, left = Model(), []

    def work() -> None:
        for _ in range(20):
            model(x)
        left.append(modes())

    with normprobe.Probe(model) as probe:
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert left == [0] * 4
    assert ledger(probe.recording)["calls"].to_dict() == dict.fromkeys(
        ("attention.in_proj", "attention.out_proj", "norm"), 80
    )


def test_no_cast_of_a_weight_is_kept_alive() -> None:
    import weakref

    alive: list[weakref.ref[Tensor]] = []

    def way(layer: Any, x: Tensor) -> Tensor:
        copy = layer.weight.double()
        alive.append(weakref.ref(copy))
        return F.linear(x.double(), copy)

    seen = []
    model = nn.Sequential(Calls(nn.Linear(4, 4), way), nn.LayerNorm(4).double())
    model[1].register_forward_pre_hook(lambda *_: seen.append(alive[-1]()))
    with torch.no_grad(), normprobe.Probe(model) as probe:
        model(torch.randn(2, 4))
    assert seen == [None]
    assert ledger(probe.recording).loc["0.layer", "via"] == "functional"
