"""Merging recordings of different weights is refused, and of the same data said."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn

import normprobe
from normprobe import NormprobeWarning, Recording, RecordingError
from normprobe.cli import main
from normprobe.tables.merging.checks import different_weights


def net(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 9), nn.BatchNorm1d(9)).eval()


def data(seed: int) -> Tensor:
    return torch.randn(12, 6, generator=torch.Generator().manual_seed(seed))


def record(model: nn.Module, seed: int, part: str = "", **options: Any) -> Recording:
    return normprobe.record(model, data(seed), part=part or f"part {seed}", **options)


CHANGES: dict[str, tuple[Callable[[nn.Module], Any], str]] = {
    "another initialization": (
        lambda model: model.load_state_dict(net(1).state_dict()),
        "2 layers .*'0', '2'",
    ),
    "one linear": (lambda model: nn.init.normal_(model[2].weight), r"1 layer differ .*\('2'\)"),
    "one norm": (lambda model: nn.init.normal_(model[1].weight), r"1 layer differ .*\('1'\)"),
    "a shift": (lambda model: nn.init.constant_(model[3].bias, 2), r"1 layer differ .*\('3'\)"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_recordings_of_different_weights_are_merged_with_a_word_or_refused(change: str) -> None:
    model = net()
    first = record(model, 0)
    made, says = CHANGES[change]
    made(model)
    second = record(model, 1)
    with pytest.raises(RecordingError, match=f"the weights of {says}.*on_different_weights='warn'"):
        normprobe.merge(first, second, on_different_weights="error")
    with pytest.warns(NormprobeWarning, match=f"the weights of {says}"):
        merged = normprobe.merge(first, second)
    assert [text for text in merged.meta["warnings"] if text.startswith("the weights of")]
    assert merged.meta["examples"] == 24
    # Of merged parts that differ there is no weight that a further one could differ from, but a note.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NormprobeWarning)
        further = normprobe.merge(merged, record(model, 2), on_different_weights="warn")
    assert set(merged.meta["warnings"]) <= set(further.meta["warnings"])


def test_parts_of_one_model_merge_without_a_word() -> None:
    model = net()
    parts = [record(model, seed) for seed in range(3)]
    assert normprobe.merge(*parts).meta["warnings"] == []
    (said,) = normprobe.merge(*parts, parts_of_nothing(model)).meta["warnings"]
    assert said.startswith("in 1 recording of 4 nothing was measured (part 'nothing'): ")
    # A copy on another process is the same model.
    assert normprobe.merge(parts[0], record(copy.deepcopy(model), 1)).meta["warnings"] == []


def parts_of_nothing(model: nn.Module) -> Recording:
    return normprobe.Probe(model, part="nothing").recording


def test_running_statistics_may_differ() -> None:
    model = net()
    parts = []
    for seed in range(2):
        model.train()
        with normprobe.Probe(model, part=str(seed)) as probe, torch.no_grad():
            model(data(seed))
        parts.append(probe.recording)
    assert normprobe.merge(*parts).meta["warnings"] == []


def test_precisions_are_not_held_against_each_other() -> None:
    model = net()
    half = copy.deepcopy(model).to(torch.bfloat16)
    parts = [record(model, 0), normprobe.record(half, data(1).bfloat16(), part="b")]
    assert different_weights([part.tables for part in parts]) == ""
    assert normprobe.merge(*parts).meta["warnings"] == []


def test_files_of_before_have_no_digests_and_are_held_against_their_norms() -> None:
    model = net()
    tables = [record(model, 0).tables]
    nn.init.normal_(model[2].weight)
    tables.append(record(model, 1).tables)
    old = [
        replace(t, ledger_base=t.ledger_base.assign(weights=pd.array([pd.NA] * 4, "Int64"))) for t in tables
    ]
    assert different_weights(old) == ""
    assert "('2')" in different_weights(tables)
    assert different_weights([tables[0], old[1]]) == ""


def test_a_layer_that_did_not_fire_in_the_first_part_is_compared_among_the_others() -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.on = nn.LayerNorm(6), nn.LayerNorm(6), False

        def forward(self, x: Tensor) -> Any:
            return self.b(x) if self.on else self.a(x)

    model = Branches()
    parts = [record(model, 0)]
    model.on = True
    parts.append(record(model, 1))
    nn.init.normal_(model.b.weight)
    parts.append(record(model, 2))
    assert "('b')" in different_weights([part.tables for part in parts])


@pytest.mark.parametrize("weight", ["sparse", "empty", "meta"])
def test_what_is_no_plain_matrix_has_no_digest(weight: str) -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8))
    recordings = []
    for seed in range(2):
        recordings.append(record(model, seed))
        assert recordings[-1].tables.ledger_base["weights"].notna().tolist() == [True, False]
    with normprobe.Probe(model) as probe:
        model(data(0))
        matrix = model[0].weight.data
        with torch.no_grad():
            made = {"sparse": matrix.to_sparse(), "empty": matrix.clone(), "meta": matrix.to("meta")}[weight]
        model[0].weight = nn.Parameter(made, requires_grad=False)
        if weight == "empty":
            made.untyped_storage().resize_(0)
        assert probe.recording.tables.ledger_base["weights"].isna().all()
        model[0].weight = nn.Parameter(matrix)


def test_the_argument_is_checked() -> None:
    with pytest.raises(RecordingError, match="must be 'error' or 'warn', got 'ignore'"):
        normprobe.merge(record(net(), 0), on_different_weights="ignore")  # type: ignore[arg-type]


def test_the_command_line_merges_different_weights_by_force_alone(tmp_path: Path) -> None:
    for seed in range(2):
        record(net(seed), seed).save(tmp_path / f"{seed}.normprobe")
    out = tmp_path / "m.normprobe"
    arguments = ["merge", *(str(tmp_path / f"{seed}.normprobe") for seed in range(2)), "--out", str(out)]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 1
    assert "the weights of 2 layers differ" in done.stderr
    assert "--force" in done.stderr
    assert not out.exists()
    done = CliRunner().invoke(main, [*arguments, "--force"])
    assert done.exit_code == 0
    assert "Note: the weights of 2 layers differ" in done.stderr
    assert normprobe.load(out).meta["examples"] == 24
    np.testing.assert_equal(len(normprobe.load(out).meta["warnings"]), 1)
