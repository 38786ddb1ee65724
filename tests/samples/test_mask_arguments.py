"""Which argument a mask belongs to, which of its values are real, and which masks are named unused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from normprobe.samples.mask_arguments import MaskReader, by_ends, mask_name
from normprobe.samples.masks import find_masks

REAL = torch.arange(6) < torch.tensor([[6], [4], [1]])
SHORT = torch.arange(6) < torch.tensor([[5], [4], [1]])
TEXT = torch.arange(5) < torch.tensor([[5], [2], [3]])
X, C = torch.randn(3, 6, 8), torch.randn(3, 5, 8)


@dataclass
class Held:
    """A mask as an object."""

    bool_mask: Tensor


class TestOwn:
    """The mask of what the model reads first."""

    @pytest.mark.parametrize(
        "arguments",
        [
            {"x": X, "mask": REAL},
            {"x": X, "mask": REAL.long()},
            {"x": X, "mask": ~REAL},
            {"x": X, "mask": REAL.float()},
            {"x": X, "padding_mask": ~REAL},
            {"x": X, "src_mask": REAL},
            {"x": X, "x_mask": SHORT | REAL},
            {"input_features": torch.randn(3, 8, 6), "input_features_mask": REAL.long()},
            {"input_ids": torch.ones(3, 6, dtype=torch.long), "attention_mask": Held(REAL[:, None, None])},
            {"x": X, "lengths": torch.tensor([6, 4, 1])},
            {"x": X, "x_lens": torch.tensor([6, 4, 1])},
            {"wavs": X, "wav_lens": torch.tensor([1.0, 0.66, 0.17])},
            {"x": X, "mask": REAL[:, None, None]},
        ],
        ids=", ".join,
    )
    def test_is_found(self, arguments: dict[str, Any]) -> None:
        masks = find_masks(arguments)
        assert masks.own is not None
        assert masks.own.name == list(arguments)[-1]
        assert masks.own.real.tolist() == REAL.tolist()
        assert masks.unused == ()

    def test_a_known_name_goes_first(self) -> None:
        masks = find_masks({"x": X, "mask": REAL, "attention_mask": SHORT})
        assert masks.own is not None
        assert masks.own.name == "attention_mask"
        assert not masks.several

    def test_which_value_is_padding_is_kept_for_forwards_that_do_not_say_it(self) -> None:
        reader = MaskReader()
        assert find_masks({"x": X, "mask": ~SHORT}, reader).own is None
        assert find_masks({"x": X, "mask": ~REAL}, reader).own is not None
        later = find_masks({"x": X, "mask": ~SHORT}, reader).own
        assert later is not None
        assert later.real.tolist() == SHORT.tolist()

    @pytest.mark.parametrize(
        "lengths",
        [torch.tensor([5, 4, 1]), torch.tensor([6, 4]), torch.tensor([0.9, 0.5, 0.1]), torch.ones(3, 1)],
    )
    def test_numbers_that_are_no_lengths_of_it(self, lengths: Tensor) -> None:
        assert find_masks({"x": X, "lengths": lengths}).own is None


class TestOthers:
    """Masks of further arguments."""

    @pytest.mark.parametrize(
        ("argument", "mask"),
        [
            ("encoder_hidden_states", "encoder_hidden_states_mask"),
            ("encoder_hidden_states", "text_embedding_mask"),
            ("entity_ids", "entity_attention_mask"),
            ("context", "context_mask"),
            ("text_embeds", "text_mask"),
            ("caption", "caption_attention_mask"),
        ],
    )
    def test_belong_to_what_their_names_or_their_sizes_say(self, argument: str, mask: str) -> None:
        masks = find_masks({"hidden_states": X, argument: C, mask: TEXT.long()})
        assert masks.own is None
        assert masks.several
        assert masks.of(mask) is not None
        assert masks.of(mask).real.tolist() == TEXT.tolist()  # type: ignore[union-attr]
        assert masks.arguments[mask] is C

    def test_the_encoders_mask_is_of_its_hidden_states(self) -> None:
        arguments = {"hidden_states": X, "encoder_hidden_states": C, "encoder_attention_mask": TEXT}
        masks = find_masks(arguments)
        assert masks.several
        assert masks.arguments["cross"] is C
        assert masks.unmasked == {6}

    def test_two_texts_with_masks_of_one_name_and_an_ending(self) -> None:
        longer = torch.randn(3, 6, 4)
        masks = find_masks(
            {
                "sample": torch.randn(3, 4, 8, 8),
                "states": C,
                "text_mask": TEXT,
                "states_t5": longer,
                "text_mask_t5": REAL,
            }
        )
        assert masks.arguments["text_mask"] is C
        assert masks.arguments["text_mask_t5"] is longer


class TestUnused:
    """What looks like a mask of padding and cannot be used is named."""

    @pytest.mark.parametrize(
        "arguments",
        [
            {"x": X, "mask": SHORT},
            {"x": X, "padding_mask": ~SHORT},
            {"x": X, "valid": REAL},
            {"x": X, "is_real": REAL.long()},
            {"x": X, "point_mask": torch.tensor([[0, 1, 0, 1, 1, 1]] * 3)},
        ],
        ids=", ".join,
    )
    def test_is_named(self, arguments: dict[str, Any]) -> None:
        masks = find_masks(arguments)
        assert masks.own is None
        assert masks.unused == (list(arguments)[-1],)

    @pytest.mark.parametrize(
        "arguments",
        [
            {"x": X[:, :3], "mask": torch.ones(3, 3).tril().bool()},
            {"x": X, "src_mask": torch.ones(6, 6).tril().bool()},
            {"x": X, "position_ids": torch.arange(6).expand(3, 6)},
            {"x": X, "token_type_ids": torch.tensor([[0, 0, 0, 1, 1, 1]] * 3)},
            {"x": X, "labels": REAL.long()},
            {"x": X, "head_mask": torch.ones(3, 6)},
            {"x": X, "bool_masked_pos": REAL},
            {"x": X, "global_attention_mask": torch.tensor([[1, 0, 0, 0, 0, 0]] * 3)},
            {"x": X, "mask_time_indices": REAL},
            {"x": X, "loss_mask": REAL},
            {"x": X, "past_observed_mask": SHORT},
            {"x": X, "flags": torch.ones(3, 6, dtype=torch.bool)},
            {"input_ids": torch.tensor([[1, 1, 1, 0, 0, 0]] * 3)},
            {"x": torch.tensor([[1, 1, 1, 0, 0, 0]] * 3)},
            {"attention_mask": SHORT, "input_ids": torch.ones(3, 6, dtype=torch.long)},
            {"decoder_input_ids": torch.ones(3, 6, dtype=torch.long), "decoder_attention_mask": SHORT},
        ],
        ids=", ".join,
    )
    def test_what_is_no_mask_of_padding_or_is_used_is_not(self, arguments: dict[str, Any]) -> None:
        masks = find_masks(arguments)
        assert masks.unused == ()
        assert all(masks.of(name) is None for name in arguments)

    def test_it_is_not_looked_at_for_ever(self) -> None:
        reader = MaskReader()
        whole = torch.ones(3, 6, dtype=torch.bool)
        for _ in range(4):
            find_masks({"x": X, "valid": whole}, reader)
        assert find_masks({"x": X, "valid": REAL}, reader).unused == ()


@pytest.mark.parametrize(
    ("values", "real"),
    [
        (REAL, REAL),
        (~REAL, REAL),
        (REAL.flip(1), REAL.flip(1)),
        (SHORT, None),
        (torch.ones(2, 4).bool(), torch.ones(2, 4).bool()),
        (torch.tensor([[1, 1, 1], [0, 0, 0], [1, 0, 0]]).bool(), None),
        (torch.tensor([[1, 1, 1], [0, 1, 0]]).bool(), None),
        (torch.ones(3, 3).tril().bool(), None),
    ],
)
def test_the_longest_example_says_which_value_is_real(values: Tensor, real: Tensor | None) -> None:
    found = by_ends(values.numpy())
    assert (found is None) is (real is None)
    assert real is None or found is None or np.array_equal(found, real.numpy())


def test_names() -> None:
    assert mask_name("input_ids") is None
    assert mask_name("bool_masked_pos") is None
    said = mask_name("text_embedding_mask_t5")
    assert said is not None
    assert (said.base, said.tail, said.certain, said.inverted) == ("text_embedding", "t5", False, False)
    said = mask_name("encoder_attention_mask")
    assert said is not None
    assert (said.base, said.certain) == ("encoder", True)
    said = mask_name("text_key_padding_mask")
    assert said is not None
    assert (said.base, said.inverted) == ("text", True)
