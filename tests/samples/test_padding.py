"""The same real tokens with any padding, left or right, in any form of mask, give the same statistics."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from transformers.models.bart import BartConfig, BartForConditionalGeneration
from transformers.models.bert import BertConfig, BertModel
from transformers.models.gpt2 import GPT2Config, GPT2LMHeadModel
from transformers.models.hunyuan_v1_dense import HunYuanDenseV1Config, HunYuanDenseV1Model
from transformers.models.llama import LlamaConfig, LlamaForCausalLM
from transformers.models.olmo2 import Olmo2Config, Olmo2Model
from transformers.models.phi import PhiConfig, PhiModel
from transformers.models.qwen3 import Qwen3Config, Qwen3Model
from transformers.models.t5 import T5Config, T5ForConditionalGeneration

import normprobe
from normprobe.capture.states.layer_state import UNALIGNED
from tests.helpers.tiny_models import FIFTH

SHARED = {"vocab_size": 50, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
TEXTS = [
    torch.randint(3, 50, (length,), generator=torch.Generator().manual_seed(length)) for length in (3, 5, 2)
]
ANSWERS = [
    torch.randint(3, 50, (length,), generator=torch.Generator().manual_seed(length)) for length in (4, 1, 3)
]
IDENTITY = ["layer", "site", "call", "repeat", "example", "position"]


def _bert() -> nn.Module:
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    return BertModel(BertConfig(**SHARED, **shape, max_position_embeddings=32))


def _gpt2() -> nn.Module:
    return GPT2LMHeadModel(GPT2Config(**SHARED, n_embd=16, n_layer=1, n_head=2, n_positions=32))


def _llama() -> nn.Module:
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    return LlamaForCausalLM(LlamaConfig(**SHARED, **shape, max_position_embeddings=32))


def _t5() -> nn.Module:
    shape = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
    return T5ForConditionalGeneration(T5Config(**SHARED, **shape, decoder_start_token_id=0))


def _bart() -> nn.Module:
    sides = [
        {f"{side}_layers": 1, f"{side}_attention_heads": 2, f"{side}_ffn_dim": 32}
        for side in ("encoder", "decoder")
    ]
    return BartForConditionalGeneration(
        BartConfig(
            **SHARED, **sides[0], **sides[1], d_model=16, max_position_embeddings=32, forced_eos_token_id=None
        )
    )


BUILDERS: dict[str, Callable[[], nn.Module]] = {
    "bert": _bert,
    "gpt2": _gpt2,
    "llama": _llama,
    "t5": _t5,
    "bart": _bart,
}


@pytest.fixture(scope="module")
def models() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    built = {name: build().double().eval() for name, build in BUILDERS.items()}
    for model in built.values():  # fresh norms and biases are 1 and 0: nothing to tell layers apart by
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.3) if parameter.dim() > 1 else nn.init.uniform_(
                parameter, 0.5, 1.5
            )
    return built


@pytest.fixture(scope="module")
def expected(models: dict[str, nn.Module]) -> Callable[..., normprobe.Recording]:
    """The recording of the shortest right padding, made once."""
    return functools.cache(
        lambda name, layers=None: normprobe.record(models[name], [_inputs(name, 5)], layers=layers)
    )


def _no_pooler(name: str, module: nn.Module) -> bool:
    """A pooler reads the first token, real or not: with left padding it reads another one."""
    return "pooler" not in name


def _padded(texts: list[Tensor], width: int, *, left: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """Token ids, mask and position ids, each (batch, width)."""
    ids, mask, positions = (torch.zeros(len(texts), width, dtype=torch.long) for _ in range(3))
    for row, text in enumerate(texts):
        at = slice(width - len(text), width) if left else slice(0, len(text))
        ids[row, at], mask[row, at], positions[row, at] = text, 1, torch.arange(len(text))
    return ids, mask, positions


def _inputs(name: str, width: int, *, left: bool = False) -> dict[str, Tensor]:
    ids, mask, positions = _padded(TEXTS, width, left=left)
    inputs = {"input_ids": ids, "attention_mask": mask}
    if name in ("t5", "bart"):
        # Positions in T5 are relative; those of BART cannot be given, so only its right padding is padding.
        answers, theirs, _ = _padded(ANSWERS, width - 1, left=left)
        return {**inputs, "decoder_input_ids": answers, "decoder_attention_mask": theirs}
    return {**inputs, "position_ids": positions}


def _assert_same(found: normprobe.Recording, expected: normprobe.Recording, tolerance: float = 1e-9) -> None:
    """Every statistic within ``tolerance`` of its site's scale, every kept sample the same one."""
    tables = {
        name: (getattr(found, name), getattr(expected, name)) for name in ("layers", "features", "samples")
    }
    variance = expected.layers.set_index(["layer", "site"])["within_feature_variance"]
    for name, (a, b) in tables.items():
        key = [column for column in ("layer", "site", "feature", "position") if column in b]
        pd.testing.assert_frame_equal(a[key], b[key])
        scale = np.maximum(variance.reindex(pd.MultiIndex.from_frame(b[["layer", "site"]])).to_numpy(), 1e-3)
        for column in b.columns:
            if b[column].dtype == "float64" and column not in ("eps", "zero_fraction"):
                unit = scale if "variance" in column else np.sqrt(scale)
                assert a[column].isna().equals(b[column].isna()), (name, column)
                far = (np.abs(a[column] - b[column]) / unit).fillna(0)
                assert far.max() <= tolerance, (name, column, b.loc[far.idxmax(), key].to_dict(), far.max())
    pd.testing.assert_frame_equal(found.samples[IDENTITY], expected.samples[IDENTITY])
    counts = ["layer", "site", "n_samples", "nonfinite", "calls"]
    # Transformers 4 makes NaN of padding rows of T5 in float64, by the mask that it fills.
    counts += ["nonfinite_masked"] if FIFTH else []
    pd.testing.assert_frame_equal(found.layers[counts], expected.layers[counts])


def _n_samples(recording: normprobe.Recording, layer: str) -> int:
    return int(_of(recording.layers, layer)["n_samples"].item())


def _of(table: pd.DataFrame, layer: str, site: str = "input") -> pd.DataFrame:
    return table[(table["layer"] == layer) & (table["site"] == site)]


def _ledger(recording: normprobe.Recording) -> pd.DataFrame:
    return recording.ledger.set_index("layer")


# Left padding shifts the positions of BART, which cannot be given.
SIDES = [(name, left) for name in BUILDERS for left in (False, True) if name != "bart" or not left]


@pytest.mark.parametrize(("name", "left"), SIDES, ids={False: "right", True: "left"}.get)
@pytest.mark.parametrize("times", [1, 2, 4])
def test_padding_is_invisible(
    models: dict[str, nn.Module],
    expected: Callable[..., normprobe.Recording],
    name: str,
    left: bool,
    times: int,
) -> None:
    layers = _no_pooler if left else None
    found = normprobe.record(models[name], [_inputs(name, 5 * times, left=left)], layers=layers)
    # T5 of transformers 4 computes the attention's weights in float32, over the padding's width, too.
    _assert_same(found, expected(name, layers), 1e-9 if FIFTH or name != "t5" else 2e-6)
    assert (found.ledger["aligned"]).all()
    left_out = [reason for reason in found.ledger["reason"] if not reason.startswith("its class says")]
    assert set(left_out) == {""}


@pytest.mark.parametrize("name", list(BUILDERS))
def test_padded_is_as_unpadded(
    models: dict[str, nn.Module], expected: Callable[..., normprobe.Recording], name: str
) -> None:
    """Against the texts one by one, where no mask has a say."""
    together, model = expected(name), models[name]
    with torch.no_grad(), normprobe.Probe(model) as probe:
        for text, answer in zip(TEXTS, ANSWERS, strict=True):
            two_sided = {"decoder_input_ids": answer[None]} if name in ("t5", "bart") else {}
            model(input_ids=text[None], **two_sided)
    apart = probe.recording
    unlike = [column for column in IDENTITY if column != "call"]
    pd.testing.assert_frame_equal(apart.samples[unlike], together.samples[unlike])
    for table in ("layers", "features", "samples"):
        for column in ("mean", "variance", "min", "max"):
            a, b = getattr(apart, table)[column], getattr(together, table)[column]
            assert np.allclose(a, b, rtol=1e-9, atol=1e-9), (table, column)
    assert apart.layers["masked"].sum() == 0


@pytest.mark.parametrize("name", ["bert", "gpt2", "t5"])
def test_in_float32_within_its_rounding(models: dict[str, nn.Module], name: str) -> None:
    model = BUILDERS[name]().eval()
    model.load_state_dict(models[name].state_dict())
    short = normprobe.record(model, [_inputs(name, 5)])
    _assert_same(normprobe.record(model, [_inputs(name, 20)]), short, tolerance=1e-3)


@pytest.mark.parametrize("sizes", [[1, 1, 1], [2, 1], [1, 2]])
def test_batches_padded_to_their_longest(models: dict[str, nn.Module], sizes: list[int]) -> None:
    whole = _inputs("llama", 5)
    split = zip(*(value.split(sizes) for value in whole.values()), strict=True)
    batches = [dict(zip(whole, values, strict=True)) for values in split]
    for batch in batches:
        longest = int(batch["attention_mask"].sum(1).max())
        batch.update({key: value[:, :longest] for key, value in batch.items()})
    found = normprobe.record(models["llama"], batches, part="x")
    expected = normprobe.record(models["llama"], [whole], part="x")
    assert found.meta["digests"] == expected.meta["digests"]
    unlike = ["layer", "site", "repeat", "example", "position"]
    pd.testing.assert_frame_equal(found.samples[unlike], expected.samples[unlike])
    assert np.allclose(found.features["variance"], expected.features["variance"], rtol=1e-9)


class TestForms:
    """Each form a mask may take, as keyword or by position, says the same."""

    real = _padded(TEXTS, 6)[1].bool()
    low = torch.finfo(torch.float64).min

    @pytest.mark.parametrize(
        "form",
        [
            real,
            real.long(),
            real.double(),
            torch.zeros(3, 1, 1, 6, dtype=torch.float64).masked_fill(~real[:, None, None], low),
            torch.zeros(3, 1, 6, 6, dtype=torch.float64).masked_fill(~real[:, None, None], low),
        ],
        ids=["bool", "int", "float", "additive-1-row", "additive"],
    )
    @pytest.mark.parametrize("name", ["bert", "gpt2"])
    def test_of_transformers(self, models: dict[str, nn.Module], name: str, form: Tensor) -> None:
        inputs = _inputs(name, 6)
        if name == "bert" and form.dim() == 4 and not FIFTH:
            pytest.skip("transformers 4 takes masks of two or three axes for BERT")
        if name == "gpt2" and form.dim() == 4:
            causal = torch.ones(6, 6, dtype=torch.bool).tril()
            allowed = self.real[:, None, None] & causal
            form = torch.zeros(3, 1, 6, 6, dtype=torch.float64).masked_fill(~allowed, self.low)
        expected = normprobe.record(models[name], [inputs])
        _assert_same(normprobe.record(models[name], [{**inputs, "attention_mask": form}]), expected)

    def test_by_position(self, models: dict[str, nn.Module]) -> None:
        inputs = _inputs("bert", 6)
        args = (inputs["input_ids"], inputs["attention_mask"], None, inputs["position_ids"])
        expected = normprobe.record(models["bert"], [inputs])
        _assert_same(normprobe.record(models["bert"], [args]), expected)

    def test_in_a_mapping(self, models: dict[str, nn.Module]) -> None:
        class Wrapped(nn.Module):
            def __init__(self, inner: nn.Module) -> None:
                super().__init__()
                self.inner = inner

            def forward(self, features: dict[str, Tensor]) -> Any:
                return self.inner(**features)

        inputs = _inputs("llama", 6)
        found = normprobe.record(Wrapped(models["llama"]), [(inputs,)])
        expected = normprobe.record(models["llama"], [inputs])
        assert found.layers["n_samples"].tolist() == expected.layers["n_samples"].tolist()
        assert np.allclose(found.layers["mean"], expected.layers["mean"], rtol=1e-12, atol=1e-12)

    @pytest.mark.parametrize("form", ["bool", "float"])
    @pytest.mark.parametrize("batch_first", [True, False])
    def test_of_torch_inverted(self, form: str, batch_first: bool) -> None:
        model = _Attending(batch_first).double().eval()
        data = torch.randn(3, 6, 8, dtype=torch.float64)
        mask = (
            ~self.real if form == "bool" else torch.zeros(3, 6).double().masked_fill(~self.real, -torch.inf)
        )
        found = normprobe.record(model, [(data if batch_first else data.transpose(0, 1), mask)])
        fused = found.ledger["status"] == "bypassed"  # a kernel that wants the batch first
        assert fused.any() == batch_first
        assert set(found.ledger["masked_by"][~fused]) == {"my_key_padding_mask"}
        assert _n_samples(found, "norm") == int(self.real.sum())
        rows = model.norm(data)[self.real].detach().numpy()
        features = found.features.query("layer == 'norm' and site == 'output'")
        assert np.allclose(features["mean"], rows.mean(0), atol=1e-12)
        assert np.allclose(features["variance"], rows.var(0), rtol=1e-12)


class _Attending(nn.Module):
    def __init__(self, batch_first: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=batch_first)

    def forward(self, x: Tensor, my_key_padding_mask: Tensor) -> Tensor:
        x = self.norm(x)
        return self.attention(x, x, x, key_padding_mask=my_key_padding_mask)[0]


class TestEncoderDecoder:
    @pytest.mark.parametrize("name", ["t5", "bart"])
    def test_cross_attention_reads_the_encoders_mask(self, models: dict[str, nn.Module], name: str) -> None:
        recording = normprobe.record(models[name], [_inputs(name, 6)])
        cross = ".EncDecAttention." if name == "t5" else ".encoder_attn."
        keys = ("k", "v", "k_proj", "v_proj")
        for layer, row in _ledger(recording).iterrows():
            side = "decoder" if "decoder" in str(layer) or layer == "lm_head" else "encoder"
            if cross in str(layer) and str(layer).split(".")[-1] in keys:
                side = "encoder"
            expected = ("decoder_attention_mask", 8) if side == "decoder" else ("attention_mask", 10)
            assert (row["masked_by"], _n_samples(recording, str(layer))) == expected, layer

    @pytest.mark.parametrize("name", ["t5", "bart"])
    @pytest.mark.parametrize("wrapped", [False, True])
    def test_without_a_decoder_mask_it_is_unmasked_even_at_equal_length(
        self, models: dict[str, nn.Module], name: str, wrapped: bool
    ) -> None:
        class Task(nn.Module):
            def __init__(self, inner: nn.Module) -> None:
                super().__init__()
                self.inner = inner

            def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Any:
                return self.inner(input_ids, attention_mask, decoder_input_ids=input_ids)

        inputs = {
            key: value for key, value in _inputs(name, 6).items() if key in ("input_ids", "attention_mask")
        }
        if wrapped:
            recording = normprobe.record(Task(models[name]), [inputs])
        else:
            recording = normprobe.record(models[name], [{**inputs, "labels": inputs["input_ids"]}])
        masked = _ledger(recording)["masked_by"]
        of_decoder = masked[[("decoder" in layer or "lm_head" in layer) for layer in masked.index]]
        crosses = of_decoder.index.str.contains(r"(?:EncDecAttention|encoder_attn)\.[kv](?:_proj)?$")
        assert set(of_decoder[crosses]) == {"attention_mask"}
        assert set(of_decoder[~crosses]) == {""}
        assert set(masked[[".encoder." in "." + layer for layer in masked.index]]) == {"attention_mask"}

    def test_the_decoder_has_begun_although_none_of_its_layers_is_probed(
        self, models: dict[str, nn.Module]
    ) -> None:
        recording = normprobe.record(models["t5"], [_inputs("t5", 6)], layers="lm_head")
        assert recording.ledger["masked_by"].tolist() == ["decoder_attention_mask"]

    @pytest.mark.filterwarnings("ignore:enable_nested_tensor is True")
    def test_torch_transformer(self) -> None:
        torch.manual_seed(0)
        model = nn.Transformer(8, 2, 1, 1, 16, dropout=0.0, batch_first=False).double().eval()
        source, target = torch.randn(6, 3, 8).double(), torch.randn(4, 3, 8).double()
        theirs = _padded(ANSWERS, 4)[1].bool()
        real = TestForms.real
        with torch.no_grad(), normprobe.Probe(model) as probe:
            model(source, target, src_key_padding_mask=~real, tgt_key_padding_mask=~theirs)
        assert _n_samples(probe.recording, "encoder.layers.0.norm1") == 10
        assert _n_samples(probe.recording, "decoder.layers.0.norm1") == 8
        assert _n_samples(probe.recording, "decoder.norm") == 8
        with torch.no_grad(), normprobe.Probe(model) as probe:
            model(source, target)
        fired = probe.recording.ledger.query("status == 'fired'")
        assert fired["aligned"].all()
        assert _n_samples(probe.recording, "decoder.norm") == 12
        samples = probe.recording.samples.query("layer == 'decoder.norm' and site == 'output'")
        assert (samples["example"].max(), samples["position"].max()) == (2, 3)


def _generate(model: nn.Module, inputs: dict[str, Tensor]) -> None:
    given = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    model.generate(**given, max_new_tokens=3, do_sample=False, eos_token_id=None)


class TestCache:
    def test_mask_that_grows_with_the_cache(self, models: dict[str, nn.Module]) -> None:
        model = models["gpt2"]
        inputs = _inputs("gpt2", 6, left=True)
        with torch.no_grad(), normprobe.Probe(model) as probe:
            _generate(model, inputs)
        recording = probe.recording
        assert recording.meta["forwards"] == 3
        assert _n_samples(recording, "transformer.h.0.ln_1") == 10 + 2 * 3
        samples = recording.samples.query("layer == 'transformer.h.0.ln_1' and site == 'input'")
        prompt, steps = samples[samples["call"] == 0], samples[samples["call"] > 0]
        assert prompt.groupby("example")["position"].max().to_dict() == {0: 2, 1: 4, 2: 1}
        assert set(steps["position"]) == {0}
        assert sorted(steps["example"]) == [3, 4, 5, 6, 7, 8]
        assert set(recording.ledger["reason"]) == {""}

    def test_encoder_decoder_generates(self, models: dict[str, nn.Module]) -> None:
        model, inputs = models["t5"], _inputs("t5", 6)
        with torch.no_grad(), normprobe.Probe(model) as probe:
            _generate(model, inputs)
        assert _n_samples(probe.recording, "encoder.final_layer_norm") == 10
        assert _n_samples(probe.recording, "decoder.final_layer_norm") == 9
        # The encoder's keys are computed once and cached.
        assert _n_samples(probe.recording, "decoder.block.0.layer.1.EncDecAttention.k") == 10
        assert probe.recording.ledger["aligned"].all()


class _Tagger(nn.Module):
    """Reads a packed sequence, pads it again, and works on both."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.packed, self.norm = nn.LSTM(4, 6), nn.Linear(6, 6), nn.LayerNorm(6)

    def forward(self, x: Any) -> Tensor:
        out, _ = self.lstm(x)
        out = out._replace(data=self.packed(out.data))
        return self.norm(pad_packed_sequence(out)[0])


def test_packed_sequences() -> None:
    torch.manual_seed(0)
    model, lengths = _Tagger().double(), [3, 5, 2]
    data = torch.randn(3, 5, 4, dtype=torch.float64)
    packed = pack_padded_sequence(data, torch.tensor(lengths), batch_first=True, enforce_sorted=False)
    together = normprobe.record(model, [(packed,)])
    with torch.no_grad(), normprobe.Probe(model) as probe:
        for row, length in enumerate(lengths):
            model(
                pack_padded_sequence(data[row : row + 1, :length], torch.tensor([length]), batch_first=True)
            )
    apart = probe.recording
    identity = ["layer", "site", "example", "position"]
    pd.testing.assert_frame_equal(together.samples[identity], apart.samples[identity])
    for column in ("mean", "variance"):
        assert np.allclose(together.samples[column], apart.samples[column], rtol=1e-9, atol=1e-12)
        assert np.allclose(together.features[column], apart.features[column], rtol=1e-9, atol=1e-12)
    assert together.layers["n_samples"].tolist() == [10] * 4
    assert together.ledger["aligned"].all()
    assert _ledger(together)["masked_by"].to_dict() == {"packed": "", "norm": "x"}


class _Channels(nn.Module):
    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        return self.norm(x)


class TestChannels:
    """A norm over channels sees the padding: what is real and what it saw are both told."""

    real = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 1, 1]], dtype=torch.bool)

    def _data(self) -> Tensor:
        data = torch.randn(3, 2, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        return torch.where(self.real[:, None], data, 7.0)

    def test_batch_norm_saw_padding(self) -> None:
        data = self._data()
        recording = normprobe.record(_Channels(nn.BatchNorm1d(2).double()), [(data, self.real)])
        rows, everything = (
            data.transpose(1, 2)[self.real].numpy(),
            data.transpose(1, 2).reshape(-1, 2).numpy(),
        )
        features = recording.features.query("site == 'input'")
        assert np.allclose(features["mean"], rows.mean(0), rtol=1e-12)
        assert np.allclose(features["variance"], rows.var(0), rtol=1e-12)
        assert np.allclose(features["seen_mean"], everything.mean(0), rtol=1e-12)
        assert np.allclose(features["seen_variance"], everything.var(0), rtol=1e-12)
        assert features["count"].tolist() == [8, 8]
        layers = recording.layers.query("site == 'input'")
        assert (layers["masked"].item(), layers["n_samples"].item()) == (4, 3)

    def test_without_a_mask_it_saw_what_was_real(self) -> None:
        recording = normprobe.record(_Channels(nn.BatchNorm1d(2).double()), [(self._data(),)])
        features = recording.features.query("site == 'input'")
        assert features["seen_mean"].tolist() == features["mean"].tolist()
        assert features["seen_variance"].tolist() == features["variance"].tolist()

    def test_a_padded_batch_after_one_without_padding(self) -> None:
        data = self._data()
        recording = normprobe.record(_Channels(nn.BatchNorm1d(2).double()), [(data,), (data, self.real)])
        everything = data.transpose(1, 2).reshape(-1, 2).numpy()
        features = recording.features.query("site == 'input'")
        assert features["count"].tolist() == [20, 20]
        assert np.allclose(features["seen_variance"], everything.var(0), rtol=1e-12)

    def test_nan_in_padding_only(self) -> None:
        data = torch.where(self.real[:, None], self._data(), torch.nan)
        recording = normprobe.record(_Channels(nn.BatchNorm1d(2).double()), [(data, self.real)])
        layers = recording.layers.query("site == 'input'")
        assert (layers["nonfinite_masked"].item(), layers["nonfinite"].item()) == (8, 0)
        data[0, 1, 0] = torch.inf
        recording = normprobe.record(_Channels(nn.BatchNorm1d(2).double()), [(data, self.real)])
        layers = recording.layers.query("site == 'input'")
        assert (layers["nonfinite_masked"].item(), layers["nonfinite"].item()) == (8, 1)
        assert recording.features.query("site == 'input'")["nonfinite"].tolist() == [0, 1]

    @pytest.mark.parametrize("norm", [nn.GroupNorm(2, 2), nn.InstanceNorm1d(2)], ids=["group", "instance"])
    def test_other_channel_norms(self, norm: nn.Module) -> None:
        data = self._data()
        recording = normprobe.record(_Channels(norm.double()), [(data, self.real)], samples="all")
        samples = recording.samples.query("site == 'input'").set_index("example")
        for row in range(3):
            own = data[row][:, self.real[row]].numpy()
            assert samples.loc[row, "mean"] == pytest.approx(own.mean(), rel=1e-12)
            assert samples.loc[row, "variance"] == pytest.approx(own.var(), rel=1e-12)
        assert recording.features["seen_mean"].isna().all()

    def test_an_example_that_is_all_padding(self) -> None:
        real = self.real.clone()
        real[1] = False
        recording = normprobe.record(_Channels(nn.BatchNorm1d(2).double()), [(self._data(), real)])
        assert sorted(recording.samples.query("site == 'input'")["example"]) == [0, 2]
        empty = normprobe.record(_Channels(nn.BatchNorm1d(2).double()), [(self._data(), real & False)])
        assert empty.layers["n_samples"].tolist() == [0, 0]
        assert "without a sample" in empty.ledger["reason"].item()


class _Shapes(nn.Module):
    """A pooler, per-head and flattened layers beside a plain one."""

    def __init__(self) -> None:
        super().__init__()
        self.plain, self.heads, self.flat, self.merged = (
            nn.Linear(6, 6),
            nn.LayerNorm(3),
            nn.Linear(6, 6),
            nn.LayerNorm(3),
        )
        self.inner, self.pooler, self.last, self.every_other = (
            nn.LayerNorm(3),
            nn.Linear(6, 2),
            nn.Linear(6, 2),
            nn.Linear(6, 2),
        )

    def forward(self, x: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        batch, time, _ = x.shape
        x = self.plain(x)
        self.inner(x.view(batch, time, 2, 3))
        per_head = x.view(batch, time, 2, 3).transpose(1, 2)
        self.heads(per_head)
        self.merged(per_head.reshape(batch * 2, time, 3))
        self.flat(x.reshape(batch * time, 6))
        self.last(x[:, -1:])
        self.every_other(x[:, ::2])
        return self.pooler(x[:, 0])


class TestShapes:
    @pytest.mark.parametrize("width", [5, 9])
    def test_flattened_and_per_head(self, width: int) -> None:
        torch.manual_seed(0)
        model = _Shapes().double()
        data = torch.randn(3, 12, 6, dtype=torch.float64)[:, :width]
        real = torch.arange(width) < torch.tensor([[3], [5], [2]])
        recording = normprobe.record(model, [(data, real)])
        counts = {
            layer: _n_samples(recording, layer) for layer in ("plain", "inner", "heads", "merged", "flat")
        }
        assert counts == {"plain": 10, "inner": 20, "heads": 20, "merged": 20, "flat": 10}
        x = model.plain(data).detach()[real].reshape(-1, 2, 3).numpy()
        for layer in ("inner", "heads", "merged"):
            features = _of(recording.features, layer)
            assert np.allclose(features["mean"], x.mean((0, 1)), rtol=1e-12, atol=1e-14)
            samples = _of(recording.samples, layer)
            assert samples.groupby("example")["position"].max().to_dict() == {0: 5, 1: 9, 2: 3}
        masked = _ledger(recording)["masked_by"]
        assert set(masked[["plain", "inner", "heads", "merged", "flat"]]) == {"attention_mask"}

    def test_as_many_heads_as_positions_read_as_on_a_call_that_was_certain(self) -> None:
        model = _Shapes().double()
        batches = [torch.randn(3, width, 6, dtype=torch.float64) for width in (5, 2)]
        masks = [torch.arange(width) < torch.tensor([[width], [1], [1]]) for width in (5, 2)]
        recording = normprobe.record(model, list(zip(batches, masks, strict=True)))
        rows = [model.plain(x).detach()[real].reshape(-1, 3) for x, real in zip(batches, masks, strict=True)]
        expected = torch.cat(rows).mean(0).numpy()
        for layer in ("heads", "inner", "merged"):
            features = _of(recording.features, layer)
            assert np.allclose(features["mean"], expected, rtol=1e-12, atol=1e-14), layer

    def test_as_many_heads_as_positions_read_by_their_strides_until_a_call_tells(self) -> None:
        model = _Shapes().double()
        x, real = torch.randn(3, 2, 6, dtype=torch.float64), torch.arange(2) < torch.tensor([[2], [1], [1]])
        recording = normprobe.record(model, [(x, real)])
        rows = model.plain(x).detach()[real].reshape(-1, 3)
        for layer in ("heads", "inner"):
            for site, values in (("input", rows), ("output", nn.LayerNorm(3).double()(rows).detach())):
                mean = _of(recording.features, layer, site)["mean"]
                assert np.allclose(mean, values.mean(0).numpy(), rtol=1e-12, atol=1e-14), (layer, site)

    def test_layers_that_read_fewer_positions_count_from_0(self) -> None:
        recording = normprobe.record(_Shapes(), [(torch.randn(3, 6, 6), TestForms.real)])
        ledger = _ledger(recording)
        for layer, positions in (("pooler", {0}), ("last", {0}), ("every_other", {0, 1, 2})):
            samples = _of(recording.samples, layer)
            assert set(samples["position"]) == positions
            assert set(samples["example"]) == {0, 1, 2}
            assert ledger.loc[layer, "masked_by"] == ""
            assert bool(ledger.loc[layer, "aligned"])
        assert ledger.loc["pooler", "reason"] == ledger.loc["last", "reason"] == ""
        assert (
            ledger.loc["every_other", "reason"]
            == "its samples (3, 3) do not fit attention_mask (3, 6): unmasked"
        )

    def test_what_cannot_be_aligned_is_unmasked_and_says_so(self) -> None:
        class Experts(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.expert = nn.Linear(6, 6)

            def forward(self, x: Tensor, attention_mask: Tensor) -> Tensor:
                return self.expert(x.flatten(0, 1)[:7])

        recording = normprobe.record(Experts(), [(torch.randn(3, 6, 6), TestForms.real)] * 2)
        row = _ledger(recording).loc["expert"]
        assert not row["aligned"]
        assert row["masked_by"] == ""
        said = "its samples (7,) do not fit attention_mask (3, 6): unmasked (2 times)"
        assert row["reason"] == f"{said}; {UNALIGNED}"
        samples = recording.samples.query("site == 'input'")
        assert sorted(samples["example"]) == list(range(14))


SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 32}
HEADS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    # (batch, time, heads, size); (batch, time, all heads); (batch, heads, time, size), the last one rotated
    "qwen3": (lambda: Qwen3Model(Qwen3Config(**SHARED, **SMALL, num_key_value_heads=4, head_dim=4)), 4),
    "olmo2": (lambda: Olmo2Model(Olmo2Config(**SHARED, **SMALL)), 16),
    "phi": (lambda: PhiModel(PhiConfig(**SHARED, **SMALL, qk_layernorm=True)), 4),
    "hunyuan": (lambda: HunYuanDenseV1Model(HunYuanDenseV1Config(**SHARED, **SMALL, head_dim=4)), 4),
}


class TestNormsPerHead:
    @pytest.mark.parametrize("width", [4, 5, 9])
    @pytest.mark.parametrize("left", [False, True])
    @pytest.mark.parametrize("name", list(HEADS))
    def test_their_padding_is_left_out(self, name: str, left: bool, width: int) -> None:
        """Against the texts one by one; padded to 4 there are as many heads as positions."""
        torch.manual_seed(0)
        build, features = HEADS[name]
        model = build().double().eval()
        texts = [TEXTS[0], TEXTS[1][:4], TEXTS[2]]
        ids, mask, positions = _padded(texts, width, left=left)
        with torch.no_grad(), normprobe.Probe(model, kinds=["layer_norm", "rms_norm"]) as probe:
            model(input_ids=ids, attention_mask=mask, position_ids=positions)
        with torch.no_grad(), normprobe.Probe(model, kinds=["layer_norm", "rms_norm"]) as alone:
            for text in texts:
                model(input_ids=text[None])
        found, expected = probe.recording, alone.recording
        per_head = found.ledger[
            found.ledger["layer"].str.contains(r"[qk]_norm|[qk]_layernorm|(?:query|key)_l")
        ]
        assert per_head["n_features"].tolist() == [features, features]
        assert set(found.ledger["masked_by"]) == {"attention_mask"}
        assert found.layers["n_samples"].equals(expected.layers["n_samples"])
        for table, key in (("features", "feature"), ("samples", "position")):
            a, b = getattr(found, table), getattr(expected, table)
            assert a[["layer", "site", key]].equals(b[["layer", "site", key]])
            for column in ("mean", "variance", "min", "max"):
                assert np.allclose(a[column], b[column], rtol=1e-9, atol=1e-9), (table, column)


class TestGivenMasks:
    def test_callable(self, models: dict[str, nn.Module]) -> None:
        inputs = _inputs("llama", 6)
        expected = normprobe.record(models["llama"], [inputs])
        found = normprobe.record(
            models["llama"], [inputs], mask=lambda args, kwargs: kwargs["input_ids"] != 0
        )
        _assert_same(found, expected)
        assert set(found.ledger["masked_by"]) == {"mask"}

    def test_callable_may_say_none(self) -> None:
        recording = normprobe.record(_Shapes(), [torch.randn(3, 6, 6)], mask=lambda args, kwargs: None)
        assert _n_samples(recording, "plain") == 18

    def test_dict_of_globs(self) -> None:
        masks = {"pl*": TestForms.real, "flat": ~TestForms.real}
        recording = normprobe.record(_Shapes(), [torch.randn(3, 6, 6)], mask=masks)
        counts = {layer: _n_samples(recording, layer) for layer in ("plain", "flat", "heads")}
        assert counts == {"plain": 10, "flat": 8, "heads": 36}
        assert _ledger(recording)["masked_by"].to_dict() | {"plain": "pl*", "flat": "flat", "heads": ""} == (
            _ledger(recording)["masked_by"].to_dict()
        )

    def test_none_measures_everything(self, models: dict[str, nn.Module]) -> None:
        recording = normprobe.record(models["bert"], [_inputs("bert", 6)], mask=None, layers="encoder.*")
        assert set(recording.layers["n_samples"]) == {18}
        assert set(recording.ledger["masked_by"]) == {""}

    @pytest.mark.parametrize("mask", [torch.ones(3), [[True]]])
    def test_what_is_no_mask(self, mask: Any) -> None:
        with pytest.raises(
            normprobe.NormprobeError, match=r"must be a bool tensor \(batch, positions\), True = real"
        ):
            normprobe.record(_Shapes(), [torch.randn(3, 6, 6)], mask=lambda args, kwargs: mask)

    def test_one_row_for_all(self) -> None:
        real = torch.tensor([[True, True, False, True]])
        recording = normprobe.record(_Shapes(), [(torch.randn(3, 4, 6), real)])
        assert _n_samples(recording, "plain") == 9
        assert _n_samples(recording, "heads") == 18

    def test_a_mask_with_a_batch_of_its_own(self) -> None:
        class TwoTowers(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.image, self.text = nn.Linear(4, 4), nn.Linear(4, 4)

            def forward(self, pixels: Tensor, queries: Tensor, attention_mask: Tensor) -> Tensor:
                return self.image(pixels), self.text(queries)

        real = torch.tensor([[1, 1, 0], [1, 0, 0], [1, 1, 1], [1, 1, 0]])
        recording = normprobe.record(TwoTowers(), [(torch.randn(2, 5, 4), torch.randn(4, 3, 4), real)])
        ledger = _ledger(recording)
        assert (ledger.loc["text", "masked_by"], _n_samples(recording, "text")) == ("attention_mask", 8)
        assert (ledger.loc["image", "masked_by"], _n_samples(recording, "image")) == ("", 10)
        assert ledger["aligned"].to_dict() == {"image": True, "text": False}
