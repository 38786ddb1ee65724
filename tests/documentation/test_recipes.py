"""The recipes of CONTRIBUTING.md work: a copy with all their changes passes the tests that they bring."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.helpers.markdown import ROOT

_FENCE = re.compile(r"^```(python|diff) (\S+)\n(.*?)^```$", flags=re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Step:
    """One block of a recipe.

    Attributes:
        recipe: the heading it stands under.
        kind: ``python``, for the end of a file, or ``diff``.
        path: of the file, from the top of the repository.
        text: the block.
    """

    recipe: str
    kind: str
    path: str
    text: str

    def apply(self, root: Path) -> None:
        """Make the change in a copy of the repository."""
        file = root / self.path
        if self.kind == "python":
            old = f"{file.read_text().rstrip()}\n\n\n" if file.exists() else ""
            file.write_text(old + self.text)
        else:
            old, (before, after) = file.read_text(), self.sides()
            assert old.count(before) == 1, f"{self.path} has these lines {old.count(before)} times:\n{before}"
            file.write_text(old.replace(before, after))

    def sides(self) -> tuple[str, str]:
        """The lines of a diff as they were and as they are to be."""
        lines = self.text.splitlines(keepends=True)
        return tuple("".join(line[1:] or "\n" for line in lines if line[0] != out) for out in "+-")  # type: ignore[return-value]


def steps() -> list[Step]:
    """Every step of every recipe that changes a file, in order."""
    recipes = (ROOT / "CONTRIBUTING.md").read_text().split("## Recipes")[1].split("\n### ")[1:]
    return [
        Step(recipe.splitlines()[0], *match.groups())
        for recipe in recipes
        for match in _FENCE.finditer(recipe)
    ]


def added_tests(step: Step) -> list[str]:
    """The tests that a step adds, as pytest names them."""
    if step.kind != "python" or not step.path.startswith("tests/"):
        return []
    defined = [node.name for node in ast.parse(step.text).body if isinstance(node, ast.FunctionDef)]
    return [f"{step.path}::{name}" for name in defined if name.startswith("test_")]


@pytest.fixture(scope="module")
def changed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package and its tests with the changes of all recipes."""
    root = tmp_path_factory.mktemp("recipes")
    # The extension is built anew, for a recipe changes its sources; without a compiler plain torch measures.
    ignored = shutil.ignore_patterns("__pycache__", "*.pyc", "_build", "*.so", "*.pyd")
    for folder in ("normprobe", "tests", "docs"):
        shutil.copytree(ROOT / folder, root / folder, ignore=ignored)
    for file in ("pyproject.toml", "setup.py", "README.md", "CONTRIBUTING.md", "LICENSE"):
        shutil.copy(ROOT / file, root / file)
    for step in steps():
        step.apply(root)
    build = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
    subprocess.run(build, cwd=root, capture_output=True, check=True)
    return root


def run(root: Path, *arguments: str) -> None:
    environment = os.environ | {"PYTHONPATH": str(root)}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments],
        cwd=root, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_kind_of_addition_has_a_recipe_with_a_test_of_its_own() -> None:
    wanted = ["norm type", "check", "figure", "column", "moment", "input format", "export", "site"]
    recipes = re.findall(r"^### Add an? (.*)$", (ROOT / "CONTRIBUTING.md").read_text(), flags=re.MULTILINE)
    assert recipes == wanted
    tested = {step.recipe for step in steps() if added_tests(step)}
    assert {f"Add {'an' if name[0] in 'aeiou' else 'a'} {name}" for name in wanted} == tested


def test_the_package_with_all_additions_passes_the_tests_that_they_bring(changed: Path) -> None:
    run(changed, *(name for step in steps() for name in added_tests(step)))


def test_additions_keep_to_the_rules_of_the_house(changed: Path) -> None:
    run(changed, "tests/house/test_architecture.py")
