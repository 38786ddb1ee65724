"""Masks in every form that models take become one boolean grid, and each layer reads the right one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import Tensor
from torch.nn.utils.rnn import pack_padded_sequence, pack_sequence

from normprobe.samples.masks import (
    Masks,
    Padding,
    SequenceRule,
    find_masks,
    has_two_sides,
    is_cross_source,
    mask_sizes,
    side_of,
    to_real,
)

REAL = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1], [0, 0, 1, 1]], dtype=torch.bool)
RIGHT = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0], [1, 1, 1, 1]], dtype=torch.bool)
LOW = torch.finfo(torch.float32).min


def _additive(allowed: Tensor, low: float, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.zeros(allowed.shape).masked_fill(~allowed, low).to(dtype)


def _causal(real: Tensor) -> Tensor:
    """(batch, queries, keys): each query reads the real keys up to its own position."""
    return real[:, None, :] & torch.ones(real.shape[1], real.shape[1], dtype=torch.bool).tril()


def _opened(allowed: Tensor) -> Tensor:
    """Queries that read nothing read everything, as kernels without a safe softmax want it."""
    return allowed | ~allowed.any(-1, keepdim=True)


class TestForms:
    @pytest.mark.parametrize(
        "mask",
        [
            REAL,
            REAL.long(),
            REAL.to(torch.uint8),
            REAL * 3,
            REAL.float(),
            REAL.double(),
            REAL.bfloat16(),
            _additive(REAL, LOW),
            _additive(REAL, -torch.inf),
            _additive(REAL, -10_000.0),
            _additive(REAL, -10_000.0, torch.bfloat16),
            _additive(REAL, -65504.0, torch.float16),
            REAL[:, None, None, :],
            _additive(REAL, LOW)[:, None, None, :],
            REAL[:, None, :].expand(3, 4, 4),
            REAL[:, None, None, :].expand(3, 2, 4, 4),
            _causal(REAL),
            _causal(REAL)[:, None],
            _additive(_causal(REAL), LOW)[:, None],
            _opened(_causal(REAL))[:, None],
            _additive(_opened(_causal(REAL)), -torch.inf)[:, None].expand(3, 2, 4, 4),
        ],
        ids=lambda mask: f"{mask.dtype}-{mask.dim()}d",
    )
    def test_all_forms_agree(self, mask: Tensor) -> None:
        found = to_real(mask)
        assert found is not None
        assert found.dtype == bool
        assert found.tolist() == REAL.tolist()

    @pytest.mark.parametrize("mask", [~REAL, (~REAL).to(torch.uint8), _additive(REAL, -torch.inf)])
    def test_inverted(self, mask: Tensor) -> None:
        found = to_real(mask, inverted=True)
        assert found is not None
        assert found.tolist() == REAL.tolist()

    @pytest.mark.parametrize(
        "mask",
        [
            torch.ones(2, 3),
            torch.zeros(2, 3),
            torch.zeros(2, 1, 3, 3),
            torch.ones(2, 1, 3, 3, dtype=torch.bool),
        ],
    )
    def test_without_padding_everything_is_real(self, mask: Tensor) -> None:
        found = to_real(mask)
        assert found is not None
        assert found.shape == (2, 3)
        assert found.all()

    def test_a_causal_mask_pads_nothing(self) -> None:
        causal = torch.ones(1, 1, 5, 5, dtype=torch.bool).tril()
        found = to_real(causal)
        assert found is not None
        assert found.tolist() == [[True] * 5]
        assert to_real(_additive(causal, LOW)).tolist() == [[True] * 5]  # type: ignore[union-attr]

    def test_padded_queries_of_a_bidirectional_mask_may_be_opened(self) -> None:
        allowed = RIGHT[:, None, :] & RIGHT[:, :, None]
        found = to_real(_opened(allowed)[:, None])
        assert found is not None
        assert found.tolist() == RIGHT.tolist()

    def test_a_causal_mask_over_a_cache(self) -> None:
        real = torch.tensor([[0, 1, 1, 1, 1], [1, 1, 1, 1, 1]], dtype=torch.bool)
        found = to_real(_causal(real)[:, None, 3:])
        assert found is not None
        assert found.tolist() == real.tolist()

    def test_one_axis_is_a_batch_of_one(self) -> None:
        found = to_real(REAL[0])
        assert found is not None
        assert found.tolist() == [REAL[0].tolist()]

    @pytest.mark.parametrize(
        "mask",
        [
            torch.tensor(1),
            torch.ones(1, 1, 1, 1, 1),
            torch.ones(0, 3),
            torch.ones(2, 3, dtype=torch.complex64),
            torch.ones(2, 3, device="meta"),
        ],
    )
    def test_what_is_no_mask(self, mask: Tensor) -> None:
        assert to_real(mask) is None

    @given(hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=6)))
    def test_two_axes_round_trip(self, real: Any) -> None:
        given_ = torch.from_numpy(real)
        assert np.array_equal(to_real(given_), real)
        assert np.array_equal(to_real(given_.long()), real)
        assert np.array_equal(to_real(_additive(given_, LOW)), real)
        assert np.array_equal(to_real(~given_, inverted=True), real)

    @given(st.integers(1, 4), st.integers(1, 7), st.booleans(), st.data())
    def test_four_axes_give_what_two_do(self, batch: int, time: int, left: bool, data: st.DataObject) -> None:
        lengths = torch.tensor(data.draw(st.lists(st.integers(1, time), min_size=batch, max_size=batch)))
        index = torch.arange(time)
        real = (index >= time - lengths[:, None]) if left else (index < lengths[:, None])
        assert np.array_equal(to_real(_causal(real)[:, None]), real.numpy())
        assert np.array_equal(to_real(_additive(real, LOW)[:, None, None]), real.numpy())


class TestFind:
    tokens = torch.ones(3, 4, dtype=torch.long)

    def test_nothing(self) -> None:
        assert find_masks({"input_ids": self.tokens, "labels": REAL}) == Masks()

    def test_by_name(self) -> None:
        masks = find_masks({"input_ids": self.tokens, "attention_mask": REAL.long()})
        assert masks.own is not None
        assert masks.own.name == "attention_mask"
        assert masks.own.real.tolist() == REAL.tolist()
        assert masks.decoder is masks.cross is None
        assert not masks.two_sided

    @pytest.mark.parametrize("name", ["key_padding_mask", "src_key_padding_mask", "x_key_padding_mask"])
    def test_torch_names_are_inverted(self, name: str) -> None:
        masks = find_masks({"src": torch.randn(3, 4, 2), name: ~REAL})
        assert masks.own is not None
        assert masks.own.name == name
        assert masks.own.real.tolist() == REAL.tolist()

    def test_encoder_decoder(self) -> None:
        masks = find_masks({"attention_mask": REAL, "decoder_attention_mask": RIGHT})
        assert masks.two_sided
        assert masks.decoder is not None
        assert masks.decoder.real.tolist() == RIGHT.tolist()
        assert masks.cross is masks.own is not None

    def test_encoder_decoder_without_a_decoder_mask(self) -> None:
        masks = find_masks({"attention_mask": REAL, "decoder_input_ids": self.tokens})
        assert masks.two_sided
        assert masks.decoder is None

    def test_a_decoder_alone(self) -> None:
        masks = find_masks(
            {"input_ids": self.tokens, "attention_mask": REAL, "encoder_attention_mask": RIGHT}
        )
        assert not masks.two_sided
        assert masks.cross is not None
        assert masks.cross.real.tolist() == RIGHT.tolist()

    def test_torch_transformer(self) -> None:
        masks = find_masks(
            {
                "src": torch.randn(3, 4, 2),
                "tgt": torch.randn(3, 4, 2),
                "src_key_padding_mask": ~REAL,
                "tgt_key_padding_mask": ~RIGHT,
                "memory_key_padding_mask": ~REAL,
            }
        )
        assert masks.two_sided
        assert [p.name for p in (masks.own, masks.decoder, masks.cross) if p] == [
            "src_key_padding_mask",
            "tgt_key_padding_mask",
            "memory_key_padding_mask",
        ]

    def test_torch_decoder_alone(self) -> None:
        given_ = {"tgt": torch.randn(3, 4, 2), "memory": torch.randn(3, 2, 2), "tgt_key_padding_mask": ~RIGHT}
        masks = find_masks(given_)
        assert not masks.two_sided
        assert masks.own is not None
        assert masks.own.real.tolist() == RIGHT.tolist()
        assert masks.decoder is None

    def test_with_a_cache_the_last_columns_count(self) -> None:
        step = {"input_ids": self.tokens[:, -1:], "attention_mask": REAL}
        assert find_masks(step).own.real.tolist() == REAL[:, -1:].tolist()  # type: ignore[union-attr]
        embedded = {"inputs_embeds": torch.randn(3, 2, 8), "attention_mask": _causal(REAL)[:, None, 2:]}
        assert find_masks(embedded).own.real.tolist() == REAL[:, -2:].tolist()  # type: ignore[union-attr]

    def test_a_decoder_mask_over_a_cache(self) -> None:
        step = {
            "attention_mask": RIGHT,
            "decoder_input_ids": self.tokens[:, -1:],
            "decoder_attention_mask": REAL,
        }
        masks = find_masks(step)
        assert masks.decoder is not None
        assert masks.own is not None
        assert masks.decoder.real.tolist() == REAL[:, -1:].tolist()
        assert masks.own.real.shape == (3, 4)

    def test_a_packed_sequence(self) -> None:
        lengths = RIGHT.sum(1)
        packed = pack_padded_sequence(torch.randn(3, 4, 2), lengths, batch_first=True, enforce_sorted=False)
        found = find_masks({"x": packed}).own
        assert found is not None
        assert found.name == "x"
        assert found.real.tolist() == RIGHT.tolist()
        sorted_ = find_masks({"x": pack_sequence([torch.ones(3), torch.ones(1)])}).own
        assert sorted_ is not None
        assert sorted_.real.tolist() == [[True] * 3, [True, False, False]]

    @pytest.mark.parametrize(
        ("arguments", "sizes"),
        [
            ({"input_ids": REAL}, None),
            ({"attention_mask": REAL}, (3, 4)),
            ({"attention_mask": REAL[0]}, None),
            ({"attention_mask": _causal(REAL)[:, None]}, (3, 4)),
            ({"tgt_key_padding_mask": RIGHT[:2], "src_key_padding_mask": REAL}, (3, 4)),
            ({"src_key_padding_mask": RIGHT[:2], "attention_mask": REAL}, (3, 4)),
            ({"memory_key_padding_mask": REAL}, None),
        ],
    )
    def test_sizes_without_reading(self, arguments: dict[str, Tensor], sizes: tuple[int, int] | None) -> None:
        assert mask_sizes(arguments) == sizes


def _mask_of(masks: Masks, name: str, fired: bool) -> Padding | None:
    return masks.of(SequenceRule.named(name).reads(two_sided=masks.two_sided, decoder_fired=fired))


class TestWhichMaskALayerReads:
    masks = Masks(
        own=Padding("own", REAL.numpy()),
        decoder=Padding("decoder", RIGHT.numpy()),
        cross=Padding("cross", REAL.numpy()),
        two_sided=True,
    )

    @pytest.mark.parametrize(
        ("name", "fired", "expected"),
        [
            ("encoder.block.0.layer.0.SelfAttention.q", False, "own"),
            ("encoder.block.0.layer.0.SelfAttention.k", True, "own"),
            ("decoder.block.0.layer.0.SelfAttention.k", True, "decoder"),
            ("decoder.block.0.layer.1.EncDecAttention.q", True, "decoder"),
            ("decoder.block.0.layer.1.EncDecAttention.k", True, "cross"),
            ("decoder.block.0.layer.1.EncDecAttention.v", True, "cross"),
            ("decoder.block.0.layer.1.EncDecAttention.o", True, "decoder"),
            ("model.decoder.layers.0.encoder_attn.k_proj", True, "cross"),
            ("model.decoder.layers.0.encoder_attn.v_proj", True, "cross"),
            ("model.decoder.layers.0.encoder_attn.q_proj", True, "decoder"),
            ("model.decoder.layers.0.encoder_attn_layer_norm", True, "decoder"),
            ("decoder.bert.encoder.layer.0.crossattention.self.key", True, "cross"),
            ("decoder.bert.encoder.layer.0.attention.self.key", True, "decoder"),
            ("decoder.transformer.h.0.crossattention.c_attn", True, "cross"),
            ("decoder.transformer.h.0.crossattention.q_attn", True, "decoder"),
            ("decoder.transformer.h.0.attn.c_attn", True, "decoder"),
            ("encoder_decoder.encoder.0.fc", True, "own"),
            ("encoder_decoder.decoder.0.fc", False, "decoder"),
            ("shared_norm", False, "own"),
            ("lm_head", True, "decoder"),
        ],
    )
    def test_in_an_encoder_decoder(self, name: str, fired: bool, expected: str) -> None:
        found = _mask_of(self.masks, name, fired)
        assert found is not None
        assert found.name == expected

    def test_elsewhere_names_say_nothing_but_of_cross_attention(self) -> None:
        masks = Masks(own=self.masks.own, cross=self.masks.cross)
        assert _mask_of(masks, "cls.predictions.decoder", True) is masks.own
        assert _mask_of(masks, "encoder.layer.0.crossattention.self.value", False) is masks.cross
        assert _mask_of(Masks(own=self.masks.own), "encoder.layer.0.crossattention.self.value", False) is None

    def test_names(self) -> None:
        assert [side_of(name) for name in ("a.Decoder.encoder", "b.text_encoder", "c.lm_head", "")] == [
            "decoder",
            "encoder",
            "",
            "",
        ]
        assert not is_cross_source("decoder.layers.0.self_attn.k_proj")
        assert not is_cross_source("key")

    @pytest.mark.parametrize(
        ("names", "expected"),
        [
            (["encoder", "decoder", "decoder.block.0.EncDecAttention.k"], True),
            (["net.encoder", "net.decoder.layers.0.multihead_attn"], True),
            (["encoder.layer.0.crossattention.self.key"], False),
            (["bert.encoder", "cls.predictions.decoder"], False),
            (
                ["qformer.encoder.0.crossattention.key", "language_model.decoder.layers.0.self_attn.k_proj"],
                False,
            ),
        ],
    )
    def test_two_sides(self, names: list[str], expected: bool) -> None:
        assert has_two_sides(names) is expected
