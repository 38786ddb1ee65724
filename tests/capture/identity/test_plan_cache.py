"""Plans that are used again change nothing of what is measured."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterable

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import normprobe
from normprobe.capture.identity import plan_cache
from normprobe.capture.identity.plan_cache import PlanCache
from normprobe.kernels import dispatch

pytestmark = pytest.mark.skipif(dispatch.compiled() is None, reason="only the C kernel's hooks use plans")


class Decoder(nn.Module):
    """Tokens through a norm and Linears per head, and a pooler of the first position."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(50, 12)
        self.block = nn.Sequential(nn.Sequential(nn.LayerNorm(12), nn.Linear(12, 20)), nn.Linear(20, 12))
        self.pooler = nn.Linear(12, 5)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        hidden = self.table(input_ids)
        return self.pooler((hidden + self.block(hidden))[:, 0])


def tokens(batch: int, time: int, seed: int) -> dict[str, Tensor]:
    drawn = torch.randint(0, 50, (batch, time), generator=torch.Generator().manual_seed(seed))
    return {"input_ids": drawn, "attention_mask": torch.ones_like(drawn)}


def padded(batch: int, time: int, seed: int) -> dict[str, Tensor]:
    given = tokens(batch, time, seed)
    given["attention_mask"][0, time // 2 :] = 0
    return given


def frames(recording: normprobe.Recording) -> list[pd.DataFrame]:
    return [recording.layers, recording.features, recording.samples, recording.ledger]


def hold_against_no_plans(
    batches: Iterable[dict[str, Tensor]], monkeypatch: pytest.MonkeyPatch, **options: int
) -> None:
    """Compare recordings with plans made ahead, forward by forward, and never used again."""
    given = list(batches)
    ahead = normprobe.record(Decoder(), given, part="p", **options)
    monkeypatch.setattr(plan_cache, "MAX_LOOKAHEAD", 1)
    singly = normprobe.record(Decoder(), given, part="p", **options)
    monkeypatch.setattr(PlanCache, "prepare", lambda self, forward: None)
    never = normprobe.record(Decoder(), given, part="p", **options)
    for other in (singly, never):
        for found, expected in zip(frames(ahead), frames(other), strict=True):
            pd.testing.assert_frame_equal(found, expected)
    if options.get("values") != 0:
        assert (ahead.values("block.0.0", "input") == never.values("block.0.0", "input")).all()
    assert ahead.meta["digests"] == never.meta["digests"]


SEQUENCES: dict[str, Callable[[], list[dict[str, Tensor]]]] = {
    "token by token": lambda: [tokens(1, 1, seed) for seed in range(40)],
    "batches of one size": lambda: [tokens(3, 7, seed) for seed in range(12)],
    "a prompt, then tokens, twice": lambda: 2 * [tokens(2, 9, 0), *(tokens(2, 1, s) for s in range(1, 20))],
    "padding now and then": lambda: [
        padded(2, 6, seed) if seed % 5 == 3 else tokens(2, 6, seed) for seed in range(20)
    ],
    "a shorter batch at last": lambda: [*(tokens(4, 5, seed) for seed in range(9)), tokens(1, 5, 9)],
}


@pytest.mark.parametrize("name", SEQUENCES)
@pytest.mark.parametrize(
    "options", [{}, {"samples": 6, "values": 3}, {"every": 3}, {"samples": 0, "values": 0}]
)
def test_planning_ahead_changes_nothing(
    name: str, options: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    hold_against_no_plans(SEQUENCES[name](), monkeypatch, **options)


def test_a_part_called_in_between_is_not_taken_for_the_forward_foreseen() -> None:
    model = Decoder()
    with normprobe.Probe(model, part="p") as probe, torch.no_grad():
        for seed in range(12):
            model(**tokens(1, 1, seed))
            if seed in (5, 9):
                model.block(torch.randn(1, 1, 12))
    kept = probe.recording.samples.query("layer == 'block.0.0' and site == 'input'")
    assert sorted(kept["example"]) == list(range(14))
    assert sorted(kept["call"]) == list(range(14))
    assert len(probe.recording.samples.query("layer == 'pooler' and site == 'input'")) == 12


def test_sites_with_other_samples_keep_their_own() -> None:
    class Sometimes(Decoder):
        def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
            hidden = self.table(input_ids)
            if int(input_ids[0, 0]) % 2:
                hidden = self.block(hidden)
            return self.pooler(hidden[:, 0])

    batches = [{"input_ids": torch.tensor([[seed]])} for seed in range(20)]
    recording = normprobe.record(Sometimes(), batches, samples=6, values=2)
    outputs = recording.samples.query("site == 'output'")
    for layer, known in (("block.0.1", range(1, 20, 2)), ("pooler", range(20))):
        kept = outputs[outputs["layer"] == layer]
        assert len(kept) == 6
        assert set(kept["example"]) <= set(known)


def test_plans_made_ahead_hold_no_tensor() -> None:
    model, died = Decoder(), []
    with normprobe.Probe(model), torch.no_grad():
        for seed in range(9):
            given = tokens(2, 300, seed)
            weakref.finalize(given["input_ids"], died.append, seed)
            model(**given)
        del given
        gc.collect()
        assert died == list(range(9))
