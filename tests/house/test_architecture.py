"""The folders' table, held against every import: one direction, no circle, one border per library."""

from __future__ import annotations

import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable
from graphlib import TopologicalSorter

import pytest

from tests.helpers.import_graph import (
    ROOT,
    cycles,
    files,
    folder_of,
    handed_on,
    imports,
    module_of,
    modules,
    place_of,
    targets,
)

# Each folder or loose file, lowest first: the folders whose modules it may import, for types and inside
# functions, too; then the libraries.
MAY_IMPORT: dict[str, tuple[str, str]] = {
    "errors": ("", ""),
    "vocabulary": ("", ""),
    "formatting": ("", "numpy"),
    "kernels": ("", "torch numpy"),
    "layers": ("errors vocabulary", "torch"),
    "counterparts": ("layers", ""),
    "samples": ("kernels", "torch numpy"),
    "tables": ("errors kernels vocabulary", "pandas pyarrow numpy torch gguf"),
    "capture": ("errors kernels layers samples tables vocabulary", "torch numpy rich"),
    "findings": ("errors formatting tables vocabulary", "pandas numpy"),
    "divergence": ("errors findings formatting kernels tables vocabulary", "pandas numpy"),
    "figures": ("divergence errors formatting tables vocabulary", "seaborn matplotlib pandas numpy PIL"),
    "report": (
        "divergence errors figures findings formatting tables vocabulary",
        "jinja2 pandas numpy markupsafe",
    ),
    "windows": ("capture errors findings tables vocabulary", "torch pandas"),
    "recording": ("errors figures findings report tables windows", "pandas numpy"),
    "gathering": ("errors recording", "torch"),
    "probe": ("capture errors layers recording tables windows", "torch"),
    "comparison": ("capture divergence errors recording report tables", "pandas"),
    "live_comparison": ("capture comparison divergence errors layers probe", "torch"),
    "batchnorm": ("capture errors layers probe recording tables vocabulary", "torch pandas numpy"),
    "integrations": (
        "capture errors findings layers probe recording tables vocabulary",
        "torch numpy pandas transformers lightning wandb mlflow trackio",
    ),
    "loading": ("errors tables", "torch transformers numpy PIL safetensors pyarrow"),
    "cli": (
        "batchnorm comparison divergence errors findings gathering loading probe recording report tables "
        "vocabulary windows",
        "click pandas rich torch",
    ),
    "__init__": (
        "capture comparison divergence errors gathering integrations layers live_comparison probe recording "
        "tables",
        "",
    ),
    "__main__": ("cli", ""),
}
LIBRARIES = {name for _, names in MAY_IMPORT.values() for name in names.split()} | {"scipy"}


def graph_by(place: Callable[[str], str]) -> dict[str, set[str]]:
    """Who imports whom, of folders, subfolders or files."""
    graph: dict[str, set[str]] = defaultdict(set)
    for path in files():
        here = place(module_of(path))
        graph[here] |= {place(target) for target in targets(path)} - {here}
    return graph


def test_imports_between_folders_are_those_of_the_table_and_no_fewer() -> None:
    allowed = {(here, there) for here, (own, _) in MAY_IMPORT.items() for there in own.split()}
    made = {(here, there) for here, others in graph_by(folder_of).items() for there in others}
    assert made - allowed == set(), "not in the table"
    assert allowed - made == set(), "allowed, but no longer made"


def test_imports_of_libraries_are_those_of_the_table_and_no_fewer() -> None:
    allowed = {(here, name) for here, (_, others) in MAY_IMPORT.items() for name in others.split()}
    made = {
        (folder_of(module_of(path)), entry.module.split(".")[0])
        for path in files()
        for entry in imports(path)
    }
    made = {(here, name) for here, name in made if name in LIBRARIES}
    assert made - allowed == set(), "not in the table"
    assert allowed - made == set(), "allowed, but no longer made"


def test_the_table_runs_one_way_and_names_every_folder() -> None:
    own = {here: set(names.split()) for here, (names, _) in MAY_IMPORT.items()}
    order = list(MAY_IMPORT)
    assert list(TopologicalSorter(own).static_order())
    assert [(a, b) for a, others in own.items() for b in others if order.index(b) > order.index(a)] == []
    assert {folder_of(module) for module in modules()} == set(MAY_IMPORT)


@pytest.mark.parametrize("place", [folder_of, place_of, str], ids=["folders", "subfolders", "files"])
def test_there_is_no_circle(place: Callable[[str], str]) -> None:
    assert cycles(graph_by(place)) == []


def test_a_circle_would_be_found() -> None:
    assert cycles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]


def test_few_files_lie_loose_and_few_folders_side_by_side() -> None:
    assert len(list(ROOT.glob("*.py"))) <= 10
    assert len([path for path in ROOT.iterdir() if path.is_dir() and path.name != "__pycache__"]) <= 15


def test_no_file_has_the_name_of_what_its_package_hands_on() -> None:
    """Importing such a file would hide the function of its name."""
    import normprobe

    hidden = [
        f"{package}.{name}"
        for package in modules()
        for name, home in handed_on(package).items()
        if f"{package}.{name}" in modules() and home != f"{package}.{name}"
    ]
    assert hidden == []
    functions = {name for name in normprobe.__all__ if name[0].islower()}
    assert not functions & {folder_of(module) for module in modules()}


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import normprobe", "matplotlib seaborn click transformers torch pandas normprobe.integrations"),
        (
            "import normprobe; normprobe.Probe",
            "matplotlib seaborn click transformers jinja2 normprobe.integrations",
        ),
        ("import normprobe; normprobe.scalars, normprobe.histograms", "transformers lightning wandb mlflow"),
        (
            "from normprobe.cli import main; main(['--help'], standalone_mode=False)",
            "torch pandas matplotlib",
        ),
    ],
)
def test_what_is_not_needed_is_not_loaded(statement: str, absent: str) -> None:
    check = f"import sys; {statement}; print([name for name in {absent.split()!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
