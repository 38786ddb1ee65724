"""Names: the field's terms, in Python and in C."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from tests.helpers.import_graph import ROOT, files

METAPHORS = re.compile(r"ears?|kin|terms|agreed|ahead|roster|watch|course|tally|heard|met|told")
C_NOISE = re.compile(
    r"""/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'|\#\s*include[^\n]*""", re.DOTALL
)


def words(name: str) -> set[str]:
    """The words of a name, in whatever case it is written."""
    return set(re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower().split("_"))


def python_names(path: Path) -> Iterator[tuple[int, str]]:
    """Line and name of what a file defines: itself, classes, functions, parameters, attributes."""
    yield 1, path.stem
    yield 1, path.parent.name
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node.lineno, node.name
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.Attribute):
            yield node.lineno, node.attr
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id
        elif isinstance(node, ast.alias) and node.asname:
            yield node.lineno, node.asname


def c_names(path: Path) -> Iterator[tuple[int, str]]:
    """Line and name of every identifier of a C source."""
    blank = C_NOISE.sub(lambda match: "\n" * match[0].count("\n"), path.read_text("utf-8"))
    yield 1, path.stem
    for number, line in enumerate(blank.splitlines(), 1):
        yield from ((number, name) for name in re.findall(r"[A-Za-z_]\w*", line))


def metaphors(names: Iterator[tuple[int, str]]) -> list[tuple[int, str]]:
    """Those of the names that say what they mean by a picture."""
    return sorted({(line, name) for line, name in names if any(map(METAPHORS.fullmatch, words(name)))})


def sources() -> list[Path]:
    """The C sources."""
    return [path for path in sorted(ROOT.rglob("*.[ch]")) if path.is_file()]


def test_no_name_is_a_metaphor() -> None:
    assert sources()
    found = [(path, metaphors(python_names(path))) for path in files()]
    found += [(path, metaphors(c_names(path))) for path in sources()]
    assert [f"{path.relative_to(ROOT)}:{line} {name}" for path, names in found for line, name in names] == []


def test_a_metaphor_would_be_found(tmp_path: Path) -> None:
    python = tmp_path / "a.py"
    python.write_text("class HookKin:\n    def watch_it(self, told):\n        self.last_tally = ahead = 1\n")
    assert [name for _, name in metaphors(python_names(python))] == [
        "HookKin",
        "told",
        "watch_it",
        "ahead",
        "last_tally",
    ]
    c = tmp_path / "a.h"
    c.write_text('/* the terms\n of */ int kin_count; char *s = "watch"; // told\nint mother, skin;\n')
    assert metaphors(c_names(c)) == [(2, "kin_count")]
