"""Which forward, example, position and repeat a sample has, line by line of the rules."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from transformers.models.albert import AlbertConfig, AlbertModel
from transformers.models.bert import BertConfig, BertModel
from transformers.models.llama import LlamaConfig, LlamaForCausalLM
from transformers.models.qwen3 import Qwen3Config, Qwen3Model

import normprobe
from normprobe.capture.states.layer_state import UNALIGNED
from normprobe.samples.fingerprint import digest

SMALL = {"vocab_size": 50, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}


def _of(table: pd.DataFrame, layer: str, site: str = "input") -> pd.DataFrame:
    return table[(table["layer"] == layer) & (table["site"] == site)]


def _pairs(recording: normprobe.Recording, layer: str, site: str = "input") -> set[tuple[int, int]]:
    samples = _of(recording.samples, layer, site)
    return set(zip(samples["example"].tolist(), samples["position"].tolist(), strict=True))


def _grid(examples: int, positions: int) -> set[tuple[int, int]]:
    return {(example, position) for example in range(examples) for position in range(positions)}


def _aligned(recording: normprobe.Recording) -> dict[str, Any]:
    return dict(zip(recording.ledger["layer"], recording.ledger["aligned"], strict=True))


class Pair(nn.Module):
    """A layer outside and an encoder of two inside."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.head = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(x))


class TestForwards:
    def test_calls_and_examples_are_numbered_over_all_forwards(self) -> None:
        recording = normprobe.record(Pair(), [torch.randn(n, 4) for n in (2, 3)])
        samples = _of(recording.samples, "head").sort_values("example")
        assert samples["example"].tolist() == [0, 1, 2, 3, 4]
        assert samples["call"].tolist() == [0, 0, 1, 1, 1]
        assert recording.meta["forwards"] == recording.meta["measured"] == 2
        assert recording.meta["examples"] == 5

    def test_an_encoder_called_alone_is_a_forward(self) -> None:
        model = Pair()
        with normprobe.Probe(model) as probe:
            model.head(torch.randn(1, 4))
            model.encoder(torch.randn(2, 4))
            model(torch.randn(3, 4))
        recording = probe.recording
        assert recording.meta["forwards"] == 3
        assert _pairs(recording, "encoder.1") == {(e, 0) for e in (1, 2, 3, 4, 5)}
        assert _pairs(recording, "head") == {(e, 0) for e in (0, 3, 4, 5)}
        calls = recording.ledger.set_index("layer")["calls"]
        assert calls.to_dict() == {"encoder.0": 2, "encoder.1": 2, "head": 2}

    def test_each_step_of_generate_is_a_forward(self) -> None:
        model = LlamaForCausalLM(LlamaConfig(**SMALL, num_hidden_layers=1, pad_token_id=0)).eval()
        ids = torch.randint(3, 50, (2, 4))
        with normprobe.Probe(model) as probe:
            given = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
            model.generate(**given, max_new_tokens=3, do_sample=False, eos_token_id=None)
        recording = probe.recording
        assert recording.meta["forwards"] == 3
        # The prompt has four positions; with a cache each step reads one.
        steps = {(example, 0) for example in range(2, 6)}
        assert _pairs(recording, "model.layers.0.mlp.up_proj") == _grid(2, 4) | steps
        # The head reads the last position only.
        assert _pairs(recording, "lm_head") == {(example, 0) for example in range(6)}
        assert all(_aligned(recording).values())

    def test_what_every_leaves_out_still_has_numbers(self) -> None:
        model, batches = Pair(), [torch.randn(n, 4) for n in (2, 3, 1, 4, 2)]
        recording = normprobe.record(model, batches, every=2)
        samples = _of(recording.samples, "head").sort_values("example")
        assert samples["example"].tolist() == [0, 1, 5, 10, 11]
        assert samples["call"].tolist() == [0, 0, 2, 4, 4]
        assert (recording.meta["forwards"], recording.meta["measured"], recording.meta["examples"]) == (
            5,
            3,
            5,
        )
        whole = normprobe.record(model, batches)
        same = samples.merge(
            whole.samples, on=["layer", "site", "example", "position"], suffixes=("", "_whole")
        )
        assert len(same) == 5
        assert np.allclose(same["mean"], same["mean_whole"])

    def test_every_with_time_first_batches(self) -> None:
        class TimeFirst(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.norm = nn.LayerNorm(4)

            def forward(self, x: Tensor, attention_mask: Tensor) -> Tensor:
                return self.norm(x)

        batches = [(torch.randn(5, 3, 4), torch.ones(3, 5)) for _ in range(3)]
        masked = normprobe.record(TimeFirst(), batches, every=2)
        assert set(masked.samples["example"]) == {0, 1, 2, 6, 7, 8}
        called = normprobe.record(TimeFirst(), batches, every=2, mask=lambda args, kwargs: args[1])
        assert set(called.samples["example"]) == {0, 1, 2, 6, 7, 8}
        lstm = nn.Sequential(nn.LSTM(4, 4))
        lstm.add_module("rest", _Head())
        plain = normprobe.record(lstm, [torch.randn(5, 3, 4) for _ in range(3)], every=2)
        assert set(plain.samples["example"]) == {0, 1, 2, 6, 7, 8}

    def test_a_forward_cut_short_does_not_swallow_the_next(self) -> None:
        model = Pair()
        head = model.head.forward

        def interrupted(x: Tensor) -> Tensor:
            raise KeyboardInterrupt

        with normprobe.Probe(model) as probe:
            model.head.forward = interrupted
            with pytest.raises(KeyboardInterrupt):
                model(torch.randn(2, 4))
            model.head.forward = head
            model(torch.randn(3, 4))
        assert _pairs(probe.recording, "encoder.0") == {(e, 0) for e in range(5)}
        assert _pairs(probe.recording, "head", "output") == {(e, 0) for e in (2, 3, 4)}

    @pytest.mark.parametrize("then", ["head", "encoder", "encoder.3", "encoder.3.0"])
    @pytest.mark.parametrize("where", ["encoder.0", "encoder.2", "encoder.3.0"])
    @pytest.mark.parametrize("first", ["", "encoder"])
    def test_a_forward_cut_short_does_not_swallow_a_part(self, first: str, where: str, then: str) -> None:
        model = Pair()
        model.encoder.extend([nn.Identity(), nn.Sequential(nn.LayerNorm(4))])
        place = model.get_submodule(where)

        def interrupted(x: Tensor) -> Tensor:
            raise KeyboardInterrupt

        with normprobe.Probe(model) as probe:
            place.forward = interrupted
            with pytest.raises(KeyboardInterrupt):
                model.get_submodule(first)(torch.randn(2, 4))
            del place.forward
            model.get_submodule(then)(torch.randn(3, 4))
        assert probe.recording.meta["forwards"] == 2
        layer = {"encoder": "encoder.0", "encoder.3": "encoder.3.0"}.get(then, then)
        assert {(e, 0) for e in (2, 3, 4)} <= _pairs(probe.recording, layer)

    @pytest.mark.parametrize("then", ["", "encoder", "encoder.2", "encoder.2.0"])
    def test_hooks_put_aside_are_there_again_after_one_cut_short(self, then: str) -> None:
        model = Pair()
        model.encoder.append(nn.Sequential(nn.LayerNorm(4)))
        place = model.get_submodule("encoder.2.0")

        def interrupted(x: Tensor) -> Tensor:
            raise KeyboardInterrupt

        with normprobe.Probe(model) as probe:
            for _ in range(3):
                model(torch.randn(2, 4))
            place.forward = interrupted
            with pytest.raises(KeyboardInterrupt):
                model(torch.randn(2, 4))
            del place.forward
            model.get_submodule(then)(torch.randn(2, 4))
            model(torch.randn(2, 4))
        assert probe.recording.meta["forwards"] == 6
        assert _pairs(probe.recording, "encoder.2.0", "output") == {(e, 0) for e in (*range(6), 8, 9, 10, 11)}
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())

    def test_a_part_called_from_another_is_part_of_its_forward(self) -> None:
        class Sharing(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.first, self.second = nn.Sequential(nn.Linear(4, 4)), Borrowing()
                self.second.borrowed = [self.first]

            def forward(self, x: Tensor) -> Tensor:
                return self.second(x)

        class Borrowing(nn.Module):
            borrowed: list[nn.Module]

            def __init__(self) -> None:
                super().__init__()
                self.own = nn.Linear(4, 4)

            def forward(self, x: Tensor) -> Tensor:
                return self.own(self.borrowed[0](x))

        model = Sharing()
        with normprobe.Probe(model) as probe:
            model.second(torch.randn(3, 4))
        assert probe.recording.meta["forwards"] == 1
        assert set(probe.recording.ledger["calls"]) == {1}
        assert set(probe.recording.samples["call"]) == {0}

    def test_recomputation_in_backward_is_no_forward(self) -> None:
        from torch.utils.checkpoint import checkpoint

        model = Pair()
        with normprobe.Probe(model) as probe:
            x = torch.randn(2, 4, requires_grad=True)
            model.head(checkpoint(model.encoder, x, use_reentrant=True)).sum().backward()
        assert probe.recording.meta["forwards"] == 2  # the encoder, the head
        assert set(probe.recording.ledger["calls"]) == {1}


class _Head(nn.Module):
    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Any) -> Tensor:
        return self.norm(x[0] if isinstance(x, tuple) else x)


class TestBatchAndTime:
    @pytest.mark.parametrize(
        ("x", "examples"),
        [
            (torch.randn(4), 1),
            (torch.randn(3, 4), 3),
            (torch.randn(2, 3, 4), 2),
        ],
    )
    def test_leading_size_is_the_batch(self, x: Tensor, examples: int) -> None:
        recording = normprobe.record(Pair(), [x])
        assert recording.meta["examples"] == examples
        positions = x.numel() // 4 // examples
        assert _pairs(recording, "head") == _grid(examples, positions)
        assert all(_aligned(recording).values())

    def test_a_vector_of_whole_numbers_is_a_batch(self) -> None:
        model = nn.Sequential(nn.Embedding(9, 4), nn.LayerNorm(4))
        recording = normprobe.record(model, [torch.tensor([1, 2, 3])])
        assert recording.meta["examples"] == 3
        assert _pairs(recording, "1") == _grid(3, 1)

    def test_the_order_of_the_signature_counts_not_of_the_call(self) -> None:
        class Vision(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.text, self.patches = nn.LayerNorm(4), nn.LayerNorm(4)

            def forward(self, inputs_embeds: Tensor, pixel_values: Tensor | None = None) -> Tensor:
                assert pixel_values is not None
                return self.text(inputs_embeds) + self.patches(pixel_values).mean()

        model = Vision()
        with normprobe.Probe(model) as probe:
            model(pixel_values=torch.randn(7, 4), inputs_embeds=torch.randn(2, 3, 4))
        assert probe.recording.meta["examples"] == 2
        assert _pairs(probe.recording, "text") == _grid(2, 3)
        assert _aligned(probe.recording) == {"text": True, "patches": False}

    @pytest.mark.parametrize(
        "batch",
        [
            (torch.randn(2, 3, 4), [1]),
            ([torch.randn(2, 3, 4)], None),
            ({"x": torch.randn(2, 3, 4)}, 0),
            (torch.randn(2, 3, 4), torch.randn(5)),
        ],
    )
    def test_tensors_inside_lists_and_mappings(self, batch: tuple[Any, Any]) -> None:
        class Odd(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.norm = nn.LayerNorm(4)

            def forward(self, first: Any, *rest: Any, **more: Any) -> Tensor:
                return self.norm(
                    first["x"] if isinstance(first, dict) else first[0] if isinstance(first, list) else first
                )

        assert _pairs(normprobe.record(Odd(), [batch]), "norm") == _grid(2, 3)

    def test_no_tensor_at_all_is_one_example(self) -> None:
        class Source(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.norm = nn.LayerNorm(4)

            def forward(self, width: int = 4) -> Tensor:
                return self.norm(torch.ones(width))

        model = Source()
        with normprobe.Probe(model) as probe:
            model()
        assert _pairs(probe.recording, "norm") == {(0, 0)}


class Recurrent(nn.Module):
    def __init__(self, batch_first: bool = False) -> None:
        super().__init__()
        self.lstm, self.norm = nn.LSTM(4, 6, batch_first=batch_first), nn.LayerNorm(6)
        self.head, self.last = nn.Linear(6, 2), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        out, (hidden, _) = self.lstm(x)
        self.head(self.norm(out))
        return self.last(hidden[-1])


class TestTimeFirst:
    """torch modules with batch_first=False read (time, batch, features)."""

    def test_lstm(self) -> None:
        model = Recurrent()
        recording = normprobe.record(model, [torch.randn(5, 3, 4), torch.randn(7, 2, 4)])
        assert recording.meta["examples"] == 5
        expected = _grid(3, 5) | {(example, position) for example in (3, 4) for position in range(7)}
        assert _pairs(recording, "norm") == expected
        assert _pairs(recording, "head") == expected
        assert _pairs(recording, "last") == _grid(5, 1)
        assert all(_aligned(recording).values())

    def test_batch_first_gives_the_same_samples(self) -> None:
        torch.manual_seed(0)
        theirs, ours = Recurrent(False), Recurrent(True)
        ours.load_state_dict(theirs.state_dict())
        batches = [torch.randn(n, 5, 4) for n in (3, 5, 2)]  # five examples of five positions, too
        one = normprobe.record(theirs, [batch.transpose(0, 1) for batch in batches], part="x")
        other = normprobe.record(ours, batches, part="x")
        identity = ["layer", "site", "call", "repeat", "example", "position"]
        pd.testing.assert_frame_equal(one.samples[identity], other.samples[identity])
        assert np.allclose(one.samples["mean"], other.samples["mean"], atol=1e-6)
        assert one.meta["digests"] == other.meta["digests"]
        assert (
            (one.meta["examples"], one.meta["rows"])
            == (other.meta["examples"], other.meta["rows"])
            == (10, 50)
        )

    def test_as_many_positions_as_examples_on_the_first_call(self) -> None:
        recording = normprobe.record(Recurrent(), [torch.randn(3, 3, 4), torch.randn(5, 2, 4)])
        expected = _grid(3, 3) | {(example, position) for example in (3, 4) for position in range(5)}
        assert _pairs(recording, "norm") == expected
        assert all(_aligned(recording).values())

    def test_one_sequence_without_a_batch(self) -> None:
        recording = normprobe.record(Recurrent(), [torch.randn(5, 4)])
        assert recording.meta["examples"] == 1
        assert _pairs(recording, "norm") == _grid(1, 5)

    @pytest.mark.filterwarnings("ignore:enable_nested_tensor is True")
    @pytest.mark.parametrize("norm_first", [True, False])
    @pytest.mark.parametrize("wrapped", [True, False])
    def test_transformer_encoder(self, norm_first: bool, wrapped: bool) -> None:
        layer = nn.TransformerEncoderLayer(8, 2, 16, norm_first=norm_first)
        model = nn.TransformerEncoder(layer, 1)
        recording = normprobe.record(_Wrapped(model) if wrapped else model, [torch.randn(5, 3, 8)])
        prefix = "inner." if wrapped else ""
        assert _pairs(recording, f"{prefix}layers.0.norm1") == _grid(3, 5)
        assert recording.meta["examples"] == 3

    def test_attention(self) -> None:
        class Attending(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.attention, self.norm = nn.MultiheadAttention(4, 2), nn.LayerNorm(4)

            def forward(self, x: Tensor) -> Tensor:
                return self.norm(self.attention(query=x, key=x, value=x)[0])

        assert _pairs(normprobe.record(Attending(), [torch.randn(5, 3, 4)]), "norm") == _grid(3, 5)

    def test_one_that_reads_something_else_says_nothing(self) -> None:
        class Convolved(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.norm, self.lstm = nn.LayerNorm(4), nn.LSTM(4, 4)

            def forward(self, x: Tensor) -> Tensor:
                return self.lstm(self.norm(x).transpose(0, 1))[0]

        assert _pairs(normprobe.record(Convolved(), [torch.randn(3, 5, 4)]), "norm") == _grid(3, 5)


class _Wrapped(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)


class TestAlignment:
    def test_flattened(self) -> None:
        class Flat(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.flat, self.norm, self.batch = nn.Linear(4, 4), nn.LayerNorm(4), nn.BatchNorm1d(4)

            def forward(self, x: Tensor) -> Tensor:
                return self.batch(self.flat(self.norm(x).reshape(-1, 4)))

        recording = normprobe.record(Flat(), [torch.randn(3, 5, 4), torch.randn(2, 6, 4)])
        expected = _grid(3, 5) | {(example, position) for example in (3, 4) for position in range(6)}
        assert (
            _pairs(recording, "norm") == _pairs(recording, "flat") == _pairs(recording, "batch") == expected
        )

    def test_per_head_norms(self) -> None:
        config = Qwen3Config(**SMALL, num_hidden_layers=1, num_key_value_heads=1, head_dim=8, pad_token_id=0)
        recording = normprobe.record(Qwen3Model(config), [torch.randint(0, 50, (2, 5))])
        queries, keys = (f"layers.0.self_attn.{name}_norm" for name in "qk")
        assert _pairs(recording, queries) == _grid(2, 10)  # two heads at each of five positions
        assert _pairs(recording, keys) == _pairs(recording, "norm") == _grid(2, 5)
        assert all(_aligned(recording).values())

    def test_images(self) -> None:
        model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Flatten(2))
        model.append(_Tokens())
        recording = normprobe.record(model, [torch.randn(2, 3, 2, 5)])
        assert _pairs(recording, "1") == _grid(2, 1)
        assert _pairs(recording, "3.norm") == _grid(2, 10)

    def test_windows_are_numbered_within_the_layer(self) -> None:
        class Windows(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.norm, self.window = nn.LayerNorm(4), nn.LayerNorm(4)

            def forward(self, x: Tensor) -> Tensor:
                return self.window(self.norm(x).reshape(-1, 3, 4))

        recording = normprobe.record(Windows(), [torch.randn(2, 6, 4), torch.randn(1, 9, 4)])
        assert _pairs(recording, "window") == _grid(7, 3)
        assert _aligned(recording) == {"norm": True, "window": False}
        assert recording.ledger["reason"].tolist() == ["", UNALIGNED]

    def test_a_later_call_that_does_not_fit_is_numbered_within_the_layer(self) -> None:
        model = nn.Sequential(nn.LayerNorm(4))
        odd = _Reshaping(model)
        recording = normprobe.record(
            odd, [(torch.randn(2, 3, 4), (2, 3, 4)), (torch.randn(2, 5, 4), (5, 2, 4))]
        )
        assert _aligned(recording) == {"inner.0": False}
        samples = _of(recording.samples, "inner.0")
        assert set(samples[samples["call"] == 0]["example"]) == {0, 1}
        assert set(samples[samples["call"] == 1]["example"]) == {0, 1, 2, 3, 4}

    def test_another_number_of_features_is_left_out_and_counted(self) -> None:
        class Elastic(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.scaled_norm = _Elastic()

            def forward(self, x: Tensor) -> Tensor:
                return self.scaled_norm(x)

        recording = normprobe.record(Elastic(), [torch.randn(2, 4), torch.randn(2, 6), torch.randn(2, 4)])
        row = recording.ledger.iloc[0]
        assert (row["calls"], row["n_features"]) == (2, 4)
        assert "a call with 6 features instead of 4 at its input is left out" in row["reason"]
        assert _pairs(recording, "scaled_norm") == {(e, 0) for e in (0, 1, 4, 5)}


class _Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.transpose(1, 2))


class _Reshaping(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor, sizes: tuple[int, ...]) -> Tensor:
        return self.inner(x.reshape(sizes))


class _Elastic(nn.Module):
    """Normalizes whatever width it meets."""

    eps = 1e-6

    def forward(self, x: Tensor) -> Tensor:
        return x / (x.square().mean(-1, keepdim=True) + self.eps).sqrt()


class TestRepeats:
    def test_albert_calls_its_one_layer_twelve_times(self) -> None:
        config = AlbertConfig(**SMALL, embedding_size=8, num_hidden_layers=12, max_position_embeddings=16)
        recording = normprobe.record(AlbertModel(config), [torch.randint(0, 50, (2, 3))] * 2)
        layer = "encoder.albert_layer_groups.0.albert_layers.0.ffn"
        samples = _of(recording.samples, layer)
        assert len(samples) == 2 * 12 * 2 * 3
        assert samples.groupby("call")["repeat"].agg(set).tolist() == [set(range(12))] * 2
        assert recording.ledger.set_index("layer").loc[layer, "calls"] == 24
        # A sample and its repeats share a hash: ties go by repeat.
        few = _of(
            normprobe.record(AlbertModel(config), [torch.randint(0, 50, (2, 3))], samples=16).samples, layer
        )
        assert few.groupby(["example", "position"], sort=False)["repeat"].agg(list).tolist() == [
            list(range(12)),
            list(range(4)),
        ]

    def test_a_cell_is_called_once_a_step(self) -> None:
        class Unrolled(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.cell = nn.Linear(4, 4)

            def forward(self, x: Tensor) -> Tensor:
                state = torch.zeros(x.shape[0], 4)
                for step in range(x.shape[1]):
                    state = self.cell(state + x[:, step])
                return state

        recording = normprobe.record(Unrolled(), [torch.randn(2, 3, 4)])
        samples = _of(recording.samples, "cell")
        found = set(samples[["repeat", "example", "position"]].itertuples(index=False, name=None))
        assert found == {(step, example, 0) for step in range(3) for example in range(2)}

    def test_a_call_that_is_left_out_counts_all_the_same(self) -> None:
        class Thrice(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.scaled_norm = _Elastic()

            def forward(self, x: Tensor) -> Tensor:
                self.scaled_norm(x)
                self.scaled_norm(x.repeat(1, 2))
                return self.scaled_norm(x)

        recording = normprobe.record(Thrice(), [torch.randn(2, 4)])
        for site in ("input", "output"):
            assert set(_of(recording.samples, "scaled_norm", site)["repeat"]) == {0, 2}


class TestNested:
    """torch's encoder turns a padded batch into a NestedTensor where it may."""

    lengths = (3, 5, 2)

    def _encoder(self) -> tuple[nn.Module, Tensor, Tensor]:
        torch.manual_seed(0)
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0)
        model = nn.TransformerEncoder(layer, 2, norm=nn.LayerNorm(8)).eval()
        padding = torch.arange(5) >= torch.tensor(self.lengths)[:, None]
        return model, torch.randn(3, 5, 8), padding

    @pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
    def test_components_are_examples_and_rows_positions(self) -> None:
        model, x, padding = self._encoder()
        with torch.no_grad(), normprobe.Probe(model) as probe:
            model(x, src_key_padding_mask=padding)
            model(x, src_key_padding_mask=padding)
        recording = probe.recording
        expected = {
            (3 * call + e, p) for call in (0, 1) for e, n in enumerate(self.lengths) for p in range(n)
        }
        ledger = recording.ledger.set_index("layer")
        for layer in ("layers.0.norm1", "layers.1.linear2", "norm"):
            assert _pairs(recording, layer) == expected
            assert bool(ledger.loc[layer, "aligned"])
        assert ledger.loc["layers.0.norm1", "masked_by"] == ""
        assert ledger.loc["norm", "masked_by"] == "src_key_padding_mask"
        assert "switch off torch's fused encoder layer" in ledger.loc["layers.0.norm1", "reason"]
        assert ledger.loc["layers.0.self_attn.out_proj", "status"] == "bypassed"

    @pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
    def test_statistics_are_those_of_the_padded_way(self) -> None:
        model, x, padding = self._encoder()
        with normprobe.Probe(model) as padded:  # with gradients torch keeps the padding
            model(x, src_key_padding_mask=padding)
        with torch.no_grad(), normprobe.Probe(model) as nested:
            model(x, src_key_padding_mask=padding)
        a, b = padded.recording, nested.recording
        assert a.ledger.set_index("layer").loc["layers.0.norm1", "masked_by"] == "src_key_padding_mask"
        identity = ["layer", "site", "example", "position"]
        # NestedTensors pass through torch's fused attention, whose projections nothing sees.
        samples, features = (
            frame[frame["layer"].isin(b.layers["layer"])].reset_index(drop=True)
            for frame in (a.samples, a.features)
        )
        pd.testing.assert_frame_equal(samples[identity], b.samples[identity])
        assert np.allclose(features["mean"], b.features["mean"], atol=1e-5)
        assert np.allclose(features["variance"], b.features["variance"], rtol=1e-4, atol=1e-6)

    @pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
    @pytest.mark.parametrize("layout", [torch.strided, torch.jagged])
    def test_given_by_the_user(self, layout: torch.layout) -> None:
        rows = [torch.randn(n, 4) for n in self.lengths]
        recording = normprobe.record(
            nn.Sequential(nn.LayerNorm(4)), [torch.nested.nested_tensor(rows, layout=layout)]
        )
        assert _pairs(recording, "0") == {(e, p) for e, n in enumerate(self.lengths) for p in range(n)}
        features = _of(recording.features, "0")
        assert np.allclose(features["mean"], torch.cat(rows).mean(0), atol=1e-6)
        assert recording.meta["examples"] == 3


class TestLabels:
    """The text of a sample goes by its example and position, as everything else does."""

    real = torch.tensor([[0, 1, 1], [1, 1, 1]])

    def _recorded(self, texts: list[list[str]]) -> dict[tuple[int, int], str]:
        class Masked(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.norm, self.flat = nn.LayerNorm(4), nn.Linear(4, 4)

            def forward(self, x: Tensor, attention_mask: Tensor) -> Tensor:
                return self.flat(self.norm(x).reshape(-1, 4))

        batches = [(torch.randn(2, 3, 4), self.real)] * 2
        labels = normprobe.record(Masked(), batches, labels=lambda args, kwargs: texts).labels
        keys = zip(labels["example"].tolist(), labels["position"].tolist(), strict=True)
        return dict(zip(keys, labels["text"].tolist(), strict=True))

    @pytest.mark.parametrize("first", [["[PAD]", "a", "b"], ["a", "b"]], ids=["padded", "real"])
    def test_padding_has_none(self, first: list[str]) -> None:
        once = {(0, 0): "a", (0, 1): "b", (1, 0): "c", (1, 1): "d", (1, 2): "e"}
        again = {(example + 2, position): text for (example, position), text in once.items()}
        assert self._recorded([first, ["c", "d", "e"]]) == once | again

    def test_too_few_are_left_empty(self) -> None:
        assert self._recorded([["[PAD]", "a", "b"]]) == {(0, 0): "a", (0, 1): "b", (2, 0): "a", (2, 1): "b"}


class TestThreads:
    def test_counts_are_exact(self) -> None:
        torch.manual_seed(0)
        model, threads, forwards = Pair(), 4, 25
        data = [torch.randn(threads * forwards, 3, 4)[i::threads] for i in range(threads)]
        barrier = threading.Barrier(threads)

        def run(rows: Tensor) -> None:
            barrier.wait()
            with torch.no_grad():
                for row in rows:
                    model(row)

        with normprobe.Probe(model, samples="all") as probe:
            workers = [threading.Thread(target=run, args=(rows,)) for rows in data]
            for worker in workers:
                worker.start()
            for worker in workers:
                worker.join()
        recording = probe.recording
        total = threads * forwards
        assert recording.meta["forwards"] == total
        assert set(recording.ledger["calls"]) == {total}
        assert set(recording.layers["n_samples"]) == {total * 3}
        assert _pairs(recording, "head", "output") == _grid(total * 3, 1)
        everything = torch.cat(data).reshape(-1, 4).double().numpy()
        features = _of(recording.features, "encoder.0")
        assert np.allclose(features["mean"], everything.mean(0), atol=1e-6)
        assert np.allclose(features["variance"], everything.var(0), rtol=1e-6)


class TestDigests:
    """Equal digests are the same data, whatever the batch size."""

    def _digest(self, batches: list[Any], **options: Any) -> list[int]:
        return normprobe.record(Pair(), batches, part="x", **options).meta["digests"]["x"]

    def test_equal_for_equal_data_and_other_batch_sizes(self) -> None:
        data = torch.randn(8, 3, 4)
        expected = self._digest([data])
        assert expected[0] == 8
        assert self._digest(list(data.split(3))) == expected
        assert self._digest(list(data.split(1))) == expected
        assert self._digest([data.clone().transpose(0, 1).contiguous().transpose(0, 1)]) == expected

    @pytest.mark.parametrize("shape", [(8, 4), (4, 3, 4), (2, 70, 300)])
    def test_one_changed_number_changes_it(self, shape: tuple[int, ...]) -> None:
        data = torch.randn(shape)
        expected = int(digest(data, 0))
        for index in (0, data.numel() // 2, data.numel() - 1):
            other = data.clone()
            other.view(-1)[index] += 1e-3
            assert int(digest(other, 0)) != expected

    def test_order_shape_and_type_matter(self) -> None:
        data = torch.randn(6, 2, 4)
        found = [
            data,
            data.flip(0),
            data.flip(1),
            data.flip(2),
            data.reshape(6, 4, 2),
            data.double(),
            data.half(),
        ]
        assert len({int(digest(one, 0)) for one in found}) == len(found)
        assert int(digest(data, 0)) != int(digest(data, 1))

    @pytest.mark.parametrize(
        "data",
        [
            torch.tensor([[True, False]]),
            torch.randint(0, 9, (2, 3), dtype=torch.uint8),
            torch.randn(2, 3).bfloat16(),
            torch.randn(5),
            torch.tensor([1, 2, 3]),
            torch.tensor(2.0),
        ],
        ids=lambda data: f"{data.dtype}-{data.dim()}",
    )
    def test_every_type_has_one(self, data: Tensor) -> None:
        assert int(digest(data, 0)) != 0

    def test_what_cannot_be_read_has_none(self) -> None:
        assert int(digest(torch.ones(2, 3, device="meta"), 0)) == 0
        assert int(digest(torch.ones(0, 3), 0)) == 0
        assert int(digest(torch.ones(2, 3, dtype=torch.complex64), 0)) == 0

    def test_padding_does_not_count(self) -> None:
        model = BertModel(
            BertConfig(**SMALL, num_hidden_layers=1, max_position_embeddings=16, pad_token_id=0)
        )
        ids = torch.tensor([[5, 6, 7, 0, 0], [8, 9, 0, 0, 0]])

        def found(ids: Tensor) -> Any:
            batch = {"input_ids": ids, "attention_mask": (ids != 0).long()}
            return normprobe.record(model, [batch], part="x", layers="pooler*").meta["digests"]

        expected = found(ids)
        assert found(ids[:, :3]) == expected
        assert found(torch.tensor([[0, 5, 6, 7], [0, 0, 8, 9]])) == expected
        assert found(torch.tensor([[5, 6, 7, 0], [9, 8, 0, 0]])) != expected

    def test_whatever_the_padding_holds(self) -> None:
        data, real = torch.randn(2, 3, 4), np.array([[True, True, False], [True, False, False]])
        other = torch.where(torch.from_numpy(real)[:, :, None], data, 9.0)
        assert int(digest(data, 0, real=real)) == int(digest(other, 0, real=real))
        assert int(digest(data, 0, real=real)) != int(digest(data, 0))
