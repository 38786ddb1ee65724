"""What follows from another cause, or is so by design, gets no finding of its own."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import normprobe
from normprobe.findings import find
from normprobe.tables.measures.features import norms_untrained
from normprobe.tables.measures.samples import made_by_few
from tests.helpers.findings_tables import FakeTables, Layer, normal, tables


def plain(weight: Any, bias: float = 0.0) -> FakeTables:
    return tables(Layer("n", "batch_norm", normal(), normal(), features={"weight": weight, "bias": bias}))


def test_a_norm_started_at_0_is_as_initialized() -> None:
    assert norms_untrained(plain(0.0))
    assert norms_untrained(plain(1.0))
    assert not norms_untrained(plain(np.arange(32) % 2.0))
    assert not norms_untrained(plain(1.0, bias=0.1))


def linear(name: str, gain: float) -> Layer:
    rows = normal(rows=256)
    return Layer(name, "linear", rows, gain**0.5 * rows)


def gates(*gains: float) -> FakeTables:
    blocks = [(linear(f"blocks.{i}.up", 1.0), linear(f"blocks.{i}.gate", gains[i])) for i in range(4)]
    return tables(*(layer for block in blocks for layer in block))


def test_a_branch_that_starts_small_in_every_block_does_not_vanish() -> None:
    assert find(gates(1e-9, 1e-9, 1e-9, 1e-9), ["variance_vanishes"]).empty
    found = find(gates(1e-9, 1e-9, 1e-9, 1e-14), ["variance_vanishes"])
    assert found["layer"].item() == "blocks.3.gate"


def test_of_two_blocks_both_must_not_be_out_of_scale() -> None:
    others = [linear(f"blocks.{i}.{name}", 1.0) for i in range(2) for name in ("q", "k", "v")]
    both = [linear(f"blocks.{i}.down", 1e4) for i in range(2)]
    assert find(tables(*others, *both), ["variance_explodes"]).empty
    one = [linear("blocks.0.down", 1.0), both[1]]
    assert find(tables(*others, *one), ["variance_explodes"])["layer"].item() == "blocks.1.down"


def test_one_huge_feature_is_not_saturation() -> None:
    rows = normal(0.1)
    rows[:, 3] = 1e5
    between = Layer("b", "linear", rows, normal())
    assert find(tables(linear("a", 1.0), between), ["saturated_input"]).empty
    ends = replace(between, before=np.tanh(normal(50)))
    assert find(tables(linear("a", 1.0), ends), ["saturated_input"])["layer"].item() == "b"


def test_channels_that_a_zero_kernel_leaves_constant_are_not_dead() -> None:
    after = normal()
    after[:, :20] = -0.5
    norm = Layer("n", "batch_norm", normal(), after)
    assert find(tables(linear("a", 1.0), norm), ["dead_features"]).empty
    after = after.copy()
    after[:, :20] -= np.abs(normal()[:, :20])
    norm = replace(norm, after=after)
    assert find(tables(linear("a", 1.0), norm), ["dead_features"])["layer"].item() == "n"


def test_channels_silenced_before_a_depthwise_convolution_are_not_constant() -> None:
    before = normal()
    before[:, :12] = 0
    wrote = normal()
    wrote[:, :12] = -np.abs(wrote[:, :12])
    depthwise = Layer("second", "batch_norm", before, np.where(before == 0, 0.3, before))
    silent = Layer("first", "batch_norm", normal(), wrote)
    start = linear("a", 1.0)
    assert find(tables(start, silent, depthwise), ["constant_features"]).empty
    loud = replace(silent, after=normal())
    assert find(tables(start, loud, depthwise), ["constant_features"])["layer"].item() == "second"


def test_where_most_values_are_nan_zeros_are_not_dead() -> None:
    rows = normal()
    rows[:, 16:] = 0
    after = Layer("b", "linear", rows, normal())
    assert find(tables(linear("a", 1.0), after), ["dead_features"])["layer"].item() == "b"
    rows = rows.copy()
    rows[::2, 0] = np.nan
    assert find(tables(linear("a", 1.0), replace(after, before=rows)), ["dead_features"]).empty


def test_zeros_that_collapsed_samples_bring_are_not_dead() -> None:
    zero = np.zeros((64, 32))
    layers = [linear("a", 1.0), Layer("n", "layer_norm", normal(), zero), Layer("b", "linear", zero, zero)]
    found = find(tables(*layers, Layer("c", "linear", zero, zero)))
    assert found.loc[found["severity"] != "info", ["check", "layer"]].to_numpy().tolist() == [
        ["collapsed_samples", "n"]
    ]


def test_a_wild_sample_makes_no_other_scale_and_no_stale_statistics() -> None:
    rows = normal(rows=256)
    rows[9] *= 300
    rows[9, ::3] *= 50
    first = tables(Layer("a", "linear", rows, normal(rows=256)), linear("b", 1.0))
    assert made_by_few(first, "a")
    assert find(first, ["input_scale"]).empty
    norm = Layer("n", "batch_norm", rows, rows, features={"running_mean": 0.0, "running_var": 1.1})
    assert find(tables(norm), ["stale_running_statistics"]).empty
    even = Layer("n", "batch_norm", 30 * normal(rows=256), normal(rows=256), features=norm.features)
    assert find(tables(even), ["stale_running_statistics"])["layer"].item() == "n"


class Channels(nn.Module):
    """Tokens through a norm over the channels of each text."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.norm, self.head = nn.Embedding(50, 16), norm, nn.Linear(16, 4)
        self.embed.weight.data[1] = 3.0

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Return (examples, positions, 4)."""
        return self.head(self.norm(self.embed(input_ids).transpose(1, 2)).transpose(1, 2))


@pytest.mark.parametrize("norm", [nn.GroupNorm(4, 16), nn.InstanceNorm1d(16, affine=True)])
def test_padding_that_a_norm_over_each_example_averages_in_is_found(norm: nn.Module) -> None:
    real = torch.arange(20)[None] < torch.tensor([[20], [8], [12], [6]])
    ids = torch.randint(2, 50, (4, 20), generator=torch.Generator().manual_seed(1))
    batch = {"input_ids": ids.masked_fill(~real, 1), "attention_mask": real.long()}
    found = normprobe.record(Channels(norm), [batch]).findings(["padding_in_norm"])
    assert found["layer"].item() == "norm"
    assert found["value"].item() > 1.2
    whole = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    assert normprobe.record(Channels(norm), [whole]).findings(["padding_in_norm"]).empty


class Texts(nn.Module):
    """Tokens through a LayerNorm; may pad them to a multiple of 16 by itself."""

    def __init__(self, to: int = 1) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.norm, self.to = nn.Embedding(50, 16), nn.LayerNorm(16), to

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Return (examples, positions, 16)."""
        padded = nn.functional.pad(input_ids, (0, -input_ids.shape[1] % self.to), value=1)
        return self.norm(self.embed(padded))


def texts(left: int) -> torch.Tensor:
    ids = torch.randint(2, 50, (6, 20), generator=torch.Generator().manual_seed(1))
    for row in range(3):
        ids[row, : left + row] = 1
    return ids


def test_padding_on_the_left_is_recognised_without_its_token() -> None:
    found = normprobe.record(Texts(), [texts(4)]).findings(["padding_unmasked"])
    assert found["value"].item() == pytest.approx((4 + 5 + 6) / 120)
    assert normprobe.record(Texts(), [texts(0)[3:]]).findings(["padding_unmasked"]).empty


def test_a_model_that_pads_by_itself_is_taken_at_its_word() -> None:
    assert normprobe.record(Texts(to=32), [texts(0)[3:]]).findings(["padding_unmasked"]).empty


def test_examples_that_are_all_the_same_are_not_padding() -> None:
    model = Texts()
    model.embed.weight.data.zero_()
    found = normprobe.record(model, [texts(0)]).findings(["padding_unmasked"])
    assert isinstance(found, pd.DataFrame)
    assert found.empty
