"""The README holds: its Python runs, its tables are the schema's, its commands exist.

``python -m tests.documentation.test_readme`` writes the tables of columns and of checks anew.
"""

from __future__ import annotations

import re
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from normprobe.cli import main
from normprobe.findings import CHECKS, COLUMNS, thresholds
from normprobe.layers import view_registry
from normprobe.tables.schema import TABLES, UNITS

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"


def columns_of(table: str) -> str:
    """The columns of one table as Markdown: name, dtype, unit, meaning with its divisor."""
    lines = ["| column | dtype | unit | meaning |", "|---|---|---|---|"]
    for name, (dtype, meaning) in TABLES[table].items():
        text = meaning.replace("|", "\\|").replace(", in the layer's own units", "")
        lines.append(f"| `{name}` | {dtype} | {UNITS.get(name, '')} | {text} |")
    return "\n".join(lines)


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README.read_text(), flags=re.DOTALL | re.MULTILINE)


def with_tables(text: str) -> str:
    """The README with each table of columns as the schema has it, and the checks as the code does."""
    for table in TABLES:
        pattern = rf"(### `{table}`: [^\n]*\n\n).*?\n\n(?=#)"
        text, count = re.subn(
            pattern, lambda found, t=table: f"{found[1]}{columns_of(t)}\n\n", text, flags=re.DOTALL
        )
        assert count == 1, f"the README has no section of its own for {table}"
    pattern = r"(### The checks\n\n)\| check.*?\n\n"
    text, count = re.subn(pattern, lambda found: f"{found[1]}{checks()}\n\n", text, flags=re.DOTALL)
    assert count == 1, "the README has no table of checks"
    return text


def checks() -> str:
    """The checks as Markdown: name, severity, title, thresholds with which of them are fitted, source."""
    lines = ["| check | severity | finds | thresholds | source |", "|---|---|---|---|---|"]
    for check in CHECKS:
        about = (f"`{check.name}`", check.severity, check.title, thresholds(check), check.source)
        lines.append(f"| {' | '.join(about)} |")
    return "\n".join(lines)


def test_each_benchmark_is_named_with_its_command() -> None:
    scripts = [path for path in (ROOT / "benchmarks").rglob("*.py") if '"__main__"' in path.read_text()]
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in scripts]
    text = README.read_text()
    assert len(scripts) > 5
    assert [name for name in names if f"`python -m {name.removesuffix('.__main__')}" not in text] == []


def test_the_tables_of_columns_and_checks_equal_the_code() -> None:
    assert README.read_text() == with_tables(README.read_text()), (
        "run python -m tests.documentation.test_readme"
    )


def test_every_column_of_numbers_has_a_unit() -> None:
    columns = {name: dtype for table in TABLES.values() for name, (dtype, _) in table.items()}
    numbers = {name for name, dtype in columns.items() if dtype not in ("string", "boolean")}
    assert set(UNITS) == numbers


@pytest.mark.parametrize("table", ["layers", "features"])
def test_every_variance_names_its_divisor_or_is_torchs(table: str) -> None:
    for name, (_, meaning) in TABLES[table].items():
        if "var" in name:
            assert "population variance" in meaning or "divisor" in meaning, name


def test_every_python_block_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(view_registry, "_REGISTRY", dict(view_registry._REGISTRY))
    names: dict[str, object] = {"__name__": "readme"}
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), names)
    assert Path("report/report.html").exists()
    assert len(list(Path("stats").glob("*.csv"))) == 5
    whole, recording = names["whole"], names["recording"]
    key = ["layer", "site", "mean", "variance", "min", "max"]
    pd.testing.assert_frame_equal(whole.layers[key], recording.layers[key], rtol=1e-6, atol=1e-6)
    assert names["Loudness"] in view_registry._REGISTRY
    assert not plt.get_fignums()


def test_the_commands_named_are_those_there_are() -> None:
    named = set(re.findall(r"normprobe ([a-z]+) (?:MODEL|A B|\[CHECK|\"\$)", README.read_text()))
    assert named == set(main.commands)


def test_the_options_named_exist() -> None:
    text = README.read_text().split("## Command line")[1].split("## Limits")[0]
    options = {
        name for command in main.commands.values() for option in command.params for name in option.opts
    }
    assert set(re.findall(r"--[a-z][a-z-]*", text)) - {"--help"} <= options


def test_the_columns_of_findings_are_named_in_order() -> None:
    text = README.read_text().split("### `findings()`")[1].split("\n## ")[0]
    assert re.findall(r"`([a-z_]+)`", text) == list(COLUMNS)


def test_the_commands_to_start_are_two_and_continuous_integration_runs_the_second() -> None:
    commands = [block.strip() for block in blocks("bash")]
    assert len(commands) == 2
    assert all(command.startswith("pip install torch==") and "\n" not in command for command in commands)
    assert commands[1].rsplit("&& ", 1)[1] in (ROOT / ".ci" / "run").read_text()


def test_the_files_named_exist() -> None:
    for name in re.findall(r"\]\((?!http)([^)]+)\)", README.read_text()):
        assert (ROOT / name).exists(), name


if __name__ == "__main__":
    README.write_text(with_tables(README.read_text()))
