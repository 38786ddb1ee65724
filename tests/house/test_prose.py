"""Prose: what docstrings and comments must say, as far as a test can read."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.helpers.import_graph import ROOT, files

PACKAGES = [path for path in files() if path.name == "__init__.py"]
SUBTLE = {
    "capture": ["capture/*.py"],
    "capture/hooks": ["capture/hooks/**/*.py"],
    "kernels": ["kernels/**/*.py"],
    "kernels/csrc": ["kernels/csrc/**/*.[ch]"],
}
LEAST_COMMENTS = 0.03
C_TOKENS = re.compile(r'"(?:\\.|[^"\\\n])*"|(?P<comment>/\*.*?\*/|//[^\n]*)', re.S)


def comment_lines(path: Path) -> int:
    """Lines that hold a comment, alone or behind code."""
    text = path.read_text("utf-8")
    if path.suffix != ".py":
        return sum(match["comment"].count("\n") + 1 for match in C_TOKENS.finditer(text) if match["comment"])
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return sum(token.type == tokenize.COMMENT for token in tokens)


def share(paths: Iterable[Path]) -> float:
    """Lines with comments, of all lines."""
    paths = list(paths)
    return sum(map(comment_lines, paths)) / sum(len(path.read_text("utf-8").splitlines()) for path in paths)


def docstrings(path: Path) -> dict[str, str]:
    """The docstring of every module, class and function of a file that has one, by its name."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = [node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, kinds)]
    return {getattr(node, "name", path.stem): ast.get_docstring(node) or "" for node in nodes}


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_docstrings_speak_one_dialect(path: Path) -> None:
    found = docstrings(path)
    assert found[path.stem], "a module opens with one sentence"
    assert [name for name, text in found.items() if re.match(r"Returns? ", text)] == []


@pytest.mark.parametrize("path", PACKAGES, ids=lambda path: str(path.parent.relative_to(ROOT.parent)))
def test_a_folder_says_what_comes_in_and_what_goes_out(path: Path) -> None:
    opening = docstrings(path)[path.stem].lower()
    assert {"in", "out"} <= set(re.findall(r"\w+", opening)), opening
    assert opening.count(".") >= 2, "one sentence says what lives there, another what comes in and goes out"


@pytest.mark.parametrize("folder", SUBTLE)
def test_subtle_code_says_why(folder: str) -> None:
    paths = [path for pattern in SUBTLE[folder] for path in ROOT.glob(pattern)]
    assert share(paths) >= LEAST_COMMENTS


def test_comments_are_counted(tmp_path: Path) -> None:
    python, c = tmp_path / "a.py", tmp_path / "a.c"
    python.write_text('"""# no comment"""\nx = "#"  # one\n# two\ny = 1\n')
    c.write_text('char *s = "/* no */";\n/* one\n two */\nint x; // three\n')
    assert share([python]) == 2 / 4
    assert share([c]) == 3 / 4


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_is_left_to_do(path: Path) -> None:
    text = path.read_text("utf-8")
    assert [word for word in ("TODO", "FIXME", "XXX", "TO BE WRITTEN") if word in text] == []
