"""The option that measures experts, on a command line."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from click.testing import CliRunner

from normprobe.cli import main

MODELS = "tests.helpers.expert_models"


def test_experts_are_in_the_tables_where_they_are_asked_for(tmp_path: Path) -> None:
    given = ["export", f"{MODELS}:mixtral", "--data", f"{MODELS}:batches", "--out"]
    done = CliRunner().invoke(main, [*given, str(tmp_path / "with"), "--experts"])
    assert done.exit_code == 0, done.output
    table = pd.read_csv(tmp_path / "with" / "experts.csv")
    assert table["tokens"].groupby(table["site"]).sum().to_dict() == dict.fromkeys(
        ("input", "intermediate", "output"), 2 * 2 * 2 * 22
    )
    done = CliRunner().invoke(main, [*given, str(tmp_path / "without")])
    assert done.exit_code == 0, done.output
    assert not (tmp_path / "without" / "experts.csv").exists()
