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
    # The one package that is imported where it is needed, and missed with a remedy.
    declared = [*PROJECT["dependencies"], *(entry for entry in EXTRAS["gguf"] if entry.startswith("gguf"))]
    assert imported <= {entry.split(">=")[0] for entry in declared}


def test_each_floor_is_tried() -> None:
    command = [sys.executable, str(REPOSITORY / ".ci" / "floors.py")]
    tried = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    declared = [*PROJECT["dependencies"], *EXTRAS["demo"], *EXTRAS["gguf"], *EXTRAS["test"]]
    declared = [entry for entry in declared if not entry.startswith("normprobe[")]
    assert tried == [entry.replace(">=", "==") for entry in declared]
    assert all(re.fullmatch(r"[\w-]+==[\d.]+", entry) for entry in tried)


def test_linters_are_pinned_and_no_part_of_a_users_test_command() -> None:
    assert {"ruff", "mypy"} <= {entry.split("==")[0] for entry in EXTRAS["lint"]}
    assert all(re.fullmatch(r"[\w-]+==[\w.]+", entry) for entry in EXTRAS["lint"])
    assert not {re.split("[>=]", entry)[0] for entry in EXTRAS["test"] + EXTRAS["demo"]} & {"ruff", "mypy"}
    steps = (REPOSITORY / ".ci" / "run").read_text("utf-8").splitlines()
    linters = ["ruff check .", "ruff format --check .", "mypy"]
    assert [step for step in steps if step in linters] == linters
