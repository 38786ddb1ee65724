"""Sizes: files and functions that can be read at once."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.helpers.import_graph import ROOT, files

LONGEST_FILE = 400
LONGEST_FUNCTION = 40
MOST_POSITIONAL = 5


def functions(path: Path) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Every function and method of a file."""
    tree = ast.parse(path.read_text("utf-8"))
    return [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]


def length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function without those of its docstring after the first."""
    docstring = ast.get_docstring(function, clean=False) or ""
    return (function.end_lineno or function.lineno) - function.lineno + 1 - docstring.count("\n")


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_and_its_functions_are_short(path: Path) -> None:
    assert len(path.read_text("utf-8").splitlines()) <= LONGEST_FILE
    assert {f.name: length(f) for f in functions(path) if length(f) > LONGEST_FUNCTION} == {}


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_more_than_five_arguments_become_keyword_only(path: Path) -> None:
    named = {f.name: [a.arg for a in f.args.posonlyargs + f.args.args] for f in functions(path)}
    named = {f: [name for name in names if name not in ("self", "cls")] for f, names in named.items()}
    assert {f: names for f, names in named.items() if len(names) > MOST_POSITIONAL} == {}


def test_a_long_function_would_be_found(tmp_path: Path) -> None:
    path = tmp_path / "long.py"
    path.write_text('def f():\n    """One\n    two."""\n' + "    x = 1\n" * 50)
    assert [length(f) for f in functions(path)] == [52]
