"""Padding tokens: which they are, how many, and what becomes of the count."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import normprobe
from normprobe.samples.pad_tokens import PadToken, count_padding, pad_token


class Texts(nn.Module):
    """Embeds token ids; its config is whatever it is given."""

    def __init__(self, config: Any = None, *padding: int | None) -> None:
        super().__init__()
        self.config = config
        self.tables = nn.ModuleList(nn.Embedding(9, 4, padding_idx=token) for token in padding or (None,))
        self.norm = nn.LayerNorm(4)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        return self.norm(self.tables[0](input_ids))


def config(**ids: Any) -> SimpleNamespace:
    return SimpleNamespace(**ids)


@pytest.mark.parametrize(
    ("model", "pad"),
    [
        (Texts(config(pad_token_id=3)), PadToken(3, False)),
        (Texts(config(pad_token_id=3, eos_token_id=3)), PadToken(3, True)),
        (Texts(config(pad_token_id=3, eos_token_id=[2, 3])), PadToken(3, True)),
        (Texts(config(pad_token_id=None, text_config=config(pad_token_id=0))), PadToken(0, False)),
        (Texts(config(pad_token_id=-1), 5, 5), PadToken(5, False)),
        (Texts(None, 5, None), PadToken(5, False)),
        (Texts(None, 5, 6), None),
        (Texts(), None),
    ],
)
def test_the_padding_token_is_the_configs_or_the_embeddings(model: nn.Module, pad: PadToken | None) -> None:
    assert pad_token(model) == pad


@pytest.mark.parametrize(
    ("ids", "count", "after_marks"),
    [
        ([[5, 6, 7, 8]], 0, 0),
        ([[5, 6, 1, 1]], 2, 1),
        ([[1, 1, 1, 5]], 3, 2),
        ([[5, 1, 1, 5]], 0, 0),
        ([[1, 5, 5, 1]], 2, 0),
        ([[1, 1, 1, 1], [5, 5, 5, 1]], 5, 3),
    ],
)
def test_runs_at_either_end_count_less_the_mark_that_ends_a_text(
    ids: list[list[int]], count: int, after_marks: int
) -> None:
    assert int(count_padding(torch.tensor(ids), PadToken(1, False))) == count
    assert int(count_padding(torch.tensor(ids), PadToken(1, True))) == after_marks


IDS = torch.tensor([[5, 6, 7, 8], [5, 6, 1, 1], [1, 1, 1, 7], [4, 1, 4, 1]])
PADS = 6


def test_a_recording_counts_padding_that_no_mask_names_and_merging_adds_it_up() -> None:
    model = Texts(config(pad_token_id=1))
    first, second = normprobe.record(model, [IDS], part="a"), normprobe.record(model, [IDS, IDS], part="b")
    assert [first.meta["pad_tokens"], second.meta["pad_tokens"]] == [PADS, 2 * PADS]
    assert normprobe.merge(first, second).meta["pad_tokens"] == 3 * PADS
    found = first.findings(["padding_unmasked"])
    assert found[["layer", "value"]].to_numpy().tolist() == [["norm", PADS / IDS.numel()]]


def test_nothing_is_counted_where_there_is_a_mask_or_no_token_is_known() -> None:
    mask = (IDS != 1).long()
    mask[3, 1] = 1
    masked = normprobe.record(Texts(config(pad_token_id=1)), [{"input_ids": IDS, "attention_mask": mask}])
    assert masked.meta["pad_tokens"] == 0
    assert masked.findings(["padding_unmasked"]).empty
    unknown = normprobe.record(Texts(), [IDS])
    assert unknown.meta["pad_tokens"] is None
    plain = normprobe.record(nn.Linear(4, 2), [torch.ones(3, 4)])
    assert plain.meta["pad_tokens"] is None


def test_a_mask_of_ones_over_padding_does_not_hide_it() -> None:
    batch = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS)}
    recording = normprobe.record(Texts(config(pad_token_id=1)), [batch])
    assert recording.meta["pad_tokens"] == PADS
    assert len(recording.findings(["padding_unmasked"])) == 1
