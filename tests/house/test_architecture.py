"""The module table of DESIGN, held against the imports: one direction, one border per library."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2] / "normprobe"

# Each module or package of the top level: its own imports, then those of others. `+` marks an import made
# inside a function, when it is needed, so that `import normprobe` stays cheap.
MAY_IMPORT: dict[str, tuple[str, str]] = {
    "errors": ("", ""),
    "wording": ("names", "numpy pandas"),
    "names": ("", ""),
    "attributes": ("", "torch"),
    "views": ("attributes errors", "torch"),
    "found": ("views", "torch"),
    "parameters": ("found views", "torch"),
    "layers": ("attributes errors found parameters views", "torch"),
    "arranging": ("errors views", "torch"),
    "masks": ("errors", "torch numpy"),
    "moments": ("errors", "numpy"),
    "kernels": ("moments", "torch numpy"),
    "sampling": ("kernels", "numpy"),
    "compiling": ("watch", "torch"),
    "hooks": ("compiling", "torch"),
    "records": ("moments", "numpy"),
    "roster": ("sampling", "numpy"),
    "accumulators": ("kernels moments records roster", "numpy"),
    "affine": ("", "torch"),
    "readings": ("affine views", "torch"),
    "normcall": ("affine arranging readings views", "torch"),
    "evidence": ("affine attributes normcall readings", "torch"),
    "behaviour": ("evidence normcall readings views", "torch"),
    "alignment": ("masks sampling", "numpy"),
    "digests": ("", "torch numpy"),
    "arguments": ("masks", "torch numpy"),
    "forwards": ("alignment arguments frames kernels masks", "torch"),
    "running": ("", "torch"),
    "watch": (
        "accumulators affine alignment behaviour found masks records roster running views",
        "torch numpy",
    ),
    "placing": ("alignment arranging forwards kernels masks records watch", "numpy"),
    "choosing": ("forwards kernels placing roster sampling", "numpy"),
    "agreements": ("choosing forwards kernels placing roster watch", "torch"),
    "measuring": (
        "accumulators agreements arranging choosing forwards kernels moments placing records tracing watch",
        "torch numpy",
    ),
    "ears": ("forwards kernels placing watch", "torch"),
    "unseen": ("compiling forwards found", "torch"),
    "frames": ("", "torch"),
    "modes": ("", "torch"),
    "tracing": ("", "torch"),
    "calls": ("", "torch"),
    "sessions": ("calls found parameters views", "torch"),
    "functional": ("arguments calls compiling forwards found frames modes sessions unseen watch", "torch"),
    "options": ("errors masks", "torch"),
    "context": ("kernels digests forwards pads", "torch numpy"),
    "pads": ("", "torch numpy"),
    "listening": (
        "arguments compiling context ears forwards found functional hooks kernels masks measuring options "
        "placing roster tracing unseen watch",
        "torch",
    ),
    "tables": ("moments errors records", "pandas pyarrow numpy"),
    "findings": ("tables errors names wording", "pandas numpy"),
    "comparison": ("tables findings moments wording names errors report+", "pandas numpy"),
    "figures": ("tables wording errors names", "seaborn matplotlib pandas numpy"),
    "report": ("tables findings figures wording errors names", "jinja2 pandas numpy markupsafe"),
    "recording": ("tables errors findings+ report+", "pandas numpy"),
    "probe": ("accumulators context errors hooks layers listening options recording tables unseen", "torch"),
    "runner": ("errors probe recording", "torch"),
    "powers": ("", "torch numpy"),
    "sides": ("arguments arranging errors hooks layers masks powers", "torch"),
    "live": ("comparison errors layers runner sides", "torch"),
    "counterparts": ("views", "torch"),
    "swap": ("affine behaviour counterparts errors layers views", "torch"),
    "batchnorm": ("errors layers probe recording runner views", "torch pandas numpy"),
    "models": ("errors", "torch transformers safetensors"),
    "inputs": ("errors models", "torch transformers pandas numpy PIL safetensors pyarrow"),
    "__main__": ("cli", ""),
    "cli": (
        "batchnorm+ comparison+ errors findings+ inputs+ models+ recording+ report+ runner+ wording+",
        "click rich",
    ),
}
HEAVY = {
    "torch",
    "numpy",
    "pandas",
    "pyarrow",
    "seaborn",
    "matplotlib",
    "jinja2",
    "transformers",
    "click",
    "rich",
}
HEAVY |= {"PIL", "safetensors", "markupsafe", "scipy"}


def room(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imports(path: Path) -> set[tuple[str, bool]]:
    """Every module a file imports, and whether at its top level and not only for type checkers."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        for child in ast.iter_child_nodes(node):
            child.parent = node  # type: ignore[attr-defined]
    found = set()
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names = [node.module]
            if node.module == "normprobe":
                names = [f"normprobe.{alias.name}" for alias in node.names]
        if names and not _for_types(node):
            found |= {(name, isinstance(node.parent, ast.Module)) for name in names}  # type: ignore[attr-defined]
    return found


def _for_types(node: ast.AST) -> bool:
    while (node := getattr(node, "parent", None)) is not None:  # type: ignore[assignment]
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            return True
    return False


FILES = [path for path in sorted(ROOT.rglob("*.py")) if path.parent != ROOT or path.name != "__init__.py"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_follow_the_table(path: Path) -> None:
    here = room(path)
    assert here in MAY_IMPORT, f"{here} is not in the table"
    own, others = (set(names.split()) for names in MAY_IMPORT[here])
    for name, at_top in imports(path):
        first, *rest = name.split(".")
        if first == "normprobe":
            there = rest[0] if rest else "__init__"
            if there in (here, "__version__", "__init__"):
                continue
            assert there in own or (f"{there}+" in own and not at_top), f"{here} must not import {there}"
        elif first in HEAVY:
            assert first in others, f"{here} must not import {first}"


def test_the_table_has_no_cycle_and_no_empty_room() -> None:
    graph = {here: {name.rstrip("+") for name in own.split()} for here, (own, _) in MAY_IMPORT.items()}
    assert list(TopologicalSorter(graph).static_order())
    rooms = {room(path) for path in FILES}
    assert rooms == set(MAY_IMPORT)


def test_no_module_has_the_name_of_a_public_function() -> None:
    import normprobe

    functions = {name for name in normprobe.__all__ if name[0].islower()}
    assert not functions & {room(path) for path in FILES}


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import normprobe", "matplotlib seaborn click transformers torch pandas"),
        ("import normprobe; normprobe.Probe", "matplotlib seaborn click transformers jinja2"),
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
