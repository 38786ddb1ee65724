"""Another commit's package beside today's in one process, under a name of its own: both are timed in turn."""

from __future__ import annotations

import importlib
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

NAME = "normprobe_other"
_TEXTS = {".py", ".pyi", ".c", ".h", ".toml"}


def load(checkout: Path, scratch: Path) -> ModuleType:
    """Copy a checkout's package under another name, build its extension, and import it.

    Args:
        checkout: the root of a checkout of another commit, as `git worktree add` makes it.
        scratch: a folder, empty or with what this made of the same checkout before; it must outlive the
            import.
    """
    if not any(scratch.glob(f"{NAME}/kernels/_cpu*")):
        _build(checkout, scratch)
    sys.path.insert(0, str(scratch))
    return importlib.import_module(NAME)


def _build(checkout: Path, scratch: Path) -> None:
    scratch.mkdir(exist_ok=True)
    for name in ("normprobe", "setup.py", "pyproject.toml", "README.md", "LICENSE"):
        source, target = checkout / name, scratch / name.replace("normprobe", NAME)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("*.so", "*.pyd", "__pycache__"))
        elif source.exists():
            shutil.copy(source, target)
    for path in scratch.rglob("*"):
        if path.suffix in _TEXTS:
            path.write_text(re.sub(r"\bnormprobe\b", NAME, path.read_text("utf-8")), "utf-8")
    subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", "--inplace"],
        cwd=scratch,
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
