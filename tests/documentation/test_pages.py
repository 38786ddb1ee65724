"""README and the pages of docs hold: their code runs and prints what they say, their tables are the code's.

``python -m tests.documentation.test_pages`` writes the tables and what the blocks print anew.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import re
import shlex
import tempfile
import tomllib
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path

import click
import matplotlib.pyplot as plt
import pandas as pd
import pytest
import torch
import transformers
from click.testing import CliRunner

import normprobe
from normprobe import batchnorm, figures, findings
from normprobe.cli import main
from normprobe.findings import CHECKS, COLUMNS, rule_of
from normprobe.layers import view_registry
from normprobe.tables.columns.tables import TABLES, UNITS, unit_of
from tests.helpers.markdown import PAGES, ROOT, blocks, name_of, run, with_outputs

DOCS = ROOT / "docs"
CONTRIBUTING = ROOT / "CONTRIBUTING.md"
FOLDERS = {path.parent.name for path in (ROOT / "normprobe").glob("*/__init__.py")}
page_by_page = pytest.mark.parametrize("page", PAGES, ids=name_of)


def columns_of(table: str) -> str:
    """The columns of one table as Markdown: name, dtype, unit, meaning with its divisor."""
    lines = ["| column | dtype | unit | meaning |", "|---|---|---|---|"]
    for name, (dtype, meaning) in TABLES[table].items():
        text = meaning.replace("|", "\\|").replace(", in the layer's own units", "")
        lines.append(f"| `{name}` | {dtype} | {unit_of(table, name)} | {text} |")
    return "\n".join(lines)


def checks() -> str:
    """The checks as Markdown: name, what it finds with its severity, source."""
    lines = ["| check | what it finds | source |", "|---|---|---|"]
    lines += [f"| `{check.name}` | {check.title} ({check.severity}) | {check.source} |" for check in CHECKS]
    return "\n".join(lines)


def rules() -> str:
    """When each check finds something, as a list in Markdown."""
    rule = {check: rule_of(check).replace("|", "\\|").replace(" x ", " × ") for check in CHECKS}
    return "\n".join(f"- **{check.title}** (`{check.name}`): {rule[check]}" for check in CHECKS)


def with_tables(page: str) -> str:
    """A page with its tables of columns as the schema has them, and its checks as the code does."""
    parts = {rf"(## `{table}`: [^\n]*\n\n)\| column.*?\n\n": columns_of(table) for table in TABLES}
    parts[r"(## The checks\n\n)\| check.*?\n\n"] = checks()
    parts[r"(## The rules\n\n)- .*?\n\n"] = rules()
    for pattern, table in parts.items():
        page = re.sub(pattern, lambda found, table=table: f"{found[1]}{table}\n\n", page, flags=re.DOTALL)
    pages = "".join(
        f".. autoclass:: normprobe.findings.registry.{type(check).__name__}\n" for check in CHECKS
    )
    return re.sub(r"(\.\. autoclass:: normprobe\.findings\.registry\.\w+\n)+", pages, page)


def commands(page: Path) -> Iterator[list[str]]:
    """The commands of a page's bash blocks, word by word."""
    for block in blocks(page.read_text(), "bash"):
        for line in block.text.replace("\\\n", " ").splitlines():
            for command in line.split(" && "):
                if words := shlex.split(command, comments=True):
                    yield words


def rewrite() -> None:
    """Write the tables and outputs of every page anew."""
    for page in PAGES:
        text = with_tables(page.read_text())
        with tempfile.TemporaryDirectory() as folder, chdir(folder):
            text = with_outputs(text, run(text, name_of(page))[1])
        page.write_text(text)


def words_of(text: str) -> str:
    """A text without its numbers and white space, whose last digits and widths depend on the machine."""
    return re.sub(r"[\d.,\s−-]+", " ", text)


def numbers_of(text: str) -> list[float]:
    return [float(number) for number in re.findall(r"\d+\.\d+", text)]


@page_by_page
def test_every_python_block_runs_and_prints_what_the_page_says(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if page.stem == "experts" and int(transformers.__version__.split(".")[0]) < 5:
        pytest.skip("transformers 4 holds these experts in lists of modules")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(view_registry, "_REGISTRY", dict(view_registry._REGISTRY))
    _, printed = run(page.read_text(), name_of(page))
    for block, output in printed:
        assert words_of(block.text) == words_of(output)
        assert numbers_of(output) == pytest.approx(numbers_of(block.text), rel=0.05, abs=0.011)
    assert not plt.get_fignums()


@page_by_page
def test_a_page_leaves_no_block_to_guesses(page: Path) -> None:
    """Every language is one that a test runs or reads, and every output follows the code that printed it."""
    known = {"python", "bash", "text", "toml", "yaml", "{toctree}", "{eval-rst}", "{include}"}
    every = blocks(page.read_text())
    assert {block.language for block in every} <= known
    assert page.read_text().count("```") == 2 * len(every)
    for before, after in zip([None, *every], every, strict=False):
        assert after.language != "text" or (before is not None and before.language == "python")


@pytest.mark.parametrize("page", [*PAGES, CONTRIBUTING], ids=name_of)
def test_every_command_exists_with_its_options(page: Path) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for name, *arguments in commands(page):
        if name == "normprobe":
            command = main.commands[arguments[0]]
            assert isinstance(command.make_context(arguments[0], arguments[1:]), click.Context)
        elif name == "pip":
            named = re.findall(r"\[([\w,]+)\]", " ".join(arguments))
            assert set(",".join(named).split(",")) - {""} <= set(extras)
        elif name == "python" and arguments[0] == "-m":
            assert importlib.util.find_spec(arguments[1]) or arguments[1] in {"sphinx", "cffconvert"}
        elif name == "python":
            assert (ROOT / arguments[0]).exists(), arguments
        elif name == "torchrun":
            assert main.commands[arguments[arguments.index("normprobe") + 1]]
        elif name == "node":
            assert (ROOT / "examples/javascript" / arguments[0]).exists(), arguments
        elif name == "npm":
            assert arguments == ["install"]
        else:
            assert name in {"ruff", "mypy", "git", "cp", "cd", "export", "."}, name


@pytest.mark.parametrize("page", [*PAGES, CONTRIBUTING], ids=name_of)
def test_the_links_within_the_repository_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", text):
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", there.read_text(), flags=re.MULTILINE)
            slugs = [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]
            assert anchor in slugs, target


@page_by_page
def test_the_tables_of_columns_and_checks_equal_the_code(page: Path) -> None:
    assert page.read_text() == with_tables(page.read_text()), "run python -m tests.documentation.test_pages"


def test_each_table_has_its_place() -> None:
    columns = (DOCS / "columns.md").read_text()
    assert all(columns_of(table) in columns for table in TABLES)
    page = (DOCS / "checks.md").read_text()
    assert checks() in page
    assert rules() in (DOCS / "thresholds.md").read_text()
    assert re.findall(r"registry\.(\w+)\n", page.split("{eval-rst}")[1]) == [type(c).__name__ for c in CHECKS]


def test_every_column_of_numbers_has_a_unit() -> None:
    columns = {name: dtype for table in TABLES.values() for name, (dtype, _) in table.items()}
    numbers = {name for name, dtype in columns.items() if dtype not in ("string", "boolean")}
    assert set(UNITS) == numbers


@pytest.mark.parametrize("table", ["layers", "features"])
def test_every_variance_names_its_divisor_or_is_torchs(table: str) -> None:
    for name, (_, meaning) in TABLES[table].items():
        if "var" in name:
            assert "population variance" in meaning or "divisor" in meaning, name


def test_the_columns_of_findings_are_named_in_order() -> None:
    text = (DOCS / "columns.md").read_text().split("## `findings()`")[1]
    assert re.findall(r"`([a-z_]+)`", text) == list(COLUMNS)


def test_the_recordings_of_start_are_those_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(view_registry, "_REGISTRY", dict(view_registry._REGISTRY))
    names, _ = run((DOCS / "start.md").read_text(), "start.md")
    assert Path("report/report.html").exists()
    assert len(list(Path("stats").glob("*.csv"))) == 6
    key = ["layer", "site", "mean", "variance", "min", "max"]
    whole, recording = (names[name] for name in ("whole", "recording"))
    assert isinstance(whole, normprobe.Recording)
    assert isinstance(recording, normprobe.Recording)
    pd.testing.assert_frame_equal(whole.layers[key], recording.layers[key], rtol=1e-6, atol=1e-6)
    assert names["Loudness"] in view_registry._REGISTRY


def test_the_commands_named_are_those_there_are() -> None:
    text = (DOCS / "command-line.md").read_text()
    assert set(re.findall(r"`normprobe ([a-z]+) (?:MODEL|A B|\[CHECK)", text)) == set(main.commands)


def test_settings_shown_are_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shown = [block.text for page in PAGES for block in blocks(page.read_text(), "toml")]
    assert shown
    for text in shown:
        Path("pyproject.toml").write_text(text)
        table = tomllib.loads(text)["tool"]["normprobe"]
        # Below the whole command: a table may be of any of its commands.
        whole = click.Context(main)
        for name in [name for name in table if name in main.commands]:
            arguments = [
                str(part.name) for part in main.commands[name].params if type(part) is click.Argument
            ]
            context = main.commands[name].make_context(name, arguments, parent=whole)
            # What holds for all commands is no less of this one.
            common = {key: table[key] for key in set(table) - set(main.commands)}
            known = {key: value for key, value in common.items() if key.replace("-", "_") in context.params}
            assert known, "settings of all commands are some of each"
            for key, value in (known | table[name]).items():
                given = context.params[key.replace("-", "_")]
                plain = list(given) if isinstance(given, tuple) else given
                assert (str(plain) if isinstance(plain, Path) else plain) == value


def test_steps_of_workflows_run_commands_there_are() -> None:
    shown = [block.text for page in PAGES for block in blocks(page.read_text(), "yaml")]
    assert shown
    for line in re.findall(r"^- run: (.*)$", "\n".join(shown), flags=re.MULTILINE):
        name, *arguments = shlex.split(line)
        assert name == "normprobe"
        assert main.commands[arguments[0]].make_context(arguments[0], arguments[1:])


def fields_of(section: str) -> list[str]:
    """The fields that a section of the page of outputs lists, in order."""
    text = (DOCS / "outputs.md").read_text().split(f"\n## {section}\n")[1].split("\n## ")[0]
    cells = re.findall(r"^\| (`.*?) \|", text, flags=re.MULTILINE)
    return [name for cell in cells for name in re.findall(r"`(\w+)`", cell)]


def test_the_documents_have_the_fields_that_the_page_of_outputs_lists(tmp_path: Path) -> None:
    layer = torch.nn.Linear(4, 4)
    recording = normprobe.record(layer, torch.randn(8, 4))
    recording.save(tmp_path / "a.normprobe")
    (tmp_path / "b.normprobe").write_bytes((tmp_path / "a.normprobe").read_bytes())
    a, b = (str(tmp_path / f"{name}.normprobe") for name in "ab")
    for section, command in (
        ("`report --json`", ["report", a, "--baseline", b]),
        ("`compare --json`", ["compare", a, b]),
    ):
        done = CliRunner().invoke(main, [*command, "--json", "--no-report", "--no-config"])
        assert done.exit_code == 0, done.output
        assert list(json.loads(done.stdout)) == fields_of(section)
    nested = normprobe.compare(recording, recording).to_dict()
    page = (DOCS / "outputs.md").read_text()
    for name in [
        *nested["a"],
        *nested["counts"],
        *nested["layers"][0],
        *nested["layers"][0]["sites"]["input"],
    ]:
        assert f"`{name}`" in page, name


@page_by_page
def test_the_options_named_in_the_text_exist(page: Path) -> None:
    text = re.sub(r"```bash\n.*?```", "", page.read_text(), flags=re.DOTALL)
    named = {
        name for code in re.findall(r"`([^`\n]+)`", text) for name in re.findall(r"--[a-z][a-z-]*", code)
    }
    options = {
        name for command in main.commands.values() for option in command.params for name in option.opts
    }
    assert named - {"--help", "--folds", "--no-deps"} <= options


def test_every_public_name_is_in_the_reference() -> None:
    text = (DOCS / "reference.md").read_text()
    public = {f"normprobe.{name}" for name in normprobe.__all__ if name != "__version__"}
    for module in (batchnorm, figures, findings):
        public |= {f"{module.__name__}.{name}" for name in module.__all__}
    # Not imported: their libraries need not be there.
    public |= {
        f"normprobe.integrations.{library}.{name}"
        for library in ("lightning", "transformers")
        for name in re.findall(
            r'^__all__ = \["(\w+)"\]$',
            (ROOT / "normprobe" / "integrations" / f"{library}.py").read_text(),
            flags=re.MULTILINE,
        )
    }
    assert set(re.findall(r":: (normprobe[\w.]+)$", text, flags=re.MULTILINE)) == public


def test_each_benchmark_is_named_with_its_command() -> None:
    scripts = [path for path in (ROOT / "benchmarks").rglob("*.py") if '"__main__"' in path.read_text()]
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in scripts]
    text = "".join(path.read_text() for path in (*PAGES, CONTRIBUTING))
    assert len(scripts) > 5
    assert [name for name in names if f"python -m {name.removesuffix('.__main__')}" not in text] == []


def test_each_example_is_listed() -> None:
    page = (DOCS / "examples.md").read_text()
    files = [path.name for path in (ROOT / "examples").iterdir() if path.suffix in (".py", ".ipynb")]
    assert [name for name in files if f"(../examples/{name})" not in page] == []


def test_the_phases_have_the_names_of_the_folders() -> None:
    page = (DOCS / "how-it-works.md").read_text()
    drawing = (DOCS / "pictures" / "phases.svg").read_text()
    assert set(re.findall(r"\*\*`(\w+)`\*\*", page)) == FOLDERS
    titles = re.findall(r'font-weight="600"[^>]*>([^<]+)<', drawing)
    assert {name for title in titles for name in title.split(" · ")} == FOLDERS


def test_the_map_of_the_house_has_every_folder() -> None:
    text = CONTRIBUTING.read_text().split("## The house")[1].split("\n## ")[0]
    assert set(re.findall(r"^\| `(\w+)/` \|", text, flags=re.MULTILINE)) == FOLDERS


def test_the_python_of_the_recipes_is_python() -> None:
    code = [block.text for block in blocks(CONTRIBUTING.read_text(), "python")]
    assert len(code) > 5
    assert all(ast.parse(text).body for text in code)


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    rewrite()
