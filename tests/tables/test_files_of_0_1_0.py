"""A recording saved by normprobe 0.1.0 loads, gives the numbers it gave then, and merges with one made now.

`data/recorded_by_0_1_0.normprobe` is `recorded()` run by normprobe 0.1.0 (commit c327cb0, torch 2.13) and
saved with its labels; `data/recorded_by_0_1_0.json` is `numbers` of it there.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import normprobe
from normprobe import Recording

DATA = Path(__file__).parent / "data"
TABLES = ("layers", "features", "samples", "ledger", "labels")
ADDED = {
    "layers": {
        *("abs_max", "feature_ratio"),
        *(f"nonfinite_{name}" for name in ("part", "step", "call", "example", "position", "feature")),
    },
    "features": {"abs_max"},
    "samples": {"count"},
    "findings": {"follows_from", "step"},
    "ledger": {
        "normalizes",
        "groups",
        "activation",
        "momentum",
        "running_dtype",
        "statistics",
        "num_batches_tracked",
        "gradients",
        "rows",
        "expert_of",
        "expert",
        "router_of",
    },
}
KEYS = ["layer", "site", "feature", "part", "call", "repeat", "example", "position"]
HOLDERS = [f"{side}_{key}" for side in ("min", "max") for key in ("part", "example", "position", "feature")]
WORDS = ("[PAD]", "the", "cat", "sat", "on", "mat", "and", "ran")


class Reader(nn.Module):
    """Padded tokens through a Linear, a LayerNorm and a BatchNorm whose running statistics are stale."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.linear = nn.Embedding(len(WORDS), 6), nn.Linear(6, 6)
        self.layer_norm, self.batch_norm = nn.LayerNorm(6), nn.BatchNorm1d(6)
        self.unused = nn.Linear(6, 6)
        for number, parameter in enumerate(self.parameters()):
            values = torch.arange(1.0, parameter.numel() + 1).mul(number + 1).sin()
            parameter.data = values.reshape(parameter.shape)
        self.batch_norm.running_mean.fill_(3.0)
        self.eval()

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        x = self.layer_norm(self.linear(self.embedding(input_ids)))
        return self.batch_norm(x.transpose(1, 2)).transpose(1, 2)


def batches(part: str) -> list[dict[str, Tensor]]:
    """Two batches of texts of 2 to 5 tokens, padded right; other ones in each part."""
    made = []
    for number in range(2):
        lengths = torch.tensor([2 + number, 5, 3])
        mask = torch.arange(5) < lengths[:, None]
        tokens = torch.arange(15).mul(ord(part) + number).reshape(3, 5) % 7 + 1
        made.append({"input_ids": tokens * mask, "attention_mask": mask.long()})
    return made


def labels(args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[list[str]]:
    return [[WORDS[token] for token in row] for row in kwargs["input_ids"].tolist()]


def record_part(part: str) -> Recording:
    model = Reader()
    with normprobe.Probe(model, samples=16, values=4, labels=labels, part=part) as probe, torch.no_grad():
        for batch in batches(part):
            model(**batch)
    return probe.recording


def recorded() -> Recording:
    return normprobe.merge(record_part("a"), record_part("b"))


def numbers(recording: Recording) -> dict[str, Any]:
    """The columns of every table, and the entries of those columns that hold what was measured."""
    tables = {name: getattr(recording, name) for name in TABLES} | {"findings": recording.findings()}
    kept = {
        "layers": ["layer", "site", "kind", "calls", "n_samples", "mean", "variance", "min", "max", "masked"],
        "features": ["layer", "site", "feature", "count", "mean", "variance", "weight", "running_mean"],
        "samples": ["layer", "site", "part", "example", "position", "mean", "variance"],
        "ledger": ["layer", "kind", "status", "sample_unit", "aligned", "reason"],
        "labels": ["part", "example", "position", "text"],
        "findings": ["check", "severity", "layer", "value", "threshold"],
    }
    return {
        name: {
            "columns": {column: str(kind) for column, kind in table.dtypes.items()},
            "entries": entries(in_order(table)[kept[name]]),
        }
        for name, table in tables.items()
    }


def entries(table: pd.DataFrame) -> dict[str, list[Any]]:
    """The entries of each column as JSON has them: NaN among floats, None where there is no other."""
    known = {column: table[column] for column in table}
    return {
        column: values.tolist()
        if values.dtype == "float64"
        else values.astype(object).where(values.notna(), None).tolist()
        for column, values in known.items()
    }


def in_order(table: pd.DataFrame) -> pd.DataFrame:
    keys = [key for key in KEYS if key in table]
    return table.sort_values(keys, kind="stable").reset_index(drop=True)


@pytest.fixture(scope="module")
def old() -> Recording:
    return normprobe.load(DATA / "recorded_by_0_1_0.normprobe")


@pytest.fixture(scope="module")
def then() -> dict[str, Any]:
    return json.loads((DATA / "recorded_by_0_1_0.json").read_text())


@pytest.fixture
def seeds_of_0_1_0(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep samples as 0.1.0 did: by the probe's seed, whatever the part's name."""
    monkeypatch.setattr("normprobe.capture.forwards.probe_options.seed_of", lambda seed, part: seed)


@pytest.mark.usefixtures("seeds_of_0_1_0")
@pytest.mark.parametrize("source", ["the file", "recorded now"])
@pytest.mark.parametrize("table", [*TABLES, "findings"])
def test_the_columns_and_numbers_are_those_of_0_1_0(
    old: Recording, then: dict[str, Any], table: str, source: str
) -> None:
    now = numbers(old if source == "the file" else recorded())[table]
    # Columns may be added, and none go away or change.
    added = now["columns"].keys() - then[table]["columns"].keys()
    kept = [(name, kind) for name, kind in now["columns"].items() if name not in added]
    assert kept == list(then[table]["columns"].items())
    assert added <= ADDED.get(table, set())
    for column, values in then[table]["entries"].items():
        if any(isinstance(value, float) for value in values):
            # A finding's statistic may be defined more exactly; what was measured stays.
            close = 1e-2 if table == "findings" else 1e-5
            assert now["entries"][column] == pytest.approx(values, rel=close, abs=1e-6, nan_ok=True), column
        else:
            assert now["entries"][column] == values, column


def test_it_holds_what_it_was_made_for(old: Recording) -> None:
    assert set(old.samples["part"]) == {"a", "b"}
    assert set(old.layers["masked"]) == {18}
    assert set(old.labels["text"]) <= set(WORDS[1:])
    assert old.findings()["layer"].tolist() == ["batch_norm"]


def test_it_merges_with_a_part_that_keeps_other_samples(old: Recording) -> None:
    merged = normprobe.merge(old, record_part("c"))
    assert set(merged.samples["part"]) == {"a", "b", "c"}
    assert merged.samples.groupby(["layer", "site"]).size().max() == 16
    whole = normprobe.merge(*(record_part(part) for part in "abc"))
    measures = ["layer", "site", "feature", "count", "mean", "variance"]
    pd.testing.assert_frame_equal(merged.features[measures], whole.features[measures], rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("seeds_of_0_1_0")
def test_it_merges_with_a_recording_made_now(old: Recording) -> None:
    merged = normprobe.merge(old, record_part("c"))
    whole = normprobe.merge(*(record_part(part) for part in "abc"))
    assert set(merged.samples["part"]) == {"a", "b", "c"}
    for table in TABLES:
        # Two parts may hold an extreme, but for rounding, which differs between versions of torch.
        found, expected = (
            in_order(getattr(recording, table)).drop(columns=HOLDERS, errors="ignore")
            for recording in (merged, whole)
        )
        pd.testing.assert_frame_equal(found, expected, rtol=1e-5, atol=1e-6)
    assert merged.findings()["check"].tolist() == whole.findings()["check"].tolist()


def test_it_compares_with_a_recording_of_the_same_data_made_now(old: Recording) -> None:
    assert normprobe.compare(old, recorded()).first_divergence is None


def test_it_is_saved_anew_and_exported(old: Recording, tmp_path: Path) -> None:
    again = normprobe.load(old.save(tmp_path / "again.normprobe", labels=True))
    for table in TABLES:
        pd.testing.assert_frame_equal(getattr(again, table), getattr(old, table))
    assert len(old.to_csv(tmp_path / "csv")) == 6
