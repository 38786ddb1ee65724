"""Who imports whom in the package: imports at the top, inside functions, and for type checkers only."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2] / "normprobe"


@dataclass(frozen=True)
class Import:
    """One imported name, or module.

    Attributes:
        module: what the statement names, with the package where a module of it is imported.
        name: the name taken from it; "" for a whole module.
        lazy: it stands inside a function.
        for_types: it stands under `if TYPE_CHECKING`.
    """

    module: str
    name: str
    lazy: bool
    for_types: bool


def files() -> list[Path]:
    """Every Python file of the package."""
    return sorted(ROOT.rglob("*.py"))


def module_of(path: Path) -> str:
    """The dotted name of a file."""
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def modules() -> Mapping[str, Path]:
    """Every module of the package, by its dotted name."""
    return {module_of(path): path for path in files()}


@cache
def imports(path: Path) -> tuple[Import, ...]:
    """Every import of a file, wherever it stands."""
    return tuple(_visit(ast.parse(path.read_text("utf-8")), lazy=False, for_types=False))


def _visit(node: ast.AST, *, lazy: bool, for_types: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            for alias in child.names:
                yield Import(alias.name, "", lazy, for_types)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, "imports are absolute"
            for alias in child.names:
                whole = f"{child.module}.{alias.name}"
                named = (whole, "") if whole in modules() else (child.module or "", alias.name)
                yield Import(*named, lazy, for_types)
        else:
            typed = isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"
            function = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            yield from _visit(child, lazy=lazy or function, for_types=for_types or typed)


@cache
def handed_on(package: str) -> Mapping[str, str]:
    """What a package's `__init__` hands on: each name, and the module that defines it."""
    path = modules()[package]
    if path.name != "__init__.py" or path.parent == ROOT:
        return {}
    return {entry.name: entry.module for entry in imports(path) if entry.module in modules() and entry.name}


def targets(path: Path) -> set[str]:
    """The modules of the package that a file depends on: what an `__init__` hands on counts as its source."""
    found = set()
    for entry in imports(path):
        if entry.module in modules():
            source = handed_on(entry.module).get(entry.name, entry.module)
            found.add(source)
    return found - {module_of(path)}


def folder_of(module: str) -> str:
    """The folder, or the loose file, of the top level that a module lies in."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def place_of(module: str) -> str:
    """The innermost folder of a module; of an `__init__` that folder's own face."""
    path = modules()[module]
    folder = str(path.parent.relative_to(ROOT))
    if path.name == "__init__.py":
        return f"{folder} (face)"
    return folder if folder != "." else path.stem


def cycles(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """The strongly connected parts of more than one node (Tarjan 1972)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def walk(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in sorted(graph.get(node, ())):
            if other not in index:
                walk(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            group: list[str] = []
            while not group or group[-1] != node:
                group.append(stack.pop())
            if len(group) > 1:
                found.append(sorted(group))

    for node in sorted(graph):
        if node not in index:
            walk(node)
    return found
