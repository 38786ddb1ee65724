"""Each layer has the mask of what it reads: of the right argument, and at its own number of positions.

Held against the rows that are real, taken from the bare model by hooks of the test's own, in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor, nn

import normprobe
from normprobe.capture.identity.plan_cache import PlanCache
from tests.helpers.oracle import tensors

Inputs = dict[str, Any]


def real(lengths: list[int], positions: int) -> Tensor:
    """A mask of so many real positions at the beginning of each example."""
    return torch.arange(positions) < torch.tensor(lengths)[:, None]


def assert_real_rows(
    model: nn.Module, inputs: Inputs, masks: Mapping[str, Tensor | None], *, channels: tuple[str, ...] = ()
) -> normprobe.Recording:
    """Hold the named layers to their real rows, (batch, positions) of a mask by layer; None: all are."""
    model = model.double().eval()
    with torch.no_grad():
        seen = tensors(model, masks, lambda: model(**inputs))
    recording = normprobe.record(model, [inputs])
    features = dict(list(recording.features.groupby(["layer", "site"])))
    for (layer, site), values in seen.items():
        value, mask = values[0], masks[layer]
        moved = value.movedim(1, -1) if layer in channels else value
        rows = (moved.flatten(0, -2) if mask is None else _laid(moved, mask)).numpy()
        found = features[layer, site]
        assert found["count"].tolist() == [len(rows)] * rows.shape[1], (layer, site)
        assert np.allclose(found["mean"], rows.mean(0), rtol=1e-9, atol=1e-12), (layer, site)
        assert np.allclose(found["variance"], rows.var(0), rtol=1e-9, atol=1e-12), (layer, site)
    return recording


def _laid(value: Tensor, mask: Tensor) -> Tensor:
    """The real rows of (batch, positions, ..., features), or of heads beside the batch."""
    if value.shape[:2] != mask.shape:
        value = value.transpose(1, 2)
    return value[mask].flatten(0, -2)


class Attention(nn.Module):
    """Attention whose names say nothing of what it reads."""

    def __init__(self) -> None:
        super().__init__()
        self.to_q, self.to_k, self.to_v = (nn.Linear(8, 8) for _ in range(3))
        self.norm_q, self.norm_k, self.to_out = nn.LayerNorm(8), nn.LayerNorm(8), nn.Linear(8, 8)

    def forward(self, h: Tensor, context: Tensor, mask: Tensor | None = None) -> Tensor:
        scores = self.norm_q(self.to_q(h)) @ self.norm_k(self.to_k(context)).mT
        if mask is not None:
            scores = scores.masked_fill(mask[:, None] == 0, -1e9)
        return self.to_out(scores.softmax(-1) @ self.to_v(context))


class Projection(nn.Module):
    """What makes a text as wide as an image."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 8), nn.Linear(8, 8)

    def forward(self, text: Tensor) -> Tensor:
        return self.second(self.first(text).relu())


class Denoiser(nn.Module):
    """An image that reads a text twice, through a projection and a view of it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patch, self.project = nn.Conv2d(4, 8, 2, 2), Projection()
        self.attn1, self.attn2, self.again = Attention(), Attention(), Attention()

    def forward(
        self, hidden_states: Tensor, encoder_hidden_states: Tensor, encoder_attention_mask: Tensor
    ) -> Tensor:
        image = self.patch(hidden_states).flatten(2).transpose(1, 2)
        text = self.project(encoder_hidden_states).view(len(image), -1, 8)
        image = image + self.attn1(image, image)
        image = image + self.attn2(image, text, encoder_attention_mask)
        return image + self.again(image, text, encoder_attention_mask)


OF_THE_TEXT = [f"{name}.{part}" for name in ("attn2", "again") for part in ("to_k", "norm_k", "to_v")]
OF_THE_TEXT += ["project.first", "project.second"]
OF_THE_IMAGE = ["attn1.to_k", "attn1.norm_q", "attn1.to_v", "attn2.to_q", "attn2.norm_q", "again.to_out"]


class TestWhichArgument:
    @pytest.mark.parametrize("positions", [5, 16, 64])
    @pytest.mark.parametrize("mode", [torch.no_grad, torch.enable_grad, torch.inference_mode])
    def test_cross_attention_of_any_name_reads_the_texts_mask(
        self, positions: int, mode: Callable[[], Any]
    ) -> None:
        """At as many positions as the image has, too: what layers made of the text is still the text."""
        mask = real([positions, 2], positions)
        inputs = {
            "hidden_states": torch.randn(2, 4, 8, 8).double(),
            "encoder_hidden_states": torch.randn(2, positions, 6).double(),
            "encoder_attention_mask": mask.long(),
        }
        model = Denoiser()
        masks = dict.fromkeys(OF_THE_TEXT, mask) | dict.fromkeys(OF_THE_IMAGE)
        recording = assert_real_rows(model, inputs, masks)
        with mode(), normprobe.Probe(model) as probe:
            model(**inputs)
        for found in (recording.ledger, probe.recording.ledger):
            by_mask = found.set_index("layer")["masked_by"]
            assert set(by_mask[OF_THE_TEXT]) == {"encoder_attention_mask"}
            assert set(by_mask[OF_THE_IMAGE]) == {""}
            assert set(found["reason"]) == {""}

    def test_two_texts_have_two_masks(self) -> None:
        class Two(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.clip, self.t5, self.image = nn.Linear(6, 8), nn.Linear(4, 8), nn.LayerNorm(8)

            def forward(
                self,
                sample: Tensor,
                states: Tensor,
                text_mask: Tensor,
                states_t5: Tensor,
                text_mask_t5: Tensor,
            ) -> Tensor:
                return self.image(sample).sum() + self.clip(states).sum() + self.t5(states_t5).sum()

        clip, t5 = real([5, 2], 5), real([3, 7], 7)
        inputs = {
            "sample": torch.randn(2, 16, 8).double(),
            "states": torch.randn(2, 5, 6).double(),
            "text_mask": clip,
            "states_t5": torch.randn(2, 7, 4).double(),
            "text_mask_t5": t5.long(),
        }
        recording = assert_real_rows(Two(), inputs, {"clip": clip, "t5": t5, "image": None})
        masked_by = recording.ledger.set_index("layer")["masked_by"].to_dict()
        assert masked_by == {"clip": "text_mask", "t5": "text_mask_t5", "image": ""}

    def test_a_layer_that_reads_both_has_each_ones_mask(self) -> None:
        class Shared(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.norm = nn.LayerNorm(8)

            def forward(self, x: Tensor, context: Tensor, context_mask: Tensor) -> Tensor:
                return self.norm(x).sum() + self.norm(context).sum()

        mask = real([5, 2], 5)
        inputs = {"x": torch.randn(2, 9, 8), "context": torch.randn(2, 5, 8), "context_mask": mask}
        recording = normprobe.record(Shared(), [inputs] * 3)
        assert recording.layers["n_samples"].tolist() == [3 * (18 + 7)] * 2
        assert recording.layers["masked"].tolist() == [9, 9]

    @pytest.mark.parametrize("positions", [6, 4])
    def test_a_decoder_reads_the_encoders_mask_where_it_reads_its_output(self, positions: int) -> None:
        class Translator(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.table = nn.Embedding(9, 8)
                self.encoder, self.decoder = nn.ModuleList([nn.Linear(8, 8), nn.LayerNorm(8)]), Attention()

            def forward(
                self,
                input_ids: Tensor,
                attention_mask: Tensor,
                decoder_input_ids: Tensor,
                decoder_attention_mask: Tensor,
            ) -> Tensor:
                memory = self.table(input_ids)
                for layer in self.encoder:
                    memory = layer(memory)
                return self.decoder(self.table(decoder_input_ids), memory, attention_mask)

        source, target = real([6, 3, 1], 6), real([positions, 1, 2], positions)
        inputs = {
            "input_ids": torch.randint(9, (3, 6)),
            "attention_mask": source.long(),
            "decoder_input_ids": torch.randint(9, (3, positions)),
            "decoder_attention_mask": target.long(),
        }
        masks = dict.fromkeys(["encoder.1", "decoder.to_k", "decoder.norm_k", "decoder.to_v"], source)
        masks |= dict.fromkeys(["decoder.to_q", "decoder.norm_q", "decoder.to_out"], target)
        assert_real_rows(Translator(), inputs, masks)

    def test_images_beside_a_masked_text_are_not_padded(self) -> None:
        class Pair(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.pixels, self.patch = nn.LayerNorm(8), nn.Conv2d(3, 8, 4, 4)
                self.text = nn.Embedding(9, 8)
                self.words, self.merged = nn.LayerNorm(8), nn.LayerNorm(8)

            def forward(self, input_ids: Tensor, attention_mask: Tensor, pixel_values: Tensor) -> Tensor:
                image = self.pixels(self.patch(pixel_values).flatten(2).transpose(1, 2))
                self.merged(image.flatten(0, 1)[:6])
                return self.words(self.text(input_ids)).sum() + image.sum()

        mask = real([12, 6], 12)
        inputs = {
            "input_ids": torch.randint(9, (2, 12)),
            "attention_mask": mask,
            "pixel_values": torch.randn(2, 3, 8, 8).double(),
        }
        recording = assert_real_rows(Pair(), inputs, {"words": mask, "pixels": None})
        assert recording.findings(["padding_unmasked"]).empty

    def test_an_unused_mask_is_named_once(self) -> None:
        class Net(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.first, self.second = nn.Linear(8, 8), nn.LayerNorm(8)

            def forward(self, x: Tensor, mask: Tensor) -> Tensor:
                return self.second(self.first(x))

        batch = (torch.randn(2, 6, 8), real([5, 2], 6))
        recording = normprobe.record(Net(), [batch] * 3)
        assert recording.meta["warnings"] == [
            "the argument mask looks like a mask of padding and was not used: hand it to Probe(mask=...)"
        ]
        assert set(recording.layers["n_samples"]) == {36}
        assert normprobe.record(Net(), [batch], mask=None).meta["warnings"] == []
        given = normprobe.record(Net(), [batch], mask=lambda args, kwargs: args[1])
        assert given.meta["warnings"] == []
        assert set(given.layers["n_samples"]) == {7}


WAVE = {
    **{"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32},
    **{"conv_dim": (16, 16, 16), "conv_stride": (5, 2, 2), "conv_kernel": (10, 3, 3)},
    **{"num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2, "vocab_size": 32},
    **{"num_feat_extract_layers": 3, "mask_time_prob": 0.0, "apply_spec_augment": False},
}
WAVES = [
    "Wav2Vec2",
    "Hubert",
    "WavLM",
    "UniSpeech",
    "UniSpeechSat",
    "Data2VecAudio",
    "Wav2Vec2Conformer",
    "SEW",
]
SIDES = {
    f"{side}_{name}": size
    for side in ("encoder", "decoder")
    for name, size in {"layers": 1, "attention_heads": 2, "ffn_dim": 32}.items()
}
LENGTHS = [3200, 1600, 801]


def waves() -> Inputs:
    mask = real(LENGTHS, 3200)
    return {"input_values": torch.randn(3, 3200).double() * mask, "attention_mask": mask.long()}


def spectra(bins: int, *, last: bool) -> Inputs:
    data = torch.randn(3, 200, bins).double()
    mask = real([200, 101, 60], 200)
    return {"input_features": data if last else data.transpose(1, 2), "attention_mask": mask.long()}


@pytest.fixture
def float64_by_default() -> Iterator[None]:
    """Transformers 4 fills the mask of a model in float64 in the default dtype, which does not hold it."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


class TestStrides:
    """Masks of audio samples or input frames where layers see fewer."""

    @pytest.mark.filterwarnings("ignore")
    @pytest.mark.parametrize("name", WAVES)
    def test_of_audio_samples(self, name: str) -> None:
        torch.manual_seed(0)
        model = getattr(transformers, f"{name}Model")(getattr(transformers, f"{name}Config")(**WAVE))
        frames = model._get_feat_extract_output_lengths(torch.tensor(LENGTHS)).tolist()
        assert frames == [159, 79, 39]
        mask, layer = real(frames, 159), "layer_norm" if name == "SEW" else "feature_projection.layer_norm"
        recording = assert_real_rows(model, waves(), {layer: mask})
        assert recording.findings(["padding_unmasked"]).empty
        ledger = recording.ledger[~recording.ledger["layer"].str.endswith("linear_pos")]
        assert set(ledger.query("status == 'fired'")["masked_by"]) == {"attention_mask"}
        assert set(ledger["reason"]) == {""}
        if name != "Data2VecAudio":
            norm = "feature_extractor.conv_layers.0.layer_norm"
            assert recording.findings(["padding_in_norm"])["layer"].tolist() == [norm]

    @pytest.mark.parametrize(
        ("name", "inputs", "config", "frames"),
        [
            (
                "Whisper",
                spectra(8, last=False),
                {"num_mel_bins": 8, "max_source_positions": 100},
                [100, 51, 30],
            ),
            ("Speech2Text", spectra(8, last=True), {"input_feat_per_channel": 8}, [50, 26, 15]),
        ],
    )
    @pytest.mark.usefixtures("float64_by_default")
    def test_of_input_frames_in_an_encoder_decoder(
        self, name: str, inputs: Inputs, config: dict[str, Any], frames: list[int]
    ) -> None:
        torch.manual_seed(0)
        tokens = {"vocab_size": 50, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
        tokens |= {"decoder_start_token_id": 1, "d_model": 16}
        made = getattr(transformers, f"{name}Config")(**tokens, **SIDES, **config)
        model = getattr(transformers, f"{name}Model")(made)
        mask = real(frames, frames[0])
        masks: dict[str, Tensor | None] = dict.fromkeys(
            [
                "encoder.layers.0.self_attn.q_proj",
                "encoder.layer_norm",
                "decoder.layers.0.encoder_attn.v_proj",
            ],
            mask,
        )
        masks |= dict.fromkeys(["decoder.layers.0.encoder_attn.q_proj", "decoder.layer_norm"])
        given = {**inputs, "decoder_input_ids": torch.randint(3, 50, (3, 6))}
        recording = assert_real_rows(model, given, masks)
        assert set(recording.ledger["reason"]) == {""}

    def test_of_frames_of_time_and_frequency(self) -> None:
        torch.manual_seed(0)
        config = transformers.ParakeetEncoderConfig(
            **{"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32},
            **{"num_mel_bins": 16, "subsampling_conv_channels": 8, "conv_kernel_size": 3},
        )
        masks = dict.fromkeys(
            ["subsampling.linear", "layers.0.norm_out", "layers.0.conv.norm"], real([25, 13, 8], 25)
        )
        model = transformers.ParakeetEncoder(config)
        recording = assert_real_rows(model, spectra(16, last=True), masks, channels=("layers.0.conv.norm",))
        found = recording.findings(["padding_in_norm", "padding_unmasked"])
        assert found[["check", "layer"]].to_numpy().tolist() == [["padding_in_norm", "layers.0.conv.norm"]]

    @pytest.mark.parametrize(
        "norm", [nn.BatchNorm1d(8), nn.GroupNorm(2, 8), nn.InstanceNorm1d(8, affine=True)]
    )
    def test_channel_norms_behind_a_stride(self, norm: nn.Module) -> None:
        class Net(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.conv, self.norm, self.out = nn.Conv1d(4, 8, 3, 2, padding=1), norm, nn.Linear(8, 8)

            def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
                return self.out(self.norm(self.conv(x.transpose(1, 2))).transpose(1, 2))

        mask = real([20, 10, 2], 20)
        inputs = {"x": torch.randn(3, 40, 4).double() + 2, "lengths": torch.tensor([40, 19, 3])}
        inputs["x"] *= real([40, 19, 3], 40)[..., None]
        recording = assert_real_rows(Net(), inputs, {"norm": mask, "out": mask}, channels=("norm",))
        if not isinstance(norm, nn.BatchNorm1d):
            assert recording.findings(["padding_in_norm"])["layer"].tolist() == ["norm"]
            return
        with torch.no_grad():
            seen = Net().conv.double()(inputs["x"].transpose(1, 2)).movedim(1, -1).flatten(0, 1).numpy()
        told = recording.features.query("layer == 'norm' and site == 'input'")
        assert told["seen_variance"].notna().all()
        assert len(seen) == 60

    def test_norms_over_images_of_time_and_frequency(self) -> None:
        class Net(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.first, self.second = nn.Conv2d(1, 4, 3, 2, padding=1), nn.Conv2d(4, 4, 3, 2, padding=1)
                self.batch, self.group = nn.BatchNorm2d(4), nn.GroupNorm(2, 4)

            def forward(self, x: Tensor, x_mask: Tensor) -> Tensor:
                return self.group(self.second(self.batch(self.first(x[:, None]))))

        inputs = {"x": torch.randn(3, 40, 16).double(), "x_mask": real([40, 21, 9], 40)}
        masks = {"batch": real([20, 11, 5], 20), "group": real([10, 6, 3], 10)}
        assert_real_rows(Net(), inputs, masks, channels=("batch", "group"))

    def test_what_reads_stacked_frames_has_its_mask_where_each_stack_is_whole(self) -> None:
        x, mask = torch.randn(3, 12, 8).double(), real([4, 3, 1], 4)
        assert_real_rows(Stacked(), {"x": x, "attention_mask": real([12, 9, 3], 12)}, {"out": mask})


class Extended(nn.Module):
    """Puts a prompt of its own before the text, or padding behind it."""

    def __init__(self, prompt: bool) -> None:
        super().__init__()
        self.prompt, self.table = prompt, nn.Embedding(20, 8, padding_idx=0)
        self.own, self.norm = nn.Parameter(torch.randn(4, 8)), nn.LayerNorm(8)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        size = len(input_ids)
        if self.prompt:
            return self.norm(torch.cat([self.own.expand(size, -1, -1), self.table(input_ids)], 1))
        return self.norm(self.table(nn.functional.pad(input_ids, (0, 4))))


@pytest.mark.parametrize("prompt", [True, False])
def test_positions_that_a_model_puts_before_a_text_are_real_and_its_padding_behind_is_not(
    prompt: bool,
) -> None:
    mask = real([12, 8, 4], 12)
    inputs = {"input_ids": torch.randint(1, 20, (3, 12)) * mask, "attention_mask": mask.long()}
    own = torch.full((3, 4), prompt)
    extended = torch.cat([own, mask] if prompt else [mask, own], 1)
    recording = assert_real_rows(Extended(prompt), inputs, {"norm": extended})
    assert recording.findings(["padding_unmasked"]).empty


class Stacked(nn.Module):
    """Three positions as one."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(24, 8)

    def forward(self, x: Tensor, attention_mask: Tensor) -> Tensor:
        return self.out(x.reshape(len(x), 4, 24))


class Windows(nn.Module):
    """Windows of five positions, with the rest of the last one made up."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(8), nn.Linear(8, 8)

    def forward(self, x: Tensor, attention_mask: Tensor) -> Tensor:
        return self.second(self.first(nn.functional.pad(x, (0, 0, 0, 3)).reshape(-1, 5, 8)))


class Queries(nn.Module):
    """Learned queries that read what is not padding."""

    def __init__(self) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(4, 8))
        self.attention, self.norm, self.out = Attention(), nn.LayerNorm(8), nn.Linear(8, 8)

    def forward(self, x: Tensor, attention_mask: Tensor) -> Tensor:
        queries = self.queries.repeat(len(x), 1, 1)
        return self.out(queries + self.attention(self.norm(queries), x, attention_mask))


class TestWhatAMaskDoesNotFit:
    x = torch.randn(3, 12, 8)

    @pytest.mark.parametrize(("net", "layers"), [(Stacked, ["out"]), (Windows, ["first", "second"])])
    def test_a_finding_says_in_how_many_layers_padding_is(
        self, net: Callable[[], nn.Module], layers: list[str]
    ) -> None:
        recording = normprobe.record(net(), [(self.x, real([12, 8, 3], 12))] * 2)
        found = recording.findings(["padding_unmasked"])
        assert found[["layer", "value", "layers_affected"]].to_numpy().tolist() == [
            [layers[0], len(layers), len(layers)]
        ]
        assert found["affected"].item() == "; ".join(layers)
        assert (
            normprobe.record(net(), [(self.x, real([12, 12, 12], 12))]).findings(["padding_unmasked"]).empty
        )
        unasked = normprobe.record(net(), [(self.x, real([12, 8, 3], 12))], mask=None)
        assert unasked.findings(["padding_unmasked"]).empty

    def test_rows_of_an_expert_are_not_taken_for_stacked_positions(self) -> None:
        class Experts(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.expert = nn.Linear(8, 8)

            def forward(self, x: Tensor, attention_mask: Tensor) -> Tensor:
                return self.expert(x.flatten(0, 1)[::3])

        recording = normprobe.record(Experts(), [(self.x, real([12, 9, 3], 12))])
        assert recording.layers["n_samples"].tolist() == [12, 12]
        assert recording.ledger["masked_by"].tolist() == [""]
        assert recording.findings(["padding_unmasked"]).empty

    def test_learned_queries_hold_no_padding(self) -> None:
        recording = normprobe.record(Queries(), [(self.x, real([12, 8, 4], 12))] * 2)
        assert recording.findings(["padding_unmasked"]).empty
        counts = recording.layers.query("site == 'input'").set_index("layer")["n_samples"]
        assert counts[["attention.to_k", "attention.to_q", "out"]].tolist() == [48, 24, 24]


@pytest.mark.parametrize("positions", [5, 16])
def test_plans_change_nothing_where_several_sequences_have_masks(
    positions: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(0)
    batches = [
        {
            "hidden_states": torch.randn(2, 4, 8, 8, generator=generator),
            "encoder_hidden_states": torch.randn(2, positions, 6, generator=generator),
            "encoder_attention_mask": real([positions, 1 + seed % positions], positions).long(),
        }
        for seed in range(12)
    ]
    model = Denoiser()
    planned = normprobe.record(model, batches, part="p", samples=20)
    monkeypatch.setattr(PlanCache, "make", lambda *args, **kwargs: None)
    never = normprobe.record(model, batches, part="p", samples=20)
    for name in ("layers", "features", "samples", "ledger"):
        assert getattr(planned, name).equals(getattr(never, name)), name
