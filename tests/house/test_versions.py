"""What pyproject.toml declares: floors that `.ci/versions` tries, and linters that no new release changes."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib

from tests.helpers.import_graph import ROOT, files, imports

REPOSITORY = ROOT.parent
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
PACKAGE_OF = {"PIL": "pillow"}


def test_what_is_imported_is_declared() -> None:
    imported = {entry.module.split(".")[0] for path in files() for entry in imports(path)}
    imported = {PACKAGE_OF.get(name, name) for name in imported - sys.stdlib_module_names - {"normprobe"}}
    # Packages that are imported where they are needed: the first is missed with a remedy, the second is there
    # where its trainer is, and so are the trackers that a trainer reports to.
    extras = [*EXTRAS["gguf"], *EXTRAS["trainers"]]
    declared = [*PROJECT["dependencies"], *(entry for entry in extras if not entry.startswith("accelerate"))]
    assert imported <= {entry.split(">=")[0] for entry in declared} | {"wandb", "mlflow", "trackio"}


def test_each_floor_is_tried() -> None:
    command = [sys.executable, str(REPOSITORY / ".ci" / "floors.py")]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    tried = dict(line.split("==") for line in printed)
    named = [entry for extra in ("demo", "gguf", "trainers", "test") for entry in EXTRAS[extra]]
    declared = [*PROJECT["dependencies"], *named]
    floors: dict[str, list[str]] = {}
    for entry in declared:
        if not entry.startswith("normprobe["):
            name, floor = entry.split(">=")
            floors.setdefault(name, []).append(floor)
    # pip refuses two of one package.
    assert len(printed) == len(tried) == len(floors)
    assert tried == {name: max(found, key=_numbers) for name, found in floors.items()}


def _numbers(version: str) -> list[int]:
    return [int(piece) for piece in version.split(".")]


def test_linters_are_pinned_and_no_part_of_a_users_test_command() -> None:
    assert {"ruff", "mypy"} <= {entry.split("==")[0] for entry in EXTRAS["lint"]}
    assert all(re.fullmatch(r"[\w-]+==[\w.]+", entry) for entry in EXTRAS["lint"])
    assert not {re.split("[>=]", entry)[0] for entry in EXTRAS["test"] + EXTRAS["demo"]} & {"ruff", "mypy"}
    steps = (REPOSITORY / ".ci" / "run").read_text("utf-8").splitlines()
    linters = ["ruff check .", "ruff format --check .", "mypy"]
    assert [step for step in steps if step in linters] == linters
